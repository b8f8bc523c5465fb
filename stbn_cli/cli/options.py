"""The options of the commands, each once: names, help texts, panels. Defaults stand at the commands."""

from pathlib import Path
from typing import Annotated, Any

import typer

from stbn_cli.checkpoints.registry import QUALITIES
from stbn_cli.cli.completion import (
    complete_codecs,
    complete_kinds,
    complete_models,
    complete_presets,
    complete_speeds,
)
from stbn_cli.cli.config import take_config, take_preset
from stbn_cli.devices import CHOICES

INPUT_OUTPUT = "Input and output"
DENOISING = "Denoising"
MEMORY = "Memory and speed"
CLUSTER = "Cluster"
ENCODING = "Video encoding"
LOGGING = "Logging"

EXIT_CODES = (
    "Exit codes: 0 done; 1 failed; 2 wrong usage or options; 3 input unreadable; 4 model missing or damaged; "
    "5 out of memory; 6 output cannot be written or failed its check; 130 interrupted. "
    "STBN_DEBUG=1 shows tracebacks."
)


def epilog(*examples: str) -> str:
    """Examples for the end of a command's help, one paragraph each."""
    return "\n\n".join(["Examples:", *(f"$ {example}" for example in examples)])


def option(
    panel: str, *names: str, help: str, metavar: str | None = None, default: str | bool = True, **more: Any
) -> Any:
    """An option in a panel; `default` replaces what the help shows as default."""
    return typer.Option(
        *names, help=help, metavar=metavar, show_default=default, rich_help_panel=panel, **more
    )


InputArg = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A video, a folder of images, or a pattern such as 'frame_%04d.png'.",
        show_default=False,
    ),
]
InputsArg = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Videos, folders of videos or images, patterns such as 'frame_%04d.png' or 'raw/*.mkv', or - (y4m from "
        "standard input). A last name that does not exist yet is the output.",
        show_default=False,
    ),
]
OutputDirOpt = Annotated[
    str | None,
    option(
        INPUT_OUTPUT,
        "--output-dir",
        metavar="FOLDER",
        help="Folder for all outputs; created if it does not exist.",
        default="beside the input",
    ),
]
TemplateOpt = Annotated[
    str | None,
    option(
        INPUT_OUTPUT,
        "--template",
        metavar="NAME",
        help="How to name outputs, with {stem} and {suffix} of the input.",
        default="{stem}.denoised{suffix}",
    ),
]
SkipExistingOpt = Annotated[
    bool, option(INPUT_OUTPUT, "--skip-existing", help="Skip inputs whose output exists already.")
]
FailFastOpt = Annotated[bool, option(INPUT_OUTPUT, "--fail-fast", help="Stop at the first input that fails.")]
OutputOpt = Annotated[
    str | None,
    option(
        INPUT_OUTPUT,
        "--output",
        "-o",
        metavar="OUT",
        help="A video (.mkv .mp4 .m4v .mov .webm .ts .y4m), a folder/ or pattern for images, or - (y4m to "
        "standard output).",
        default="<stem>.denoised.<suffix>",
    ),
]
OverwriteOpt = Annotated[
    bool,
    option(INPUT_OUTPUT, "--overwrite", help="Replace the output if it exists. The input is never replaced."),
]
StartOpt = Annotated[
    str | None,
    option(
        INPUT_OUTPUT,
        "--start",
        metavar="TIME",
        help="Start here: seconds, MM:SS or HH:MM:SS.",
        default="the beginning",
    ),
]
EndOpt = Annotated[
    str | None,
    option(INPUT_OUTPUT, "--end", metavar="TIME", help="Stop before this time.", default="the end"),
]
FpsOpt = Annotated[
    float | None,
    option(
        INPUT_OUTPUT,
        "--fps",
        metavar="NUMBER",
        help="Frame rate of an image sequence. Videos keep their own timing.",
        default="25",
    ),
]
MaxPixelsOpt = Annotated[
    int,
    option(
        INPUT_OUTPUT,
        "--max-pixels",
        metavar="N",
        help="Refuse larger pictures before they use memory.",
        min=1,
    ),
]
FieldOpt = Annotated[
    str,
    option(
        INPUT_OUTPUT,
        "--field",
        metavar="auto|on|off",
        help="Denoise the two fields of interlaced video separately. auto: if the input is marked as interlaced.",
    ),
]
BayerOpt = Annotated[
    str | None,
    option(
        INPUT_OUTPUT,
        "--bayer",
        metavar="PATTERN",
        help="The images are raw mosaics: RGGB, GRBG, GBRG or BGGR, from the upper left pixel on. none: they are grey. "
        "DNG files state it themselves.",
        default="as DNG states",
    ),
]
BlackOpt = Annotated[
    str | None,
    option(
        INPUT_OUTPUT,
        "--black",
        metavar="N",
        help="Black level of raw images, or four with commas: of the pattern's places in reading order.",
        default="as DNG states, else 0",
    ),
]
WhiteOpt = Annotated[
    float | None,
    option(
        INPUT_OUTPUT,
        "--white",
        metavar="N",
        help="White level of raw images.",
        default="as DNG states, else the largest number",
    ),
]
RawNoiseOpt = Annotated[
    str | None,
    option(
        DENOISING,
        "--raw-noise",
        metavar="GAIN,FLOOR",
        help="Noise of raw images, in their own values: its variance is GAIN times the value above black, plus FLOOR.",
        default="measured",
    ),
]
DryRunOpt = Annotated[
    bool,
    option(INPUT_OUTPUT, "--dry-run", help="Check everything and print the plan without writing anything."),
]

ResumeOpt = Annotated[
    bool,
    option(
        INPUT_OUTPUT,
        "--resume",
        help="Continue an interrupted run (use the same options).",
    ),
]
RestartOpt = Annotated[
    bool,
    option(INPUT_OUTPUT, "--restart", help="Discard the progress of an interrupted run and start again."),
]
KeepProgressOpt = Annotated[
    bool,
    option(
        INPUT_OUTPUT,
        "--keep-progress/--no-keep-progress",
        help="Keep finished frames in a hidden folder beside the output until it is done, so that --resume works.",
    ),
]

ConfigOpt = Annotated[
    str | None,
    option(
        INPUT_OUTPUT,
        "--config",
        metavar="FILE",
        help="Read options from this file.",
        default="stbn.toml here, else in your config folder",
        is_eager=True,
        callback=take_config,
    ),
]
UsePresetOpt = Annotated[
    str | None,
    option(
        INPUT_OUTPUT,
        "--use-preset",
        metavar="NAME",
        help="Use the options of [presets.NAME] in the config file.",
        default=False,
        is_eager=True,
        callback=take_preset,
        autocompletion=complete_presets,
    ),
]
QualityOpt = Annotated[
    str,
    option(
        DENOISING,
        "--quality",
        metavar="fast|balanced|best",
        help="Speed against quality: chooses the model, precision and look-ahead that you leave open.",
        autocompletion=lambda: list(QUALITIES),
    ),
]
SigmaOpt = Annotated[
    str,
    option(
        DENOISING,
        "--sigma",
        "-s",
        metavar="auto|NUMBER",
        help="Noise level (standard deviation, 0-255). auto measures it for each scene.",
    ),
]
StrengthOpt = Annotated[
    float,
    option(
        DENOISING,
        "--strength",
        metavar="NUMBER",
        help="How much noise to remove (0-1). Values up to 3 smooth more.",
        min=0.0,
        max=3.0,
    ),
]
LumaOpt = Annotated[
    float,
    option(
        DENOISING,
        "--luma",
        metavar="NUMBER",
        help="How much brightness noise to remove (0-1).",
        min=0.0,
        max=1.0,
    ),
]
ChromaOpt = Annotated[
    float,
    option(
        DENOISING,
        "--chroma",
        metavar="NUMBER",
        help="How much colour noise to remove (0-1).",
        min=0.0,
        max=1.0,
    ),
]
KeepGrainOpt = Annotated[
    float,
    option(
        DENOISING,
        "--keep-grain",
        metavar="PERCENT",
        help="Put back this much of the removed brightness noise.",
        min=0.0,
        max=100.0,
    ),
]
NoiseModelOpt = Annotated[
    str,
    option(
        DENOISING,
        "--noise-model",
        metavar="KIND",
        help="Kind of noise: white, sensor, camera or compressed; auto measures it (in a pipe it is white).",
        autocompletion=complete_kinds,
    ),
]
UncertaintyOpt = Annotated[
    Path | None,
    option(
        INPUT_OUTPUT,
        "--uncertainty",
        metavar="OUT.mkv",
        help="Also write a video of the uncertainty: the standard deviation of each value, times 8.",
        default=False,
    ),
]
ModelOpt = Annotated[
    str,
    option(
        DENOISING,
        "--model",
        "-m",
        metavar="MODEL",
        help="A model: a name from `stbn weights list`, a .safetensors file, or hf:OWNER/REPO[@REVISION]/FILE.",
        autocompletion=complete_models,
    ),
]
PassesOpt = Annotated[
    int | None,
    option(
        DENOISING,
        "--passes",
        metavar="1|2|4",
        help="Average so many mirrored passes: better, but each takes the time of one.",
        default="1; 4 with --quality best",
    ),
]
FlowOpt = Annotated[
    str | None,
    option(
        DENOISING,
        "--flow",
        metavar="dis|none|pwc|light",
        help="How motion between frames is found.",
        default="as trained; light on CUDA and XPU",
    ),
]
SceneCutsOpt = Annotated[
    bool,
    option(DENOISING, "--scene-cuts/--no-scene-cuts", help="Find scene cuts and treat scenes separately."),
]

AdaptOpt = Annotated[
    bool,
    option(DENOISING, "--adapt", help="Finetune the model on this video first."),
]
AdaptMinutesOpt = Annotated[
    float | None,
    option(DENOISING, "--adapt-minutes", metavar="MINUTES", help="How long to finetune.", default="10"),
]

DeviceOpt = Annotated[
    str, option(MEMORY, "--device", "-d", metavar="|".join(CHOICES), help="Where to compute.")
]
DevicesOpt = Annotated[
    str,
    option(
        MEMORY,
        "--device",
        "-d",
        metavar="|".join(CHOICES),
        help="Where to compute: cuda is NVIDIA or AMD, xpu Intel, mps Apple. cuda:0,cuda:1 shares the work.",
    ),
]
HardwareOpt = Annotated[
    str | None,
    option(
        MEMORY,
        "--hardware",
        metavar="auto|cuda",
        help="Decode on the GPU. Uses the CPU if that fails.",
    ),
]
ClusterOpt = Annotated[
    str | None,
    option(
        CLUSTER,
        "--cluster",
        metavar="auto|ADDRESS",
        help="Share the files, and the scenes of long ones, between the machines of a Ray cluster. auto: the one "
        "that RAY_ADDRESS names, or this machine alone.",
        default=False,
    ),
]
ClusterWorkersOpt = Annotated[
    int | None,
    option(
        CLUSTER,
        "--cluster-workers",
        metavar="N",
        min=1,
        help="How many workers, each with one GPU, or with some processor cores.",
        default="as many as have room",
    ),
]
ClusterCpusOpt = Annotated[
    int | None,
    option(
        CLUSTER,
        "--cluster-cpus",
        metavar="N",
        min=1,
        help="Processor cores of a worker where there are no GPUs.",
        default="up to 4",
    ),
]
ClusterPartOpt = Annotated[
    int | None,
    option(
        CLUSTER,
        "--cluster-part",
        metavar="FRAMES",
        min=1,
        help="Fewest frames of a part that a long file is cut into, always between scenes.",
        default="128",
    ),
]
PrecisionOpt = Annotated[
    str,
    option(
        MEMORY,
        "--precision",
        metavar="auto|fp32|fp16|bf16",
        help="Number format. auto: fp16 on GPUs, bf16 on CPUs that have it, else fp32.",
    ),
]
ChunkOpt = Annotated[
    str, option(MEMORY, "--chunk", metavar="auto|FRAMES", help="How many frames to process at a time.")
]
ChunkOverlapOpt = Annotated[
    str,
    option(MEMORY, "--chunk-overlap", metavar="auto|FRAMES", help="How many frames to look ahead."),
]
TileOpt = Annotated[
    str,
    option(
        MEMORY,
        "--tile",
        metavar="auto|PIXELS",
        help="Process the picture in tiles of this size. 0: whole frames.",
    ),
]
TileOverlapOpt = Annotated[
    str,
    option(
        MEMORY, "--tile-overlap", metavar="auto|PIXELS", help="Overlap of tiles. auto: enough to avoid seams."
    ),
]

CodecOpt = Annotated[
    str | None,
    option(
        ENCODING,
        "--codec",
        metavar="CODEC",
        help="Video codec: h264, hevc, av1, vp9, ffv1 or prores; h264_nvenc, hevc_nvenc and av1_nvenc encode on an "
        "NVIDIA GPU.",
        autocompletion=complete_codecs,
        default="as the input",
    ),
]
CrfOpt = Annotated[
    float | None,
    option(
        ENCODING,
        "--crf",
        metavar="NUMBER",
        help="Constant quality. Lower numbers give better quality and larger files.",
        default="h264 16, hevc 18, av1 24, vp9 24",
    ),
]
PresetOpt = Annotated[
    str | None,
    option(
        ENCODING,
        "--preset",
        metavar="PRESET",
        help="Encoder preset, ultrafast to placebo: slower ones make smaller files.",
        autocompletion=complete_speeds,
        default="medium",
    ),
]
PixFmtOpt = Annotated[
    str | None,
    option(
        ENCODING,
        "--pix-fmt",
        metavar="FORMAT",
        help="Pixel format of the output, as FFmpeg names it.",
        default="as the input",
    ),
]
FilmGrainOpt = Annotated[
    bool,
    option(
        ENCODING,
        "--film-grain",
        help="Measure the grain that is removed, and state it in the AV1 output: players draw it again.",
    ),
]
GrainTableOpt = Annotated[
    Path | None,
    option(
        INPUT_OUTPUT,
        "--grain-table",
        metavar="OUT.tbl",
        help="Also write the grain that is removed as a film-grain table, which AV1 encoders read.",
        default=False,
    ),
]
DitherOpt = Annotated[
    bool, option(ENCODING, "--dither/--no-dither", help="Dither if the output has fewer bits than the input.")
]
DropAlphaOpt = Annotated[bool, option(ENCODING, "--drop-alpha", help="Drop the transparency of the input.")]
LosslessOpt = Annotated[bool, option(ENCODING, "--lossless", help="Encode without loss (ffv1 in .mkv).")]

StrictOpt = Annotated[
    bool,
    option(
        ENCODING, "--strict", help="Fail instead of warning if the output would lose anything of the input."
    ),
]

QuietOpt = Annotated[bool, option(LOGGING, "--quiet", "-q", help="Print only warnings and errors.")]
VerboseOpt = Annotated[
    bool, option(LOGGING, "--verbose", "-v", help="Also print the plan and the noise level of each scene.")
]
JsonOpt = Annotated[bool, option(LOGGING, "--json", help="Print one JSON document at the end.")]
