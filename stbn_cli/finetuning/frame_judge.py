"""How well a denoiser does on frames that nobody learned from, by two witnesses: windows of the runs, always the same.

The first compares its estimates with the frames beside them. Where the picture changes unforeseeably, as spray does,
detail of one frame is not found in the next, and removing it looks right: on rafting this witness claimed 0.19 dB for
smoothing that lost 0.58. It is wrong in that one direction.

The second looks at the frame itself (Stein's estimate). The distance to the noisy frame is that to the truth, but for
the noise, and for how much of the noise the estimate kept; noise like that of the clip, drawn anew and laid over it,
tells how much a denoiser keeps. It needs no motion, and counts every pixel, but has to know the noise.

Their errors have nothing in common, and the worse of both counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.finetuning.aligned_run import AlignedRun
from stbn_cli.finetuning.alignment import Pair, comes_from_inside
from stbn_cli.finetuning.evaluation import Window, blocks_of, choose_windows
from stbn_cli.finetuning.redraw import NoiseTexture
from stbn_cli.finetuning.tone import Tone
from stbn_cli.models.config import RecurrentConfig
from stbn_cli.models.warp import warp_bicubic
from stbn_cli.noise.sure import Gain, compare_risks

BRIGHTNESS_WINDOW = (
    15  # pixels: brightness is that of the mean over so many, in which hardly any noise is left
)
PROBE = 0.3  # of the noise's level: how strong the noise is that is laid over frames


@dataclass(frozen=True, slots=True)
class View:
    """What a denoiser sees of a window: some frames of a run, with gaps between them."""

    noisy: Tensor  # (K, 3, h, w) float32
    to_previous: Tensor  # (K, 2, ...) float32 pixels, at the size of a hidden state
    to_next: Tensor


@dataclass(frozen=True, slots=True)
class Estimates:
    """A denoiser's answer to a view, (K, 3, h, w) float32."""

    frames: Tensor


Denoise = Callable[[View], Estimates]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one witness says: the squared error of estimates, and the noise's variance, [0, 1] scale squared.

    `errors (n,)` float32 of pixels, the mean of the channels, without what is missed on average at each brightness,
    the `tone`; `group (n,)` int64: of one place.
    """

    errors: Tensor
    group: Tensor
    tone: Tone


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is found of a denoiser.

    `compared`: its warped estimates with goals; `stein`: by Stein's estimate, where the noise could be drawn anew.
    `level`: about the mean squared error, the most of three: what is compared, without the noise, which is half of what
    goals and noisy frames differ by; what estimates from both sides of a goal differ by; Stein's estimate.
    `picture (3, h, w)`: a frame of the first window, denoised.
    """

    compared: Finding
    stein: Finding | None
    level: float
    picture: Tensor

    def gain_of(self, other: "Judgement") -> Gain:
        """What `other` gains over this one, on the same pixels, by the witness that says less for it."""
        gains = [
            compare_risks(before.errors, after.errors, before.group, other.level)
            for before, after in ((self.compared, other.compared), (self.stein, other.stein))
            if before is not None and after is not None
        ]
        return min(gains, key=lambda gain: gain.decibel - 2.0 * gain.error)

    @property
    def mean(self) -> float:
        """The error by the first witness."""
        return float(self.compared.errors.mean())


class FrameJudge:
    """Judges denoisers in one phase, on windows spread over all runs by chance."""

    def __init__(
        self,
        runs: list[AlignedRun],
        phase: int,
        pixels: int,
        config: RecurrentConfig,
        texture: NoiseTexture | None,
        seed: int,
    ) -> None:
        """`pixels`: times frames, of one judgement; `config`: of the networks; `texture`: of the noise, if known."""
        scale = config.scale
        self._texture, self._seed = texture, seed
        self._right = Tone.of_truth(texture) if texture is not None and texture.clipped else None
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

        `before`: of what has to be beaten; what differs from its tone counts as wrong, but not on the way to the
        truth's where that is known.
        """
        missed: list[list[Tensor]] = []
        shown, groups, apart = [], [], []
        noise: list[list[Tensor]] = []
        probes: list[tuple[Tensor, Tensor, Tensor]] = []
        picture = None
        for number, (window, kept, pairs) in enumerate(self._places):
            view = self._view(window, kept)
            estimates = denoise(view)
            if self._texture is not None:
                probes.append(self._probe(number, view, estimates.frames.clamp(0.0, 1.0), denoise))
            if picture is None:
                picture = estimates.frames[len(kept) // 2].clamp(0.0, 1.0)
            by_target: dict[int, list[tuple[Tensor, Tensor]]] = {}
            for index, pair, weight in pairs:
                place = (slice(None), window.rows, window.columns)
                estimate = estimates.frames[index : index + 1].clamp(0.0, 1.0)
                warped = warp_bicubic(estimate, pair.flow[place].float()[None])[0]
                missed.append([(warped - goal[place].float())[:, weight[0]].T for goal in pair.goals])
                neighbour = warp_bicubic(view.noisy[index : index + 1], pair.flow[place].float()[None])[0]
                differences = ((neighbour - goal[place].float())[:, weight[0]] for goal in pair.goals)
                noise.append([0.5 * part.square().mean(0) for part in differences])
                shown.append(pair.shown[place].float()[:, weight[0]].T)
                groups.append(self._blocks(number, kept[index : index + 1], *weight.shape[1:])[weight])
                for other, counts in by_target.get(pair.target, []):
                    both = (weight & counts)[0]
                    apart.append(0.5 * (warped - other).square().mean(0)[both])
                by_target.setdefault(pair.target, []).append((warped, weight))
        assert picture is not None
        differing = torch.cat(apart) if apart else picture.new_zeros(0)
        least = float(differing.mean()) if len(differing) else 0.0
        brightness, group = torch.cat(shown), torch.cat(groups)
        result = []
        for number, (parts, variances) in enumerate(
            zip(zip(*missed, strict=True), zip(*noise, strict=True), strict=True)
        ):
            difference = torch.cat(parts)
            tone = Tone.of(difference, brightness)
            errors = (difference - tone.at(brightness)).square().mean(1)
            level = float(errors.mean() - torch.cat(variances).mean())
            told = None if before is None else before[number]
            if told is not None:
                errors += tone.beyond(told.compared.tone, self._right).at(brightness).square().mean(1)
            stein = self._stein(probes, told) if probes else None
            levels = (level, least, 0.0 if stein is None else float(stein.errors.mean()))
            result.append(Judgement(Finding(errors, group, tone), stein, max(levels), picture))
        return tuple(result)

    @torch.inference_mode()
    def gain_of_mean(self, one: Denoise, mean: Denoise, level: float) -> tuple[Gain, Tensor]:
        """What the mean of several estimates gains over one of them, which is as good as any other; and its picture.

        The estimates' squared errors are, on average, that of their mean and their squared distances to it (Krogh and
        Vedelsby, "Neural network ensembles, cross validation, and active learning", 1995): the gain is seen without
        the truth. `level`: mean squared error of the mean, [0, 1] scale squared.
        """
        apart, groups = [], []
        picture = None
        for number, (window, kept, _) in enumerate(self._places):
            view = self._view(window, kept)
            single, averaged = (denoise(view).frames.clamp(0.0, 1.0) for denoise in (one, mean))
            if picture is None:
                picture = averaged[len(kept) // 2]
            distance = (single - averaged).square().mean(1)[(..., *window.inner)]
            apart.append(distance.flatten())
            groups.append(self._blocks(number, kept, *distance.shape[1:]).flatten())
        assert picture is not None
        distance = torch.cat(apart)
        return compare_risks(distance, torch.zeros_like(distance), torch.cat(groups), level), picture

    def _probe(
        self, number: int, view: View, frames: Tensor, denoise: Denoise
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the pixels of a window that count: brightness and what `frames` miss, (n, 3), and Stein's terms, (n,)."""
        assert self._texture is not None
        random = torch.Generator().manual_seed(self._seed * len(self._places) + number)
        drawn = self._texture.draw(view.noisy, random)
        if self._texture.clipped:
            # No noise reaches beyond the ends.
            drawn = drawn * ((view.noisy > 0.0) & (view.noisy < 1.0))
        touched = denoise(replace(view, noisy=view.noisy + PROBE * drawn)).frames.clamp(0.0, 1.0)
        # Twice the noise that is kept, less all of it.
        terms = (drawn * (2.0 / PROBE * (touched - frames) - drawn)).mean(1)
        # Not that of the estimate: where much noise is kept, it looks brighter by what is kept.
        brightness = F.avg_pool2d(
            view.noisy, BRIGHTNESS_WINDOW, 1, BRIGHTNESS_WINDOW // 2, count_include_pad=False
        )
        inner = (..., *self._places[number][0].inner)
        shown, missed = (
            part[inner].movedim(1, -1).flatten(0, 2) for part in (brightness, frames - view.noisy)
        )
        return shown, missed, terms[inner].flatten()

    def _stein(self, probes: list[tuple[Tensor, Tensor, Tensor]], before: Judgement | None) -> Finding:
        shown, missed, terms = (torch.cat(parts) for parts in zip(*probes, strict=True))
        group = torch.cat(
            [
                self._blocks(number, kept, *(part.stop - part.start for part in window.inner)).flatten()
                for number, (window, kept, _) in enumerate(self._places)
            ]
        )
        tone = Tone.of(missed, shown)
        errors = (missed - tone.at(shown)).square().mean(1) + terms
        if before is not None and before.stein is not None:
            errors += tone.beyond(before.stein.tone, self._right).at(shown).square().mean(1)
        return Finding(errors, group, tone)

    def _blocks(self, number: int, frames: Sequence[int], height: int, width: int) -> Tensor:
        """As `blocks_of`, of frames of the run that window `number` is of."""
        window = self._places[number][0]
        within = [frame - window.times.start for frame in frames]
        return blocks_of(number, within, height, width).to(self._runs[window.run].run.noisy.device)

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
