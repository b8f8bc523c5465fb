"""How well a denoiser does on frames beside those that nobody learned from: windows of the runs, always the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stbn_cli.finetuning.alignment import Pair, comes_from_inside
from stbn_cli.finetuning.evaluation import Window, choose_windows
from stbn_cli.finetuning.frame_crops import AlignedRun
from stbn_cli.finetuning.tone import Tone
from stbn_cli.models.config import RecurrentConfig
from stbn_cli.models.warp import warp_bicubic
from stbn_cli.noise.sure import Gain, compare_risks


@dataclass(frozen=True, slots=True)
class View:
    """What a denoiser sees of a window: some frames of a run, with gaps between them."""

    noisy: Tensor  # (K, 3, h, w) float32
    to_previous: Tensor  # (K, 2, ...) float32 pixels, at the size of a hidden state
    to_next: Tensor


@dataclass(frozen=True, slots=True)
class Estimates:
    """A denoiser's answer to a view, (K, 3, h, w) float32; `expected`: its own mean squared error, if it knows it."""

    frames: Tensor
    expected: float = 0.0


Denoise = Callable[[View], Estimates]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The squared error of warped estimates against goals, noise included, [0, 1] scale squared.

    `errors (n,)` float32 of pixels, the mean of the channels, without what is missed on average at each brightness,
    the `tone`; `group (n,)` int64: of one place. `level`: about the mean squared error without the noise, at least what
    estimates from both sides of a goal differ by. `picture (3, h, w)`: a frame of the first window, denoised.
    """

    errors: Tensor
    group: Tensor
    level: float
    picture: Tensor
    tone: Tone

    def gain_of(self, other: "Judgement") -> Gain:
        """What `other` gains over this one, on the same pixels."""
        return compare_risks(self.errors, other.errors, self.group, other.level)

    @property
    def mean(self) -> float:
        return float(self.errors.mean())


class FrameJudge:
    """Judges denoisers in one phase, on windows spread over all runs by chance."""

    def __init__(
        self, runs: list[AlignedRun], phase: int, pixels: int, config: RecurrentConfig, seed: int
    ) -> None:
        """`pixels`: times frames, of one judgement; `config` of the networks that are judged."""
        scale = config.scale
        self._runs, self._phase, self._scale = runs, phase, scale
        self._places: list[tuple[Window, tuple[int, ...], list[tuple[int, Pair, Tensor]]]] = []
        for chosen in choose_windows([run.run for run in runs], pixels, seed):
            window = _widened(chosen, config.multiple)
            kept, pairs = self._pairs_in(window)
            if pairs:
                self._places.append((window, kept, pairs))

    @property
    def sees_pixels(self) -> bool:
        """Whether there is anything to judge by."""
        return bool(self._places)

    @torch.inference_mode()
    def judge(self, denoise: Denoise, before: Sequence[Judgement] | None = None) -> tuple[Judgement, ...]:
        """Have all windows denoised, and compare with each kind of goals.

        `before`: of what has to be beaten; what differs from its tone counts as wrong.
        """
        missed: list[list[Tensor]] = []
        shown, groups, expected, apart = [], [], [], []
        picture = None
        for number, (window, kept, pairs) in enumerate(self._places):
            estimates = denoise(self._view(window, kept))
            expected.append(estimates.expected)
            if picture is None:
                picture = estimates.frames[len(kept) // 2].clamp(0.0, 1.0)
            by_target: dict[int, list[tuple[Tensor, Tensor]]] = {}
            for index, pair, weight in pairs:
                place = (slice(None), window.rows, window.columns)
                estimate = estimates.frames[index : index + 1].clamp(0.0, 1.0)
                warped = warp_bicubic(estimate, pair.flow[place].float()[None])[0]
                missed.append([(warped - goal[place].float())[:, weight[0]].T for goal in pair.goals])
                shown.append(pair.shown[place].float()[:, weight[0]].T)
                groups.append(torch.full((len(missed[-1][0]),), number, device=warped.device))
                for other, counts in by_target.get(pair.target, []):
                    both = (weight & counts)[0]
                    apart.append(0.5 * (warped - other).square().mean(0)[both])
                by_target.setdefault(pair.target, []).append((warped, weight))
        assert picture is not None
        differing = torch.cat(apart) if apart else picture.new_zeros(0)
        level = max(sum(expected) / len(expected), float(differing.mean()) if len(differing) else 0.0)
        brightness, group = torch.cat(shown), torch.cat(groups)
        result = []
        for number, parts in enumerate(zip(*missed, strict=True)):
            difference = torch.cat(parts)
            tone = Tone.of(difference, brightness)
            errors = (difference - tone.at(brightness)).square().mean(1)
            if before is not None:
                errors += Tone(tone.table - before[number].tone.table).at(brightness).square().mean(1)
            result.append(Judgement(errors, group, level, picture, tone))
        return tuple(result)

    def noisy_picture(self) -> Tensor:
        """What `Judgement.picture` was before, (3, h, w)."""
        window, kept, _ = self._places[0]
        return self._view(window, kept).noisy[len(kept) // 2]

    def _pairs_in(self, window: Window) -> tuple[tuple[int, ...], list[tuple[int, Pair, Tensor]]]:
        """The frames that are seen in a window, and pairs: number of the source among them, pair, pixels that count."""
        run = self._runs[window.run]
        kept = tuple(
            frame for frame in run.gapped[self._phase].kept if window.times.start <= frame < window.times.stop
        )
        pairs = []
        for index, source in enumerate(kept):
            for pair in run.usable_pairs(source, self._phase):
                place = (slice(None), window.rows, window.columns)
                counts = torch.zeros_like(pair.weight[place])
                inner = (slice(None), *window.inner)
                counts[inner] = pair.weight[place][inner]
                counts &= comes_from_inside(pair.flow[place].float()[None], 1.0)[0]
                if counts.any():
                    pairs.append((index, pair, counts))
        return kept, pairs

    def _view(self, window: Window, kept: tuple[int, ...]) -> View:
        run, scale = self._runs[window.run], self._scale
        gaps = run.gapped[self._phase]
        times = [gaps.kept.index(frame) for frame in kept]
        rows, columns = (
            slice(part.start // scale, part.stop // scale) for part in (window.rows, window.columns)
        )
        noisy = run.run.noisy[list(kept)][..., window.rows, window.columns]
        motion = (flow[times][..., rows, columns].float() for flow in (gaps.to_previous, gaps.to_next))
        return View(noisy, *motion)


def _widened(window: Window, multiple: int) -> Window:
    """The same pixels in a window that begins and ends at multiples, as its run does."""
    rows, above = _to_multiples(window.rows, multiple)
    columns, before = _to_multiples(window.columns, multiple)
    inner = (_moved(window.inner[0], above), _moved(window.inner[1], before))
    return replace(window, rows=rows, columns=columns, inner=inner)


def _to_multiples(part: slice, multiple: int) -> tuple[slice, int]:
    start = part.start // multiple * multiple
    return slice(start, -(-part.stop // multiple) * multiple), part.start - start


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)
