"""What a training run can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# The noise levels that a run is validated at by default (0-255 scale), and the clips of frames used for it.
VALIDATION_SIGMAS = (10.0, 30.0, 50.0)


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of `stbn train`; the defaults suit the small models on a CPU."""

    output: Path  # folder of the run: state.pt, log.jsonl, model.safetensors, best.safetensors
    clips: tuple[Path, ...] = ()  # folders of videos or of folders of frames
    stills: tuple[Path, ...] = ()  # folders of photographs, given camera motion
    validation: tuple[str, ...] = ()  # names of clips held out from training to validate on
    model: str = "stbn-xs"  # one of MODEL_SIZES
    steps: int = 20_000
    batch_size: int = 4
    patch_size: int = 64  # pixels
    train_length: int = 5  # frames of a training sequence
    sigma_range: tuple[float, float] = (5.0, 55.0)  # 0-255 scale, uniform, one draw a sequence
    validation_sigmas: tuple[float, ...] = VALIDATION_SIGMAS
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 200
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    still_share: float = 0.4  # of the sequences, where both stills and clips are there
    precision: Literal["fp32", "bf16"] = "bf16"
    device: str = "cpu"
    workers: int = 1
    threads: int | None = None  # CPU threads of the network; None leaves torch's choice
    seed: int = 0
    max_minutes: float | None = None
    validate_every: int = 500  # steps
    log_every: int = 50  # steps
    initial: Path | None = None  # a checkpoint to start from instead of random weights
    resume: bool = False  # go on from output/state.pt

    def __post_init__(self) -> None:
        low, high = self.sigma_range
        if not 0 <= low <= high:
            raise ValueError(f"expected 0 <= low <= high for --sigma-range, got {low} {high}")
        if self.patch_size < 16:
            raise ValueError(f"expected --patch-size of at least 16 pixels, got {self.patch_size}")
        if self.train_length < 2:
            raise ValueError(f"expected --train-length of at least 2 frames, got {self.train_length}")
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError("expected --steps and --batch-size of at least 1")
