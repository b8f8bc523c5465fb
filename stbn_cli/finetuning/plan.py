"""How much to do in the time and memory there is. Pure: measurements in, sizes out."""

import math
from dataclasses import dataclass, replace

from stbn_cli.finetuning.options import FinetuneOptions
from stbn_cli.models.config import RecurrentConfig
from stbn_cli.models.networks import NetworkConfig

# Sizes of a step where memory does not limit them. A GPU needs large ones to be busy.
CPU_SIZES = (4, 64, 8)  # sequences, pixels, frames
GPU_SIZES = (8, 128, 8)
# The same for learning from frame to frame.
FRAME_SIZES = (2, 96, 6)
# What a step keeps for the gradient, in values for each pixel, frame and channel of the hidden state: the largest that
# was measured on a CPU (bfloat16: stbn-xs 82, stbn-s 102, stbn 172; float32: stbn-xs 73), with a margin.
STEP_COST = 180
# Adam's learning rate at 16 channels; it falls with the width.
LEARNING_RATE, LEARNING_RATE_CHANNELS = 2e-3, 16
SCRATCH_FACTOR = 1.5
# From frame to frame.
FRAME_LEARNING_RATE = 2e-4
# Of the time: the optimiser's; reading, flow and checks have the rest.
STEPS_SHARE = 0.75
FEWEST_STEPS = 8
# Where the averaged weights are judged, as shares of the steps. From frame to frame soon, since lessons teach most at
# first, and may go too far.
CHECKS = (0.1, 0.25, 0.5, 0.75, 1.0)
FRAME_CHECKS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
CHECKS_SHARE = 0.25  # of the time for steps: more checks than that are left out, the last one never
STEPS_MARGIN = 0.9  # of the time: a step was timed alone, at its quickest
# Every pixel that is loaded is trained on about so often; pixels of the checks, as a share of the training's. A check
# costs a third of a step's time a pixel, so that all of them take a tenth of the time.
VISITS = 4
CHECK_SHARE = 0.05
FEWEST_PIXELS, MOST_PIXELS = 2_000_000, 400_000_000  # times frames, to load
FEWEST_CHECKED = 2_000_000  # times frames
# Bytes of a pixel in the memory of the clips: frames, three pairs of flows, the mask.
PIXEL_BYTES = 12 + 3 * 8 + 1
MEMORY_SHARE = 0.4  # of what may be planned with, for the clips
# The average spans this share of the steps.
AVERAGE_SHARE = 0.1
LARGEST_DECAY = 0.998


@dataclass(frozen=True, slots=True)
class StepSizes:
    """Shape of a step."""

    batch_size: int  # sequences
    patch_size: int  # pixels
    train_length: int  # frames

    @property
    def pixels(self) -> int:
        """Pixels, times frames, of a step."""
        return self.batch_size * self.patch_size**2 * self.train_length


def choose_sizes(
    config: NetworkConfig, options: FinetuneOptions, device_type: str, memory: int, value_bytes: int = 2
) -> StepSizes:
    """The largest usual step that fits into half of `memory` bytes; what `options` fixes is taken as it is.

    `value_bytes`: of a value in the network's arithmetic.
    """
    usual = CPU_SIZES if device_type == "cpu" else GPU_SIZES
    if isinstance(config, RecurrentConfig):
        usual = FRAME_SIZES
    batch, patch, length = (
        chosen or default
        for chosen, default in zip(
            (options.batch_size, options.patch_size, options.train_length), usual, strict=True
        )
    )
    while STEP_COST * value_bytes * config.channels * batch * patch**2 * length > memory // 2:
        if options.batch_size is None and batch > 1:
            batch //= 2
        elif options.patch_size is None and patch > 32:
            patch //= 2
        elif options.train_length is None and length > 3:
            length -= 1
        else:
            break
    return StepSizes(batch, patch, length)


@dataclass(frozen=True, slots=True)
class FinetuneSchedule:
    """The run from its first step to its last. Depends on the number of steps alone, so that it can be repeated."""

    steps: int
    learning_rate: float
    sizes: StepSizes
    clip_pixels: int  # times frames, to load
    check_pixels: int  # times frames, of one check
    check_shares: tuple[float, ...] = CHECKS

    @property
    def warmup(self) -> int:
        return max(1, min(20, self.steps // 10))

    def shortened(self, seconds: float, step_seconds: float, check_seconds: float) -> "FinetuneSchedule":
        """The same with the steps and checks that there are `seconds` for, so that the learning rate falls in time."""
        most = int(CHECKS_SHARE * seconds / check_seconds) if check_seconds > 0 else len(self.check_shares)
        shares = self.check_shares[-max(1, most) :]
        left = STEPS_MARGIN * seconds - len(shares) * check_seconds
        steps = min(self.steps, _rounded_down(int(left / step_seconds)))
        return replace(self, steps=steps, check_shares=shares)

    def learning_rate_at(self, step: int) -> float:
        """Of `step`, 0 the first: up in a straight line, down along half a cosine."""
        rise = min(1.0, (step + 1) / self.warmup)
        return self.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))

    @property
    def ema_decay(self) -> float:
        """Of the averaged weights."""
        return min(LARGEST_DECAY, max(0.5, 1.0 - 1.0 / (AVERAGE_SHARE * self.steps)))

    @property
    def checks(self) -> tuple[int, ...]:
        """Steps after which the weights are judged; the last one is the end."""
        return tuple(sorted({max(1, round(share * self.steps)) for share in self.check_shares}))


def _rounded_down(steps: int) -> int:
    """To 4, 5, 6 or 7 times a power of two, FEWEST_STEPS at least.

    A run on the same machine then mostly has the same number, and with it the same result.
    """
    steps = max(FEWEST_STEPS, steps)
    unit = 2 ** (steps.bit_length() - 3)
    return steps // unit * unit


def make_schedule(
    config: NetworkConfig,
    options: FinetuneOptions,
    sizes: StepSizes,
    step_seconds: float,
    clip_memory: int,
    wanted_pixels: int = 0,
) -> FinetuneSchedule:
    """Steps for the time at `step_seconds` a step, rounded down, and footage for the steps.

    `clip_memory`: bytes that the clips may take. `wanted_pixels`: times frames, to load if they fit.
    """
    steps = options.steps
    if steps is None:
        steps = _rounded_down(int(STEPS_SHARE * 60.0 * options.minutes / step_seconds))
    rate = options.learning_rate
    if rate is None and isinstance(config, RecurrentConfig):
        rate = FRAME_LEARNING_RATE
    elif rate is None:
        rate = LEARNING_RATE * LEARNING_RATE_CHANNELS / config.channels
        rate *= SCRATCH_FACTOR if options.from_scratch else 1.0
    trained = steps * sizes.pixels
    room = max(FEWEST_PIXELS // 4, int(MEMORY_SHARE * clip_memory / PIXEL_BYTES))
    return FinetuneSchedule(
        steps=steps,
        learning_rate=rate,
        sizes=sizes,
        clip_pixels=min(max(trained // VISITS, FEWEST_PIXELS, wanted_pixels), MOST_PIXELS, room),
        check_pixels=max(int(CHECK_SHARE * trained), FEWEST_CHECKED),
        check_shares=FRAME_CHECKS if isinstance(config, RecurrentConfig) else CHECKS,
    )
