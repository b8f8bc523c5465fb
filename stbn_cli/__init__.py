"""stbn: self-supervised video denoising with a spatiotemporal blind-spot network.

Importing the package imports neither torch nor PyAV; they come with the first use of a function.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import analyze
    from stbn_cli.api import denoise_file, finetune, load_denoiser
    from stbn_cli.finetuning.options import FinetuneOptions
    from stbn_cli.jobs.options import DenoiserOptions
    from stbn_cli.raw.pattern import BayerOptions
    from stbn_cli.source import Span
    from stbn_cli.video.encoders import EncodeOptions

__version__ = "0.1.0"

__all__ = [
    "BayerOptions",
    "DenoiserOptions",
    "EncodeOptions",
    "FinetuneOptions",
    "Span",
    "__version__",
    "analyze",
    "denoise_file",
    "finetune",
    "load_denoiser",
]
_HOMES = {
    "BayerOptions": "raw.pattern",
    "DenoiserOptions": "jobs.options",
    "EncodeOptions": "video.encoders",
    "FinetuneOptions": "finetuning.options",
    "Span": "source",
    "analyze": "analysis.analysis",
    "denoise_file": "api",
    "finetune": "api",
    "load_denoiser": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
