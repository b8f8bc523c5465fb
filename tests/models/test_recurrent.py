"""The recurrent network for noise that neighbours share: its steps, its streaming, its level maps, its file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from stbn_cli.errors import CheckpointError
from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.estimator import create_flow_estimator
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.plan import EngineOptions
from stbn_cli.models.config import RECURRENT_SIZES, RecurrentConfig, STBNConfig
from stbn_cli.models.recurrent import MEAN_WINDOW, Recurrent, _local_mean
from stbn_cli.models.warp import warp_bilinear
from stbn_cli.noise.calibration import LEVEL_ERROR, MEASUREMENT_ERROR
from stbn_cli.noise.kinds import NoiseKind
from stbn_cli.noise.levels import level_map, uncertain_levels, white_levels
from stbn_cli.noise.model import NoiseLevelFunction, SceneNoise
from stbn_cli.synthesis.isp import Grain

SMALL = RecurrentConfig(channels=8, blocks=1, coarse_channels=8, coarse_blocks=1)
SIGMA = 0.05


@pytest.fixture(scope="module")
def network() -> Recurrent:
    """A network that changes something: as it is born it gives back what it gets."""
    torch.manual_seed(0)
    network = Recurrent(SMALL)
    for last in (network.fusion.leave, network.fusion.spread):
        torch.nn.init.normal_(last.weight, 0.0, 0.3)
    return network.eval()


def moving_clip(frames: int, height: int, width: int, sigma: float = SIGMA) -> np.ndarray:
    """(T, H, W, 3) float32: a blurred texture that moves by (2, 1) pixels a frame, with noise."""
    random = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, height // 4 + frames, width // 4 + frames, generator=random)
    texture = F.interpolate(coarse, scale_factor=4.0, mode="bicubic")[0].permute(1, 2, 0)
    clip = torch.stack([texture[t : t + height, 2 * t : 2 * t + width] for t in range(frames)])
    return (clip + sigma * torch.randn(clip.shape, generator=random)).numpy()


def denoiser_of(
    network: Recurrent, sigma: float | None = SIGMA, kind: NoiseKind = "camera", **options: int
) -> Denoiser:
    engine = EngineOptions(sigma=sigma, scene_cuts=False, **options)
    flow = create_flow_estimator("dis-half")
    return Denoiser(network, flow, engine, device=torch.device("cpu"), dtype=torch.float32, noise_kind=kind)


def test_no_state_grows_without_end() -> None:
    """Even of a network that multiplies what it carries."""
    torch.manual_seed(0)
    network = Recurrent(SMALL).eval()
    with torch.no_grad():
        network.forwards[0].weight.mul_(20.0)
    frame = torch.rand(1, 3, 16, 16)
    seen = network.see(frame, torch.full((1, 2, 1, 1), SIGMA))
    flow = torch.zeros(1, 2, 8, 8)
    sizes, state = [], None
    with torch.inference_mode():
        for _ in range(60):
            aligned = None if state is None else network.align(state, frame, flow)
            state = network.advance("forward", seen, aligned)
            sizes.append(float(state.abs().max()))
    assert sizes[10] > 10 * sizes[0] and max(sizes) < 1e4


def whole_clip(network: Recurrent, clip: np.ndarray, levels: torch.Tensor | None = None) -> np.ndarray:
    """What `Recurrent.forward` makes of a clip, extended to a multiple of 4 pixels."""
    height, width = clip.shape[1:3]
    noisy = torch.from_numpy(clip).permute(0, 3, 1, 2)
    padding = [-max(side, 8) % 4 + max(8 - side, 0) for side in (width, height)]
    noisy = F.pad(noisy, (0, padding[0], 0, padding[1]), mode="replicate")
    flows = estimate_clip_flows(create_flow_estimator("dis-half"), F.avg_pool2d(noisy, 2))
    level = level_map(noisy, white_levels(SIGMA) if levels is None else levels, 2)
    with torch.no_grad():
        estimate, _ = network(noisy[None], level[None], flows[0][None], flows[1][None])
    return estimate[0, ..., :height, :width].permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((5, 70, 91), {}),
        ((5, 132, 140), {"tile": 64}),
        ((9, 40, 44), {"chunk": 3, "chunk_overlap": 9}),
        ((1, 5, 6), {}),
    ],
    ids=["odd size", "tiles", "chunks", "one tiny frame"],
)
def test_the_engine_gives_what_the_whole_clip_gives(
    network: Recurrent, shape: tuple[int, int, int], options: dict[str, int]
) -> None:
    clip = moving_clip(*shape)
    for passes in (1, 4):
        several = in_passes(network, passes)
        result = denoiser_of(several, **options)(clip)
        np.testing.assert_allclose(result, whole_clip(several, clip), atol=2e-5)
        assert np.abs(result - clip).max() > 0.01


@pytest.mark.parametrize(
    ("kind", "frames", "correlated"),
    [("camera", 8, True), ("compressed", 8, True), ("camera", 8, False), ("camera", 1, True)],
    ids=["camera", "compressed", "white noise", "one picture"],
)
def test_several_passes_allow_for_what_a_measured_level_may_be_wrong_by(
    network: Recurrent, kind: NoiseKind, frames: int, correlated: bool
) -> None:
    """Of noise that neighbours share, and where frames were compared; one pass takes the level as it is."""
    clean = 0.25 + 0.5 * torch.from_numpy(moving_clip(frames, 96, 128, sigma=0.0)).permute(0, 3, 1, 2)
    grain = Grain(NoiseLevelFunction.white(10 / 255), 1.0 if correlated else 0.0)
    clip = grain.add_to(clean, torch.Generator().manual_seed(3)).permute(0, 2, 3, 1).numpy()
    noise = denoiser_of(network, None, kind).scene_noise(list(clip))
    uncertain = frames > 1 and (correlated or kind == "compressed")
    assert noise.level_error == (min(MEASUREMENT_ERROR[kind][1], LEVEL_ERROR) if uncertain else 0.0)
    assert noise.levels is not None and noise.levels[0][0] > 0.0
    for passes, error in ((1, 0.0), (4, noise.level_error)):
        several = in_passes(network, passes)
        expected = whole_clip(several, clip, uncertain_levels(torch.tensor(noise.levels), error))
        np.testing.assert_allclose(denoiser_of(several, None, kind)(clip), expected, atol=2e-5)
        tiles = denoiser_of(several, None, kind, tile=64, chunk=3, chunk_overlap=9)
        np.testing.assert_allclose(tiles(clip), expected, atol=2e-5)


def test_no_pass_assumes_more_noise_than_the_network_was_trained_for(network: Recurrent) -> None:
    noise = SceneNoise(NoiseLevelFunction.white(0.2), 0.2, 0.2, ((0.2,), (0.1,)), level_error=0.5)
    for strength, highest in ((1.0, 0.24), (3.0, 0.24), (1.0, 0.2), (1.0, 0.1)):
        several = Denoiser(
            in_passes(network, 4),
            create_flow_estimator("dis-half"),
            EngineOptions(strength=strength),
            device=torch.device("cpu"),
            dtype=torch.float32,
            sigma_range=(0.0, highest),
            noise_kind="compressed",
        )
        levels = several._scene(noise).levels
        assert levels is not None and float(levels.max()) <= max(highest, 0.2) + 1e-6


def in_passes(network: Recurrent, passes: int) -> Recurrent:
    several = Recurrent(replace(network.config, passes=passes))
    several.load_state_dict(network.state_dict())
    return several.eval()


@pytest.mark.parametrize("error", [0.0, 0.3])
@pytest.mark.parametrize("passes", [2, 4])
def test_passes_give_the_mean_over_mirrored_clips(network: Recurrent, passes: int, error: float) -> None:
    """Mirroring turns motion round, and played backwards the next frame is the one before.

    Where the level is uncertain, even passes assume less noise, and odd ones more.
    """
    random = torch.Generator().manual_seed(2)
    noisy = torch.rand(1, 4, 3, 24, 32, generator=random)
    levels = uncertain_levels(torch.full((2, 1), SIGMA), error).view(1, 1, -1, 1, 1)
    flows = [2 * torch.randn(1, 4, 2, 12, 16, generator=random) for _ in range(2)]

    def played(number: int, flipped: bool, mirrored: bool, backwards: bool) -> torch.Tensor:
        level = levels[:, :, -2:] if number % 2 else levels[:, :, :2]
        axes = [axis for axis, turned in ((3, flipped), (4, mirrored), (1, backwards)) if turned]
        signs = torch.tensor([-1.0 if mirrored else 1.0, -1.0 if flipped else 1.0]).view(2, 1, 1)
        to_previous, to_next = ((flow * signs).flip(axes) for flow in (flows[::-1] if backwards else flows))
        return network(noisy.flip(axes), level, to_previous, to_next)[0].flip(axes)

    ways = [(False, False, False), (True, True, False), (False, True, True), (True, False, True)]
    with torch.no_grad():
        mean = torch.stack([played(number, *way) for number, way in enumerate(ways[:passes])]).mean(0)
        estimate, spread = in_passes(network, passes)(noisy, levels, *flows)
    torch.testing.assert_close(estimate, mean, atol=1e-5, rtol=0)
    assert spread.shape == noisy.shape and not torch.allclose(estimate, played(0, *ways[0]), atol=1e-3)


def test_a_file_says_how_many_passes_its_network_makes(network: Recurrent, tmp_path: Path) -> None:
    path = tmp_path / "several.safetensors"
    config = replace(SMALL, passes=4)
    save_checkpoint(path, Checkpoint(config, ModelInfo(name="several"), network.state_dict()))
    assert load_checkpoint(path).config == config
    with pytest.raises(ValueError, match="passes"):
        replace(SMALL, passes=3)


def test_uncertainty_comes_behind_the_estimate(network: Recurrent) -> None:
    clip = moving_clip(2, 24, 24)
    options = EngineOptions(sigma=SIGMA, uncertainty=True)
    flow = create_flow_estimator("dis-half")
    denoiser = Denoiser(
        network, flow, options, device=torch.device("cpu"), dtype=torch.float32, noise_kind="camera"
    )
    frames = list(denoiser.stream(iter(clip)))
    assert frames[0].shape == (24, 24, 6) and (frames[0][..., 3:] > 0).all()
    np.testing.assert_array_equal(frames[0][..., :3], denoiser_of(network)(clip)[0])


def test_a_new_network_changes_nothing_and_any_changes_little_where_there_is_no_noise(
    network: Recurrent,
) -> None:
    noisy = torch.rand(1, 3, 3, 16, 16)
    flow = torch.zeros(1, 3, 2, 8, 8)
    none = torch.zeros(1, 3, 2, 8, 8)
    with torch.no_grad():
        assert torch.equal(Recurrent(SMALL)(noisy, none + 0.1, flow, flow)[0], noisy)
        quiet = (network(noisy, none, flow, flow)[0] - noisy).abs().mean()
        loud = (network(noisy, none + 0.1, flow, flow)[0] - noisy).abs().mean()
    assert quiet < 0.05 * loud


def test_alignment_follows_the_flow_to_the_pixel(network: Recurrent) -> None:
    """A frame that moved by an odd number of pixels arrives unblurred, though states have half its size."""
    frame = torch.rand(1, 3, 24, 24)
    moved = frame.roll(3, -1)
    level = torch.full((1, 2, 1, 1), SIGMA)
    with torch.no_grad():
        state = network.advance("forward", network.see(frame, level), None)
        flow = torch.zeros(1, 2, 12, 12)
        flow[:, 0] = -1.5
        _, neighbour = network.align(state, frame, flow)
    seen = F.pixel_shuffle(neighbour, 2)
    torch.testing.assert_close(seen[..., 4:-4], moved[..., 4:-4], atol=1e-5, rtol=0)


def test_warping_a_part_reads_what_warping_the_whole_reads() -> None:
    picture, flow = torch.rand(2, 4, 20, 26), 6 * torch.randn(2, 2, 20, 26)
    whole = warp_bilinear(picture, flow)
    part = warp_bilinear(picture, flow[..., 5:13, 8:20], 5, 8)
    torch.testing.assert_close(part, whole[..., 5:13, 8:20])


def test_level_maps_follow_brightness() -> None:
    levels = torch.tensor([[0.01, 0.02, 0.04], [0.03, 0.02, 0.01]])
    for brightness, expected in (
        (0.0, (0.01, 0.03)),
        (0.25, (0.015, 0.025)),
        (0.5, (0.02, 0.02)),
        (1.5, (0.04, 0.01)),
    ):
        found = level_map(torch.full((2, 3, 8, 12), brightness), levels, 2)
        assert found.shape == (2, 2, 4, 6)
        torch.testing.assert_close(found[0, :, 1, 1], torch.tensor(expected))


def test_white_levels_are_those_of_white_noise() -> None:
    noise = torch.randn(3, 200_000, generator=torch.Generator().manual_seed(0))
    luma = (noise * torch.tensor([[0.299], [0.587], [0.114]])).sum(0)
    colour = (noise - luma)[[0, 2]]
    found = torch.stack((luma.std(), colour.square().mean().sqrt()))
    torch.testing.assert_close(white_levels(1.0)[:, 0], found, rtol=0.01, atol=0)


def test_a_file_says_what_network_it_holds(network: Recurrent, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    info = ModelInfo(name="real", flow="dis-half", noise_kind="camera")
    save_checkpoint(path, Checkpoint(SMALL, info, dict(network.state_dict())), torch.float32)
    loaded = load_checkpoint(path)
    assert loaded.config == SMALL and isinstance(loaded.build(), Recurrent)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.build().state_dict()[name], tensor)
    with pytest.raises(CheckpointError, match="cannot learn from noisy video"):
        loaded.build_stbn()


@pytest.mark.parametrize(("name", "most"), [("real-fast", 20), ("real", 65), ("real-large", 650)])
def test_sizes_keep_to_their_cost(name: str, most: int) -> None:
    """Thousands of multiply-adds for a pixel."""
    network, flow = Recurrent(RECURRENT_SIZES[name]), torch.zeros(1, 1, 2, 16, 16)
    with FlopCounterMode(display=False) as counter:  # with gradients: it does not know fused layers
        network(torch.rand(1, 1, 3, 32, 32), torch.full((1, 1, 2, 1, 1), 0.1), flow, flow)
    assert 0.7 * most < counter.get_total_flops() / 2 / 32**2 / 1000 <= most


def test_scale_is_two_or_four() -> None:
    with pytest.raises(ValueError, match="scale 2 or 4"):
        RecurrentConfig(scale=3)
    assert STBNConfig().state_scale == 1


def test_gathering_pixels_warps_as_sampling_the_grid_does() -> None:
    picture, flow = torch.randn(2, 16, 20, 26), 8 * torch.randn(2, 2, 20, 26)
    sampled = warp_bilinear(picture, flow)  # keeps gradients
    with torch.inference_mode():
        torch.testing.assert_close(warp_bilinear(picture, flow), sampled, atol=1e-4, rtol=0)
        flow[0, :, 0, :2] = torch.tensor([[torch.nan, torch.inf]])
        assert warp_bilinear(picture, flow).isfinite().all()


def test_local_means_are_those_of_average_pooling() -> None:
    picture = torch.rand(2, 3, 9, 4)
    expected = F.avg_pool2d(picture, MEAN_WINDOW, 1, MEAN_WINDOW // 2, count_include_pad=False)
    torch.testing.assert_close(_local_mean(picture), expected)
