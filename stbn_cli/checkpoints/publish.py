"""What goes with model files onto the Hub: checked files, their model card, and their rows of the registry."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stbn_cli.checkpoints import registry
from stbn_cli.checkpoints.flow import FlowCheckpoint, load_any_checkpoint
from stbn_cli.checkpoints.hub import HubFile
from stbn_cli.checkpoints.official import FLOW_LICENCE
from stbn_cli.checkpoints.registry import CheckpointSpec
from stbn_cli.checkpoints.serial import Checkpoint
from stbn_cli.checkpoints.store import MODEL_SUFFIX, sha256_of
from stbn_cli.errors import CheckpointError

CARD_FILE = "README.md"
# Of the licences that the Hub has a name for, those that weights come under; anything else is "other" there.
_HUB_LICENCES = (
    "apache-2.0",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc0-1.0",
    "mit",
)
_OTHER_LICENCE = "other"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file that was read and found whole."""

    path: Path
    checkpoint: Checkpoint | FlowCheckpoint
    size: int
    sha256: str

    @property
    def metrics(self) -> dict[str, float]:
        """Of the registry, if it knows this very file, else what training wrote into the header."""
        if known := self.known:
            return known.metrics
        training = self.checkpoint.info.training
        measured = training.get("metrics")
        if isinstance(measured, dict):
            return {name: value for name, value in measured.items() if isinstance(value, int | float)}
        validation = training.get("validation", {})
        score = validation.get("mean") if isinstance(validation, dict) else None
        return {"validation PSNR": round(score, 2)} if isinstance(score, int | float) else {}

    @property
    def known(self) -> CheckpointSpec | None:
        """The registry's row of this very file."""
        rows = registry.load_registry().values()
        return next((row for row in rows if row.sha256.lower() == self.sha256), None)


def examine(paths: Sequence[Path]) -> list[ModelFile]:
    """Read the files that are to be published.

    Raises `CheckpointError` if one is no whole stbn model or must not be redistributed, or if two share a name.
    """
    names: set[str] = set()
    candidates = []
    for path in paths:
        if path.suffix != MODEL_SUFFIX:
            raise CheckpointError(
                f"{path} does not end with {MODEL_SUFFIX}. Give files that stbn train made."
            )
        if path.name in names:
            raise CheckpointError(f"Two files are called {path.name}. Rename one: a repository holds one.")
        names.add(path.name)
        checkpoint = load_any_checkpoint(path)
        if FLOW_LICENCE.strip() in checkpoint.info.licence:
            raise CheckpointError(
                f"{path} holds a flow network imported from an official checkpoint, which is not for "
                "redistribution. Push a model trained with another --flow."
            )
        candidates.append(ModelFile(path, checkpoint, path.stat().st_size, sha256_of(path)))
    return candidates


def registry_row(candidate: ModelFile, repo: str, revision: str) -> CheckpointSpec:
    """The row by which stbn would know the file once it is in `repo` at `revision`."""
    info, known = candidate.checkpoint.info, candidate.known
    return CheckpointSpec(
        name=known.name if known else info.name,
        file=candidate.path.name,
        description=known.description if known else _what_it_is(candidate.checkpoint),
        licence=info.licence,
        sigma_range=info.sigma_range,
        sha256=candidate.sha256,
        size=candidate.size,
        kind="flow" if isinstance(candidate.checkpoint, FlowCheckpoint) else "denoiser",
        bundled=known.bundled if known else False,
        repo=repo,
        revision=revision,
        default_on=known.default_on if known else (),
        metrics=candidate.metrics,
    )


def as_toml(spec: CheckpointSpec) -> str:
    """A `[[model]]` table of registry.toml."""
    order = ("name", "file", "size", "sha256", "kind", "bundled", "repo", "revision", "default_on")
    fields = asdict(spec)
    lines = [
        f"{key} = {_toml(fields[key])}" for key in (*order, *(key for key in fields if key not in order))
    ]
    return "\n".join(["[[model]]", *lines])


def model_card(candidates: Sequence[ModelFile], repo: str, revision: str) -> str:
    """README.md of the repository: what the files are, from their own headers, and how they are used."""
    licences = {_hub_licence(candidate.checkpoint.info.licence) for candidate in candidates}
    return "\n".join(
        [
            "---",
            f"license: {licences.pop() if len(licences) == 1 else _OTHER_LICENCE}",
            "library_name: stbn",
            "tags: [video-denoising, self-supervised, blind-spot-network]",
            "---",
            f"# {repo.partition('/')[2]}",
            "",
            "Models for `stbn`, which removes noise from videos with a spatiotemporal blind-spot network (STBN): it",
            "learns from noisy video alone. Every file is safetensors with a header that describes it.",
            *(line for candidate in candidates for line in _section(candidate, repo, revision)),
            "",
        ]
    )


def default_message(candidates: Sequence[ModelFile]) -> str:
    """The commit's message where none is given."""
    return f"Add {', '.join(candidate.path.name for candidate in candidates)}"


def hub_files(candidates: Sequence[ModelFile], card: str) -> dict[str, Path | bytes]:
    """What is uploaded, by its name in the repository."""
    return {CARD_FILE: card.encode(), **{candidate.path.name: candidate.path for candidate in candidates}}


def _section(candidate: ModelFile, repo: str, revision: str) -> list[str]:
    info = candidate.checkpoint.info
    low, high = info.sigma_range
    source = HubFile(repo, candidate.path.name, revision)
    metrics = [f"  - {name}: {value:g}" for name, value in candidate.metrics.items()]
    return [
        "",
        f"## {info.name}",
        "",
        f"- For: {_what_it_is(candidate.checkpoint)}",
        f"- Noise levels: sigma {low:g} to {high:g} (standard deviation on the 0-255 scale)",
        f"- Licence: {' '.join(info.licence.split()) or 'not stated'}",
        f"- File: `{candidate.path.name}`, {candidate.size} bytes, SHA-256 `{candidate.sha256}`",
        *(["- Measured (PSNR in dB):", *metrics] if metrics else []),
        "",
        *([] if isinstance(candidate.checkpoint, FlowCheckpoint) else _usage(source)),
        "How it was trained:",
        "",
        "```json",
        json.dumps(info.training, indent=2, sort_keys=True, ensure_ascii=False),
        "```",
    ]


def _usage(source: HubFile) -> list[str]:
    return ["```sh", f"stbn denoise input.mp4 --model hf:{source}", "```", ""]


def _what_it_is(checkpoint: Checkpoint | FlowCheckpoint) -> str:
    size = f"{sum(tensor.numel() for tensor in checkpoint.weights.values()) / 1e6:.1f} M parameters"
    if isinstance(checkpoint, FlowCheckpoint):
        return f"optical flow between noisy frames, {size}"
    config = checkpoint.config
    kind = "raw" if config.head == "plain" else "RGB"
    return f"{kind} video, {config.channels} channels, {size}, flow {checkpoint.info.flow}"


def _hub_licence(licence: str) -> str:
    return licence.lower() if licence.lower() in _HUB_LICENCES else _OTHER_LICENCE


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        items = ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {items} }}" if items else "{}"
    # JSON writes strings, numbers, booleans and lists of them as TOML does.
    return json.dumps(value, ensure_ascii=False)
