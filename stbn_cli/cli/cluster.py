"""`stbn denoise --cluster`: what cannot work there, the progress of the whole, and what became of each file."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stbn_cli.cli.batch import DONE, FAILED, LEFT, SKIPPED, Batch, Item, Outcome, conclude, exists
from stbn_cli.cli.console import say
from stbn_cli.cli.exits import sentence
from stbn_cli.cli.flags import (
    ClusterFlags,
    LoggingFlags,
    MachineFlags,
    NamingFlags,
    ProgressFlags,
)
from stbn_cli.cli.progress import FORECAST_SECONDS, Display, clock
from stbn_cli.cli.report import RunReport, describe_grain, grain_line
from stbn_cli.errors import InterruptedByUserError, OptionError, OutputError
from stbn_cli.jobs.events import Events
from stbn_cli.video.formats import STANDARD_STREAM
from stbn_cli.words import counted

if TYPE_CHECKING:
    from stbn_cli.jobs.cluster import FileDone, Standing
    from stbn_cli.jobs.denoise import DenoiseJob, DenoiseResult, PreparedDenoising

CPU, AUTO, CUDA = "cpu", "auto", "cuda"


def check_cluster(
    flags: ClusterFlags,
    batch: Batch,
    machine: MachineFlags,
    kept: ProgressFlags,
    *,
    uncertainty: Path | None,
    adapt_minutes: float | None,
    dry_run: bool,
) -> None:
    """Refuse what cannot work on a cluster, before Ray is started. Raises OptionError."""
    from stbn_cli.jobs.cluster import address_of

    if flags.cluster is None:
        raise OptionError(
            "--cluster-workers, --cluster-cpus and --cluster-part are for --cluster. Add --cluster auto, or leave them "
            "out."
        )
    address = address_of(flags.cluster)
    if any(STANDARD_STREAM in (item.source, item.output) for item in batch.items):
        raise OptionError("--cluster works on files, and a pipe passes one process. Leave out --cluster.")
    if uncertainty is not None:
        raise OptionError("--uncertainty cannot be written with --cluster. Leave one of them out.")
    if adapt_minutes is not None:
        raise OptionError(
            "--adapt learns on one machine. Leave it out, or give the cluster a model that stbn finetune made, by "
            "--model."
        )
    if dry_run:
        raise OptionError("--dry-run plans the work of one machine. Leave out --cluster to see the plan.")
    if not kept.keep_progress:
        raise OptionError(
            "--no-keep-progress: a cluster's workers hand their frames on through files. Leave one of them out."
        )
    if batch.folder is None:
        raise OptionError("--cluster needs a folder that all machines see. Give it by --output-dir.")
    if machine.device not in (AUTO, CPU, CUDA):
        raise OptionError(
            f"--device {machine.device}: each worker of a cluster has a device of its own. Give auto, cuda or cpu."
        )
    if address is None:  # what other machines have is theirs to say
        from stbn_cli.inference.device import resolve_devices

        resolve_devices(machine.device)


def refuse_hopeless(jobs: "Iterable[DenoiseJob]") -> None:
    """Raises OptionError where the options fit none of the files. What is wrong with one file alone comes later."""
    found: OptionError | None = None
    for job in jobs:
        try:
            with replace(job, dry_run=True).prepare(Events()):
                return
        except OptionError as error:
            found = found or error
        except Exception:
            return
    if found is not None:
        raise found


def tell(prepared: "PreparedDenoising", result: "DenoiseResult") -> tuple[str, dict[str, Any]]:
    """What a worker has done, in a line and as plain values."""
    report = RunReport(
        source=str(prepared.job.source.path),
        output=str(prepared.job.output),
        metadata=prepared.metadata,
        encoding=prepared.encoding,
        sigma=prepared.job.options.sigma,
        denoiser=prepared.denoiser,
        events=prepared.events,
        measured=prepared.measured,
    )
    if warning := report.strong_noise():
        prepared.events.warn(warning)
    summary, document = report.summary(result.summary), report.result(result.summary)
    if result.summary.grain is not None:
        document["film_grain"] = describe_grain(result)
        if result.summary.grain:
            summary += f"\n{grain_line(document['film_grain'])}"
    return summary, document


class ArchiveProgress(Display):
    """A context manager; call it with how far all is."""

    def __init__(self, files: int, *, quiet: bool) -> None:
        super().__init__("denoising", "frames", None, quiet=quiet)
        self._files, self._over = files, 0
        self._first: tuple[float, float] | None = None

    def file_over(self) -> None:
        """One more file is done, or failed."""
        self._over += 1

    def __call__(self, standing: "Standing") -> None:
        now = time.monotonic()
        if self._first is None and standing.workers:
            self._first = now, standing.frames
        words = [f"{self._over} of {counted(self._files, 'file')}", counted(standing.workers, "worker")]
        if self._first is not None and now - self._first[0] >= FORECAST_SECONDS:
            speed = (standing.frames - self._first[1]) / (now - self._first[0])
            if speed > 0:
                words.append(f"{speed:.3g} fps")
            if speed > 0 and standing.total is not None:
                words.append(f"{clock((standing.total - standing.frames) / speed)} left")
        total = None if standing.total is None else round(standing.total)
        self._show(round(standing.frames), total, ", ".join(words), now)


def denoise_on_cluster(
    items: Sequence[Item],
    job_of: "Callable[[Item], DenoiseJob]",
    flags: ClusterFlags,
    naming: NamingFlags,
    logging: LoggingFlags,
    *,
    restart: bool,
    device: str,
) -> None:
    """Denoise all items and tell, as `run_batch` does, what became of each.

    Raises as `run_batch`, and ClusterError where the cluster cannot be used.
    """
    from stbn_cli.jobs.cluster import ClusterOptions, FileDone, address_of, connected, denoise_archive
    from stbn_cli.jobs.finished import ArchiveFolder, is_finished
    from stbn_cli.jobs.parts import SHORTEST_PART, discard

    options = ClusterOptions(
        address=flags.cluster or AUTO,
        workers=flags.cluster_workers,
        cores=flags.cluster_cpus,
        shortest=flags.cluster_part or SHORTEST_PART,
        gpus=device != CPU,
        verbose=logging.verbose,
    )
    outcomes = [Outcome(item.source, item.output, LEFT) for item in items]
    jobs: dict[int, DenoiseJob] = {}
    connecting = interrupted = False
    with ArchiveFolder(Path(items[0].output).absolute().parent) as folder:
        if restart:
            folder.forget()
        for index, (item, outcome) in enumerate(zip(items, outcomes, strict=True)):
            job = _for_workers(job_of(item), item)
            if restart:
                discard(job)
            if (found := is_finished(job)) is not None:
                with suppress(OutputError):  # where a worker of that run has not noticed
                    discard(job)
                _note(outcome, FileDone(index, found), logging)
                outcome.reason = "finished by an earlier run"
            elif naming.skip_existing and exists(item.output):
                outcome.status, outcome.reason = SKIPPED, f"{item.output} exists already"
            else:
                jobs[index] = job
        numbers = list(jobs)
        try:
            if jobs:
                connecting = True
                refuse_hopeless(jobs.values())
                if not logging.quiet:
                    address = address_of(options.address)
                    say(
                        "Starting a cluster on this machine"
                        if address is None
                        else f"Connecting to {address}"
                    )
                with connected(options) as ray:
                    connecting = False
                    if not logging.quiet:
                        say(f"Starting the workers for {counted(len(jobs), 'file')}")
                    with (
                        ArchiveProgress(len(jobs), quiet=logging.quiet) as progress,
                        closing(denoise_archive(ray, list(jobs.values()), options, tell, progress)) as files,
                    ):
                        for done in files:
                            progress.file_over()
                            outcome = outcomes[numbers[done.index]]
                            _note(outcome, done, logging)
                            if naming.fail_fast and outcome.status == FAILED:
                                break
        except (KeyboardInterrupt, InterruptedByUserError):
            interrupted = True
        if all(outcome.status in (DONE, SKIPPED) for outcome in outcomes):
            folder.forget()
    kept = interrupted and not connecting
    hint = " What is finished is kept: start the same command again to go on." if kept else ""
    conclude(outcomes, interrupted=interrupted, quiet=logging.quiet, json=logging.json, hint=hint)


def _for_workers(job: "DenoiseJob", item: Item) -> "DenoiseJob":
    """The job as any machine understands it that sees the same folders."""
    end = os.sep if item.output.endswith("/") else ""
    model = str(job.options.model)
    options = job.options
    if os.path.isfile(model):
        options = replace(options, model=os.path.abspath(model))
    return replace(
        job,
        source=replace(job.source, path=os.path.abspath(item.source)),
        output=os.path.abspath(item.output) + end,
        grain_table=None if job.grain_table is None else os.path.abspath(job.grain_table),
        options=options,
        resume=True,
        restart=False,
        resume_command="Start the same command again to go on.",
    )


def _note(outcome: Outcome, done: "FileDone", logging: LoggingFlags) -> None:
    if done.error is not None:
        outcome.status, outcome.reason = FAILED, sentence(done.error)
        say(f"Error: {outcome.input}: {outcome.reason}")
        return
    finished = done.finished
    assert finished is not None
    outcome.status = DONE
    for warning in finished.warnings:
        say(f"Warning: {outcome.input}: {warning}")
    if not logging.quiet:
        say(finished.summary)
    if logging.json:
        parts = {"parts": done.parts, "parts_kept": done.kept_parts}
        outcome.result = {**finished.document, "input": outcome.input, "output": outcome.output, **parts}
