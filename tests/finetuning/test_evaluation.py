"""Looking at a network: at the right pixels, all of them, and none that tells the network its own value."""

import math

import pytest
import torch
from torch import Tensor

from stbn_cli.finetuning.evaluation import (
    MARGIN,
    MOST_BLOCKS,
    WINDOW,
    WINDOW_FRAMES,
    Evaluation,
    HeldOutEvaluator,
    Window,
    blocks_of,
)
from stbn_cli.finetuning.flows import BlindFlows, find_blind_flows
from stbn_cli.finetuning.footage import NoisyRun
from stbn_cli.flow.dis import DisFlow
from stbn_cli.models.config import GAUSSIAN_CHANNELS
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.noise.posterior import posterior_mean
from tests.networks import TINY

ALL = 10**9
NOISE = NoiseLevelFunction.white(0.1)


def run_of(noisy: Tensor, seed: int = 0) -> NoisyRun:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(noisy), 1, *noisy.shape[-2:])
    return NoisyRun("run", noisy, torch.rand(shape, generator=generator) < 0.05)


def random_run(frames: int, height: int, width: int, seed: int = 0) -> NoisyRun:
    generator = torch.Generator().manual_seed(seed)
    return run_of(torch.rand(frames, 3, height, width, generator=generator), seed)


def random_flows(run: NoisyRun, largest: int = 3) -> BlindFlows:
    generator = torch.Generator().manual_seed(2)
    shape = (len(run.noisy), 2, *run.noisy.shape[-2:])
    to_previous, to_next = (
        torch.randint(-largest, largest + 1, shape, generator=generator, dtype=torch.int16) for _ in range(2)
    )
    return BlindFlows(to_previous, to_next, run.held_out)


def evaluator_of(*runs: NoisyRun, pixels: int = ALL, seed: int = 0) -> HeldOutEvaluator:
    return HeldOutEvaluator(list(runs), [random_flows(run) for run in runs], pixels, seed)


@pytest.fixture(scope="module")
def network() -> STBN:
    torch.manual_seed(0)
    return STBN(TINY).eval()


class Certain(STBN):
    """Says grey of every pixel, and is certain of it; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(TINY)
        self.given: list[tuple[Tensor, object, Tensor, Tensor]] = []

    def forward(self, noisy: Tensor, sigma: object, flow_to_previous: Tensor, flow_to_next: Tensor) -> Tensor:
        self.given.append((noisy, sigma, flow_to_previous, flow_to_next))
        batch, frames, _, height, width = noisy.shape
        outputs = noisy.new_zeros(batch, frames, GAUSSIAN_CHANNELS, height, width)
        outputs[:, :, :3] = 0.5
        return outputs


@pytest.mark.parametrize("size", [(5, 40, 48), (37, 200, 90), (17, 401, 333), (16, 240, 161)])
def test_windows_count_every_pixel_once(size: tuple[int, int, int]) -> None:
    frames, height, width = size
    runs = [run_of(torch.zeros(1, 3, 1, 1).expand(frames, 3, height, width)), random_run(3, 33, 34)]
    evaluator = evaluator_of(*runs)
    counts = [torch.zeros(len(run.noisy), *run.noisy.shape[-2:], dtype=torch.int) for run in runs]
    for window in evaluator.windows:
        part = counts[window.run][window.times, window.rows, window.columns]
        part[:, *window.inner] += 1
        # Long, where the run is: what a state becomes in a scene has to show.
        assert min(WINDOW_FRAMES, counts[window.run].shape[0]) <= window.times.stop - window.times.start
        assert window.times.stop - window.times.start < 2 * WINDOW_FRAMES
        for side, inner, size_here in zip(
            (window.rows, window.columns), window.inner, runs[window.run].noisy.shape[-2:], strict=True
        ):
            assert 0 <= side.start < side.stop <= size_here
            assert side.stop - side.start <= 1.5 * WINDOW
            # A margin where the frame goes on, none where it ends.
            assert inner.start == (MARGIN if side.start > 0 else 0)
            assert side.stop - side.start - inner.stop == (MARGIN if side.stop < size_here else 0)
    assert all((count == 1).all() for count in counts)


def test_blocks_are_of_some_pixels_and_frames_and_of_one_window() -> None:
    blocks = blocks_of(3, range(5, 24), 80, 130)
    assert blocks.shape == (19, 80, 130) and len(blocks.unique()) == 3 * 3 * 5
    assert (blocks[:3, :32, :32] == blocks[0, 0, 0]).all() and blocks[3, 0, 0] != blocks[2, 0, 0]
    assert not set(blocks.unique().tolist()) & set(blocks_of(2, range(24), 80, 130).unique().tolist())


def test_a_look_takes_about_the_pixels_it_may_and_others_for_another_seed() -> None:
    runs = [run_of(torch.zeros(1, 3, 1, 1).expand(32, 3, 160, 320)), random_run(4, 64, 64)]

    def windows(pixels: int, seed: int = 0) -> list[Window]:
        return HeldOutEvaluator(runs, [], pixels, seed).windows

    everything = windows(ALL)
    largest = WINDOW_FRAMES * 176 * 160
    some = windows(3 * largest)
    pixels = 0
    for window in some:
        pixels += math.prod(part.stop - part.start for part in (window.times, window.rows, window.columns))
    assert 3 * largest <= pixels < 4 * largest
    assert len(set(map(repr, some))) == len(some) < len(everything)
    assert windows(3 * largest) == some
    assert windows(ALL, seed=1) != everything
    assert len(windows(1)) == 1
    # Every window has its turn.
    assert len({repr(windows(1, seed)[0]) for seed in range(400)}) == len(everything)


def test_a_look_finds_what_the_network_says_of_the_held_out_pixels(network: STBN) -> None:
    run = random_run(5, 40, 48)
    flows = random_flows(run)
    found = HeldOutEvaluator([run], [flows], ALL, seed=0).evaluate(network, 0.2, NOISE, torch.float32)
    with torch.no_grad():
        outputs = network(run.noisy[None], 0.2, flows.to_previous.float()[None], flows.to_next.float()[None])[
            0
        ]
    held = run.held_out[:, 0]
    count = int(held.sum())
    assert found.predictions.outputs.shape == (9, count, 1) and found.predictions.noisy.shape == (3, count, 1)
    torch.testing.assert_close(found.predictions.outputs[..., 0], outputs.movedim(1, 0)[:, held])
    assert torch.equal(found.predictions.noisy[..., 0], run.noisy.movedim(1, 0)[:, held])
    assert (found.predictions.group < MOST_BLOCKS**3).all() and len(found.predictions.group) == count
    denoised = posterior_mean(outputs, run.noisy, torch.full((1, 1, 1, 1), 0.1))
    torch.testing.assert_close(found.picture, denoised[2])
    assert found.residual_sigma == pytest.approx(
        float((run.noisy - denoised).square().mean().sqrt()), rel=1e-4
    )


def test_of_all_windows_together_no_held_out_pixel_is_missed_or_taken_twice() -> None:
    runs = [random_run(18, 40, 250), random_run(3, 36, 36, seed=1)]
    evaluator = evaluator_of(*runs)
    found = evaluator.evaluate(Certain(), 0.1, NOISE, torch.float32).predictions
    windows = (found.group // MOST_BLOCKS**3).unique().tolist()
    assert windows == list(range(len(evaluator.windows))) and len(found.group.unique()) > len(windows)
    expected = torch.cat([run.noisy.movedim(1, -1)[run.held_out[:, 0]] for run in runs])
    # Random values of 24 bits: the red ones alone tell the pixels apart well enough.
    order, expected_order = found.noisy[0, :, 0].argsort(), expected[:, 0].argsort()
    assert torch.equal(found.noisy[:, order, 0].T[:, 0], expected[expected_order][:, 0])
    assert found.noisy.sum().item() == pytest.approx(expected.sum().item(), rel=1e-5)
    # Groups are blocks of the windows, which come in their order.
    for number, window in enumerate(evaluator.windows):
        run = runs[window.run]
        inner = (..., *window.inner)
        held = run.held_out[window.place][inner][:, 0]
        here = run.noisy[window.place][inner].movedim(1, -1)[held]
        assert torch.equal(found.noisy[:, found.group // MOST_BLOCKS**3 == number, 0].T, here)


def test_the_network_gets_frames_flow_and_level_of_the_same_place() -> None:
    runs = [random_run(18, 40, 250), random_run(3, 36, 36, seed=1)]
    flows = [random_flows(run) for run in runs]
    evaluator, network = HeldOutEvaluator(runs, flows, ALL, seed=3), Certain()
    evaluator.evaluate(network, 0.3, NOISE, torch.float32)
    for window, (frames, told, to_previous, to_next) in zip(evaluator.windows, network.given, strict=True):
        assert told == 0.3
        assert torch.equal(frames[0], runs[window.run].noisy[window.place])
        assert torch.equal(to_previous[0], flows[window.run].to_previous[window.place].float())
        assert torch.equal(to_next[0], flows[window.run].to_next[window.place].float())


def test_the_noise_model_weighs_the_pixel_itself(network: STBN) -> None:
    evaluator = evaluator_of(random_run(3, 40, 40))
    little, much = (
        evaluator.evaluate(network, 0.1, NoiseLevelFunction.white(sigma), torch.float32)
        for sigma in (0.001, 10.0)
    )
    assert torch.equal(little.predictions.outputs, much.predictions.outputs)
    assert little.residual_sigma < 0.1 * much.residual_sigma


def test_predictions_do_not_depend_on_their_own_pixels(network: STBN) -> None:
    """Also with a flow that leads anywhere."""
    run = random_run(4, 40, 44)
    flows = random_flows(run)

    def evaluate(noisy: Tensor) -> Evaluation:
        return HeldOutEvaluator([NoisyRun("run", noisy, run.held_out)], [flows], ALL, 0).evaluate(
            network, 0.1, NOISE, torch.float32
        )

    before = evaluate(run.noisy)
    held = run.held_out[:, 0].nonzero().tolist()
    for index in (1, len(held) // 3, len(held) // 2, len(held) - 2):
        time, row, column = held[index]
        noisy = run.noisy.clone()
        noisy[time, :, row, column] += 0.6
        after = evaluate(noisy)
        same = (before.predictions.outputs == after.predictions.outputs).all(0)[:, 0]
        assert same[index] and not same.all()
        assert not torch.equal(before.predictions.noisy[:, index], after.predictions.noisy[:, index])


def test_predictions_and_found_flow_together_are_blind(network: STBN) -> None:
    """With flow found anew, in the frames without the held-out pixels, their values do not reach their predictions."""
    run = random_run(3, 40, 44)
    held = run.held_out[:, 0].nonzero().tolist()

    def evaluate(noisy: Tensor) -> Evaluation:
        part = NoisyRun("run", noisy, run.held_out)
        flows = find_blind_flows(part, part.held_out, DisFlow(), 0.1)
        return HeldOutEvaluator([part], [flows], ALL, 0).evaluate(network, 0.1, NOISE, torch.float32)

    before = evaluate(run.noisy)
    for index in (2, len(held) // 2, len(held) - 3):
        time, row, column = held[index]
        noisy = run.noisy.clone()
        noisy[time, :, row, column] = 5.0
        outputs = evaluate(noisy).predictions.outputs
        assert torch.equal(outputs[:, index], before.predictions.outputs[:, index])
        assert not torch.equal(outputs, before.predictions.outputs)


def test_what_is_removed_is_measured() -> None:
    generator = torch.Generator().manual_seed(0)
    white = 0.1 * torch.randn(4, 3, 96, 96, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(0.3 * torch.randn(4, 3, 98, 98, generator=generator), 3, 1)
    # All noise is removed: the network is certain that everything is grey.
    for noise, expected in ((white, 0.0), (smooth, 2 / 3)):
        evaluator = evaluator_of(run_of(0.5 + noise))
        found = evaluator.evaluate(Certain(), 0.1, NoiseLevelFunction.white(1.0), torch.float32)
        assert found.residual_sigma == pytest.approx(float(noise.std()), rel=0.01)
        assert found.residual_correlation == pytest.approx(expected, abs=0.03)
        assert (found.picture - 0.5).abs().max() < 0.001


def test_frames_without_noise_have_no_correlation() -> None:
    evaluator = evaluator_of(run_of(torch.full((2, 3, 40, 40), 0.5)))
    found = evaluator.evaluate(Certain(), 0.1, NOISE, torch.float32)
    assert found.residual_correlation == 0.0 and found.residual_sigma == pytest.approx(0.0, abs=1e-6)


def test_the_pictures_before_and_after_show_the_same_place() -> None:
    evaluator = evaluator_of(random_run(18, 40, 250), random_run(3, 36, 36, seed=1), pixels=1, seed=5)
    # With little noise assumed the pixels themselves shine through the grey.
    after = evaluator.evaluate(Certain(), 0.1, NoiseLevelFunction.white(1e-3), torch.float32).picture
    before = evaluator.noisy_picture()
    assert before.shape == after.shape
    assert torch.corrcoef(torch.stack((before.flatten(), after.flatten())))[0, 1] > 0.999


def test_half_precision_gives_nearly_the_same(network: STBN) -> None:
    evaluator = evaluator_of(random_run(3, 40, 40))
    full, half = (
        evaluator.evaluate(network, 0.1, NOISE, precision) for precision in (torch.float32, torch.bfloat16)
    )
    assert half.predictions.outputs.dtype == torch.float32
    assert not torch.equal(full.predictions.outputs, half.predictions.outputs)
    torch.testing.assert_close(half.predictions.outputs, full.predictions.outputs, rtol=0.1, atol=0.1)
