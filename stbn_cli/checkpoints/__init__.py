"""Checkpoints: self-describing safetensors files, where they come from, and how official ones are read.

`registry` and `store` do not need torch; the exports below import it on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stbn_cli.checkpoints.official import import_official
    from stbn_cli.checkpoints.reference import convert_reference
    from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint

_MODULES = {
    "Checkpoint": "serial",
    "ModelInfo": "serial",
    "convert_reference": "reference",
    "import_official": "official",
    "load_checkpoint": "serial",
    "save_checkpoint": "serial",
}
__all__ = [
    "Checkpoint",
    "ModelInfo",
    "convert_reference",
    "import_official",
    "load_checkpoint",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
