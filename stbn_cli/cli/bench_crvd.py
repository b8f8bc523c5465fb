"""`stbn bench crvd`: models and BM3D on the real raw video of CRVD."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stbn_cli.cli.bench import EngineFlags, OutputFlags, chosen_methods, environment, refuse_failure
from stbn_cli.cli.console import say, show_json, show_tables, warn
from stbn_cli.cli.flags import MessageFlags
from stbn_cli.cli.progress import StepProgress
from stbn_cli.errors import InterruptedByUserError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from stbn_cli.bench.crvd import CrvdSequence
    from stbn_cli.bench.crvd_results import CrvdFailure, CrvdResult, CrvdScore

REFUSALS = {
    "--sigma": "crvd is real video, whose noise is there already",
    "--seed": "crvd is real video, whose noise is there already",
    "--report": "crvd has no page yet, but --csv and --json hold all numbers",
    "--save-frames": "crvd's frames are raw; use stbn denoise to see one of its clips",
}


def bench_crvd(
    data: Path | None,
    frames: int,
    models: Sequence[str],
    rivals: str,
    engine: EngineFlags,
    outputs: OutputFlags,
    messages: MessageFlags,
    given: Mapping[str, object],
) -> None:
    """`given`: what the user said of options that CRVD has no use for; None: nothing."""
    from stbn_cli.bench.crvd import TITLE, WHERE, find_crvd_sequences, run_crvd
    from stbn_cli.bench.crvd_results import CrvdResult, listed

    for option, value in given.items():
        if value is not None:
            raise OptionError(f"{option}: {REFUSALS[option]}. Leave it out.")
    sequences, missing = find_crvd_sequences(data)
    methods, titles = chosen_methods(models, rivals, engine, raw=True)
    if missing:
        warn(f"Averages are partial; of {TITLE} there is missing: {listed(missing)}. {WHERE}")
    total = len(sequences) * len(methods)
    watch = _Watch(
        StepProgress("measuring", "measurements", total, quiet=messages.quiet), messages.quiet, total
    )
    try:
        with watch.progress:
            scores, failures = run_crvd(sequences, methods, frames, watch)
        result = CrvdResult(
            title=TITLE,
            clips=tuple(sequence.name for sequence in sequences),
            missing=tuple(missing),
            isos=tuple(sorted({sequence.iso for sequence in sequences})),
            maximum_frames=frames,
            scores=tuple(scores),
            failures=tuple(failures),
            environment=environment(),
        )
        _show(result, titles, outputs, messages.json)
    except KeyboardInterrupt:
        raise InterruptedByUserError(
            f"Interrupted after {watch.done} of {watch.total} measurements; no results were written."
        ) from None
    refuse_failure(methods, failures, {score.method for score in scores})


def _show(result: "CrvdResult", titles: dict[str, str], outputs: OutputFlags, json: bool) -> None:
    from stbn_cli.bench.crvd_results import write_crvd_csv
    from stbn_cli.bench.published import PUBLISHED_ISOS, PUBLISHED_RAW
    from stbn_cli.bench.tables import cost_table, crvd_tables, published_crvd_table
    from stbn_cli.files import whole_file

    if outputs.csv is not None:
        with whole_file(outputs.csv) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
            write_crvd_csv(file, result.scores)
    if json:
        quotes = [
            {
                "method": row.method,
                "psnr": dict(zip(map(str, PUBLISHED_ISOS), row.psnr, strict=True)),
                "note": row.note,
            }
            for row in PUBLISHED_RAW
        ]
        show_json({**result.document(), "quoted": quotes})
    else:
        show_tables([*crvd_tables(result, titles), published_crvd_table(), cost_table(result, titles)])


@dataclass(slots=True)
class _Watch:
    """Tells what is being found out."""

    progress: StepProgress
    quiet: bool
    total: int
    done: int = 0

    def sequence_begins(self, sequence: "CrvdSequence", clean: "Tensor") -> None:
        if not self.quiet:
            say(f"{sequence.name}: {len(clean)} frames of {2 * clean.shape[-1]}x{2 * clean.shape[-2]}")

    def scored(self, score: "CrvdScore") -> None:
        if score.seconds is None:
            return
        self.done += 1
        if not self.quiet:
            decibels = sum(score.psnr) / score.frames
            speed = score.frames / score.seconds
            words = f"scene{score.scene}, ISO {score.iso}, {score.method}: {decibels:.2f} dB, {speed:.3g} fps"
            self.progress.say_step(self.done, self.total, words)

    def failed(self, failure: "CrvdFailure") -> None:
        self.done += 1
        warn(f"scene{failure.scene}, ISO {failure.iso}: {failure.reason}")
