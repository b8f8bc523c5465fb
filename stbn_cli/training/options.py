"""The options of a training run. Where the published training code has an option, meaning and default are its own."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from stbn_cli.models.config import MODEL_SIZES, RECURRENT_SIZES, REFINEMENT_BLOCKS, STBNConfig
from stbn_cli.noise.kinds import INDEPENDENT_KINDS, KINDS, NoiseKind
from stbn_cli.raw.crvd import CRVD_FORMAT
from stbn_cli.raw.pattern import PATTERNS, PLANES, BayerFormat

FLOW_MODEL = "flow-light"  # what --model calls the light flow network
SMALLEST_PATCH = 16  # pixels
FLOW_MULTIPLE = 32  # pixels: so that crops fill the flow network's coarsest level
Schedule = Literal["milestones", "cosine", "timed"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Optimizer = Literal["adam", "muon"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the published training code has set differently for its two networks; fields as in `TrainOptions`."""

    learning_rate: float
    epochs: int
    batch_size: int
    patch_size: int
    train_length: int


RGB_RECIPE = Recipe(learning_rate=3e-4, epochs=10, batch_size=4, patch_size=96, train_length=8)
RAW_RECIPE = Recipe(learning_rate=1e-4, epochs=200, batch_size=16, patch_size=80, train_length=7)


def published_recipe(model: str) -> Recipe:
    """The recipe for a model by its name; `TrainOptions` defaults to that for RGB."""
    raw = model in MODEL_SIZES and MODEL_SIZES[model].head == "plain"
    return RAW_RECIPE if raw else RGB_RECIPE


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of `stbn train`; the defaults are the published options for RGB."""

    log_dir: Path  # folder of the run: state.pt, log.jsonl, model.safetensors, best.safetensors
    train_dirs: tuple[Path, ...] = ()  # folders of videos or of folders of frames
    still_dirs: tuple[Path, ...] = ()  # folders of photographs, given camera motion
    pool: Path | None = None  # folder of noisy clips that models for real noise learn from
    validation_dirs: tuple[Path, ...] = ()  # as train_dirs, to validate on
    hold_out: tuple[str, ...] = ()  # names of clips in train_dirs to validate on instead of training
    model: str = "stbn"  # one of MODEL_SIZES, or FLOW_MODEL
    learning_rate: float = RGB_RECIPE.learning_rate  # at its highest
    optimizer: Optimizer = "adam"  # "muon": for hidden convolutions of the recurrent networks
    epochs: int = RGB_RECIPE.epochs
    batch_size: int = RGB_RECIPE.batch_size  # sequences a step, of all processes together
    patch_size: int = RGB_RECIPE.patch_size  # pixels, of packed planes for raw models
    patches_per_epoch: int = 32_000  # sequences
    train_length: int = RGB_RECIPE.train_length  # frames of a sequence
    noise: NoiseKind = "white"  # what kind is added; all but "white" learn from the clean frames too
    noise_interval: tuple[float, float] = (
        5.0,
        55.0,
    )  # 0-255 scale, one draw a sequence, uniform (white) or in the logarithm
    validation_noise: tuple[float, ...] = (10.0, 30.0, 50.0)  # 0-255 scale
    schedule: Schedule = "milestones"
    milestones: tuple[int, ...] = (2, 4, 6, 8)  # epochs after which the learning rate is multiplied by gamma
    gamma: float = 0.5
    residual_blocks: int | None = None  # in each branch of an STBN; None: as the model has them
    final_learning_rate: float = 1e-6  # at the end of "cosine" and "timed"
    warmup_steps: int = 0
    gradient_clip: float = 1.0  # norm
    ema_decay: float = 0.999  # of the averaged weights that are validated and kept
    augment: bool = True  # strides, reversal, flips, turns, scale and colour of the footage
    still_share: float = 0.4  # of the sequences, where both stills and clips are there
    flow: str = "auto"  # "auto", "dis", "light", "none", or a file with a flow network
    distillation: bool = False  # the paper's second stage: train the flow network too
    distillation_weight: float = 5e-4
    flow_learning_rate: float = 1e-5
    precision: Precision = "auto"
    device: str = "cpu"
    threads: int | None = None  # CPU threads of the network; None leaves torch's choice
    compile: bool = False  # torch.compile
    seed: int = 0
    max_minutes: float | None = None
    validate_every: int = 1000  # steps
    save_every: float = 5.0  # minutes between states, beside those at every validation
    keep_epochs: bool = False  # a model file of every epoch
    log_every: int = 50  # steps
    initial: Path | None = None  # a checkpoint to start from instead of random weights
    resume: bool = False  # go on from log_dir/state.pt
    bayer: str = CRVD_FORMAT.pattern  # pattern of the mosaics that raw models train on, one of `PATTERNS`
    black: float = CRVD_FORMAT.blacks[0]  # value of the mosaics without light
    white: float = CRVD_FORMAT.white  # value at which they clip

    def __post_init__(self) -> None:
        low, high = self.noise_interval
        problem = None
        if self.model not in (*MODEL_SIZES, *RECURRENT_SIZES, FLOW_MODEL):
            names = ", ".join((*MODEL_SIZES, *RECURRENT_SIZES, FLOW_MODEL))
            problem = f"--model is one of {names}, not {self.model!r}"
        elif (self.pool is not None) != self.is_recurrent:
            problem = f"--pool is what {', '.join(RECURRENT_SIZES)} learn from, and no other model"
        elif self.is_recurrent and self.patch_size % 4:
            problem = f"--patch-size is a multiple of 4 for {self.model}, got {self.patch_size}"
        elif not 0 <= low <= high:
            problem = f"--noise-interval LOW HIGH needs 0 <= LOW <= HIGH, got {low:g} {high:g}"
        elif self.noise not in KINDS:
            problem = f"--noise is one of {', '.join(KINDS)}, not {self.noise!r}"
        elif self.noise != "white" and (self.model == FLOW_MODEL or self.takes_planes or self.distillation):
            problem = f"--noise {self.noise} is for denoisers of RGB video, without --distill"
        elif self.patch_size % 2 and self.noise != "white":
            problem = f"--patch-size is even for --noise {self.noise}, got {self.patch_size}"
        elif self.unprocesses and (self.patch_size % 2 or self.distillation):
            problem = f"--patch-size is even for {self.model}, which knows no --distill"
        elif self.patch_size < SMALLEST_PATCH:
            problem = f"--patch-size is at least {SMALLEST_PATCH} pixels, got {self.patch_size}"
        elif self.train_length < 2:
            problem = f"--train-length is at least 2 frames, got {self.train_length}"
        elif min(self.epochs, self.batch_size, self.patches_per_epoch) < 1:
            problem = "--epochs, --batch-size and --patches-per-epoch are at least 1"
        elif self.patches_per_epoch < self.batch_size:
            problem = "--patches-per-epoch is at least --batch-size"
        elif not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            problem = f"--lr is a positive number, got {self.learning_rate}"
        elif self.residual_blocks is not None and (self.model not in MODEL_SIZES or self.residual_blocks < 1):
            problem = "--num-resblocks is at least 1, and for an STBN alone"
        elif not 0 < self.gamma <= 1:
            problem = f"--gamma is above 0 and at most 1, got {self.gamma:g}"
        elif self.schedule not in get_args(Schedule):
            problem = f"--schedule is one of {', '.join(get_args(Schedule))}, not {self.schedule!r}"
        elif self.schedule == "timed" and not self.max_minutes:
            problem = "--schedule timed follows the time, and needs --max-minutes"
        elif self.optimizer not in get_args(Optimizer):
            problem = f"--optimizer is one of {', '.join(get_args(Optimizer))}, not {self.optimizer!r}"
        elif self.optimizer == "muon" and (self.model == FLOW_MODEL or self.distillation):
            problem = "--optimizer muon is for denoisers, without --distill"
        elif self.precision not in get_args(Precision):
            problem = f"--precision is one of {', '.join(get_args(Precision))}, not {self.precision!r}"
        elif self.model == FLOW_MODEL and self.patch_size % FLOW_MULTIPLE:
            problem = f"--patch-size is a multiple of {FLOW_MULTIPLE} for {FLOW_MODEL}, got {self.patch_size}"
        elif self.bayer not in PATTERNS or not self.black < self.white:
            problem = f"--bayer is one of {', '.join(PATTERNS)}, and --black is below --white"
        elif self.is_raw and (self.still_dirs or self.distillation):
            problem = f"{self.model} learns from mosaics alone: it takes neither --still-dir nor --distill"
        elif self.initial is not None and self.resume:
            problem = "--initial starts a run and --resume goes on with one: give one of them"
        if problem is not None:
            raise ValueError(problem)

    @property
    def config(self) -> STBNConfig:
        """Shape of the denoiser: without a blind spot, and refined, where that would not hide the noise."""
        size = MODEL_SIZES[self.model]
        if self.residual_blocks is not None:
            size = replace(size, blocks=self.residual_blocks)
        if self.noise in INDEPENDENT_KINDS:
            return size
        return replace(size, blind_spot=False, refinement_blocks=REFINEMENT_BLOCKS)

    @property
    def is_raw(self) -> bool:
        """Whether the model takes packed Bayer frames."""
        return self.model in MODEL_SIZES and MODEL_SIZES[self.model].head == "plain"

    @property
    def takes_planes(self) -> bool:
        """Whether the model's frames are packed Bayer mosaics."""
        return self.model in MODEL_SIZES and MODEL_SIZES[self.model].image_channels == PLANES

    @property
    def unprocesses(self) -> bool:
        """Whether the model takes packed Bayer frames made of clean RGB clips."""
        return self.takes_planes and not self.is_raw

    @property
    def is_recurrent(self) -> bool:
        """Whether the model is a recurrent one for real noise, which learns from a pool."""
        return self.model in RECURRENT_SIZES

    @property
    def mosaics(self) -> BayerFormat:
        """The format of the mosaics that raw models train on."""
        return BayerFormat(self.bayer, self.black, self.white)

    @property
    def steps_per_epoch(self) -> int:
        return self.patches_per_epoch // self.batch_size

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def learning_rate_factor(self, step: int, minutes: float = 0.0) -> float:
        """Learning rate of `step` (0 the first), `minutes` after this start of the run, as a share of the highest."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "milestones":
            epoch = step // self.steps_per_epoch
            return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
        if self.schedule == "timed":
            assert self.max_minutes is not None
            progress = minutes / self.max_minutes
        else:
            progress = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        lowest = self.final_learning_rate / self.learning_rate
        return lowest + (1.0 - lowest) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
