"""The training loop: blind-spot likelihood, Adam, EMA, cosine schedule, exact resume, a time limit."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from stbn_cli.checkpoints.serial import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from stbn_cli.errors import InputError, OptionError
from stbn_cli.flow.estimator import FlowEstimator, create_flow_estimator
from stbn_cli.models.stbn import MODEL_SIZES, STBN
from stbn_cli.noise.levels import broadcast_sigma
from stbn_cli.noise.posterior import gaussian_nll
from stbn_cli.training.library import Library, load_library
from stbn_cli.training.options import TrainOptions
from stbn_cli.training.samples import SampleOptions, TrainingSamples
from stbn_cli.training.validation import validate, validation_clips

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
MODEL_FILE = "model.safetensors"  # EMA weights of the last save
BEST_FILE = "best.safetensors"  # EMA weights of the best validation
EMA_START = 10.0  # the decay rises as (1 + step) / (EMA_START + step) so that early weights are forgotten


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    steps: int
    finished: bool  # False: stopped by the time limit or the user; `--resume` goes on
    best_psnr: float | None  # mean over the validation noise levels, dB


class Trainer:
    """One run. `run` trains until the steps, the time or the user's patience are used up."""

    def __init__(self, options: TrainOptions) -> None:
        self.options = options
        if options.model not in MODEL_SIZES:
            raise OptionError(
                f"There is no model size called {options.model!r}; choose one of {', '.join(MODEL_SIZES)}."
            )
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        torch.manual_seed(options.seed)
        self.flow: FlowEstimator = create_flow_estimator("dis")
        self.network = self._initial_network().to(options.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=options.learning_rate, betas=(0.9, 0.99)
        )
        self.step = 0
        self.seconds = 0.0
        self.best: float | None = None
        if options.resume:
            self._load_state()

    def run(self, report: Callable[[dict[str, Any]], None] = lambda row: None) -> TrainResult:
        """Train; `report` receives every row that is also appended to the log file. Ctrl-C saves and returns."""
        options = self.options
        options.output.mkdir(parents=True, exist_ok=True)
        self._report = report
        library, clips = self._load_data()
        batches = iter(self._loader(library))
        begun = time.monotonic()
        before = self.seconds
        losses: list[float] = []
        try:
            while self.step < options.steps:
                losses.append(self._train_step(next(batches)))
                self.seconds = before + time.monotonic() - begun
                if self.step % options.log_every == 0:
                    self._log({"loss": sum(losses) / len(losses), "learning_rate": self._learning_rate()})
                    losses.clear()
                if self.step % options.validate_every == 0 or self.step == options.steps:
                    self._validate_and_save(clips)
                if options.max_minutes and time.monotonic() - begun > 60 * options.max_minutes:
                    break
        except KeyboardInterrupt:
            self._log({"event": "interrupted"})
        self._save()
        return TrainResult(self.step, self.step >= options.steps, self.best)

    def _train_step(self, batch: dict[str, Tensor]) -> float:
        options = self.options
        batch = {name: tensor.to(options.device, non_blocking=True) for name, tensor in batch.items()}
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        with torch.autocast(options.device.split(":")[0], torch.bfloat16, options.precision == "bf16"):
            outputs = self.network(
                batch["noisy"], batch["sigma"], batch["flow_to_previous"], batch["flow_to_next"]
            )
        loss = gaussian_nll(outputs, batch["noisy"], broadcast_sigma(batch["sigma"], batch["noisy"])).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), options.gradient_clip)
        if torch.isfinite(norm):  # one bad batch must not end hours of work
            self.optimizer.step()
        self.step += 1
        decay = min(options.ema_decay, (1.0 + self.step) / (EMA_START + self.step))
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                self.ema[name].lerp_(tensor, 1.0 - decay)
        return float(loss.detach())

    def _learning_rate(self) -> float:
        """Linear warm-up, then a half cosine down to the final rate."""
        options = self.options
        if self.step < options.warmup_steps:
            return options.learning_rate * (self.step + 1) / options.warmup_steps
        progress = (self.step - options.warmup_steps) / max(options.steps - options.warmup_steps, 1)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
        return options.final_learning_rate + (options.learning_rate - options.final_learning_rate) * cosine

    def _validate_and_save(self, clips: list[Tensor]) -> None:
        if clips:
            network = STBN(self.network.config).to(self.options.device)
            network.load_state_dict(self.ema)
            scores = validate(
                network.eval(), self.flow, clips, self.options.validation_sigmas, self.options.device
            )
            mean = sum(scores.values()) / len(scores)
            self._log(
                {"psnr": {f"{sigma:g}": round(score, 3) for sigma, score in scores.items()}, "mean": mean}
            )
            if self.best is None or mean > self.best:
                self.best = mean
                save_checkpoint(self.options.output / BEST_FILE, self.checkpoint())
        self._save()

    def checkpoint(self) -> Checkpoint:
        """The averaged weights as they stand."""
        options = self.options
        recipe = {
            name: value
            for name, value in asdict(options).items()
            if isinstance(value, int | float | str) and name not in ("device", "resume", "workers", "threads")
        }
        training = {"steps": self.step, "seconds": round(self.seconds), "recipe": recipe, "psnr": self.best}
        info = ModelInfo(
            name=options.model,
            flow=self.flow.name,
            sigma_range=options.sigma_range,
            licence="Apache-2.0",
            training=training,
        )
        return Checkpoint(self.network.config, info, {name: t.cpu() for name, t in self.ema.items()})

    def _load_data(self) -> tuple[Library, list[Tensor]]:
        options = self.options
        library = load_library(options.clips, options.stills, leave_out=options.validation)
        if not options.validation:
            return library, []
        held_out = load_library(options.clips, only=options.validation, maximum_frames=16)
        return library, validation_clips(held_out)

    def _loader(self, library: Library) -> DataLoader[dict[str, Tensor]]:
        options = self.options
        samples = TrainingSamples(
            library,
            self.flow,
            SampleOptions(
                frames=options.train_length,
                patch_size=options.patch_size,
                sigma_range=options.sigma_range,
                still_share=options.still_share,
                seed=options.seed,
            ),
        )
        first, last = self.step * options.batch_size, options.steps * options.batch_size
        return DataLoader(
            samples,
            batch_size=options.batch_size,
            sampler=range(first, last),
            num_workers=options.workers,
            worker_init_fn=_calm_worker,
            persistent_workers=options.workers > 0,
            prefetch_factor=4 if options.workers else None,
            pin_memory=options.device.startswith("cuda"),
        )

    def _initial_network(self) -> STBN:
        if self.options.initial is not None:
            return load_checkpoint(self.options.initial).build().train()
        # torch's default weights: scaling the residual branches down, or He's gain, learned more slowly.
        return STBN(MODEL_SIZES[self.options.model])

    def _log(self, row: dict[str, Any]) -> None:
        row = {"step": self.step, "minutes": round(self.seconds / 60, 2), **row}
        with (self.options.output / LOG_FILE).open("a") as log:
            log.write(json.dumps(row) + "\n")
        self._report(row)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "network": self.network.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.options.output / f".{STATE_FILE}.part"
        torch.save(state, partial)
        os.replace(partial, self.options.output / STATE_FILE)
        save_checkpoint(self.options.output / MODEL_FILE, self.checkpoint())

    def _load_state(self) -> None:
        path = self.options.output / STATE_FILE
        if not path.is_file():
            raise InputError(
                f"There is no run to resume: {str(path)!r} does not exist. Start without --resume."
            )
        state = torch.load(path, map_location=self.options.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.ema = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]


def _calm_worker(worker: int) -> None:
    """Loader processes work on one thread each and give way to the network."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    os.nice(5)
