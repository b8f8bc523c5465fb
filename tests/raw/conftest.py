"""Raw input through the pipeline without a network, and through the command."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from stbn_cli.pipeline import DenoiseSummary, denoise_video
from stbn_cli.raw.pattern import BayerOptions
from stbn_cli.video.reader import open_video
from stbn_cli.video.writer import EncodeOptions, create_video
from tests.fidelity.conftest import denoise, model

__all__ = ["denoise", "model"]


class Changed:
    """A denoiser that adds `shift` to all values."""

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = np.float32(shift)

    def stream(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            assert frame.dtype == np.float32 and frame.shape[-1] == 4
            yield frame + self.shift


@pytest.fixture
def passed() -> Callable[..., DenoiseSummary]:
    """passed(source, output, bayer=None, shift=0.0): read, (not) changed, written."""

    def run(
        source: Path | str, output: Path | str, bayer: BayerOptions | None = None, shift: float = 0.0
    ) -> DenoiseSummary:
        with (
            open_video(source, bayer=bayer) as reader,
            create_video(output, reader, EncodeOptions()) as writer,
        ):
            return denoise_video(reader, Changed(shift), writer)

    return run
