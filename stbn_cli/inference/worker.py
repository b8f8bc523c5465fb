"""One device's network at work on chunks, with the fallbacks for memory and precision."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from stbn_cli.devices import kind_of, release_memory
from stbn_cli.errors import CheckpointError, MemoryExhaustedError
from stbn_cli.flow.estimator import FlowEstimator, NetworkFlow
from stbn_cli.inference.chunk import (
    NonFiniteError,
    best_posterior_mean,
    denoise,
    denoise_in_pairs,
    find_flows,
    forward_states,
)
from stbn_cli.inference.chunks import Chunk
from stbn_cli.inference.device import is_emulated, is_out_of_memory, usable_memory
from stbn_cli.inference.plan import EngineOptions, Plan, make_plan, smaller_plan
from stbn_cli.inference.report import EngineReport
from stbn_cli.inference.transfer import Transfers
from stbn_cli.models import kernels
from stbn_cli.models.config import MINIMUM_SIZE
from stbn_cli.models.fused import runs_kernels, using_kernels
from stbn_cli.models.networks import Network
from stbn_cli.models.stbn import STBN
from stbn_cli.noise.luma import luma_of
from stbn_cli.words import counted

# Mean difference of the outputs over their mean size; half precision alone makes 1e-3 to 1e-2.
KERNEL_TOLERANCE = 0.05


class Worker:
    """Runs chunks one after the other on its device. Not to be used from two threads at once.

    `exact_network`: the network in float32, shared with other workers. `workers`: how many share the host's memory.
    `on_message` receives whole sentences about fallbacks as they happen.
    """

    def __init__(
        self,
        exact_network: Network,
        flow: FlowEstimator,
        options: EngineOptions,
        *,
        device: torch.device,
        dtype: torch.dtype,
        workers: int,
        on_message: Callable[[str], None],
    ) -> None:
        self._exact_network = exact_network
        own = exact_network if dtype == torch.float32 and workers == 1 else copy.deepcopy(exact_network)
        self._network = _place(own, device, dtype)
        self._flow = _own_flow(flow, device, dtype)
        self.options = options
        self._dtype = dtype
        self._workers = workers
        self._say = on_message
        self._transfers = Transfers(device)
        self._plan: Plan | None = None
        self._report = EngineReport()
        # Chosen once: float32 is left to PyTorch.
        self._kernels = dtype != torch.float32 and kernels.available(device) and self._kernels_are_right()
        self.device = device

    def _kernels_are_right(self) -> bool:
        """Whether the project's GPU kernels give what PyTorch gives, tried on a small picture; says so if not.

        Compiles them too, which takes seconds the first time ever and is kept by triton. Where they have to be proven,
        nothing is taken for granted: those of the flow and of the posterior have to show what they give, too.
        """
        network, proven = self._network, kind_of(self._transfers.device).kernels == "proven"
        if not isinstance(network, STBN) and not proven:
            return True
        generator = torch.Generator().manual_seed(0)
        texture = F.interpolate(torch.rand(1, 3, 12, 12, generator=generator), (96, 96), mode="bicubic")
        moving = torch.cat((texture, texture.roll(3, -1)))[None].to(self._transfers.device)
        state = torch.randn(1, network.config.state_channels, 65, 66, generator=generator)
        frame = torch.rand(1, network.config.image_channels, 65, 66, generator=generator)
        level = torch.full((1, 1, 1, 1), 0.1, device=self._transfers.device)

        def compute() -> list[Tensor]:
            results: list[Tensor] = []
            if isinstance(network, STBN):
                parts = (part.to(level.device, next(network.parameters()).dtype) for part in (frame, state))
                moved, flow = next(parts), torch.full((1, 2, 65, 66), 1.3, device=level.device)
                ahead = network.propagate_forward(moved, level, next(parts), flow)
                outputs = network.fuse(ahead, network.propagate_backward(moved, level, None, None))
                results.append(outputs.float())
                if proven and network.config.head == "gaussian":
                    by_kernel = runs_kernels(moved)
                    results.append(best_posterior_mean(outputs, moved, level.expand_as(moved), by_kernel))
            if isinstance(self._flow, NetworkFlow) and self._flow.finds_features_once:
                results += self._flow.neighbours(moving, 0.1)
            return results

        with torch.inference_mode():
            try:
                with using_kernels():
                    results = compute()
            except Exception as error:  # compilers, drivers and cache folders fail in many ways
                failure = str(error).splitlines()[0] if str(error) else type(error).__name__
            else:
                expected = compute()
                if not expected:
                    return False
                difference = max(
                    float((result - right).abs().mean() / right.abs().mean())
                    for result, right in zip(results, expected, strict=True)
                )
                if difference < KERNEL_TOLERANCE:
                    return True
                failure = f"their results differ by {difference:.2g}"
        self._say(f"The GPU kernels cannot be used ({failure}); using the slower ones of PyTorch.")
        return False

    def start(self, plan: Plan, report: EngineReport) -> None:
        """Begin a run with this plan, made for the worker's device; what happens goes into the report."""
        self._plan, self._report = plan, report

    def plan_for(self, height: int, width: int) -> Plan:
        """The plan for frames of this size (or the smallest one that the network takes) with the memory free now."""
        height, width = (padded_size(side, self._network.config.multiple) for side in (height, width))
        return self._plan_with(height, width, self._dtype, self.options)

    def _plan_with(self, height: int, width: int, dtype: torch.dtype, options: EngineOptions) -> Plan:
        return make_plan(
            self._network.config,
            height,
            width,
            device=self.device,
            dtype=dtype,
            options=options,
            device_budget=usable_memory(self.device),
            host_budget=usable_memory(torch.device("cpu")) // self._workers,
            flow_network=isinstance(self._flow, NetworkFlow),
            alone=self._workers == 1,
        )

    @torch.inference_mode()
    def run(self, chunk: Chunk) -> list[np.ndarray]:
        """The chunk's denoised frames `(H, W, 3)` float32; none for one to skip. Hands the forward state on.

        A chunk that is longer than the plan allows by now is done in parts.
        """
        try:
            with using_kernels(self._kernels):
                return self._run_parts(chunk)
        except BaseException as error:
            if not chunk.following.done():
                chunk.following.set_exception(error)
            raise

    def _run_parts(self, chunk: Chunk) -> list[np.ndarray]:
        frames: list[np.ndarray] = []
        start, state = 0, chunk.state.result()
        while start < chunk.count:
            plan = self._current()
            part = chunk.part(start, min(plan.chunk, chunk.count - start), plan.chunk_overlap)
            part.state.set_result(state)
            ends = start + part.count == chunk.count
            try:
                frames += self._run(part, chunk if ends else None)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = str(error)
            else:
                start, state = start + part.count, part.following.result()
                continue
            # Outside the handler: the traceback holds the failed attempt's tensors.
            self._shrink(failure)
        return frames

    def _run(self, part: Chunk, whole: Chunk | None) -> list[np.ndarray]:
        """One part; `whole`: the chunk that it ends, whose state goes on as soon as it is there."""
        plan = self._current()

        def hand_on(state: Tensor) -> None:
            # Once: what follows may be under way already when this chunk is done again.
            for chunk in (part, whole):
                if chunk is not None and not chunk.following.done():
                    chunk.following.set_result(state)

        find_flows(self._flow, plan, part, self._transfers)
        try:
            estimates = self._compute(self._network, plan, part, hand_on)
        except NonFiniteError:
            estimates = self._compute_exactly(plan, part, hand_on)
        return self._finish(part, estimates)

    def _compute(
        self, network: Network, plan: Plan, part: Chunk, hand_on: Callable[[Tensor], None]
    ) -> list[Tensor]:
        state = part.state.result()
        if plan.in_pairs and not part.skip:
            estimates, last = denoise_in_pairs(network, plan, part, state, self._transfers)
            hand_on(last)
            return estimates
        states = forward_states(network, plan, part, state, self._transfers)
        hand_on(states[-1])
        return [] if part.skip else denoise(network, plan, part, states, self._transfers)

    def _compute_exactly(self, plan: Plan, part: Chunk, hand_on: Callable[[Tensor], None]) -> list[Tensor]:
        """The chunk again in float32. Raises `CheckpointError` if even that is not finite."""
        if plan.dtype != torch.float32:
            self._report.fp32_chunks += 1
            self._say(f"Half precision was not enough for {counted(part.count, 'frame')}; repeating in fp32.")
            # Made anew each time: this is rare, and the memory is needed for everything else.
            network = _place(copy.deepcopy(self._exact_network), self.device, torch.float32)
            # Float32 needs more memory than what was planned; the chunk alone has to stay as it is.
            options = replace(self.options, chunk=plan.chunk, chunk_overlap=plan.chunk_overlap)
            exact = self._plan_with(plan.height, plan.width, torch.float32, options)
            try:
                return self._compute(network, exact, part, hand_on)
            except NonFiniteError:
                pass
        raise CheckpointError(
            "The model gives values that are not finite even in float32: its file is damaged. Use another --model, or "
            "check it with stbn weights verify."
        )

    def _finish(self, part: Chunk, estimates: list[Tensor]) -> list[np.ndarray]:
        """Estimates blended with the noisy frames, in host memory; empties `estimates`."""
        results = []
        channels = self._network.config.image_channels
        with record_function("stbn.download"):
            for frame in part.window[: len(estimates)]:
                # Taken out one by one: estimates and results need not all be there at once.
                estimate = estimates.pop(0)
                noisy = frame.on(self._current(), self._transfers)
                colours, rest = estimate[:, :channels], estimate[:, channels:]
                blended = torch.cat((blend(noisy, colours, *self.options.shares), rest), 1)
                results.append(self._transfers.download(blended[0].permute(1, 2, 0).contiguous()))
            self._transfers.wait()
        return [result.numpy() for result in results]

    def _shrink(self, failure: str) -> None:
        plan = self._current()
        release_memory(self.device)
        smaller = smaller_plan(plan, self._network.config, self.options)
        if smaller is None:
            raise MemoryExhaustedError(
                f"Out of memory on {plan.device} with {plan.in_words}, the least that is possible. Use smaller "
                "--tile and --chunk values, a smaller --model, or --device cpu. "
                f"({failure.splitlines()[0]})"
            )
        self._plan = self._report.plan = smaller
        self._report.replans += 1
        self._say(f"Out of memory; continuing with {smaller.in_words}.")

    def _current(self) -> Plan:
        assert self._plan is not None
        return self._plan


def padded_size(side: int, multiple: int) -> int:
    """Pixels of a side of `side` pixels once it is extended to what a network takes."""
    return -(-max(side, MINIMUM_SIZE) // multiple) * multiple


def blend(noisy: Tensor, estimate: Tensor, luma: float, chroma: float) -> Tensor:
    """`noisy (N, 3, H, W)` without these shares of its difference to `estimate`: of that's luma and of the rest."""
    if luma == chroma:
        return torch.lerp(noisy, estimate, luma)
    removed = noisy - estimate
    brightness = luma_of(removed)
    return noisy - luma * brightness - chroma * (removed - brightness)


def _own_flow(flow: FlowEstimator, device: torch.device, dtype: torch.dtype) -> FlowEstimator:
    """A flow network of the worker's own: as it was trained, in bfloat16, 0.01 pixels from what float32 finds."""
    if not isinstance(flow, NetworkFlow):
        return flow
    own = flow.copy(device)
    half = dtype != torch.float32 and flow.finds_features_once and kind_of(device).bfloat16
    half = half and not is_emulated(torch.bfloat16, device)
    own.network.to(
        dtype=torch.bfloat16 if half else torch.float32,
        memory_format=torch.channels_last,  # type: ignore[call-overload]
    )
    return own


def _place(network: Network, device: torch.device, dtype: torch.dtype) -> Network:
    return network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
