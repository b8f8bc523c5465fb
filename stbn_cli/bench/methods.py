"""What `stbn bench` measures: models of stbn and rivals, behind one interface, and fit to travel to another process."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from stbn_cli.scale import BYTE_SCALE

# Noisy frames (T, H, W, 3) float32 RGB, nominal [0, 1], not clipped, and sigma on the 0-255 scale, to denoised frames
# of the same shape and what was run, as plain values. Raw: packed mosaics (T, h, w, 4) (`raw.bayer.pack`), and the ISO.
Run = Callable[[np.ndarray, float], tuple[np.ndarray, dict[str, Any]]]


class Method(Protocol):
    """A denoiser that is given the noise level."""

    @property
    def name(self) -> str:
        """As results call it."""
        ...

    def open(self) -> Run:
        """Load what it takes; called once, in the process that runs it. Raises `StbnError`."""
        ...


@dataclass(frozen=True, slots=True)
class ModelMethod:
    """A model of stbn. `model`, `flow`, `device` and `precision` are those of `load_denoiser`."""

    name: str
    model: str
    flow: str | None = None
    device: str = "auto"
    precision: str = "auto"
    streaming: bool = False  # in chunks, as `stbn denoise` works, instead of the whole clip at once
    raw: bool = False  # for packed mosaics, whose noise it measures itself

    def open(self) -> Run:
        from stbn_cli.api import load_denoiser
        from stbn_cli.inference.device import usable_memory
        from stbn_cli.inference.raw import RawDenoiser
        from stbn_cli.jobs.options import DenoiserOptions

        denoiser = load_denoiser(
            self.model,
            sigma=None if self.raw else 0.0,
            noise_kind="raw" if self.raw else None,
            flow=self.flow,
            device=self.device,
            precision=self.precision,
            options=DenoiserOptions(scene_cuts=False),  # by the protocol, a clip is one scene
            on_message=lambda _: None,  # what there is to say, the command says once
        )
        free = usable_memory(denoiser.device)

        def run(noisy: np.ndarray, sigma: float) -> tuple[np.ndarray, dict[str, Any]]:
            options = replace(denoiser.options, chunk=None)
            if not self.raw:
                options = replace(options, sigma=sigma / BYTE_SCALE)
            denoiser.options = options if self.streaming else replace(options, chunk=len(noisy))
            if not self.streaming and denoiser.plan_for(*noisy.shape[1:3]).device_bytes > free:
                denoiser.options = options  # the whole clip does not fit
            denoised = denoiser(noisy)
            assert denoiser.report.plan is not None
            plan = denoiser.report.plan.describe()
            used = {key: plan[key] for key in ("chunk", "chunk_overlap", "tile", "device", "precision")}
            if isinstance(denoiser, RawDenoiser) and denoiser.raw_noise is not None:
                used["noise_gain"], used["noise_floor"] = denoiser.raw_noise.gain, denoiser.raw_noise.floor
            return denoised, {"model": denoiser.info.name, "flow": denoiser.flow_name, **used}

        return run


@dataclass(frozen=True, slots=True)
class RivalMethod:
    """A rival by its name: what runs it cannot travel to another process."""

    name: str

    def open(self) -> Run:
        from stbn_cli.bench.rivals.registry import RIVALS

        rival = RIVALS[self.name]
        version = rival.version()

        def run(noisy: np.ndarray, sigma: float) -> tuple[np.ndarray, dict[str, Any]]:
            return rival.denoise(noisy, sigma), {"version": version, **rival.settings(sigma)}

        return run
