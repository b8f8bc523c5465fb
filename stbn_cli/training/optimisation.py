"""One step of the optimiser: Adam or Muon in mixed precision, clipped gradients, averaged weights."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from stbn_cli.devices import kind_of
from stbn_cli.training.muon import Muon

EMA_START = 10.0  # the decay rises as (1 + step) / (EMA_START + step) so that early weights are forgotten
ADAM_BETAS = (0.9, 0.99)


class Optimisation:
    """What changes the weights of `module`, and all that has to be kept beside them for an exact resume.

    `groups`: as Adam takes them, each with `factor`, by which its learning rate is multiplied; with `orthogonal` true
    they are the weights of hidden layers, which Muon changes.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: list[dict[str, Any]],
        *,
        device: torch.device,
        precision: torch.dtype,
        gradient_clip: float,
        ema_decay: float,
    ) -> None:
        self.step = 0
        self.precision = precision
        self._module = module
        self._device = device
        self._gradient_clip = gradient_clip
        self.ema_decay = ema_decay
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        groups = [{**group, "lr": 0.0} for group in groups]
        hidden = [group for group in groups if group.get("orthogonal")]
        others = [group for group in groups if not group.get("orthogonal")]
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(others, betas=ADAM_BETAS, fused=kind_of(device).graphs)
        ]
        if hidden:
            self._optimisers.append(Muon(hidden))
        self.average = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def advance(self, loss_of: Callable[[], Tensor], learning_rate: float) -> tuple[Tensor, Tensor]:
        """One step down `loss_of()`, which is called under autocast. Returns loss and gradient norm, on the device."""
        loss = self.gradients(loss_of)
        return loss, self.descend(learning_rate)

    def gradients(self, loss_of: Callable[[], Tensor]) -> Tensor:
        """The loss `loss_of()`, which is called under autocast; its gradients are left with the parameters."""
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        with self.autocast():
            loss = loss_of()
        self._scaler.scale(loss).backward()
        return loss.detach()

    def descend(self, learning_rate: float) -> Tensor:
        """One step down the gradients that lie with the parameters; returns their norm, on the device.

        A step whose gradient is not finite is left out: one bad batch must not end hours of work.
        """
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["factor"] * learning_rate
            self._scaler.unscale_(optimiser)
        # A masked centre has no gradient, so it does not count here.
        norm = torch.nn.utils.clip_grad_norm_(self._module.parameters(), self._gradient_clip)
        if torch.isfinite(norm) or self._scaler.is_enabled():
            for optimiser in self._optimisers:
                self._scaler.step(optimiser)
        self._scaler.update()
        self.step += 1
        decay = min(self.ema_decay, (1.0 + self.step) / (EMA_START + self.step))
        with torch.no_grad():
            current = self._module.state_dict()
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage] - one kernel, not hundreds
                list(self.average.values()), [current[name] for name in self.average], 1.0 - decay
            )
        return norm.detach()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the networks."""
        return torch.autocast(self._device.type, self.precision, enabled=self.precision != torch.float32)

    def state(self) -> dict[str, Any]:
        """Everything but the module's own weights, for `load`."""
        return {
            "step": self.step,
            "average": self.average,
            "optimizers": [optimiser.state_dict() for optimiser in self._optimisers],
            "scaler": self._scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave. Raises `KeyError`, `ValueError` or `TypeError` if it does not fit."""
        # One optimiser alone was kept under another name before there were two.
        kept = state["optimizers"] if "optimizers" in state else [state["optimizer"]]
        for optimiser, values in zip(self._optimisers, kept, strict=True):
            factors = [group["factor"] for group in optimiser.param_groups]
            optimiser.load_state_dict(values)
            for group, factor in zip(optimiser.param_groups, factors, strict=True):
                group["factor"] = factor  # of the options as they are now
        self._scaler.load_state_dict(state["scaler"])
        self.average = state["average"]
        self.step = state["step"]
