"""The streaming engine: order, exactness across chunks and tiles, fallbacks, and what it reports."""

import dataclasses
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from stbn_cli.checkpoints.flow import load_flow_checkpoint
from stbn_cli.checkpoints.store import find_flow
from stbn_cli.errors import InputError, MemoryExhaustedError
from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.dis import DisFlow
from stbn_cli.flow.estimator import FlowEstimator, NetworkFlow, NoFlow
from stbn_cli.inference.chunk import find_flows
from stbn_cli.inference.chunks import PendingFrame, Scene, SceneQueue
from stbn_cli.inference.denoiser import Denoiser
from stbn_cli.inference.plan import EngineOptions
from stbn_cli.inference.resume import StreamState
from stbn_cli.inference.transfer import Transfers
from stbn_cli.models.config import MODEL_SIZES
from stbn_cli.models.seen import Seen
from stbn_cli.models.stbn import STBN, Direction
from stbn_cli.noise.levels import broadcast_sigma
from stbn_cli.noise.model import LearnedNoise, NoiseLevelFunction, SceneNoise
from stbn_cli.noise.posterior import posterior_mean
from tests.networks import TINY

SIGMA = 0.1
CPU = torch.device("cpu")


def moving_clip(frames: int, height: int = 44, width: int = 61, seed: int = 0) -> np.ndarray:
    """A smooth random texture that moves a pixel a frame, with noise of `SIGMA`: (T, H, W, 3) float32."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.random((1, 3, 16, 24), dtype=np.float32))
    texture = torch.nn.functional.interpolate(coarse, (height, width + frames), mode="bicubic")[0]
    clean = np.stack([texture[:, :, t : t + width].permute(1, 2, 0).numpy() for t in range(frames)])
    return (clean + SIGMA * random.standard_normal(clean.shape)).astype(np.float32)


def tiny_network() -> STBN:
    torch.manual_seed(4)
    return STBN(TINY).eval()


def denoiser_of(
    options: EngineOptions,
    *,
    network: STBN | None = None,
    flow: FlowEstimator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Denoiser:
    return Denoiser(network or tiny_network(), flow or DisFlow(), options, device=CPU, dtype=dtype)


@torch.inference_mode()
def whole_clip(network: STBN, frames: np.ndarray) -> np.ndarray:
    noisy = torch.from_numpy(frames).permute(0, 3, 1, 2)
    to_previous, to_next = estimate_clip_flows(DisFlow(), noisy, SIGMA)
    outputs = network(noisy[None], SIGMA, to_previous[None], to_next[None])
    estimate = posterior_mean(outputs, noisy[None], broadcast_sigma(SIGMA, noisy[None]))
    return estimate[0].permute(0, 2, 3, 1).numpy()


def test_one_chunk_is_the_whole_clip() -> None:
    frames = moving_clip(5)
    denoised = denoiser_of(EngineOptions(sigma=SIGMA, chunk=8, tile=0))(frames)
    np.testing.assert_allclose(denoised, whole_clip(tiny_network(), frames), atol=2e-6)


def test_enough_overlap_makes_chunks_exact() -> None:
    frames = moving_clip(9)
    options = EngineOptions(sigma=SIGMA, chunk=3, chunk_overlap=9, tile=0)
    np.testing.assert_allclose(denoiser_of(options)(frames), whole_clip(tiny_network(), frames), atol=2e-6)


@pytest.mark.parametrize("chunk", [3, 8])
def test_work_is_told_as_it_is_done(chunk: int) -> None:
    frames = moving_clip(9)
    frames[4] = frames[3]  # a repeat counts, too
    denoiser = denoiser_of(EngineOptions(sigma=SIGMA, chunk=chunk, chunk_overlap=2, tile=0))
    reported: list[float] = []
    denoiser.on_work = reported.append
    denoiser(frames)
    assert reported == sorted(reported) and reported[-1] == pytest.approx(9)
    assert len(reported) > 2 * 8  # both directions of every frame, not whole chunks


class RecordingSTBN(STBN):
    """Keeps every forward state."""

    def __init__(self) -> None:
        super().__init__(TINY)
        self.load_state_dict(tiny_network().state_dict())
        self.eval()
        self.forward_states: list[Tensor] = []

    def advance(self, direction: Direction, seen: Seen, aligned: tuple[Tensor, ...] | None) -> Tensor:
        state = super().advance(direction, seen, aligned)
        if direction == "forward":
            self.forward_states.append(state)
        return state


def test_forward_states_cross_chunks_bit_for_bit() -> None:
    frames = moving_clip(8)
    whole, chunked = RecordingSTBN(), RecordingSTBN()
    denoiser_of(EngineOptions(sigma=SIGMA, chunk=20, tile=0), network=whole)(frames)
    denoiser_of(EngineOptions(sigma=SIGMA, chunk=3, chunk_overlap=1, tile=0), network=chunked)(frames)
    assert len(whole.forward_states) == len(chunked.forward_states) == 8
    for expected, actual in zip(whole.forward_states, chunked.forward_states, strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("size", [(150, 141), (97, 203)])
def test_default_tiles_are_exact(size: tuple[int, int]) -> None:
    frames = moving_clip(4, *size)
    whole = denoiser_of(EngineOptions(sigma=SIGMA, tile=0))(frames)
    tiled = denoiser_of(EngineOptions(sigma=SIGMA, tile=64))(frames)
    np.testing.assert_allclose(tiled, whole, atol=5e-6)


def test_tiles_of_the_published_structure_are_exact() -> None:
    config = dataclasses.replace(
        MODEL_SIZES["stbn"],
        channels=8,
        blocks=2,
        fusion_channels=16,
        fusion_blocks=2,
        expansion_channels=32,
        expansion_blocks=2,
    )
    torch.manual_seed(0)
    network = STBN(config)
    frames = moving_clip(3, 170, 150)
    whole = denoiser_of(EngineOptions(sigma=SIGMA, tile=0), network=network)(frames)
    tiled = denoiser_of(EngineOptions(sigma=SIGMA, tile=64), network=network)(frames)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_small_tile_overlap_is_blended_and_near() -> None:
    frames = moving_clip(4, 150, 141)
    whole = denoiser_of(EngineOptions(sigma=SIGMA, tile=0))(frames)
    tiled = denoiser_of(EngineOptions(sigma=SIGMA, tile=64, tile_overlap=8))(frames)
    assert np.isfinite(tiled).all()
    assert np.abs(tiled - whole).mean() < 0.1 * np.abs(frames - whole).mean()


class Source:
    """Frames of rising brightness that counts how many were taken."""

    def __init__(self, frames: int) -> None:
        self.frames, self.taken = frames, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for value in range(self.frames):
            self.taken += 1
            yield np.full((16, 16, 3), value / self.frames, np.float32)


@pytest.mark.parametrize("devices", [1, 2])
def test_frames_keep_their_number_and_order_and_are_lazy(devices: int) -> None:
    options = EngineOptions(sigma=1e-6, chunk=4, chunk_overlap=2, scene_cuts=False)
    engine = Denoiser(tiny_network(), NoFlow(), options, device=[CPU] * devices, dtype=torch.float32)
    # A chunk and its overlap, and the frame after (it may be the last one repeated), however long the clip; two devices
    # have two more chunks in work or waiting.
    most = {1: 4 + 2 + 1, 2: 3 * 4 + 2 + 1}[devices]
    source, values = Source(40), []
    for frame in engine.stream(source):
        assert source.taken - len(values) <= most
        values.append(float(frame.mean()))
    assert len(values) == 40 and values == sorted(values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays_keep_shape_and_type(dtype: type) -> None:
    clip = moving_clip(3, 20, 24)
    if np.issubdtype(dtype, np.integer):
        clip = np.clip(clip, 0, 1) * np.iinfo(dtype).max
    denoised = denoiser_of(EngineOptions(sigma=SIGMA))(clip.astype(dtype))
    assert denoised.dtype == dtype and denoised.shape == clip.shape


def test_wrong_arrays_are_refused() -> None:
    denoiser = denoiser_of(EngineOptions(sigma=SIGMA))
    with pytest.raises(ValueError, match="T, H, W, 3"):
        denoiser(np.zeros((4, 10, 10), np.uint8))
    with pytest.raises(ValueError, match="int32"):
        denoiser(np.zeros((4, 10, 10, 3), np.int32))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 40), (8, 8)])
def test_tiny_pictures_and_single_frames(size: tuple[int, int]) -> None:
    clip = np.random.default_rng(0).random((1, *size, 3), dtype=np.float32)
    assert denoiser_of(EngineOptions(sigma=SIGMA))(clip).shape == clip.shape


def test_strength_blends_between_input_and_estimate() -> None:
    frames = moving_clip(3)
    full = denoiser_of(EngineOptions(sigma=SIGMA))(frames)
    half = denoiser_of(EngineOptions(sigma=SIGMA, strength=0.5))(frames)
    none = denoiser_of(EngineOptions(sigma=SIGMA, strength=0.0))(frames)
    np.testing.assert_allclose(half, (full + frames) / 2, atol=1e-6)
    np.testing.assert_array_equal(none, frames)


def test_strength_above_1_multiplies_the_noise_that_was_learned() -> None:
    frames = moving_clip(3)

    def with_learned(sigma: float, strength: float) -> np.ndarray:
        learned = LearnedNoise(NoiseLevelFunction.white(sigma), sigma)
        options = EngineOptions(strength=strength)
        return Denoiser(tiny_network(), DisFlow(), options, device=CPU, dtype=torch.float32, noise=learned)(
            frames
        )

    np.testing.assert_allclose(with_learned(SIGMA, 2.0), with_learned(2 * SIGMA, 1.0), atol=1e-6)


def test_noise_is_estimated_for_each_scene_and_cuts_reset_the_recurrence() -> None:
    first = moving_clip(6, 96, 128, seed=1)
    bright = 0.2 * moving_clip(6, 96, 128, seed=2) + 0.8
    denoiser = denoiser_of(EngineOptions())
    both = denoiser(np.concatenate([first, bright]))
    scenes = denoiser.report.scenes
    assert [scene.first_frame for scene in scenes] == [0, 6]
    assert all(scene.estimated for scene in scenes)
    assert scenes[0].sigma == pytest.approx(SIGMA, rel=0.1)
    assert scenes[1].sigma == pytest.approx(0.2 * SIGMA, rel=0.2)
    np.testing.assert_array_equal(both[:6], denoiser_of(EngineOptions())(first))


class ForgetfulSTBN(STBN):
    """Runs out of memory on pictures above a size, as an allocator would."""

    largest = 100 * 100

    def __init__(self) -> None:
        super().__init__(TINY)
        self.load_state_dict(tiny_network().state_dict())
        self.eval()

    def fuse(
        self, forward_state: Tensor, backward_state: Tensor, seen: Seen | None = None, spread: bool = True
    ) -> Tensor:
        if forward_state.shape[-2] * forward_state.shape[-1] > self.largest:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB.")
        return super().fuse(forward_state, backward_state)


def test_out_of_memory_shrinks_the_plan_says_so_and_changes_nothing() -> None:
    frames = moving_clip(5, 150, 141)
    denoiser = denoiser_of(EngineOptions(sigma=SIGMA, chunk=3, chunk_overlap=2), network=ForgetfulSTBN())
    expected = denoiser_of(EngineOptions(sigma=SIGMA, chunk=3, chunk_overlap=2, tile=0))(frames)
    np.testing.assert_allclose(denoiser(frames), expected, atol=5e-6)
    assert denoiser.report.replans >= 1
    assert "Out of memory" in denoiser.report.messages[0]


def test_out_of_memory_with_fixed_sizes_is_an_error() -> None:
    denoiser = denoiser_of(EngineOptions(sigma=SIGMA, chunk=3, tile=0), network=ForgetfulSTBN())
    with pytest.raises(MemoryExhaustedError, match="--tile"):
        denoiser(moving_clip(3, 150, 141))


def test_half_precision_overflow_is_done_again_in_float32() -> None:
    network = tiny_network()
    with torch.no_grad():
        # Beyond float16's 65504 inside, back in range at the output: exact in float32 alone.
        network.head.enter.weight.mul_(1e7)
        network.head.leave.weight.mul_(1e-7)
    frames = moving_clip(3)
    expected = denoiser_of(EngineOptions(sigma=SIGMA), network=network)(frames)
    denoiser = denoiser_of(EngineOptions(sigma=SIGMA), network=network, dtype=torch.float16)
    np.testing.assert_allclose(denoiser(frames), expected, atol=2e-6)
    assert denoiser.report.fp32_chunks == 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 5e-3), (torch.float16, 6e-4)])
def test_half_precision_is_near_float32(dtype: torch.dtype, tolerance: float) -> None:
    frames = moving_clip(4)
    exact = denoiser_of(EngineOptions(sigma=SIGMA))(frames)
    half = denoiser_of(EngineOptions(sigma=SIGMA), dtype=dtype)(frames)
    assert 0 < np.abs(half - exact).mean() < tolerance


def test_frames_that_are_not_finite_are_an_input_error() -> None:
    frames = moving_clip(3)
    frames[1, 3, 4, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        denoiser_of(EngineOptions(sigma=SIGMA))(frames)


def test_a_changed_frame_size_is_an_input_error() -> None:
    frames = [np.zeros((16, 16, 3), np.float32), np.zeros((16, 20, 3), np.float32)]
    with pytest.raises(InputError, match="size"):
        list(denoiser_of(EngineOptions(sigma=SIGMA)).stream(frames))


def test_nothing_in_nothing_out() -> None:
    assert list(denoiser_of(EngineOptions()).stream([])) == []


def scene_change(frames: int = 9) -> np.ndarray:
    """Two scenes of unlike noise, 96x128."""
    return np.concatenate(
        [moving_clip(frames, 96, 128, seed=1), 0.2 * moving_clip(frames - 2, 96, 128, seed=2) + 0.8]
    )


@pytest.mark.parametrize("devices", [2, 3])
def test_several_devices_give_what_one_gives_bit_for_bit(devices: int) -> None:
    clip, options = scene_change(), EngineOptions(chunk=2, chunk_overlap=3)
    expected = denoiser_of(options)(clip)
    shared = Denoiser(tiny_network(), DisFlow(), options, device=[CPU] * devices, dtype=torch.float32)
    np.testing.assert_array_equal(shared(clip), expected)
    assert [scene.first_frame for scene in shared.report.scenes] == [0, 9]


class FailingFlow:
    """Fails at the chosen call."""

    name = "failing"

    def __init__(self, at: int) -> None:
        self.calls, self.at = 0, at

    def __call__(self, first: Tensor, second: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise ZeroDivisionError("flow")
        return NoFlow()(first, second, sigma)


@pytest.mark.parametrize("at", [1, 4, 8])
def test_a_failure_in_the_background_reaches_the_caller_and_ends_all_threads(at: int) -> None:
    before = threading.active_count()
    options = EngineOptions(sigma=SIGMA, chunk=2, chunk_overlap=1)
    shared = Denoiser(tiny_network(), FailingFlow(at), options, device=[CPU] * 2, dtype=torch.float32)
    with pytest.raises(ZeroDivisionError, match="flow"):
        shared(moving_clip(20, 24, 32))
    assert threading.active_count() == before


def test_a_stream_that_is_given_up_ends_all_threads() -> None:
    before = threading.active_count()
    options = EngineOptions(sigma=SIGMA, chunk=2, chunk_overlap=1)
    shared = Denoiser(tiny_network(), NoFlow(), options, device=[CPU] * 2, dtype=torch.float32)
    stream = shared.stream(iter(moving_clip(20, 24, 32)))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize("in_pairs", [True, False])
@pytest.mark.parametrize("size", [(44, 60), (45, 61)])
def test_frames_worked_on_together_come_out_as_one_by_one(in_pairs: bool, size: tuple[int, int]) -> None:
    clip = moving_clip(11, *size)
    single = denoiser_of(EngineOptions(sigma=SIGMA, chunk=4, chunk_overlap=2, scene_cuts=False))
    plan = single.plan_for(*size)
    together = dataclasses.replace(plan, fusion_batch=3, flow_batch=4, in_pairs=in_pairs)
    expected = list(single.stream_scene(iter(clip), SceneNoise.white(SIGMA), plan))
    actual = list(single.stream_scene(iter(clip), SceneNoise.white(SIGMA), together))
    np.testing.assert_allclose(np.stack(actual), np.stack(expected), atol=3e-6)


class OnceFullSTBN(STBN):
    """Runs out of memory once, in the third call of `fuse`, when the chunk's state has long been handed on."""

    def __init__(self) -> None:
        super().__init__(TINY)
        self.load_state_dict(tiny_network().state_dict())
        self.eval()
        self.calls = 0

    def fuse(
        self, forward_state: Tensor, backward_state: Tensor, seen: Seen | None = None, spread: bool = True
    ) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().fuse(forward_state, backward_state)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_chunk_done_again_in_parts_changes_nothing(devices: int) -> None:
    clip = moving_clip(12)
    options = EngineOptions(sigma=SIGMA, chunk_overlap=12, tile=0, scene_cuts=False)
    expected = denoiser_of(options)(clip)
    shared = Denoiser(OnceFullSTBN(), DisFlow(), options, device=[CPU] * devices, dtype=torch.float32)
    np.testing.assert_allclose(shared(clip), expected, atol=2e-6)
    assert shared.report.replans >= 1 and shared.report.plan is not None and shared.report.plan.chunk == 8


def test_flow_of_reduced_frames_is_that_of_the_whole_ones() -> None:
    flow = NetworkFlow(load_flow_checkpoint(find_flow()).build().eval(), "light")
    still = moving_clip(1, 190, 246)[0]
    plan = denoiser_of(EngineOptions(sigma=SIGMA), flow=flow).plan_for(184, 240)
    for scale in (1, 2):
        queue = SceneQueue(Scene(NoiseLevelFunction.white(SIGMA), SIGMA, SIGMA))
        for shift in (0, 4):  # noise and all: an easy motion, given exactly
            frame = np.ascontiguousarray(still[:184, shift : shift + 240])
            queue.pending.append(PendingFrame(torch.from_numpy(frame).permute(2, 0, 1)[None]))
        chunk = queue.next_chunk(plan)
        with torch.inference_mode():
            find_flows(flow, dataclasses.replace(plan, flow_scale=scale), chunk, Transfers(CPU))
        to_previous, to_next = chunk.window[1].to_previous, chunk.window[0].to_next
        assert to_previous is not None and to_next is not None and to_next.shape == (1, 2, 184, 240)
        assert float(to_previous[0, 0].median()) == pytest.approx(4, abs=0.3)
        assert float(to_next[0, 0].median()) == pytest.approx(-4, abs=0.3)
        assert abs(float(to_next[0, 1].median())) < 0.3


@pytest.mark.parametrize("devices", [1, 2])
def test_other_options_hold_from_the_next_run_on(devices: int) -> None:
    clip = moving_clip(7)
    engine = Denoiser(
        tiny_network(), DisFlow(), EngineOptions(sigma=SIGMA), device=[CPU] * devices, dtype=torch.float32
    )
    engine(clip)
    engine.options = EngineOptions(sigma=SIGMA, strength=0.0, chunk=3)
    np.testing.assert_array_equal(engine(clip), clip)
    assert engine.report.plan is not None and engine.report.plan.chunk == 3


def noisy_video(frames: int) -> np.ndarray:
    """Two scenes of noise over gradients, with a repeated frame in each. Returns (T, 24, 32, 3) float32."""
    rng = np.random.default_rng(3)
    across = np.linspace(0, 1, 32, dtype=np.float32)[None, None, :, None]
    down = np.linspace(1, 0, 24, dtype=np.float32)[None, :, None, None]
    scenes = np.where(np.arange(frames)[:, None, None, None] < frames // 2, across, down * down)
    clip = (scenes + rng.normal(0, SIGMA, (frames, 24, 32, 3))).astype(np.float32)
    clip[5], clip[frames - 3] = clip[4], clip[frames - 4]
    return clip


@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize("sigma", [SIGMA, None])
def test_a_run_resumed_after_any_chunk_gives_what_an_unbroken_one_gives(
    overlap: int, sigma: float | None
) -> None:
    clip = noisy_video(26)
    states: list[StreamState] = []
    engine = denoiser_of(EngineOptions(sigma=sigma, chunk=5, chunk_overlap=overlap))
    whole = list(engine.stream(clip, on_chunk=states.append))
    scenes, repeats = engine.report.scenes, engine.report.repeated_frames
    assert len(whole) == 26 and repeats == 2 and len(scenes) == 2
    assert [state.frames for state in states] == sorted({state.frames for state in states})
    assert states[-1].frames == 26 and len(states) >= 5
    for state in states:
        # Memory may suggest other chunks by now: those of the first run count.
        other = denoiser_of(EngineOptions(sigma=sigma))
        rest = list(other.stream(clip, resume=state))
        assert len(rest) == 26 - state.frames
        assert all(np.array_equal(*pair) for pair in zip(rest, whole[state.frames :], strict=True))
        assert other.report.scenes == scenes and other.report.repeated_frames == repeats
    stored = sum(state.state is not None for state in states)
    assert 0 < stored < len(states)


def test_a_repeated_frame_is_not_evidence_of_itself() -> None:
    clip = noisy_video(12)[:6]
    doubled = np.repeat(clip[:4], 3, axis=0)
    options = EngineOptions(sigma=SIGMA, scene_cuts=False)
    single = denoiser_of(options)(clip[:4])
    assert np.array_equal(denoiser_of(options)(doubled), np.repeat(single, 3, axis=0))


def test_noise_that_is_faded_in_with_the_picture_is_measured_where_it_is_strong() -> None:
    frames = np.clip(moving_clip(40, 96, 128), 0.0, 1.0)
    levels = np.minimum(np.arange(40) / 24, 1.0).astype(np.float32)
    denoiser = denoiser_of(EngineOptions(chunk=8))
    denoiser(frames * levels[:, None, None, None])
    scenes = denoiser.report.scenes
    assert scenes[0].sigma < 0.3 * SIGMA
    assert scenes[-1].sigma == pytest.approx(SIGMA, rel=0.25)
    assert [scene.first_frame for scene in scenes] == sorted(scene.first_frame for scene in scenes)
