"""stbn: self-supervised video denoising with a spatiotemporal blind-spot network.

Importing the package imports neither torch nor PyAV; they come with the first use of a function.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import analyze
    from stbn_cli.api import denoise_file, finetune, load_denoiser

__version__ = "0.1.0"

__all__ = ["__version__", "analyze", "denoise_file", "finetune", "load_denoiser"]


def __getattr__(name: str) -> Any:
    if name == "analyze":
        from stbn_cli.analysis.analysis import analyze

        return analyze
    if name in ("denoise_file", "finetune", "load_denoiser"):
        from stbn_cli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
