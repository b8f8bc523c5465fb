"""How well `stbn_cli.noise.flatness` measures the full level of noise, and how its networks were made.

    python benchmarks/levels.py check --clips FOLDER --stills FOLDER --pairs FOLDER   # measured against true levels
    python benchmarks/levels.py make CASES.npz --clips FOLDER --stills FOLDER         # statistics of known noise
    python benchmarks/levels.py learn CASES.npz [CASES.npz ...] --output LEVELS.safetensors

`check` draws noise of every kind over clips and stills that no network learned from (HELD_OUT, every sixth still), and
takes pairs NAME_real.*, NAME_mean.* of photographs as they are. True levels are standard deviations of noisy minus
clean, RMS over the picture, 0-255 scale. One JSON document on stdout, progress on stderr.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.noise.estimate import LUMA_WEIGHTS
from stbn_cli.noise.flatness import FARTHEST, NONE, Networks, gather, measure_levels
from stbn_cli.noise.model import NoiseLevelFunction
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.synthesis.codec import sampled
from stbn_cli.synthesis.isp import Grain, blurred
from stbn_cli.synthesis.kinds import degrade
from stbn_cli.synthesis.sensor import SensorNoise, draw_sensor_noise, rounded

HELD_OUT = (
    *("goat", "kite-surf", "soapbox", "tennis", "teddy", "bear", "blackswan", "breakdance", "camel", "cows"),
    *("libby", "surf", "paragliding", "woman-running", "BasketballPass"),
)
STILLS_HELD = 6  # every so many
KINDS = (
    "white",
    "white, clipped",
    "sensor",
    "camera",
    "compressed",
    "grain",
    "blotchy",
    "4:2:0",
    "photo",
    "smoothed",
)
FRAMES, LEAD = 3, 3
VARIANTS, VARIED = 3, (0.1, 3.0)
SIGMAS = (0.7, 60.0)
CHECKED = (1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 50.0)
CLEAN_SHARE = 0.07
SUFFIXES = (".mp4", ".mkv", ".png", ".jpg", ".jpeg")
WITHIN = 0.15
LEAST = 0.5  # true levels of less are not compared


class Source:
    """Clean frames of clips and stills, (T, 3, H, W) float on [0, 1]."""

    def __init__(self, clips: Path, stills: Path, *, held: bool) -> None:
        self.clips = [
            path
            for path in sorted(clips.iterdir())
            if path.suffix in SUFFIXES and (path.stem in HELD_OUT) == held
        ]
        every = [path for path in sorted(stills.iterdir()) if path.suffix in SUFFIXES]
        self.stills = [path for index, path in enumerate(every) if (index % STILLS_HELD == 0) == held]
        self._runs: dict[tuple[Path, int], np.ndarray] = {}

    def clip(self, path: Path, random: np.random.Generator) -> Tensor:
        """A run of FRAMES + LEAD frames."""
        number = int(random.integers(2))
        if (path, number) not in self._runs:
            video = cv2.VideoCapture(str(path))
            total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
            for _ in range(min(number * total // 2, total - FRAMES - LEAD)):
                video.grab()
            frames = [video.read()[1] for _ in range(FRAMES + LEAD)]
            frames = [frame for frame in frames if frame is not None]
            while len(frames) < FRAMES + LEAD:
                frames.append(frames[-1])
            self._runs[path, number] = np.stack(frames)[..., ::-1]
        return torch.from_numpy(self._runs[path, number].copy()).permute(0, 3, 1, 2).float() / BYTE_SCALE

    def still(self, path: Path, random: np.random.Generator) -> Tensor:
        """The same of one picture that moves by parts of pixels."""
        picture = cv2.imread(str(path))[..., ::-1].astype(np.float32) / BYTE_SCALE
        if max(picture.shape) > 900 or random.random() < 0.3:
            picture = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        step = random.normal(0.0, 1.5, 2) * (random.random() < 0.7)
        frames = []
        for index in range(FRAMES + LEAD):
            move = np.array([[1, 0, step[0] * index], [0, 1, step[1] * index]])
            size = picture.shape[1::-1]
            frames.append(
                cv2.warpAffine(picture, move, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
            )
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).clamp(0.0, 1.0)


def varied(clean: Tensor, random: np.random.Generator) -> Tensor:
    """A part of the frames, larger or smaller, softer or darker: cameras show more than clips that were scaled down."""
    height, width = clean.shape[-2:]
    scale, choice = 1.0, random.random()
    if choice < 0.2:
        scale = float(np.exp(random.uniform(np.log(0.6), np.log(1.5))))
    elif choice < 0.5:
        scale = float(np.exp(random.uniform(np.log(1.5), np.log(4.0))))
    # At random, but of so many pixels that there is something to learn from.
    wanted = [int(random.integers(128, 400)) for _ in range(2)]
    rows, columns = (
        min(side, max(round(size / scale), 24)) for side, size in zip((height, width), wanted, strict=True)
    )
    top, left = int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))
    clean = clean[..., top : top + rows, left : left + columns]
    if scale != 1.0:
        size = tuple(max(round(side * scale / 2) * 2, 64) for side in (rows, columns))
        clean = F.interpolate(clean, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    elif choice > 0.85:
        clean = blurred(clean, float(random.uniform(0.4, 2.5)))
    if random.random() < 0.2:
        clean = clean * float(random.uniform(0.15, 0.8))
    return clean.contiguous()


def blotchy(shape: tuple[int, ...], random: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Noise (T, 3, H, W) as of photographs: luma of deviation 1, correlated by about 0.6, colour in larger spots."""

    def spots(channels: int, std: float) -> Tensor:
        draw = torch.randn((shape[0], channels, *shape[2:]), generator=generator)
        return normal(blurred(draw, std) if std > 0.2 else draw)

    def normal(draw: Tensor) -> Tensor:
        return draw / draw.square().mean().sqrt()

    luma = spots(1, float(random.uniform(0.45, 0.9)))
    far = float(random.uniform(0.05, 0.3))
    luma = (
        (1 - far) ** 0.5 * luma + far**0.5 * spots(1, float(random.uniform(1.5, 4.0)))
        if random.random() < 0.5
        else luma
    )
    share = float(random.uniform(0.2, 0.6))
    near, wide = spots(2, float(random.uniform(0.9, 1.8))), spots(2, float(random.uniform(2.5, 5.0)))
    chroma = normal((1 - share) ** 0.5 * near + share**0.5 * wide) * float(random.uniform(0.3, 1.4))
    red, blue = luma + chroma[:, :1], luma + chroma[:, 1:]
    green = luma - (LUMA_WEIGHTS[0] * chroma[:, :1] + LUMA_WEIGHTS[2] * chroma[:, 1:]) / LUMA_WEIGHTS[1]
    return torch.cat((red, green, blue), 1)


def as_jpeg(frames: Tensor, quality: int, full: bool) -> Tensor:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if full:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    pictures = (frames.permute(0, 2, 3, 1).numpy() * BYTE_SCALE).round().astype(np.uint8)
    coded = [
        cv2.imdecode(cv2.imencode(".jpg", np.ascontiguousarray(picture), options)[1], cv2.IMREAD_COLOR)
        for picture in pictures
    ]
    return torch.from_numpy(np.stack(coded)).permute(0, 3, 1, 2).float() / BYTE_SCALE


def with_noise(kind: str, clean: Tensor, random: np.random.Generator, sigma: float) -> tuple[Tensor, Tensor]:
    """Noisy and clean frames of `clean (T + LEAD, 3, H, W)` without the first LEAD; sigma: [0, 1] scale, about."""
    generator = torch.Generator().manual_seed(int(random.integers(2**63)))
    short = clean[LEAD:]
    levels = (sigma, sigma)
    if kind == "white":
        if random.random() < 0.2:  # grey
            draw = torch.randn((len(short), 1, *clean.shape[2:]), generator=generator)
            return short + sigma * draw, short
        return SensorNoise(NoiseLevelFunction.white(sigma)).add_to(short, generator), short
    if kind == "white, clipped":
        return SensorNoise(NoiseLevelFunction.white(sigma), clipped=True).add_to(short, generator), short
    if kind == "compressed":
        noisy, shown, _ = degrade("compressed", clean, random, levels)
        return noisy, shown
    if kind in ("sensor", "camera"):
        noisy, shown, _ = degrade(kind, short, random, levels)
        return noisy, shown
    if kind == "grain":
        shared = float(random.random()) if random.random() < 0.6 else 1.0
        grain = Grain(draw_sensor_noise(random, sigma).model, float(random.uniform(0.5, 4.0)), shared)
        return grain.add_to(short, generator), short
    if kind == "4:2:0":
        noise = draw_sensor_noise(random, sigma)
        return sampled(rounded(noise.add_to(short, generator))), sampled(rounded(short))
    draw = blotchy(tuple(short.shape), random, generator)
    if kind in ("photo", "smoothed"):
        draw = draw * texture_gain(short, random)
    if kind == "smoothed":
        return smoothed(short, sigma * draw, random)
    tone = (
        sigma
        * torch.from_numpy(
            np.interp(
                short.mean(1, keepdim=True).numpy(), np.linspace(0, 1, 4), np.exp(random.normal(0, 0.35, 4))
            )
        ).float()
    )
    noisy = rounded(short + tone * draw)
    if kind == "photo":
        quality, full = int(random.integers(75, 100)), bool(random.random() < 0.3)
        return as_jpeg(noisy, quality, full), short
    return noisy, short


def texture_gain(clean: Tensor, random: np.random.Generator) -> Tensor:
    """How much more noise (T, 1, H, W) texture holds than flat places, which cameras smooth.

    CC15 and PolyU (truth minus shot): blocks with the most texture hold 1.2 to 2.6 times the noise of the flattest.
    """
    luma = clean.mean(1, keepdim=True)
    reach = float(random.uniform(1.5, 4.0))
    texture = (blurred(luma.square(), reach) - blurred(luma, reach).square()).clamp_min(0.0).sqrt()
    half = float(np.exp(random.uniform(np.log(0.01), np.log(0.05))))
    return 1.0 + float(random.uniform(0.3, 2.0)) * texture / (texture + half)


def smoothed(clean: Tensor, noise: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """What a camera's own denoising leaves: little where the picture is flat, more at edges and in texture."""
    strength = float(random.uniform(0.8, 3.5)) * float(noise.std())
    reach, part = float(random.uniform(1.0, 3.0)), float(random.uniform(0.3, 0.95))
    sharpening = float(random.uniform(0.0, 1.2)) * (random.random() < 0.6)

    def processed(frames: Tensor) -> Tensor:
        pictures = [np.ascontiguousarray(picture) for picture in frames_of(frames)]
        calm = np.stack([cv2.bilateralFilter(picture, 5, strength, reach) for picture in pictures])
        result = frames + part * (torch.from_numpy(calm).permute(0, 3, 1, 2) - frames)
        return rounded(result + sharpening * (result - blurred(result, 1.0)))

    noisy, shown = processed(clean + noise), processed(clean)
    if random.random() < 0.6:
        noisy = as_jpeg(noisy, int(random.integers(85, 100)), bool(random.random() < 0.5))
    return noisy, shown


def levels_of(difference: Tensor) -> tuple[float, float, float]:
    """Luma, chroma and RGB level of noise (T, 3, H, W): RMS around its mean."""
    red, green, blue = difference.double().unbind(1)
    luma = LUMA_WEIGHTS[0] * red + LUMA_WEIGHTS[1] * green + LUMA_WEIGHTS[2] * blue
    parts = (luma[None], torch.stack((red - luma, blue - luma)), torch.stack((red, green, blue)))
    return tuple(float(part.var(dim=(1, 2, 3), correction=0).mean().sqrt()) for part in parts)


def drawn(
    source: Source, random: np.random.Generator, kind: str, sigma: float | None, frames: int
) -> tuple[Tensor, Tensor]:
    """Noisy and clean frames of a random place; sigma None: at random, and clean frames varied."""
    paths = source.clips if random.random() < 0.5 else source.stills
    path = paths[int(random.integers(len(paths)))]
    clean = source.clip(path, random) if path in source.clips else source.still(path, random)
    clean = clean[: LEAD + frames]
    if sigma is None:
        clean = varied(clean, random)
        if random.random() < CLEAN_SHARE:
            return clean[LEAD:], clean[LEAD:]
        sigma = float(np.exp(random.uniform(*np.log(SIGMAS))))
    height, width = (side // 2 * 2 for side in clean.shape[-2:])
    return with_noise(kind, clean[..., :height, :width], random, sigma / BYTE_SCALE)


def frames_of(clip: Tensor) -> np.ndarray:
    return clip.permute(0, 2, 3, 1).contiguous().numpy()


def make(arguments: argparse.Namespace) -> None:
    random = np.random.default_rng(arguments.seed)
    source = Source(arguments.clips, arguments.stills, held=arguments.held)
    rows: dict[str, list[Any]] = {}
    for index in range(arguments.count):
        kind = arguments.kinds[index % len(arguments.kinds)]
        # Statistics of one frame matter most, and are made soonest.
        names = (
            ("single", "several")
            if arguments.held and index // len(arguments.kinds) % 3 == 0
            else ("single",)
        )
        frames = FRAMES if "several" in names else 1
        sigma = float(random.choice(CHECKED)) if arguments.held else None
        noisy, clean = drawn(source, random, kind, sigma, frames)
        drawn_cases = [(name, noisy, clean) for name in names]
        if not arguments.held and kind != "compressed":
            # Another strength of the same noise costs little.
            for _ in range(VARIANTS):
                factor = float(np.exp(random.uniform(*np.log(VARIED))))
                drawn_cases.append(("single", clean + factor * (noisy - clean), clean))
        for name, noisy, clean in drawn_cases:
            part = slice(0, 1) if name == "single" else slice(None)
            noisy, clean = noisy[part], clean[part]
            if noisy.min() < 0.0 or noisy.max() > 1.0:
                noisy = rounded(noisy) if kind != "white" else noisy
            found = gather(frames_of(noisy))
            if found is None or len(found.vector) != rows.get(f"{name}.vector", [found.vector])[0].size:
                continue
            rows.setdefault(f"{name}.vector", []).append(found.vector)
            rows.setdefault(f"{name}.base", []).append([found.luma_base, found.chroma_base, found.luma_base])
            rows.setdefault(f"{name}.truth", []).append(levels_of(noisy - clean))
            rows.setdefault(f"{name}.kind", []).append(KINDS.index(kind))
        if index % 20 == 19 or index == arguments.count - 1:
            np.savez(arguments.output, **{name: np.array(values) for name, values in rows.items()})
            print(index + 1, file=sys.stderr, flush=True)


class Learner(torch.nn.Module):
    """`Networks` while they learn."""

    def __init__(self, features: int, hidden: int, count: int) -> None:
        super().__init__()

        def weights(inputs: int, outputs: int, gain: float) -> torch.nn.Parameter:
            values = torch.randn(count, inputs + 1, outputs) * gain / inputs**0.5
            values[:, -1] = 0.0
            return torch.nn.Parameter(values)

        self.first, self.second = weights(features, hidden, 1.4), weights(hidden, hidden, 1.4)
        self.last = weights(hidden, 6, 0.1)

    def forward(self, values: Tensor, drop: float) -> Tensor:
        """(n, batch, 6) of values (n, batch, features)."""
        hidden = F.dropout(values, drop, self.training)
        for layer in (self.first, self.second):
            hidden = F.dropout((hidden @ layer[:, :-1] + layer[:, -1:]).relu(), drop, self.training)
        return hidden @ self.last[:, :-1] + self.last[:, -1:]


def learn(arguments: argparse.Namespace) -> None:
    from safetensors.numpy import save_file

    files = [np.load(path) for path in arguments.cases]
    vectors, base, truth = (
        np.concatenate([file[f"single.{part}"] for file in files]) for part in ("vector", "base", "truth")
    )
    print(len(vectors), "cases", file=sys.stderr)
    target = 0.5 * np.log((truth**2 + NONE**2) / (base**2 + NONE**2))
    torch.manual_seed(0)
    mean, scale = np.median(vectors, axis=0), vectors.std(axis=0) + 1e-3
    values = torch.from_numpy(((vectors - mean) / scale).clip(-FARTHEST, FARTHEST)).float()
    wanted = torch.from_numpy(target).float()
    kept = torch.arange(len(values))
    learner = Learner(values.shape[1], arguments.hidden, arguments.networks)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=arguments.rate, weight_decay=arguments.decay)
    steps = arguments.epochs * len(kept) // arguments.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, arguments.rate, steps)
    for step in range(steps):
        chosen = kept[torch.randint(len(kept), (arguments.networks, arguments.batch))]
        outputs = learner(values[chosen], arguments.dropout)
        error = (outputs[..., :3] - wanted[chosen]).abs()
        loss = (error * (-outputs[..., 3:]).exp() + outputs[..., 3:]).mean() + arguments.plain * error.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 1000 == 0 or step == steps - 1:
            print(step, f"{float(error.mean()):.4f}", file=sys.stderr, flush=True)
    parts = (
        mean,
        scale,
        *(weights.detach().numpy() for weights in (learner.first, learner.second, learner.last)),
    )
    named = zip(Networks._fields, parts, strict=True)
    save_file(
        {part: np.ascontiguousarray(value, dtype=np.float16) for part, value in named}, arguments.output
    )
    if arguments.validate:
        validate(arguments.validate, arguments.output)


def validate(cases: Path, weights: Path) -> None:
    """Tell how often the levels of cases that `make --held` made come out within 15 %."""
    from safetensors.numpy import load_file

    known, tensors = dict(np.load(cases)), load_file(weights)
    networks = Networks(*(tensors[part].astype(np.float32) for part in Networks._fields))
    for name in ("single", "several"):
        vectors, base, truth, kinds = (
            known[f"{name}.{part}"] for part in ("vector", "base", "truth", "kind")
        )
        corrections = np.array([networks(vector[: len(networks.mean)])[0] for vector in vectors])
        found = np.sqrt(((base**2 + NONE**2) * np.exp(2 * corrections) - NONE**2).clip(0))
        close = np.abs(found / np.maximum(truth, 1e-6) - 1) <= WITHIN
        counted = (truth[:, 0] * BYTE_SCALE >= 0.6) & (truth[:, 1] > 0.2 / BYTE_SCALE)
        for index, kind in enumerate(KINDS):
            mine = counted & (kinds == index)
            if not mine.any():
                continue
            ratio = np.quantile(found[mine, 0] / truth[mine, 0], (0.1, 0.5, 0.9)).round(2)
            print(
                name, f"{kind:15} {mine.sum():4}", close[mine].mean(axis=0).round(2), ratio, file=sys.stderr
            )
        for low, high in pairwise((0.6, 1.5, 3.0, 6.0, 15.0, 60.0)):
            mine = counted & (truth[:, 0] * BYTE_SCALE >= low) & (truth[:, 0] * BYTE_SCALE < high)
            print(
                name, f"{low:g} to {high:g}", mine.sum(), close[mine].mean(axis=0).round(2), file=sys.stderr
            )
        print(name, "all", close[counted].mean(axis=0).round(3), file=sys.stderr)


def pairs(folder: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, noisy and clean picture (1, 3, H, W) of NAME_real.* and NAME_mean.*."""
    for real in sorted(folder.rglob("*_real.*")):
        both = [cv2.imread(str(path)) for path in (real, real.with_name(real.name.replace("_real", "_mean")))]
        noisy, clean = (
            torch.from_numpy(one[..., ::-1].copy()).permute(2, 0, 1)[None].float() / BYTE_SCALE
            for one in both
        )
        yield real.name.split("_real")[0], noisy, clean


def check(arguments: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []

    def measure(kind: str, name: str, noisy: Tensor, clean: Tensor) -> None:
        true, began = levels_of(noisy - clean), time.process_time()
        found = measure_levels(frames_of(noisy))
        rows.append(
            {
                "kind": kind,
                "name": name,
                "frames": len(noisy),
                "true": [BYTE_SCALE * level for level in true],
                "measured": [BYTE_SCALE * level for level in (found.luma, found.chroma, found.rgb)],
                "over high frequencies": found.ratio,
                "shared": found.neighbours_share,
                "expected error": found.error,
                "seconds": time.process_time() - began,
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)

    if arguments.clips and arguments.stills:
        source = Source(arguments.clips, arguments.stills, held=True)
        random = np.random.default_rng(arguments.seed)
        for index in range(arguments.count):
            kind = KINDS[index % len(KINDS)]
            sigma = CHECKED[index // len(KINDS) % len(CHECKED)]
            noisy, clean = drawn(source, random, kind, sigma, FRAMES)
            for frames in (1, FRAMES):
                measure(kind, f"{sigma:g}", noisy[:frames], clean[:frames])
                if index % len(KINDS) == 0:
                    measure("none", "", clean[:frames], clean[:frames])
    for folder in arguments.pairs:
        for name, noisy, clean in pairs(folder):
            measure(folder.name, name, noisy, clean)
    summary: dict[str, Any] = {}
    for kind, frames in sorted({(row["kind"], row["frames"]) for row in rows}):
        mine = [row for row in rows if (row["kind"], row["frames"]) == (kind, frames)]
        true, measured = (np.array([row[name] for row in mine]) for name in ("true", "measured"))
        part: dict[str, Any] = {
            "cases": len(mine),
            "seconds": float(np.mean([row["seconds"] for row in mine])),
        }
        if kind == "none":
            part |= {
                "largest": measured.max(axis=0).tolist(),
                "below 0.5": (measured < 0.5).mean(axis=0).tolist(),
            }
        else:
            # Noise whose colour is none has no level of colour to be right about.
            known = true > LEAST
            ratios = np.where(known, measured, 1.0) / np.where(known, true, 1.0)
            close = np.abs(ratios - 1.0) <= WITHIN
            for plane, name in enumerate(("luma", "chroma", "rgb")):
                seen = ratios[known[:, plane], plane]
                if not len(seen):
                    continue
                part[name] = {
                    "within 15 %": float(close[known[:, plane], plane].mean()),
                    "ratio at 10, 50, 90 %": np.quantile(seen, (0.1, 0.5, 0.9)).tolist(),
                    "0.75 to 1.35": float(((seen >= 0.75) & (seen <= 1.35)).mean()),
                }
            part["shared"] = float(np.mean([row["shared"] for row in mine]))
        summary[f"{kind}, {frames} frame{'s' * (frames > 1)}"] = part
    print(json.dumps({"summary": summary, "rows": rows} if arguments.rows else summary, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("make")
    command.add_argument("output", type=Path)
    command.add_argument("--count", type=int, default=4000)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--held", action="store_true", help="of the held-out clips and stills, as `check` takes them"
    )
    command.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    command.set_defaults(run=make)
    command.add_argument("--clips", type=Path, required=True)
    command.add_argument("--stills", type=Path, required=True)
    command = commands.add_parser("learn")
    command.add_argument("cases", type=Path, nargs="+")
    command.add_argument("--output", type=Path, required=True)
    command.add_argument("--hidden", type=int, default=64)
    command.add_argument("--networks", type=int, default=3)
    command.add_argument("--epochs", type=int, default=150)
    command.add_argument("--batch", type=int, default=256)
    command.add_argument("--rate", type=float, default=2e-3)
    command.add_argument("--decay", type=float, default=0.02)
    command.add_argument("--dropout", type=float, default=0.1)
    command.add_argument("--plain", type=float, default=1.0)
    command.add_argument("--validate", type=Path, help="cases of `make --held`")
    command.set_defaults(run=learn)
    command = commands.add_parser("check")
    command.add_argument("--clips", type=Path)
    command.add_argument("--stills", type=Path)
    command.add_argument("--pairs", type=Path, nargs="*", default=[])
    command.add_argument("--count", type=int, default=20 * len(KINDS) * len(CHECKED))
    command.add_argument("--seed", type=int, default=5)
    command.add_argument("--rows", action="store_true", help="print every measurement, too")
    command.set_defaults(run=check)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
