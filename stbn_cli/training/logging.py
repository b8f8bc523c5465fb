"""What a run writes down: one JSON line a row, and TensorBoard scalars and pictures where that package is there."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

LOG_FILE = "log.jsonl"


class Journal:
    """Appends rows to `folder/log.jsonl`; rows after `step` are dropped first, since they will be repeated."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOG_FILE
        self._drop_after(step)
        self._board = _tensorboard(folder, step)

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; it has a `step`, and what of the rest is a number, or a dict of numbers, is plotted too."""
        with self._path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        if self._board is None:
            return
        for name, value in row.items():
            if isinstance(value, dict):
                for key, number in value.items():
                    self._board.add_scalar(f"{name}/{key}", number, row["step"])
            elif isinstance(value, int | float) and name != "step":
                self._board.add_scalar(name, value, row["step"])

    def show(self, name: str, picture: Tensor, step: int) -> None:
        """A sample picture `(3, H, W)` on [0, 1] for TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, picture.clamp(0.0, 1.0), step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def _drop_after(self, step: int) -> None:
        if not self._path.is_file():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the line that was being written when the run was killed
        self._path.write_text("".join(kept), encoding="utf-8")


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
