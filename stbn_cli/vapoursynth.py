"""stbn as a VapourSynth filter: `denoise(clip)` in a script. Needs the package vapoursynth; docs/vapoursynth.md.

Only what concerns VapourSynth: formats, colour, frame properties, errors. Which frames are computed when is decided in
`inference/windows.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import cv2
import numpy as np

from stbn_cli.errors import InputError, StbnError
from stbn_cli.inference.windows import (
    LEAD,
    LONGEST_SECTION,
    SURVEY,
    DenoiserOfScenes,
    SceneDenoiser,
    SeekableClip,
)
from stbn_cli.video.color import untagged_matrix

try:
    # Type checkers would take `import vapoursynth` for this file.
    vs: Any = import_module("vapoursynth")
except ImportError as error:
    raise ImportError(
        f"stbn_cli.vapoursynth needs VapourSynth, which cannot be imported ({error}): install it into this environment "
        "with pip install vapoursynth, on Python 3.12 or newer."
    ) from None

if TYPE_CHECKING:
    from stbn_cli.jobs.options import DenoiserOptions
    from stbn_cli.noise.kinds import NoiseKind

VideoNode: TypeAlias = Any  # vapoursynth.VideoNode
VideoFrame: TypeAlias = Any  # vapoursynth.VideoFrame

# H.273's numbers, as in `_Matrix`.
MATRIX_NUMBERS = {"bt709": 1, "bt601": 6}
UNSPECIFIED_MATRIX = 2
CHROMA_LEFT = 0  # as in `_ChromaLocation`, and what an unmarked clip has
MOST_BITS = 16  # of integers
CACHE_MIB = 1024
# Bytes that VapourSynth may keep of the source, which is read twice: for cuts and noise, and for denoising.
SOURCE_CACHE_BYTES = 2**29
INTERLACED = (
    "the clip is marked as interlaced; deinterlace it before, or mark it as progressive with "
    "std.SetFieldBased(clip, 0) if it is."
)


def denoise(
    clip: VideoNode,
    sigma: float | None = None,
    model: str | Path | None = None,
    *,
    strength: float | None = None,
    noise_kind: "NoiseKind | None" = None,
    device: str | None = None,
    precision: str | None = None,
    options: "DenoiserOptions | None" = None,
    cache_mib: float = CACHE_MIB,
    on_message: Callable[[str], None] | None = None,
) -> VideoNode:
    """Denoise a clip; the result has its format, size, length and frame properties.

    Args:
        clip: RGB, YUV or GRAY of constant format and size: integers of 8 to 16 bits, half or single precision.
        sigma, model, strength, noise_kind, device, precision, options: as `stbn_cli.load_denoiser` takes them. Where
            the kind of noise is left open and the model depends on it, it is measured at once, all over the clip.
            Scenes begin where `_SceneChangePrev` or `_SceneChangeNext` say so, if the first frame has one of them,
            else where stbn finds cuts.
        cache_mib: MiB that denoised frames may take, beside VapourSynth's own cache.
        on_message: receives sentences, for example about fallbacks; None: VapourSynth's log.

    Raises:
        vapoursynth.Error: the format, an option or the model cannot be used.
    """
    with _one_sentence():
        planes = _Planes.of(clip)
        say = on_message or (lambda message: vs.core.log_message(vs.MESSAGE_TYPE_WARNING, f"stbn: {message}"))
        if not cache_mib >= 0:
            raise vs.Error(f"stbn: expected cache_mib of at least 0, got {cache_mib}.")
        given = {
            "model": model,
            "sigma": sigma,
            "strength": strength,
            "noise_kind": noise_kind,
            "device": device,
            "precision": precision,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        denoiser = _load(planes, chosen, options, say)
        scene_cuts = options is None or options.scene_cuts
        return _filtered(planes, denoiser, scene_cuts=scene_cuts, cache_bytes=int(cache_mib * 2**20))


class _Planes(NamedTuple):
    """A clip, the same in RGBS or GRAYS, and how that becomes what the clip is."""

    source: VideoNode
    held: VideoNode  # the source in VapourSynth's cache, without what would lead core.resize astray
    linear: VideoNode  # in RGBS or GRAYS
    back: dict[str, int]  # arguments of core.resize

    @classmethod
    def of(cls, clip: VideoNode) -> "_Planes":
        """Raises `vs.Error` for formats that there is no way for."""
        _check(clip)
        # What would lead core.resize astray; the result gets the source's properties.
        astray = ["_Matrix", "_Range", "_ColorRange", "_Transfer", "_Primaries"]
        held = clip.std.RemoveFrameProps(astray)
        frame_bytes = clip.width * clip.height * 3 * clip.format.bytes_per_sample
        wanted = LONGEST_SECTION // 2 + LEAD + 2 * SURVEY
        most = min(max(SOURCE_CACHE_BYTES // frame_bytes, 2), wanted)
        held.std.SetVideoCache(mode=1, fixedsize=1, maxsize=most)
        gray = clip.format.color_family == vs.GRAY
        target = vs.GRAYS if gray else vs.RGBS
        if clip.format.id == target:
            return cls(clip, held, held, {})
        props = dict(clip.get_frame(0).props)
        back: dict[str, int] = {"format": clip.format.id}
        told: dict[str, int] = {}
        # `read` refuses interlaced frames. core.resize would do so in its own words, where it has to.
        plain = held.std.RemoveFrameProps("_FieldBased")
        full = _is_full_range(props, default=clip.format.color_family == vs.RGB)
        told["range_in"] = back["range"] = int(full)
        if clip.format.color_family == vs.YUV:
            back["matrix"] = told["matrix_in"] = _matrix(props, clip)
            back["chromaloc"] = told["chromaloc_in"] = int(props.get("_ChromaLocation", CHROMA_LEFT))
            # The same for all frames, so that each goes back as it came.
            plain = plain.std.SetFrameProps(_Matrix=told["matrix_in"], _ChromaLocation=told["chromaloc_in"])
        try:
            linear = plain.resize.Spline36(format=target, **told)
            linear.get_frame(0)
        except vs.Error as error:
            raise vs.Error(
                f"stbn: {clip.format.name} with these colour properties cannot be converted to RGB "
                f"({_last_line(error)}). Convert it before."
            ) from error
        return cls(clip, held, linear, back)

    def restored(self, denoised: VideoNode) -> VideoNode:
        """A clip in the format of `linear` in the source's format, with its frame properties."""
        if self.back:
            denoised = denoised.resize.Spline36(**self.back)
        return denoised.std.CopyFrameProps(self.source)

    def read(self, number: int) -> np.ndarray:
        """A frame `(H, W, 3)` float32 RGB; grey as three equal channels.

        Raises `InputError` if it is marked as interlaced or holds values that are not finite.
        """
        with self.held.get_frame(number) as frame:
            if _is_interlaced(frame):
                raise InputError(INTERLACED)
        with self.linear.get_frame(number) as frame:
            parts = [np.asarray(frame[plane]) for plane in range(self.linear.format.num_planes)]
            pixels = cv2.merge(parts if len(parts) == 3 else parts * 3)
        if self.source.format.sample_type == vs.FLOAT and not np.isfinite(pixels).all():
            raise InputError(
                f"Frame {number} holds values that are not finite (NaN or infinity). Check the clip."
            )
        return pixels


def _filtered(planes: _Planes, denoiser: SceneDenoiser, *, scene_cuts: bool, cache_bytes: int) -> VideoNode:
    begins = _scene_changes(planes.source) if scene_cuts else _never
    seekable = SeekableClip(
        planes.read, planes.linear.num_frames, denoiser, begins=begins, cache_bytes=cache_bytes
    )

    def denoised(n: int, f: VideoFrame) -> VideoFrame:
        with _one_sentence():
            pixels = seekable.frame(n)
        result = f.copy()
        if result.format.num_planes == 1:
            np.copyto(np.asarray(result[0]), pixels.mean(2))
        else:
            for plane in range(3):
                np.copyto(np.asarray(result[plane]), pixels[..., plane])
        return result

    return planes.restored(planes.linear.std.ModifyFrame(planes.linear, denoised))


def _never(number: int) -> bool:
    return False


def _scene_changes(clip: VideoNode) -> Callable[[int], bool] | None:
    """Whether a scene begins with frame n, by the clip's properties; None if it has none."""
    names = ("_SceneChangePrev", "_SceneChangeNext")
    first = clip.get_frame(0).props
    if not any(name in first for name in names):
        return None

    def begins(number: int) -> bool:
        if clip.get_frame(number).props.get(names[0], 0):
            return True
        return number > 0 and bool(clip.get_frame(number - 1).props.get(names[1], 0))

    return begins


def _check(clip: VideoNode) -> None:
    if not isinstance(clip, vs.VideoNode):
        raise vs.Error(f"stbn: expected a video clip, got {type(clip).__name__}.")
    form = clip.format
    if form is None or form.color_family == vs.UNDEFINED or not clip.width or not clip.height:
        raise vs.Error("stbn: the clip's format or size varies; convert it to one with core.resize before.")
    if form.sample_type == vs.INTEGER and form.bits_per_sample > MOST_BITS:
        raise vs.Error(
            f"stbn: {form.name} has integers of more than {MOST_BITS} bits; convert it to 16 bits or to single "
            "precision before."
        )
    if _is_interlaced(clip.get_frame(0)):
        raise vs.Error(f"stbn: {INTERLACED}")


def _is_interlaced(frame: VideoFrame) -> bool:
    return bool(frame.props.get("_FieldBased", 0))


def _is_full_range(props: dict[str, Any], *, default: bool) -> bool:
    """`_Range` is 1 for full range; `_ColorRange`, its name before R74 with the opposite meaning, 0."""
    if "_Range" in props:
        return int(props["_Range"]) == 1
    if "_ColorRange" in props:
        return int(props["_ColorRange"]) == 0
    return default


def _matrix(props: dict[str, Any], clip: VideoNode) -> int:
    matrix = int(props.get("_Matrix", UNSPECIFIED_MATRIX))
    if matrix == UNSPECIFIED_MATRIX:
        return MATRIX_NUMBERS[untagged_matrix(clip.width, clip.height)]
    return matrix


def _load(
    planes: _Planes,
    chosen: dict[str, Any],
    options: "DenoiserOptions | None",
    say: Callable[[str], None],
) -> SceneDenoiser:
    from stbn_cli.jobs.model import check_fits, load
    from stbn_cli.jobs.options import DenoiserOptions

    wanted = replace(options or DenoiserOptions(), **chosen)
    if wanted.uncertainty:
        raise vs.Error("stbn: uncertainty cannot be given in a clip; leave it out.")
    wanted.check_kind()
    if wanted.open_kind:
        wanted = _with_kind(wanted, planes, say)
    loaded = load(wanted, say)
    check_fits(loaded, raw=False)
    return DenoiserOfScenes(loaded, planes.linear.height, planes.linear.width)


def _with_kind(options: "DenoiserOptions", planes: _Planes, say: Callable[[str], None]) -> "DenoiserOptions":
    """The options with the kind of noise that is measured all over the clip."""
    from stbn_cli.analysis.analysis import analyze_frames
    from stbn_cli.jobs.events import Events
    from stbn_cli.jobs.noise import with_kind

    found = analyze_frames(
        planes.read, planes.linear.num_frames, deep=planes.source.format.bits_per_sample > 8
    )
    events = Events(show_warning=say, say=say)
    if found.verdict.hint is not None:
        events.warn(found.verdict.hint)
    return with_kind(options, found, events)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """What the user can cause or cure, as VapourSynth's own error."""
    try:
        yield
    except StbnError as error:
        # What VapourSynth shows of a frame's error is the whole traceback: no longer than it has to be.
        raise vs.Error(f"stbn: {error}") from None


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
