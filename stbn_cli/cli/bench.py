"""`stbn bench`: models and rivals on clean clips with noise added, by the published protocol."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stbn_cli.cli import options as opt
from stbn_cli.cli.console import say, show_json, show_tables, warn
from stbn_cli.cli.doctor import installed_versions
from stbn_cli.cli.flags import MessageFlags, flattened
from stbn_cli.cli.parsing import AUTO, parse_names, parse_sigmas
from stbn_cli.cli.progress import StepProgress
from stbn_cli.errors import BenchError, InterruptedByUserError, OptionError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

    from stbn_cli.bench.artifacts import CropKeeper
    from stbn_cli.bench.clips import Clip
    from stbn_cli.bench.crvd_results import CrvdFailure
    from stbn_cli.bench.datasets import Dataset
    from stbn_cli.bench.methods import Method
    from stbn_cli.bench.results import Failure, Score
    from stbn_cli.bench.runner import BenchOptions

MEASURING = "What is measured"
ALL, NONE = "all", "none"
DATA_VARIABLE = "STBN_DATA"
CRVD = "crvd"
SIGMAS = "10,20,30,40,50"
EXAMPLES = opt.epilog(
    "stbn bench",
    "stbn bench set8 --data ~/Set8 --report set8.html",
    "stbn bench crvd --data ~/CRVD --rivals bm3d",
    "stbn bench clean.mkv frames/ --sigma 10,30,50 --frames 10 --rivals all",
    "stbn bench clips/ --model stbn-xs --model mine.safetensors --save-frames out/",
)
# What the short help shows.
MAIN_OPTIONS = (
    "--data",
    "--sigma",
    "--frames",
    "--model",
    "--rivals",
    "--device",
    "--csv",
    "--report",
    "--save-frames",
    "--overwrite",
    "--quiet",
    "--json",
)


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """How the models run."""

    flow: opt.FlowOpt = None
    streaming: Annotated[
        bool,
        opt.option(
            MEASURING,
            "--streaming/--whole-clip",
            help="Process in chunks, as `stbn denoise` does, or the whole clip at once.",
        ),
    ] = False
    device: opt.DeviceOpt = AUTO
    precision: opt.PrecisionOpt = AUTO


@dataclass(frozen=True, slots=True)
class OutputFlags:
    """Files and folders to write."""

    csv: Annotated[
        Path | None,
        opt.option(
            opt.INPUT_OUTPUT,
            "--csv",
            metavar="FILE",
            help="Write the measurements of each frame.",
            default=False,
        ),
    ] = None
    report: Annotated[
        Path | None,
        opt.option(
            opt.INPUT_OUTPUT,
            "--report",
            metavar="FILE.html",
            help="Write a page with plots and crops.",
            default=False,
        ),
    ] = None
    save_frames: Annotated[
        Path | None,
        opt.option(
            opt.INPUT_OUTPUT,
            "--save-frames",
            metavar="DIR",
            help="Write every frame of every method as PNG.",
            default=False,
        ),
    ] = None
    overwrite: Annotated[
        bool, opt.option(opt.INPUT_OUTPUT, "--overwrite", help="Replace existing files.")
    ] = False

    def check(self) -> None:
        """Refuse before the work what could not be written after it. Raises `OutputError`."""
        from stbn_cli.files import check_file

        for path in (self.csv, self.report):
            if path is not None:
                check_file(path, self.overwrite)
        if self.overwrite or self.save_frames is None or not self.save_frames.exists():
            return
        if not self.save_frames.is_dir() or any(self.save_frames.iterdir()):
            raise OutputError(
                f"{self.save_frames} exists. Use --overwrite to write into it, or name another folder."
            )


@flattened
def bench(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[set8|davis|crvd|PATH]...",
            help="A data set, or clean videos, folders of frames, or folders of clips.",
            show_default="a small clip that comes with stbn",
        ),
    ] = None,
    *,
    data: Annotated[
        Path | None,
        opt.option(
            MEASURING,
            "--data",
            metavar="DIR",
            envvar=DATA_VARIABLE,
            help="Folder of the data set.",
            default=False,
        ),
    ] = None,
    sigma: Annotated[
        str | None,
        opt.option(
            MEASURING,
            "--sigma",
            "-s",
            metavar="LIST",
            help="Noise levels to add (0-255).",
            default=SIGMAS,
        ),
    ] = None,
    frames: Annotated[
        int, opt.option(MEASURING, "--frames", min=1, help="Use at most this many frames of each clip.")
    ] = 85,
    seed: Annotated[
        int | None,
        opt.option(MEASURING, "--seed", help="Seed of the noise (0 in published numbers).", default="0"),
    ] = None,
    model: Annotated[
        list[str] | None,
        opt.option(
            MEASURING,
            "--model",
            "-m",
            help="A model to measure, or none. Repeatable.",
            default=AUTO,
        ),
    ] = None,
    rivals: Annotated[
        str,
        opt.option(
            MEASURING,
            "--rivals",
            metavar="none|all|LIST",
            help="Other denoisers to measure, each at its best setting.",
        ),
    ] = NONE,
    engine: EngineFlags,
    outputs: OutputFlags,
    messages: MessageFlags,
) -> None:
    """Measure the quality and speed of models: add noise to clean clips, denoise them, and compare.

    Prints PSNR, SSIM, temporal error, speed and memory. --rivals measures other denoisers on the same frames. crvd is
    real raw video, which has its noise already.
    """
    from stbn_cli.bench.runner import PROTOCOL_SEED, BenchOptions

    outputs.check()
    if sources and sources[0] == CRVD:
        from stbn_cli.cli.bench_crvd import bench_crvd

        if len(sources) > 1:
            raise _alone(CRVD)
        given = {
            "--sigma": sigma,
            "--seed": seed,
            "--report": outputs.report,
            "--save-frames": outputs.save_frames,
        }
        bench_crvd(data, frames, model or [AUTO], rivals, engine, outputs, messages, given)
        return
    options = BenchOptions(
        sigmas=parse_sigmas(SIGMAS if sigma is None else sigma),
        frames=frames,
        seed=PROTOCOL_SEED if seed is None else seed,
    )
    methods, titles = chosen_methods(model or [AUTO], rivals, engine)
    clips, missing, dataset = _clips(sources or [], data)
    total = len(clips) * len(options.sigmas) * len(methods)
    progress = StepProgress("measuring", "measurements", total, quiet=messages.quiet)
    watch = _Watch(outputs, progress, quiet=messages.quiet, total=total)
    try:
        _run(clips, missing, dataset, methods, titles, options, outputs, watch, messages.json)
    except KeyboardInterrupt:
        raise InterruptedByUserError(
            f"Interrupted after {watch.done} of {watch.total} measurements; no results were written."
        ) from None


def _run(
    clips: "Sequence[Clip]",
    missing: Sequence[str],
    dataset: "Dataset | None",
    methods: "Sequence[Method]",
    titles: dict[str, str],
    options: "BenchOptions",
    outputs: OutputFlags,
    watch: "_Watch",
    json: bool,
) -> None:
    from stbn_cli.bench.published import PUBLISHED
    from stbn_cli.bench.results import BenchResult, write_csv
    from stbn_cli.bench.runner import run_bench
    from stbn_cli.bench.tables import cost_table, published_table, quality_tables
    from stbn_cli.files import whole_file

    if missing:
        where = f" {dataset.where}" if dataset else ""
        warn(f"Averages are partial; {len(missing)} sequences are missing: {', '.join(missing)}.{where}")
    with watch.progress:
        scores, failures = run_bench(clips, methods, options, watch)
    result = BenchResult(
        title=dataset.title if dataset else ", ".join(clip.name for clip in clips),
        clips=tuple(clip.name for clip in clips),
        missing=tuple(missing),
        sigmas=options.sigmas,
        maximum_frames=options.frames,
        seed=options.seed,
        scores=tuple(scores),
        failures=tuple(failures),
        environment=environment(),
    )
    quoted = None if dataset is None else published_table(PUBLISHED[dataset.name], dataset.title)
    if outputs.csv is not None:
        with whole_file(outputs.csv) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
            write_csv(file, result.scores)
    if outputs.report is not None:
        from stbn_cli.bench.report import build_report
        from stbn_cli.report.page import write_report

        assert watch.crops is not None
        write_report(outputs.report, build_report(result, titles, watch.crops, quoted))
    if json:
        quotes = [] if dataset is None else [_quote(row) for row in PUBLISHED[dataset.name]]
        show_json({**result.document(), "quoted": quotes})
    else:
        tables = [*quality_tables(result, titles), cost_table(result, titles)]
        show_tables(tables if quoted is None else [*tables, quoted])
    refuse_failure(methods, failures, {score.method for score in scores})


def refuse_failure(
    methods: "Sequence[Method]", failures: "Sequence[Failure | CrvdFailure]", measured: set[str]
) -> None:
    """Raises `BenchError` if no method, or none of the models asked for, could be measured anywhere."""
    from stbn_cli.bench.methods import ModelMethod

    if not failures:
        return
    for wanted, what in (
        ({method.name for method in methods}, "No method"),
        ({method.name for method in methods if isinstance(method, ModelMethod)}, "No model"),
    ):
        if wanted and not measured & wanted:
            raise BenchError(f"{what} could be measured: {failures[0].reason}")


@dataclass(slots=True)
class _Watch:
    """Tells what is being found out, and keeps what the outputs need of the frames."""

    outputs: OutputFlags
    progress: StepProgress
    quiet: bool
    total: int
    done: int = 0
    crops: "CropKeeper | None" = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.outputs.report is not None:
            from stbn_cli.bench.artifacts import CropKeeper

            self.crops = CropKeeper()

    def clip_begins(self, clip: str, clean: "Tensor") -> None:
        if not self.quiet:
            say(f"{clip}: {len(clean)} frames of {clean.shape[-1]}x{clean.shape[-2]}")
        if self.crops is not None:
            self.crops.clip_begins(clip, clean)

    def frames_ready(self, clip: str, sigma: float, method: str, frames: "Tensor") -> None:
        if self.crops is not None:
            self.crops.frames_ready(clip, sigma, method, frames)
        if self.outputs.save_frames is not None:
            from stbn_cli.bench.artifacts import save_frames

            save_frames(self.outputs.save_frames, clip, sigma, method, frames)

    def scored(self, score: "Score") -> None:
        if score.seconds is None:
            return
        self.done += 1
        if not self.quiet:
            decibels = sum(score.psnr) / score.frames
            speed = score.frames / score.seconds
            words = f"{score.clip}, sigma {score.sigma:g}, {score.method}: {decibels:.2f} dB, {speed:.3g} fps"
            self.progress.say_step(self.done, self.total, words)

    def failed(self, failure: "Failure") -> None:
        self.done += 1
        warn(f"{failure.clip}, sigma {failure.sigma:g}: {failure.reason}")


def chosen_methods(
    models: Sequence[str], rivals: str, engine: EngineFlags, *, raw: bool = False
) -> "tuple[list[Method], dict[str, str]]":
    """The methods, models first, and what tables call them; `raw`: those for raw frames.

    Raises for those that cannot run here.
    """
    from stbn_cli.bench.methods import ModelMethod, RivalMethod
    from stbn_cli.bench.results import NOISY
    from stbn_cli.bench.rivals.raw_bm3d import RawBm3d
    from stbn_cli.checkpoints.store import resolve
    from stbn_cli.inference.device import emulation_warning, resolve_device, resolve_precision

    device = resolve_device(engine.device)
    if warning := emulation_warning(resolve_precision(engine.precision, device), device):
        warn(warning)
    methods: list[Method] = []
    for model in models:
        if model != NONE:
            path = resolve(model, device=device, noise="raw" if raw else "white")
            name = model if not Path(model).suffix and "/" not in model and model != AUTO else path.stem
            methods.append(ModelMethod(name, str(path), **asdict(engine), raw=raw))
    titles = {NOISY: "noisy, clipped", **{method.name: method.name for method in methods}}
    for name, title in _rivals(rivals, raw).items():
        methods.append(RawBm3d() if raw else RivalMethod(name))
        titles[name] = title
    names = [method.name for method in methods]
    if not names:
        raise OptionError("Nothing to measure. Use --model or --rivals.")
    if repeated := {name for name in names if names.count(name) > 1}:
        raise OptionError(f"Two models are called {', '.join(sorted(repeated))}. Rename one of the files.")
    return methods, titles


def _rivals(wanted: str, raw: bool) -> dict[str, str]:
    """Those that can run here, and what tables call them. Raises `OptionError` for one asked for that cannot."""
    if wanted == NONE:
        return {}
    # Here, so that models can be measured on machines without PyAV.
    from stbn_cli.bench.rivals.bm3d_package import BM3D
    from stbn_cli.bench.rivals.registry import RIVALS

    known = [BM3D.name] if raw else list(RIVALS)
    found = {}
    for name in known if wanted == ALL else parse_names(wanted, known, "--rivals"):
        rival = RIVALS[name]
        if reason := rival.missing():
            if wanted != ALL:
                raise OptionError(f"{rival.title} cannot run here: {reason}")
            warn(f"{rival.title} is left out: {reason}")
        else:
            found[name] = rival.title
    return found


def _clips(sources: Sequence[str], data: Path | None) -> "tuple[list[Clip], list[str], Dataset | None]":
    """What to measure on; the sequences of a data set that are missing; the data set."""
    from stbn_cli.bench.clips import bundled_clip, find_clips
    from stbn_cli.bench.datasets import DATASETS, find_sequences

    if not sources:
        return [bundled_clip()], [], None
    if sources[0] in DATASETS:
        if len(sources) > 1:
            raise _alone(sources[0])
        dataset = DATASETS[sources[0]]
        return *find_sequences(dataset, data), dataset
    return find_clips([Path(source) for source in sources]), [], None


def _alone(dataset: str) -> OptionError:
    return OptionError(f"Give {dataset} alone, or paths of clips.")


def environment() -> dict[str, Any]:
    """What the numbers of a run depend on, as plain values."""
    import os
    from datetime import UTC, datetime

    import torch

    from stbn_cli.devices import device_name, found_kinds, kind_of

    best = torch.device(next(found_kinds()).name)
    gpu = device_name(best) if kind_of(best).numbered else "none"
    return {
        "command": shlex.join(["stbn", *sys.argv[1:]]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **installed_versions(),
        "processors": os.cpu_count(),
        "gpu": gpu,
    }


def _quote(row: Any) -> dict[str, Any]:
    from stbn_cli.bench.published import PUBLISHED_SIGMAS

    psnr = dict(zip(map(str, PUBLISHED_SIGMAS), row.psnr, strict=True))
    return {"method": row.method, "psnr": psnr, "note": row.note}
