"""Which encoder, pixel format and options write a video: the choice only, nothing is opened here."""

from dataclasses import dataclass, replace

from av.codec import Codec
from av.codec.codec import UnknownCodecError

from stbn_cli.errors import InputError, OptionError
from stbn_cli.video.color import PixelLayout, untagged_matrix
from stbn_cli.video.formats import CONTAINER_CODECS, MATROSKA, MP4_MUXERS
from stbn_cli.video.frames import (
    RANGE_FULL,
    RANGE_LIMITED,
    UNSPECIFIED,
    ColorSpec,
    FieldOrder,
    VideoMetadata,
    Warnings,
)
from stbn_cli.video.pixels import (
    MATRIX_NUMBERS,
    MATRIX_RGB,
    describe_format,
    has_alpha,
    planar_format,
    require_format,
)


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How the output is encoded; None = chosen from the source and the container."""

    codec: str | None = None  # h264, hevc, av1, vp9, ffv1 or prores; or one of HARDWARE_ENCODERS
    crf: float | None = None  # constant quality; smaller is better
    preset: str | None = None  # speed against size, by the encoder's own names
    pix_fmt: str | None = None  # FFmpeg's pixel format name
    lossless: bool = False
    dither: bool = True  # where the output has fewer bits than the source
    drop_alpha: bool = False  # instead of refusing a source with transparency
    strict: bool = False  # a loss against the source is an error (see `losses`)
    film_grain: bool = False  # state in the stream what grain was removed, for players to draw it; AV1 alone


@dataclass(frozen=True, slots=True)
class CodecFamily:
    """What we know of a codec: its encoders in order of preference and the sense of its options."""

    encoders: tuple[str, ...]
    default_crf: float | None  # None = the codec has no constant-quality mode
    max_crf: int
    default_preset: str | None  # None = no presets
    can_be_lossless: bool = True


FAMILIES = {
    "h264": CodecFamily(("libx264",), 16, 51, "medium"),
    "hevc": CodecFamily(("libx265",), 18, 51, "medium"),
    "av1": CodecFamily(("libsvtav1", "libaom-av1"), 24, 63, "medium"),
    "vp9": CodecFamily(("libvpx-vp9",), 24, 63, None),
    "ffv1": CodecFamily(("ffv1",), None, 0, None),
    "prores": CodecFamily(("prores_ks",), None, 0, None, can_be_lossless=False),
    "y4m": CodecFamily(("wrapped_avframe",), None, 0, None),  # uncompressed, and only in its own container
}
# Encoders of a graphics card, which write only where they are named, and their codecs.
HARDWARE_ENCODERS = {"h264_nvenc": "h264", "hevc_nvenc": "hevc", "av1_nvenc": "av1"}
ALIASES = {
    "avc": "h264",
    "x264": "h264",
    "h265": "hevc",
    "x265": "hevc",
    **{encoder: name for name, family in FAMILIES.items() for encoder in family.encoders},
    **HARDWARE_ENCODERS,
}
# Codecs whose streams can say what grain players are to draw.
FILM_GRAIN_FAMILIES = ("av1",)
# The layouts that a y4m header can name; its encoder takes anything and says nothing.
Y4M_FORMATS = (
    *("gray", "gray9le", "gray10le", "gray12le", "gray16le", "yuv411p"),
    *(
        f"yuv{name}p{depth}"
        for name in (420, 422, 444)
        for depth in ("", "9le", "10le", "12le", "14le", "16le")
    ),
)
X26X_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)
# In narrower pictures x265's cutree writes beyond its buffers (seen at widths of 40 and 48) and ends the process.
SAFE_CUTREE_SIDE = 128
# Encoders that mark pictures as two fields, with what they need to code them as such.
FIELD_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"flags": "+ildct+ilme"},
    "prores_ks": {"flags": "+ildct"},
    "ffv1": {},
    **{name: {} for name in FAMILIES["y4m"].encoders},
}
# x264 and x265 refuse a size that their chroma does not divide, and cards know no half blocks; the others round up.
EVEN_SIZES = ("libx264", "libx265", *HARDWARE_ENCODERS)
# The same ladder for AV1 encoders, whose own presets are numbers (0 slowest).
AV1_PRESETS: dict[str, int] = dict(zip(X26X_PRESETS, (10, 9, 9, 8, 7, 6, 5, 4, 2, 1), strict=True))
AV1_FASTEST = 13  # of SVT-AV1
# The same ladder for NVENC (p1 fastest), and back for where software has to take over.
NVENC_PRESETS: dict[str, str] = dict(
    zip(X26X_PRESETS, ("p1", "p1", "p2", "p2", "p3", "p4", "p5", "p6", "p7", "p7"), strict=True)
)
SOFTWARE_PRESETS = {
    ours: name for name, ours in NVENC_PRESETS.items() if name not in ("superfast", "placebo")
}
# NVENC takes more formats, but rounds 16 bits to 10 and turns RGB into 4:2:0 by itself.
NVENC_FORMATS = ("yuv420p", "nv12", "p010le", "yuv444p")


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """A ready choice: FFmpeg's encoder, pixel format, colour of the output and encoder options."""

    family: str
    encoder: str
    pix_fmt: str
    color: ColorSpec
    options: dict[str, str]
    codec_tag: str | None = None
    field_order: FieldOrder | None = None  # as the output is marked; None = progressive

    @property
    def on_device(self) -> bool:
        """Whether a graphics card encodes, which can be found missing or busy when the encoder is opened."""
        return self.encoder in HARDWARE_ENCODERS


def plan_encoder(source: VideoMetadata, muxer: str, options: EncodeOptions, notes: Warnings) -> EncoderPlan:
    """Choose encoder and pixel format. What is lost against the source is reported in `notes`.

    Raises OptionError for contradictory or impossible options.
    """
    if options.film_grain:
        _check_film_grain(_choose_family(source, muxer, options), options)
    named = _named_hardware(options)
    if named is not None and not has_encoder(named):
        options = software_options(options)
        notes.add(
            f"This FFmpeg build has no {named}; the software encoder of {options.codec} writes the video."
        )
    family = _choose_family(source, muxer, options)
    encoder = _named_hardware(options) or find_encoder(family)
    if encoder is None:
        raise OptionError(f"This FFmpeg build has no {family} encoder. Choose another --codec.")
    _check_options(encoder, family, options)
    pix_fmt = _choose_format(source, encoder, options, notes)
    layout = describe_format(pix_fmt)
    color = _output_color(source, layout, family)
    tag = "hvc1" if family == "hevc" and muxer in MP4_MUXERS else None  # Apple players ask for hvc1
    settings = _encoder_options(encoder, family, layout, options)
    if encoder == "libx265" and min(source.width, source.height) < SAFE_CUTREE_SIDE:
        settings["x265-params"] += ":no-cutree=1"
    order = source.field_order
    if order is not None and encoder not in FIELD_ENCODERS:
        order = None
        notes.lose(
            f"{encoder} writes progressive pictures: players will not know that the video is interlaced. Use "
            "--codec h264, prores or ffv1."
        )
    elif order is not None:
        settings |= FIELD_ENCODERS[encoder]
        if encoder == "libx264":
            # It writes what its own parameter says, whatever the pictures are marked as.
            first = "bff=1" if order == "bottom" else "tff=1"
            settings["x264-params"] = ":".join(filter(None, (settings.get("x264-params"), first)))
    return EncoderPlan(family, encoder, pix_fmt, color, settings, tag, order)


def check_alpha(source: VideoMetadata, options: EncodeOptions) -> None:
    """Refuse a source with transparency, which no output keeps. Raises OptionError."""
    if source.has_alpha and not options.drop_alpha:
        raise OptionError(
            "The input has an alpha channel with transparency, which is not denoised and would be lost. Give "
            "--drop-alpha to have the colours alone."
        )


def find_encoder(family: str) -> str | None:
    """The first encoder of the family that this FFmpeg build has, in software."""
    return next((name for name in FAMILIES[family].encoders if has_encoder(name)), None)


def has_encoder(name: str) -> bool:
    """Whether this FFmpeg build knows an encoder; one of HARDWARE_ENCODERS also needs its card."""
    try:
        Codec(name, "w")
    except UnknownCodecError:
        return False
    return True


def software_options(options: EncodeOptions) -> EncodeOptions:
    """The options that come nearest in software to those for one of HARDWARE_ENCODERS."""
    codec = _named_hardware(options)
    if codec is None:
        return options
    preset = SOFTWARE_PRESETS.get(options.preset or "", options.preset)
    pix_fmt = options.pix_fmt and planar_format(require_format(options.pix_fmt))
    return replace(options, codec=HARDWARE_ENCODERS[codec], preset=preset, pix_fmt=pix_fmt)


def _named_hardware(options: EncodeOptions) -> str | None:
    codec = (options.codec or "").lower()
    return codec if codec in HARDWARE_ENCODERS else None


def _choose_family(source: VideoMetadata, muxer: str, options: EncodeOptions) -> str:
    allowed = CONTAINER_CODECS[muxer]
    if options.codec is not None:
        family = ALIASES.get(options.codec.lower(), options.codec.lower())
        if family not in FAMILIES:
            known = ", ".join((*FAMILIES, *HARDWARE_ENCODERS))
            raise OptionError(f"Unknown codec {options.codec!r}. Choose one of {known}.")
        if family not in allowed:
            raise OptionError(
                f"A {muxer} file cannot hold {family}. Choose one of {', '.join(allowed)}, or another suffix."
            )
        return family
    if options.lossless and muxer == MATROSKA:
        return "ffv1"
    wanted = source.codec or ""
    if (
        wanted in allowed
        and find_encoder(wanted)
        and (FAMILIES[wanted].can_be_lossless or not options.lossless)
    ):
        return wanted
    return next((family for family in allowed if find_encoder(family)), allowed[0])


def _check_options(encoder: str, family: str, options: EncodeOptions) -> None:
    known = FAMILIES[family]
    if options.lossless and options.crf is not None:
        raise OptionError("--lossless and --crf contradict each other. Give one of them.")
    if options.lossless and not known.can_be_lossless:
        raise OptionError(f"{family} cannot be lossless. Choose --codec ffv1, h264 or hevc.")
    if options.crf is not None and known.default_crf is None:
        raise OptionError(f"{family} has no constant-quality mode. Leave out --crf.")
    if options.crf is not None and not 0 <= options.crf <= known.max_crf:
        raise OptionError(f"--crf {options.crf:g} is out of range for {family}. Give 0 to {known.max_crf}.")
    if options.preset is None:
        return
    if known.default_preset is None:
        raise OptionError(f"{family} has no presets. Leave out --preset.")
    own: tuple[str, ...] = ()
    if encoder in HARDWARE_ENCODERS:
        own = tuple(SOFTWARE_PRESETS)
    elif family == "av1":
        own = tuple(str(number) for number in range(AV1_FASTEST + 1))
    if options.preset not in (*X26X_PRESETS, *own):
        ladder = ", ".join((*X26X_PRESETS, *own) if encoder in HARDWARE_ENCODERS else X26X_PRESETS)
        raise OptionError(f"Unknown preset {options.preset!r}. Choose one of {ladder}.")


def _check_film_grain(family: str, options: EncodeOptions) -> None:
    if family not in FILM_GRAIN_FAMILIES:
        raise OptionError(
            f"Film grain is part of AV1, and {family} cannot hold it. Give --codec av1, or use --grain-table alone."
        )
    if options.lossless:
        raise OptionError(
            "--lossless keeps every value, and --film-grain has players change them. Give one of them."
        )


def _encoder_options(
    encoder: str, family: str, layout: PixelLayout, options: EncodeOptions
) -> dict[str, str]:
    known = FAMILIES[family]
    crf = (
        "" if known.default_crf is None else f"{known.default_crf if options.crf is None else options.crf:g}"
    )
    preset = options.preset or known.default_preset or ""
    if encoder in HARDWARE_ENCODERS:
        return _nvenc_options(preset, crf, options.lossless)
    # x265 prints to stderr by itself unless set otherwise.
    quality = {"x265-params": "log-level=none"} if family == "hevc" else {}
    if family == "h264":
        # qp 0 is x264's lossless mode at every depth; crf 0 is not at 10 bits.
        quality |= {"preset": preset} | ({"qp": "0"} if options.lossless else {"crf": crf})
    elif family == "hevc":
        quality |= {"preset": preset} | ({} if options.lossless else {"crf": crf})
        quality["x265-params"] += ":lossless=1" if options.lossless else ""
    elif encoder == "libsvtav1":
        quality |= {"preset": str(AV1_PRESETS.get(preset, preset))}
        quality |= {"svtav1-params": "lossless=1"} if options.lossless else {"crf": crf}
    elif encoder == "libaom-av1":
        quality |= {"cpu-used": str(min(int(AV1_PRESETS.get(preset, preset)), 8)), "row-mt": "1"}
        quality |= {"aom-params": "lossless=1"} if options.lossless else {"crf": crf, "b": "0"}
    elif family == "vp9":
        quality |= {"deadline": "good", "cpu-used": "2", "row-mt": "1"}
        quality |= {"lossless": "1"} if options.lossless else {"crf": crf, "b": "0"}
    elif family == "y4m":
        return {}
    elif family == "ffv1":
        quality |= {"level": "3", "slicecrc": "1"}  # version 3: checksums and colour tags in every slice
    else:
        # 3 = ProRes 422 HQ, 4 = ProRes 4444.
        quality |= {"profile": "4" if layout.sub_x == 1 else "3", "vendor": "apl0"}
    return quality


def _nvenc_options(preset: str, crf: str, lossless: bool) -> dict[str, str]:
    # FFmpeg computes NVENC's decoding times as if a tick were a frame, which our clocks are not: no B-frames.
    shared = {"preset": NVENC_PRESETS.get(preset, preset), "bf": "0"}
    if lossless:
        return shared | {"tune": "lossless"}
    # Constant quality is a target of the variable rate; 0 means "choose yourself", so the best is 1.
    return shared | {"rc": "vbr", "cq": f"{max(float(crf), 1):g}", "b": "0"}


def encoder_layouts(encoder: str) -> dict[str, PixelLayout]:
    """Pixel formats the encoder takes that we can write (no alpha, no hardware, no floating point)."""
    if encoder in FAMILIES["y4m"].encoders:
        return {name: describe_format(name) for name in Y4M_FORMATS}
    layouts = {}
    for video_format in Codec(encoder, "w").video_formats or []:
        name = video_format.name
        if encoder in HARDWARE_ENCODERS and name not in NVENC_FORMATS:
            continue
        try:
            layout = describe_format(name)
        except InputError:
            continue
        if not has_alpha(name) and not name.startswith("yuvj") and not video_format.has_palette:
            layouts[name] = layout
    return layouts


def _choose_format(source: VideoMetadata, encoder: str, options: EncodeOptions, notes: Warnings) -> str:
    layouts = {
        name: layout
        for name, layout in encoder_layouts(encoder).items()
        if encoder not in EVEN_SIZES or not (source.width % layout.sub_x or source.height % layout.sub_y)
    }
    wanted = describe_format(source.pixel_format)
    if options.pix_fmt is not None:
        chosen = options.pix_fmt.lower().replace("yuvj", "yuv")
        layout = require_format(chosen)
        if encoder in HARDWARE_ENCODERS and chosen not in layouts:
            # The same values in the order of planes that the card takes: p010le for yuv420p10le.
            chosen = next((name for name in layouts if layouts[name] == layout), chosen)
        if chosen not in layouts:
            raise OptionError(
                f"{encoder} cannot write {chosen} at {source.width}x{source.height}. "
                f"Choose one of {', '.join(layouts)}."
            )
        return chosen
    if not layouts:
        raise OptionError(f"{encoder} offers no pixel format that stbn can write. Choose another --codec.")
    chosen = min(
        layouts, key=lambda name: (_cost(wanted, layouts[name]), name != planar_format(layouts[name]))
    )
    if any(_cost(wanted, layouts[chosen])[:4]):
        notes.lose(
            f"The source is {source.pixel_format}, which {encoder} cannot write; the output is {chosen}. "
            "Another --codec (ffv1 writes everything) or --pix-fmt changes that."
        )
    elif encoder in EVEN_SIZES and (source.width % wanted.sub_x or source.height % wanted.sub_y):
        notes.add(
            f"{encoder} cannot write {source.pixel_format} at {source.width}x{source.height}; the output is "
            f"{chosen}, which not every player shows."
        )
    return chosen


def _cost(source: PixelLayout, layout: PixelLayout) -> tuple[int, int, int, int, int]:
    """What is lost by writing `source` as `layout`, the worst first; the last item is waste, not loss."""
    colour = int(layout.family == "gray" and source.family != "gray")
    # In powers of two; gray has no chroma to lose and wants as little of it as there is.
    lost_x, lost_y = (
        0 if source.family == "gray" else new.bit_length() - old.bit_length()
        for new, old in ((layout.sub_x, source.sub_x), (layout.sub_y, source.sub_y))
    )
    depth = source.depth - layout.depth
    waste = max(-lost_x, 0) + max(-lost_y, 0) + max(-depth, 0)
    if source.family == "gray":
        waste -= layout.sub_x * layout.sub_y
    return colour, max(lost_x, 0) + max(lost_y, 0), max(depth, 0), int(source.family != layout.family), waste


def _output_color(source: VideoMetadata, layout: PixelLayout, family: str) -> ColorSpec:
    color = source.color
    if layout.family == "rgb":
        if color.matrix == "rgb":
            return color
        return replace(color, matrix="rgb", full_range=True, matrix_tag=MATRIX_RGB, range_tag=RANGE_FULL)
    if color.matrix == "rgb":
        if family == "y4m":  # which has no tag: as its reader will take it
            name = untagged_matrix(source.width, source.height)
            return replace(
                color, matrix=name, matrix_tag=UNSPECIFIED, full_range=False, range_tag=RANGE_LIMITED
            )
        # The choice is ours here, so it is tagged: BT.709, limited, what players assume least wrongly.
        color = replace(color, matrix="bt709", matrix_tag=MATRIX_NUMBERS["bt709"], full_range=False)
        return replace(color, range_tag=RANGE_LIMITED)
    if family == "prores" and color.full_range:
        # ProRes has no range flag: every decoder takes it as limited.
        return replace(color, full_range=False, range_tag=RANGE_LIMITED)
    return color
