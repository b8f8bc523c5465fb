"""Several inputs in one command: which files are meant, where each result goes, and what became of each."""

import contextlib
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from stbn_cli.cli.console import say, show_json, warn
from stbn_cli.cli.exits import sentence
from stbn_cli.cli.parsing import DENOISED, default_output
from stbn_cli.cli.progress import BatchPlace
from stbn_cli.errors import InputError, InterruptedByUserError, OptionError, OutputError, StbnError
from stbn_cli.video.formats import IMAGE_SUFFIXES, STANDARD_STREAM, VIDEO_SUFFIXES, WRITABLE_SUFFIXES
from stbn_cli.video.names import natural_key
from stbn_cli.words import counted

TEMPLATE = f"{{stem}}.{DENOISED}{{suffix}}"
FIELDS = ("stem", "suffix")
SEPARATORS = ("/", os.sep)
NAMED_AS_OUTPUT = frozenset({*VIDEO_SUFFIXES, *WRITABLE_SUFFIXES})

DONE, SKIPPED, FAILED, LEFT = "done", "skipped", "failed", "not started"


class BatchError(StbnError):
    """Some of several inputs failed; each failure was reported."""


@dataclass(frozen=True, slots=True)
class Item:
    """One input of a batch, and its output."""

    source: str
    output: str


@dataclass(frozen=True, slots=True)
class Naming:
    """How outputs are named: all of it is as the user gave it."""

    output: str | None = None
    folder: str | None = None
    template: str | None = None

    @property
    def output_folder(self) -> str | None:
        """The folder that all outputs go to; None: each beside its input."""
        return self.folder if self.folder is not None else self.output


@dataclass(frozen=True, slots=True)
class Batch:
    """What a command line stands for. `many`: inputs that are reported together, whatever their number."""

    items: tuple[Item, ...]
    many: bool
    folder: Path | None  # of all outputs; made where it is missing


@dataclass(slots=True)
class Outcome:
    """What became of an input."""

    input: str
    output: str
    status: str
    reason: str | None = None
    result: Any = None


def plan_batch(inputs: Sequence[str], naming: Naming, writable: Sequence[str]) -> Batch:
    """Understand inputs and names; nothing is opened, and nothing made.

    inputs: files, folders and patterns as typed. writable: suffixes that an output can have.

    Raises OptionError for names that contradict each other, would replace an input or meet, and InputError for a
    pattern or folder without anything to denoise.
    """
    inputs, naming = _last_as_output(inputs, naming)
    sources, many = _expand(inputs)
    folder = _folder(naming, many)
    if naming.template is not None:
        _check_template(naming.template)
    if not many and naming.output is not None:
        return Batch((Item(sources[0], naming.output),), False, None)
    items = tuple(Item(source, _output(source, naming, folder, writable)) for source in sources)
    if many:
        _check_collisions(items)
    return Batch(items, many, folder)


def _last_as_output(inputs: Sequence[str], naming: Naming) -> tuple[Sequence[str], Naming]:
    """`in.mp4 out.mp4` as people type it: the last of two names is the output if there is no such file yet.

    Raises `OptionError` where more than two names leave open what is meant.
    """
    if len(inputs) < 2 or naming != Naming():
        return inputs, naming
    last = inputs[-1]
    is_new = last != STANDARD_STREAM and not os.path.lexists(last) and not glob.has_magic(last)
    named_as_output = last.endswith(SEPARATORS) or Path(last).suffix.lower() in NAMED_AS_OUTPUT
    if not is_new or not named_as_output or "://" in last:
        return inputs, naming
    if len(inputs) == 2:
        return inputs[:1], Naming(output=last)
    raise OptionError(
        f"{last} does not exist. If it is where to write, give --output-dir FOLDER for several inputs; if it is an "
        "input, check its name."
    )


def _expand(inputs: Sequence[str]) -> tuple[list[str], bool]:
    """Single sources, each once, and whether they are a batch."""
    if len(inputs) > 1 and STANDARD_STREAM in inputs:
        raise OptionError("Standard input (-) cannot be one of several inputs. Denoise it alone.")
    sources: dict[str, str] = {}
    many = len(inputs) > 1
    for name in inputs:
        found = _members(name)
        many = many or found is not None
        for source in [name] if found is None else found:
            sources.setdefault(
                os.path.abspath(source) if source != STANDARD_STREAM else STANDARD_STREAM, source
            )
    return list(sources.values()), many


def _members(name: str) -> list[str] | None:
    """The videos that a folder or pattern stands for; None where it is one input: a file, or images."""
    from stbn_cli.raw.files import raw_files
    from stbn_cli.video.images import is_image_source

    path = Path(name)
    if name == STANDARD_STREAM or os.path.lexists(path):
        if not path.is_dir() or is_image_source(path):
            return None
        found = [str(path / child) for child in os.listdir(path)]
        empty = (
            f"The folder {name} itself holds neither images nor videos, and its subfolders are not searched. Name a "
            "video file or another folder, or a pattern: 'FOLDER/**/*.mp4'."
        )
    elif glob.has_magic(name) and path.suffix.lower() not in IMAGE_SUFFIXES:
        matches = glob.glob(name, recursive=True)
        if any(match.lower().endswith(IMAGE_SUFFIXES) for match in matches):
            return None
        found = matches
        empty = f"No video matches {name}. Check the folder and the pattern."
    else:
        return None
    videos = [file for file in found if _is_new_video(file)]
    if not videos and raw_files(path):
        return None
    if not videos:
        raise InputError(empty)
    if path.is_dir() and (left := [child.name for child in path.iterdir() if _holds_videos(child)]):
        warn(
            f"Subfolders are not searched: {', '.join(sorted(left, key=natural_key))}. A pattern does: "
            f"'{path / '**' / '*'}{Path(videos[0]).suffix}'"
        )
    return sorted(videos, key=natural_key)


def _holds_videos(folder: Path) -> bool:
    shown = folder.is_dir() and not folder.name.startswith(".")
    return shown and os.access(folder, os.R_OK) and any(_is_new_video(str(file)) for file in folder.iterdir())


def _is_new_video(file: str) -> bool:
    """Whether a file of a folder is meant: a video that shows itself and is not the output of an earlier run."""
    path = Path(file)
    known = path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
    return known and not path.stem.endswith(f".{DENOISED}") and path.is_file()


def _folder(naming: Naming, many: bool) -> Path | None:
    if naming.output is not None and naming.folder is not None:
        raise OptionError("--output and --output-dir both say where to write. Use one of them.")
    if naming.output is not None and not many:
        if naming.template is not None:
            raise OptionError("--output and --template both name the output. Use one of them.")
        return None
    if naming.output is not None and not _names_folder(naming.output):
        raise OptionError(
            f"--output {naming.output} is one name for several inputs. Name a folder (ends with /), or give "
            "--output-dir and --template."
        )
    return None if naming.output_folder is None else Path(naming.output_folder)


def _names_folder(output: str) -> bool:
    return output != STANDARD_STREAM and (output.endswith(SEPARATORS) or os.path.isdir(output))


def _check_template(template: str) -> None:
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise OptionError(f"--template {template} is malformed ({error}).") from None
    for field in fields:
        if field not in FIELDS:
            raise OptionError(
                f"--template {template}: there is no {{{field}}}, only {{stem}} and {{suffix}}."
            )
    if any(mark in template for mark in SEPARATORS):
        raise OptionError(f"--template {template} is a file's name. Give its folder with --output-dir.")


def _output(source: str, naming: Naming, folder: Path | None, writable: Sequence[str]) -> str:
    default = default_output(source, writable)
    if default == STANDARD_STREAM or (folder is None and naming.template is None):
        if default == STANDARD_STREAM and (folder is not None or naming.template is not None):
            raise OptionError("Standard input has no name to build an output name from. Use -o.")
        return default
    images = default.endswith("/")
    path = Path(default)
    if images:
        stem, suffix = path.name.removesuffix(f".{DENOISED}"), ""
    else:
        stem, suffix = Path(source).stem, path.suffix
    name = (naming.template or TEMPLATE).format(stem=stem, suffix=suffix)
    return str((folder or path.parent) / name) + ("/" if images else "")


def _check_collisions(items: Sequence[Item]) -> None:
    """Refuse, before any work, outputs that meet each other or an input."""
    inputs = {_place(item.source): item.source for item in items}
    outputs: dict[str, str] = {}
    for item in items:
        place = _place(item.output)
        if place in outputs:
            raise OptionError(
                f"{outputs[place]} and {item.source} would both become {item.output}. Give a --template or an "
                "--output-dir that keeps them apart, or denoise them one at a time."
            )
        if place in inputs:
            raise OptionError(
                f"The output {item.output} of {item.source} is itself an input. Give another --template or "
                "--output-dir; inputs are never replaced."
            )
        outputs[place] = item.source


def _place(name: str) -> str:
    """One text for all names of a place; a link that is the last part is a place of its own."""
    path = os.path.abspath(name)
    return os.path.normcase(os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)))


@contextlib.contextmanager
def output_folder(folder: Path | None) -> Iterator[None]:
    """Make a folder for outputs if it is missing; it goes again where nothing came into it."""
    made = folder is not None and not folder.exists()
    if made and folder is not None:
        try:
            folder.mkdir()
        except OSError as error:
            raise OutputError(
                f"The folder {folder} cannot be created ({error.strerror}). Choose another --output-dir."
            ) from error
    try:
        yield
    finally:
        if made and folder is not None:
            with contextlib.suppress(OSError):
                folder.rmdir()  # refuses what is not empty


def run_batch(
    items: Sequence[Item],
    run: Callable[[Item, BatchPlace], dict[str, Any] | None],
    *,
    skip_existing: bool,
    fail_fast: bool,
    quiet: bool,
    json: bool,
) -> None:
    """`run` every item, go on after failures, and tell at the end what became of each and what `run` gave for it.

    Raises BatchError if any failed, and InterruptedByUserError for Ctrl-C, which ends all.
    """
    outcomes: list[Outcome] = []
    interrupted = False
    for number, item in enumerate(items, 1):
        if interrupted or (fail_fast and any(outcome.status == FAILED for outcome in outcomes)):
            outcomes.append(Outcome(item.source, item.output, LEFT))
            continue
        outcomes.append(outcome := Outcome(item.source, item.output, DONE))
        if skip_existing and exists(item.output):
            outcome.status, outcome.reason = SKIPPED, f"{item.output} exists already"
            continue
        try:
            result = run(item, BatchPlace(number, len(items)))
            outcome.result = result if json else None
        except (KeyboardInterrupt, InterruptedByUserError) as error:
            # The run's own sentence says what became of its output.
            outcome.status, outcome.reason, interrupted = FAILED, str(error) or "Interrupted.", True
        except BrokenPipeError:
            raise  # of our own output: there is nobody to tell
        except Exception as error:
            outcome.status, outcome.reason = FAILED, sentence(error)
            say(f"Error: {item.source}: {outcome.reason}")
    conclude(outcomes, interrupted=interrupted, quiet=quiet, json=json)


def conclude(
    outcomes: Sequence[Outcome], *, interrupted: bool, quiet: bool, json: bool, hint: str = ""
) -> None:
    """Tell what became of each input.

    hint: a sentence for those who interrupted it. Raises BatchError if any failed, and InterruptedByUserError.
    """
    _tell(outcomes, quiet)
    if json:
        show_json(_document(outcomes))
    failed = sum(outcome.status == FAILED for outcome in outcomes)
    if interrupted:
        left = sum(outcome.status == LEFT for outcome in outcomes)
        raise InterruptedByUserError(
            f"Interrupted; {left} of {counted(len(outcomes), 'input')} not started.{hint}"
        )
    if failed:
        raise BatchError(f"{failed} of {len(outcomes)} inputs failed.")


def exists(output: str) -> bool:
    """Whether there is something that a run for `output` would replace or mix with."""
    from stbn_cli.video.output import find_existing

    return find_existing(output) is not None


def _tell(outcomes: Sequence[Outcome], quiet: bool) -> None:
    if quiet:
        return
    for outcome in outcomes:
        if outcome.reason is not None:
            say(f"{outcome.status.capitalize()}: {outcome.input}: {outcome.reason}")
    counts = _counts(outcomes)
    say(", ".join(f"{count} {status}" for status, count in counts.items() if count or status != LEFT))


def _counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    states = [outcome.status for outcome in outcomes]
    return {status: states.count(status) for status in (DONE, SKIPPED, FAILED, LEFT)}


def _document(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    counts = {status.replace(" ", "_"): count for status, count in _counts(outcomes).items()}
    return {**counts, "results": [asdict(outcome) for outcome in outcomes]}
