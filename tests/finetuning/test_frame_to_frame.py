"""Learning from frame to frame: noise that neighbouring pixels share, and a judge that never learned from it."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from stbn_cli.api import load_denoiser
from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from stbn_cli.checkpoints.store import resolve
from stbn_cli.cli.adaptation import explanation, gained
from stbn_cli.errors import OptionError
from stbn_cli.finetuning import frame_trainer
from stbn_cli.finetuning.aligned_run import AlignedRun
from stbn_cli.finetuning.alignment import align
from stbn_cli.finetuning.conditioning import Conditioning, search
from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.finetuning.frame_judge import Estimates, Finding, FrameJudge, Judgement, View
from stbn_cli.finetuning.gaps import JUDGED_PHASE, LEARNING_PHASES, PERIOD, kept_frames, leave_out
from stbn_cli.finetuning.lessons import LessonSource
from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.finetuning.plan import StepSizes
from stbn_cli.finetuning.redraw import texture_of
from stbn_cli.finetuning.result import FinetuneResult, Outcome
from stbn_cli.finetuning.tone import Tone
from stbn_cli.flow.estimator import NoFlow
from stbn_cli.jobs.finetune import FinetuneJob
from stbn_cli.jobs.options import DenoiserOptions
from stbn_cli.models.config import RecurrentConfig
from stbn_cli.models.recurrent import Recurrent
from stbn_cli.noise.clipping import lift
from stbn_cli.noise.model import LearnedNoise, NoiseLevelFunction
from tests.finetuning.runs import finetune_with
from tests.finetuning.test_trainer import interrupt_at

SIGMA = 20.0  # 0-255 scale
SIDE, FRAMES = 96, 9
TINY_RECURRENT = RecurrentConfig(channels=8, blocks=1, fusion_blocks=1, coarse_channels=16, coarse_blocks=1)
SMALL = {
    "device": "cpu",
    "precision": "fp32",
    "batch_size": 1,
    "patch_size": 48,
    "train_length": 3,
    "learning_rate": 2e-3,
    "steps": 6,
}


def save_recurrent(path: Path) -> Path:
    """A small recurrent network that leaves frames as they are."""
    torch.manual_seed(0)
    network = Recurrent(TINY_RECURRENT)
    info = ModelInfo(name="tiny-real", flow="none", licence="CC0-1.0", noise_kind="camera")
    save_checkpoint(path, Checkpoint(TINY_RECURRENT, info, network.state_dict()))
    return path


def save_timid(path: Path) -> Path:
    """The shipped recurrent network, made to take away two thirds of the noise that it sees."""
    checkpoint = load_checkpoint(resolve("real"))
    weights = {
        name: tensor.float() * (0.65 if name.startswith("fusion.leave") else 1.0)
        for name, tensor in checkpoint.weights.items()
    }
    info = dataclasses.replace(checkpoint.info, name="timid")
    save_checkpoint(path, dataclasses.replace(checkpoint, info=info, weights=weights))
    return path


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """A texture that moves by a pixel a frame, (T, side, side, 3) float32."""
    room = SIDE + FRAMES
    coarse = np.random.default_rng(0).random((room // 6, room // 6, 3))
    scene = cv2.resize(coarse, (room, room), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    clip = [scene[index : index + SIDE, index : index + SIDE] for index in range(FRAMES)]
    return (0.2 + 0.6 * np.stack(clip)).astype(np.float32)


def blurred(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    """Noise of SIGMA that neighbours share, new in every frame."""
    noise = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return np.stack([3 * cv2.blur(frame, (3, 3)) for frame in noise]) * np.float32(SIGMA / 255)


@pytest.fixture(scope="module")
def noisy(clean: np.ndarray) -> np.ndarray:
    return clean + blurred(clean.shape)


@pytest.fixture(scope="module")
def timid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timid(tmp_path_factory.mktemp("timid") / "timid.safetensors")


@pytest.fixture(scope="module")
def lesson(
    noisy: np.ndarray, timid: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FinetuneResult, Path]:
    output = tmp_path_factory.mktemp("lesson") / "taught.safetensors"
    return finetune_with(noisy, output, model=timid, **SMALL), output


def psnr(found: np.ndarray, clean: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(found.astype(np.float64) - clean).mean()))


def test_noise_that_neighbours_share_is_learned_from_frame_to_frame(
    lesson: tuple[FinetuneResult, Path], clean: np.ndarray, noisy: np.ndarray, timid: Path
) -> None:
    result, output = lesson
    assert result.outcome is Outcome.IMPROVED and result.against == "timid" and result.steps == SMALL["steps"]
    before, after = (
        psnr(load_denoiser(model, device="cpu", precision="fp32")(noisy), clean) for model in (timid, output)
    )
    assert after > before + 0.2
    assert result.gain is not None and result.gain.decibel > 0.1
    assert 0.4 * SIGMA < result.level < 1.6 * SIGMA
    info = load_checkpoint(output).info
    assert info.name == "timid-finetuned" and info.noise is not None
    learned = LearnedNoise.from_description(info.noise)
    assert learned.levels is not None and len(learned.levels) == 2
    (told,) = info.training["finetuning"]
    assert told["way"] == "frame to frame" and told["against"] == "timid"


def test_mirrored_passes_are_kept_where_nothing_is_learned(
    noisy: np.ndarray, clean: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that is learned counts here; `real` in four passes is better than in one, as plain denoise takes it."""
    monkeypatch.setattr(frame_trainer, "LEAST_GAIN", 99.0)
    output = tmp_path / "averaged.safetensors"
    options = {**SMALL, "steps": 1}
    result = finetune_with(noisy, output, model=resolve("real"), **options)
    assert result.outcome is Outcome.AVERAGED and result.improved and result.passes == 4
    before, after, again = (
        psnr(load_denoiser(options=DenoiserOptions(model, passes=passes, precision="fp32"))(noisy), clean)
        for model, passes in ((resolve("real"), None), (output, None), (output, 1))
    )
    assert result.gain is not None and 0.0 < result.gain.decibel < after - before + 0.1
    assert again == pytest.approx(before, abs=0.02)
    assert result.checkpoint.info.name == "real"
    # Nor are many pixels needed that can be compared with the next frame, as they are to learn.
    with monkeypatch.context() as patched:
        patched.setattr(frame_trainer, "FEWEST_COUNTING", 2.0)
        unlearned = finetune_with(noisy, output, model=resolve("real"), **options, overwrite=True)
    assert unlearned.outcome is Outcome.AVERAGED and unlearned.steps == 0 and unlearned.gain == result.gain
    told = str(explanation(unlearned))
    assert "hardly any do" in told and "real in 4 passes" in told and explanation(result) is None
    # Those who denoise in four passes anyway gain nothing by it.
    again_result = finetune_with(noisy, output, model=output, **options, overwrite=True)
    assert again_result.outcome is Outcome.NO_GAIN and not again_result.improved


def test_a_network_whose_state_grows_is_found_out(clean: np.ndarray, noisy: np.ndarray) -> None:
    """`real` with what it carries doubled: well at first, and then worse than the noise."""
    network = load_checkpoint(resolve("real")).build().float().eval()
    assert isinstance(network, Recurrent)
    still = torch.from_numpy(clean[:1]).permute(0, 3, 1, 2).expand(60, -1, -1, -1)
    noise = torch.from_numpy(blurred((60, *clean.shape[1:]))).permute(0, 3, 1, 2)
    levels = torch.tensor([[SIGMA], [0.7 * SIGMA]]) / 255
    denoise = functools.partial(frame_trainer.estimates_of, network, levels, torch.float32)
    assert frame_trainer.stays_the_same(denoise, still, still + noise, 2)
    with torch.no_grad():
        for branch in (network.forwards, network.backwards):
            branch[0].weight[:, : network.config.channels] *= 2.0
    assert not frame_trainer.stays_the_same(denoise, still, still + noise, 2)


def test_the_mean_of_estimates_gains_what_they_differ_by() -> None:
    """Errors that have nothing to do with each other: the mean of two has half the squared error of one."""
    noise = NoiseLevelFunction.white(SIGMA / 255)
    random = torch.Generator().manual_seed(3)
    noisy = 0.5 + SIGMA / 255 * torch.randn(12, 3, 96, 96, generator=random)
    judge = FrameJudge([aligned_run(noisy, noise)], JUDGED_PHASE, noisy.numel(), TINY_RECURRENT, None, 0)

    def wrong(view: View, *seeds: int) -> Estimates:
        draws = [
            torch.randn(view.noisy.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds
        ]
        return Estimates(0.5 + 0.02 * torch.stack(draws).mean(0))

    gain, picture = judge.gain_of_mean(
        lambda view: wrong(view, 1), lambda view: wrong(view, 1, 2), 0.02**2 / 2
    )
    assert gain.is_certain and gain.decibel == pytest.approx(10 * np.log10(2), abs=0.05)
    assert picture.shape == (3, *noisy.shape[-2:])


def test_a_seed_repeats_itself_and_an_interrupted_run_ends_alike(
    lesson: tuple[FinetuneResult, Path],
    noisy: np.ndarray,
    timid: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again = tmp_path / "again.safetensors"
    halfway = finetune_with(noisy, again, model=timid, **SMALL, progress=interrupt_at(3))
    assert halfway.interrupted and halfway.steps == 3

    def no_search(levels: Any, judge: Any, enough: Any) -> Conditioning:
        assert enough(), "a busy machine could find other levels than the run began with"
        return search(levels, judge, enough)

    monkeypatch.setattr(frame_trainer, "search", no_search)
    finetune_with(noisy, again, model=timid, **SMALL, resume=True)
    assert again.read_bytes() == lesson[1].read_bytes()


def test_what_a_coder_left_of_the_noise_is_not_learned(
    noisy: np.ndarray, timid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_trainer, "LEAST_PASSES_GAIN", 99.0)
    options = FinetuneOptions(steps=SMALL["steps"])
    job = FinetuneJob(clips=[noisy], model=timid, noise_kind="compressed", device="cpu", options=options)
    result = job.run(lambda progress: None)
    assert result.outcome is Outcome.CODED_NOISE and result.steps == 0
    assert result.checkpoint.info.name == "timid"
    assert "Use the original" in str(explanation(result)) and "compression" in gained(result)


def test_a_run_that_learns_nothing_gives_the_model_back(noisy: np.ndarray, tmp_path: Path) -> None:
    """A network that removes no noise cannot find motion, and six frames are the least."""
    model, output = save_recurrent(tmp_path / "tiny-real.safetensors"), tmp_path / "out.safetensors"
    for clip, outcome in (
        (noisy, Outcome.NOTHING_NEW),
        (noisy[:4], Outcome.TOO_SHORT),
    ):
        result = finetune_with(clip, output, model=model, **SMALL, overwrite=True)
        assert result.outcome is outcome and result.steps == 0 and not result.improved
        assert load_checkpoint(output).info.name == "tiny-real"


def test_nothing_is_learned_from_frame_to_frame_from_scratch(noisy: np.ndarray, timid: Path) -> None:
    with pytest.raises(OptionError, match="--from-scratch"):
        finetune_with(noisy, None, model=timid, from_scratch=True, **SMALL)


def test_each_frame_that_is_seen_lies_beside_one_that_is_not() -> None:
    assert JUDGED_PHASE not in LEARNING_PHASES
    for phase in range(PERIOD):
        kept = kept_frames(12, phase)
        assert len(kept) == 8 and all(number % PERIOD != phase for number in kept)
        assert all(number in (0, 11) or {number - 1, number + 1} - set(kept) for number in kept)
    frames = torch.rand(7, 3, 32, 32)
    seen = leave_out(frames, 1, NoFlow(), 2)
    assert seen.kept == (0, 2, 3, 5, 6) and seen.to_next.shape == (5, 2, 16, 16)


def test_pixels_that_are_no_witnesses_do_not_count() -> None:
    """Copied noise, and places that are badly aligned; elsewhere the goal is the noisy frame."""
    noise = NoiseLevelFunction.white(SIGMA / 255)
    random = torch.Generator().manual_seed(0)
    steady = torch.full((2, 3, 64, 64), 0.5)
    steady[1, :, 32:, :32] += 0.2
    noisy = steady + SIGMA / 255 * torch.randn(2, 3, 64, 64, generator=random)
    noisy[1, :, :32, :32] = noisy[0, :, :32, :32]
    first, second = align(noisy, [steady, steady], noise, NoFlow())
    assert (first.target, first.source, second.target, second.source) == (0, 1, 1, 0)
    for pair in (first, second):
        counts = pair.weight[0]
        assert not counts[:32, :32].any(), "copied"
        assert not counts[36:, :28].any(), "misaligned"
        assert counts[:, 36:].all()
        goal = pair.goals[1].float()[:, :, 36:]
        assert torch.allclose(goal, noisy[pair.target, :, :, 36:], atol=1e-3)


def smooth(frames: torch.Tensor) -> torch.Tensor:
    """The mean over 15x15 pixels."""
    return torch.nn.functional.avg_pool2d(frames, 15, 1, 7, count_include_pad=False)


def aligned_run(noisy: torch.Tensor, noise: NoiseLevelFunction) -> AlignedRun:
    """A run of a camera at rest."""
    pairs: dict[int, tuple] = {}
    for pair in align(noisy, [smooth(noisy)], noise, NoFlow()):
        pairs[pair.source] = (*pairs.get(pair.source, ()), pair)
    gapped = tuple(leave_out(noisy, phase, NoFlow(), TINY_RECURRENT.scale) for phase in range(PERIOD))
    return AlignedRun(
        NoisyRun("clip", noisy, torch.zeros_like(noisy[:, :1], dtype=torch.bool)), gapped, pairs
    )


@pytest.mark.parametrize("lively", [False, True])
def test_removing_what_is_new_in_every_frame_is_no_gain_where_it_is_picture(lively: bool) -> None:
    """Spray over half of the picture, whose loss the frames beside never show; the loss of noise alone is a gain."""
    shape = (12, 160, 192, 3)
    noise = NoiseLevelFunction.white(SIGMA / 255)
    spray = blurred(shape, seed=2)
    spray[:, :, :96] = 0.0
    clean = torch.from_numpy(0.5 + (spray if lively else np.zeros_like(spray))).permute(0, 3, 1, 2)
    noisy = clean + torch.from_numpy(blurred(shape)).permute(0, 3, 1, 2)
    run = aligned_run(noisy, noise)
    texture = texture_of([run], noise)
    assert texture is not None
    judge = FrameJudge([run], JUDGED_PHASE, noisy.numel(), TINY_RECURRENT, texture, 0)
    timid, bold = (
        judge.judge(lambda view, part=part: Estimates(torch.lerp(view.noisy, smooth(view.noisy), part)))[0]
        for part in (0.7, 1.0)
    )
    errors = [float((torch.lerp(noisy, smooth(noisy), part) - clean).square().mean()) for part in (0.7, 1.0)]
    assert (errors[1] < errors[0]) is not lively
    assert timid.mean > bold.mean, "the next frame never shows that spray is lost"
    assert timid.gain_of(bold).is_certain is not lively
    for found, error in zip((timid, bold), errors, strict=True):
        assert 0.8 * error < found.level < 1.5 * error
    assert timid.stein is not None and bold.stein is not None
    found = float(timid.stein.errors.mean() - bold.stein.errors.mean())
    assert found == pytest.approx(errors[0] - errors[1], abs=0.1 * (SIGMA / 255) ** 2)


def test_noise_is_drawn_anew_as_strong_and_as_coarse_as_it_was() -> None:
    """And with what colours share, though half of the picture never stays the same."""
    shape = (8, 128, 160, 3)
    noise = torch.from_numpy(blurred(shape)).permute(0, 3, 1, 2)
    noise = torch.cat((noise[:, :1], 0.5 * noise[:, :1] + noise[:, 1:2], 0.3 * noise[:, 2:]), 1)
    noisy = 0.5 + noise
    noisy[..., 80:] += (
        0.2 * torch.rand(noisy[..., 80:].shape, generator=torch.Generator().manual_seed(0)) - 0.1
    )
    level = NoiseLevelFunction.white(2 * SIGMA / 255)  # wrong, as measurements are
    texture = texture_of([aligned_run(noisy, level)], level)
    assert texture is not None
    drawn = texture.draw(noisy[:4], torch.Generator().manual_seed(1))
    assert drawn.shape == noisy[:4].shape
    for one, other in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2)):
        for shift in (0, 1, 4):
            there, here = (
                float((frames[:, one] * frames[:, other].roll(shift, -1)).mean()) for frames in (noise, drawn)
            )
            assert here == pytest.approx(there, abs=0.2 * (SIGMA / 255) ** 2)
    again = texture.draw(noisy[:4], torch.Generator().manual_seed(2))
    assert abs(float((drawn * again).mean())) < 0.02 * float(drawn.square().mean())


@pytest.mark.parametrize("clipped", [False, True])
def test_what_cut_off_noise_does_to_the_mean_is_no_error(clipped: bool) -> None:
    """Of denoisers that differ in brightness alone, the one that is right is not turned down, and others are."""
    shape, sigma = (9, 96, 192, 3), SIGMA / 255
    noise = NoiseLevelFunction.white(sigma)
    noisy = torch.linspace(0.0, 0.3, shape[2]) + torch.from_numpy(blurred(shape)).permute(0, 3, 1, 2)
    if clipped:
        noisy = noisy.clamp(0.0, 1.0)
    run = aligned_run(noisy, noise)
    texture = texture_of([run], noise)
    assert texture is not None and texture.clipped is clipped
    drawn = texture.draw(noisy, torch.Generator().manual_seed(1))
    assert float(drawn.std()) == pytest.approx(sigma, rel=0.1), "as it was before it was cut off"
    judge = FrameJudge([run], JUDGED_PHASE, noisy.numel(), TINY_RECURRENT, texture, 0)

    def judged(share: float, before: Sequence[Judgement] | None = None) -> tuple[Judgement, ...]:
        """Of the mean of each column, less this share of what cut-off noise adds to it."""

        def denoise(view: View) -> Estimates:
            grey = view.noisy.mean((0, 2), keepdim=True).expand_as(view.noisy)
            return Estimates(grey - share * sigma * lift(grey / sigma))

        return judge.judge(denoise, before)

    start = judged(0.0)
    right, *wrong = (judged(share, start)[0] for share in (1.0, -2.0, 3.0))
    for witness in ("compared", "stein"):
        # Over the noise's variance. A curve between knots, at a brightness that is not quite known, costs a little.
        lost = [
            float((getattr(found, witness).errors - getattr(start[0], witness).errors).mean()) / sigma**2
            for found in (right, *wrong)
        ]
        assert lost[0] < 0.01 if clipped else lost[0] > 0.014, witness
        assert min(lost[1:]) > 0.02, witness


@pytest.mark.parametrize("clipped", [False, True])
def test_lessons_show_the_noise_on_other_pictures_and_no_frame_that_is_for_judging(clipped: bool) -> None:
    frames = torch.stack([torch.full((3, 80, 96), 0.02 * number) for number in range(9)])
    noise = torch.from_numpy(blurred((9, 80, 96, 3))).permute(0, 3, 1, 2)
    level = NoiseLevelFunction.white(SIGMA / 255)
    texture = texture_of([aligned_run(0.5 + noise, level)], level)
    assert texture is not None
    sizes = StepSizes(batch_size=4, patch_size=64, train_length=4)
    texture = dataclasses.replace(texture, clipped=clipped)
    first, again = (
        LessonSource([frames], texture, NoFlow(), sizes, TINY_RECURRENT, seed=0) for _ in range(2)
    )
    lessons = [first.lesson(step) for step in range(12)]
    assert first.patch == 40 and lessons[0].noisy.shape == lessons[0].truth.shape == (4, 4, 3, 40, 40)
    assert all(torch.equal(*parts) for parts in zip(lessons[3], again.lesson(3), strict=True))
    seen = {round(float(value) / 0.02) for lesson in lessons for value in lesson.truth.unique()}
    assert seen == {number for number in range(9) if number % PERIOD != JUDGED_PHASE}
    added = torch.stack([lesson.noisy - lesson.truth for lesson in lessons])
    if clipped:
        assert float(min(lesson.noisy.min() for lesson in lessons)) == 0.0
    else:
        assert float(added.std()) == pytest.approx(SIGMA / 255, rel=0.15)
        assert float((added[..., 1:] * added[..., :-1]).mean()) > 0.5 * float(added.square().mean())


def test_levels_are_changed_only_where_that_is_better_by_more_than_chance() -> None:
    """The best factors are found from both sides, and noise in the judgement moves nothing."""
    random = torch.Generator().manual_seed(0)
    group = torch.arange(50).repeat_interleave(20)
    noise = 0.01 * torch.rand(1000, generator=random)

    def judge(best: tuple[float, float], slope: float):
        def judged(levels: tuple[tuple[float, ...], ...], _: Judgement | None) -> Judgement:
            off = sum(abs(np.log2(row[0] / value)) for row, value in zip(levels, best, strict=True))
            told = Finding(noise + slope * off, group, Tone(torch.zeros(3, 16)))
            return Judgement(told, None, 0.01, torch.zeros(3, 4, 4))

        return judged

    found = search(((0.1, 0.2), (0.05, 0.1)), judge((0.1, 0.1), 1e-3))
    assert found.factors == pytest.approx((1.0, 2.0)) and found.levels[1] == pytest.approx((0.1, 0.2))
    found = search(((0.1,), (0.1,)), judge((0.05, 0.1), 1e-3))
    assert found.factors == pytest.approx((0.5, 1.0))
    assert search(((0.1,), (0.1,)), judge((0.2, 0.1), 0.0)).factors == (1.0, 1.0)
    tries = iter((False, True))
    hurried = search(((0.1,), (0.1,)), judge((0.4, 0.4), 1e-3), lambda: next(tries))
    assert hurried.factors == pytest.approx((2**0.5, 2**0.5))


def test_what_changes_with_brightness_alone_is_no_detail() -> None:
    """The mean by brightness is found, whatever noise lies on it."""
    random = torch.Generator().manual_seed(0)
    brightness = torch.rand(40_000, 3, generator=random)
    noise = 0.05 * torch.randn(40_000, 3, generator=random)
    shift = 0.03 * (1 - brightness) ** 2
    found = Tone.of(shift + noise, brightness).at(brightness)
    assert float((found - shift).abs().max()) < 0.01
