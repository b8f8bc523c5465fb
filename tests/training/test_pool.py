"""The pool of noisy clips: what is drawn, that it can be made in parts, and that crops stay consistent."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stbn_cli.checkpoints.serial import load_checkpoint
from stbn_cli.errors import InputError
from stbn_cli.models.config import RECURRENT_SIZES, RecurrentConfig
from stbn_cli.models.recurrent import Recurrent
from stbn_cli.models.warp import warp_bilinear
from stbn_cli.noise.luma import luma_of
from stbn_cli.synthesis import mixture
from stbn_cli.synthesis.mixture import draw_clip, measured_levels
from stbn_cli.synthesis.processing import jpeg, spatially_reduced, temporally_reduced
from stbn_cli.training import pool as pools
from stbn_cli.training.footage import load_footage
from stbn_cli.training.muon import orthogonalised
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.pool import Pool, entry_path, make_pool
from stbn_cli.training.recurrent_task import validate_recurrent
from stbn_cli.training.trainer import Trainer

TINY = RecurrentConfig(channels=8, blocks=1, coarse_channels=8, coarse_blocks=1)


@pytest.fixture
def pool_dir(footage_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pool of six small clips."""
    monkeypatch.setattr(pools, "SIZES", (64, 72))
    monkeypatch.setattr(pools, "KEPT_FRAMES", 4)
    # Weak noise, in which flow can be found.
    monkeypatch.setattr(mixture, "SIGMA_RANGE", (0.7, 3.0))
    monkeypatch.setattr(mixture, "DARK_SHARE", 0.0)
    footage = load_footage([footage_dir / "clips"], [footage_dir / "stills"])
    make_pool(footage_dir / "pool", footage, range(6))
    return footage_dir / "pool"


def test_every_kind_is_drawn_and_its_levels_are_those_of_the_difference() -> None:
    clean = F.interpolate(torch.rand(1, 3, 9, 9), (64, 64), mode="bicubic").clamp(0, 1).expand(4, -1, -1, -1)
    for kind, _ in mixture.EVERYTHING.sources:
        mix = replace(mixture.EVERYTHING, sources=((kind, 1.0),))
        for seed in range(3):
            clip = draw_clip(clean, np.random.default_rng(seed), mix)
            again = draw_clip(clean, np.random.default_rng(seed), mix)
            assert torch.equal(clip.clean, again.clean) and clip.kind == again.kind
            # Coders with threads do not always give the same.
            assert "coded" in clip.kind or torch.equal(clip.noisy, again.noisy)
            assert clip.noisy.shape == clip.clean.shape and torch.isfinite(clip.noisy).all()
            assert clip.kind.startswith(kind)
            if not clip.kept_as_float:
                assert torch.equal((clip.noisy * 255).round() / 255, clip.noisy)
            luma = luma_of(clip.noisy - clip.clean)
            measured = clip.levels[0].min() - 1e-4, clip.levels[0].max() + 1e-4
            assert measured[0] <= luma.square().mean().sqrt() <= measured[1]


def test_levels_by_brightness_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.linspace(0, 1, 256).view(1, 1, 1, -1).expand(1, 3, 128, -1)
    sigma = 0.02 + 0.06 * clean
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
    found = measured_levels(noisy, clean)
    expected = 0.02 + 0.06 * torch.linspace(0, 1, mixture.LEVEL_KNOTS)
    torch.testing.assert_close(found[0] / 0.6686, expected, rtol=0.08, atol=3e-3)


def test_processing_reduces_noise_and_keeps_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.full((5, 3, 48, 48), 0.4)
    clean[..., 24:] = 0.7
    noisy = clean + 0.03 * torch.randn(clean.shape, generator=generator)
    for reduced in (spatially_reduced(noisy, 0.03, 1.5, 2), temporally_reduced(noisy, 0.7, 0.1)):
        assert (reduced - clean)[-1].std() < 0.8 * (noisy - clean).std()
        assert (reduced - clean).abs().mean() < 0.03
    assert (jpeg(clean, 95) - clean).abs().max() < 0.03


def test_a_pool_made_in_parts_is_the_same(pool_dir: Path, footage_dir: Path) -> None:
    footage = load_footage([footage_dir / "clips"], [footage_dir / "stills"])
    parts, made = footage_dir / "parts", []
    make_pool(parts, footage, range(3, 6), report=lambda number, kind: made.append(number))
    make_pool(parts, footage, range(6), report=lambda number, kind: made.append(number))
    assert made == [3, 4, 5, 0, 1, 2]
    for number in range(6):
        assert entry_path(parts, number).read_bytes() == entry_path(pool_dir, number).read_bytes()
    assert sorted(path.name for path in parts.iterdir()) == [
        f"{number:06d}.safetensors" for number in range(6)
    ]


def test_crops_are_turned_with_their_flow(pool_dir: Path) -> None:
    """However a crop is flipped, its flow leads to the frame before: warping brings the clean frames together."""
    pool = Pool(pool_dir)
    better = 0
    for step in range(12):
        batch = pool.batch(step, 1, 3, 48, 0.0)
        assert batch.noisy.shape == batch.clean.shape == (1, 3, 3, 48, 48)
        assert batch.level.shape == batch.to_next.shape == (1, 3, 2, 24, 24)
        for earlier, later, flow in ((0, 1, batch.to_previous[:, 1]), (2, 1, batch.to_next[:, 1])):
            full = F.interpolate(flow * 2, scale_factor=2.0, mode="bilinear")
            inner = (..., slice(8, -8), slice(8, -8))
            warped = (
                (warp_bilinear(batch.clean[:, earlier], full) - batch.clean[:, later])[inner].abs().mean()
            )
            still = (batch.clean[:, earlier] - batch.clean[:, later])[inner].abs().mean()
            better += bool(warped <= still + 1e-4)
    assert better >= 16


def test_the_same_step_gives_the_same_batch(pool_dir: Path) -> None:
    one, other = (Pool(pool_dir).batch(7, 2, 2, 32, 0.2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_sequences_are_as_long_as_the_clips_at_most(
    pool_dir: Path, options_of: Callable[..., TrainOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some steps ask for two frames more than --train-length, which itself has to fit."""
    assert Pool(pool_dir).batch(0, 1, 6, 32, 0.0).noisy.shape[1] == 4
    monkeypatch.setitem(RECURRENT_SIZES, "real-fast", TINY)
    options = options_of(model="real-fast", pool=pool_dir, still_dirs=(), train_length=13)
    with pytest.raises(InputError, match="12 frames, fewer than --train-length 13"):
        Trainer(options).run()


def test_an_empty_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no clips"):
        Pool(tmp_path)


class _Fading(nn.Module):
    """Gives every frame back, but black from one on."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames, self.weight = frames, nn.Parameter(torch.zeros(1))

    def forward(self, noisy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        result = noisy.clone()
        result[:, self.frames :] = 0.0
        return result, result


def test_validation_looks_at_a_long_still_scene() -> None:
    clips = [torch.rand(6, 3, 40, 132, generator=torch.Generator().manual_seed(0))]

    def found(frames: int) -> tuple[dict[str, float], float]:
        validation = validate_recurrent(cast(Recurrent, _Fading(frames)), clips, [30.0])
        return dict(cast(Mapping[str, float], validation.row["psnr"])), validation.score

    (right, best), (wrong, score) = found(60), found(50)
    assert right.pop("still") > wrong.pop("still") + 5.0
    assert right == wrong and best > score


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_run_from_a_pool_learns_validates_and_resumes(
    pool_dir: Path, options_of: Callable[..., TrainOptions], monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    monkeypatch.setitem(RECURRENT_SIZES, "real-fast", TINY)
    changes = {"model": "real-fast", "pool": pool_dir, "still_dirs": (), "optimizer": optimizer}
    options = options_of(**changes, epochs=2)
    result = Trainer(options).run()
    assert result.finished and result.steps == 4 and result.best_score is not None
    checkpoint = load_checkpoint(options.log_dir / "best.safetensors")
    assert checkpoint.config == TINY and checkpoint.info.noise_kind == "camera"
    assert checkpoint.info.flow == "dis-half-fast"
    # A best score that was the mean of other parts says nothing: a version before may have kept it.
    state = torch.load(options.log_dir / "state.pt", weights_only=True)
    torch.save(state | {"best": 999.0, "validated": {"psnr": {"30": 999.0}}}, options.log_dir / "state.pt")
    resumed = Trainer(options_of(**changes, epochs=3, resume=True))
    ended = resumed.run()
    assert ended.steps == 6 and ended.best_score is not None and ended.best_score < 100.0
    unbroken = Trainer(options_of(**changes, epochs=3, log_dir=options.log_dir / "unbroken"))
    unbroken.run()
    for name, average in unbroken.average.items():
        torch.testing.assert_close(resumed.average[name], average)


def test_muon_turns_a_matrix_into_its_directions() -> None:
    """The update keeps the singular vectors, and makes every singular value about one."""
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    for given in (matrix, matrix.T, 1e-4 * matrix):
        u, _, v = torch.linalg.svd(given, full_matrices=False)
        values = u.T @ orthogonalised(given) @ v.T
        assert (values.diagonal() > 0.6).all() and (values.diagonal() < 1.3).all()
        assert (values - values.diagonal().diag()).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "real"}, "--pool is what"),
        ({"pool": Path("pool")}, "--pool is what"),
        ({"model": "flow-light", "optimizer": "muon"}, "--optimizer muon is for"),
        ({"optimizer": "sgd"}, "--optimizer is one of"),
        ({"model": "real", "pool": Path("pool"), "patch_size": 34}, "multiple of 4"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options_of: Callable[..., TrainOptions], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        options_of(**changes)
