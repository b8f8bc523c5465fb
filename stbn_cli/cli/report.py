"""What a run tells: before it (the plan), at its end (one line, or a document), and its warnings."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stbn_cli.cli.progress import clock
from stbn_cli.jobs.events import Events
from stbn_cli.scale import BYTE_SCALE
from stbn_cli.words import counted

if TYPE_CHECKING:
    from stbn_cli.analysis.analysis import Analysis
    from stbn_cli.jobs.denoise import DenoiseResult
    from stbn_cli.jobs.encoding import Encoding
    from stbn_cli.jobs.model import LoadedDenoiser
    from stbn_cli.pipeline import DenoiseSummary
    from stbn_cli.video.frames import VideoMetadata
    from stbn_cli.video.reader import FrameCount


@dataclass(frozen=True, slots=True)
class RunReport:
    """What is said of a denoiser and what it is about to denoise, or has denoised."""

    source: str
    output: str
    metadata: "VideoMetadata"
    encoding: "Encoding"
    sigma: float | None  # as asked for, 0-255 scale; None: estimated
    denoiser: "LoadedDenoiser"
    events: Events
    measured: "Analysis | None"  # the clip's noise; None where it was not measured

    def plan(self, counted: "FrameCount | None" = None) -> dict[str, Any]:
        """What would be done, as plain values; counted: the frames, where that was found out."""
        rate = self.metadata.average_rate
        return {
            "input": self.source,
            "output": self.output,
            "frames": self.metadata.frame_count if counted is None else counted.frames,
            "frames_exact": counted is not None and counted.exact,
            "input_fps": None if rate is None else round(float(rate), 4),
            "input_size": f"{self.metadata.width}x{self.metadata.height}",
            "input_format": self.metadata.pixel_format,
            "field_order": self.metadata.field_order,
            "bayer": self._bayer(),
            "raw_noise_given": getattr(self.denoiser, "given_noise", None) is not None,
            "by_fields": self.metadata.by_fields,
            "encoding": self.encoding.describe(),
            "sigma": "auto" if self.sigma is None else self.sigma,
            "noise": self.noise(),
            "quality": self.denoiser.requested.quality,
            **self._shares(),
            **self._engine(),
            "warnings": self.events.warnings,
        }

    def result(self, summary: "DenoiseSummary", *, verbose: bool = False) -> dict[str, Any]:
        """What was done, as plain values; verbose: with what the network was conditioned on."""
        report = self.denoiser.report
        return {
            "input": self.source,
            "output": self.output,
            "frames": summary.frames,
            "seconds": round(summary.seconds, 3),
            "fps": round(summary.frames_per_second, 3),
            "encoding": self.encoding.describe(),
            "by_fields": self.metadata.by_fields,
            **self._shares(),
            **self._engine(),
            "noise": self.noise(),
            "raw_noise": self.raw_noise(),
            "scenes": self.scenes(conditioning=verbose),
            "repeated_frames": report.repeated_frames,
            "damage": {
                "missing_frames": summary.damage.missing,
                "concealed_frames": summary.damage.concealed,
            },
            "fp32_chunks": report.fp32_chunks,
            "replans": report.replans,
            "warnings": self.events.warnings,
        }

    def noise(self) -> dict[str, Any] | None:
        """The clip's noise as `stbn analyze` has it; None where it was not measured."""
        return None if self.measured is None else self.measured.summary()

    def raw_noise(self) -> dict[str, Any] | None:
        """Gain and floor of raw pictures' noise, in the camera's values; None of video, and before it is known."""
        noise, bayer = getattr(self.denoiser, "raw_noise", None), self.metadata.bayer
        if noise is None or bayer is None:
            return None
        gain, floor = noise.in_values(bayer.white - max(bayer.blacks))
        given = getattr(self.denoiser, "given_noise", None) is not None
        return {"gain": float(f"{gain:.5g}"), "floor": float(f"{floor:.5g}"), "estimated": not given}

    def scenes(self, *, conditioning: bool = False) -> list[dict[str, Any]]:
        """The scenes found, with noise levels on the 0-255 scale.

        conditioning: also what the network and the posterior were conditioned on, before `--strength` above 1
        multiplied it.
        """
        found = []
        for scene in self.denoiser.report.scenes:
            row: dict[str, Any] = {
                "first_frame": scene.first_frame,
                "level": round(scene.level, 3),
                "estimated": scene.estimated,
                "learned": scene.learned,
            }
            if conditioning:
                row["conditioning"] = {
                    "level": round(BYTE_SCALE * scene.sigma, 3),
                    "variances": [[BYTE_SCALE**2 * value for value in row] for row in scene.variances],
                }
            found.append(row)
        return found

    def strong_noise(self) -> str | None:
        """A warning if scenes are noisier than the model was trained for; weaker noise does no harm."""
        info = self.denoiser.info
        highest = info.sigma_range[1]
        raw = self.metadata.bayer is not None and info.noise_kind == "raw"
        levels = [scene["level"] for scene in self.scenes() if scene["estimated"] or raw]
        beyond = [level for level in levels if level > highest]
        if not beyond:
            return None
        return (
            f"The noise level reaches {max(beyond):.3g} in {counted(len(beyond), 'scene')}. The model {info.name} was "
            f"trained for up to {highest:g}, so some noise may stay."
        )

    def headline(self) -> str:
        """What is about to be done, in a line."""
        count = self.metadata.frame_count
        frames = "frames" if count is None else f"about {counted(count, 'frame')}"
        fields = ", by fields" if self.metadata.by_fields else ""
        return f"Denoising {self.source}: {frames}{fields}, {self._how()}"

    def summary(self, summary: "DenoiseSummary") -> str:
        """What was done, in a line."""
        missing, concealed = summary.damage.missing, summary.damage.concealed
        repeated = self.denoiser.report.repeated_frames
        damage = (
            f" ({missing} missing and {concealed} repaired because of damage)" if missing or concealed else ""
        )
        repeats = f", {counted(repeated, 'repeat')}" if repeated else ""
        speed = f"in {clock(summary.seconds)} ({summary.frames_per_second:.2f} fps)"
        speed = f"{counted(summary.frames, 'frame')}{damage} {speed}"
        return f"{self.output}: {speed}{repeats}, {self._noise()}, {self._how()}"

    def _bayer(self) -> dict[str, Any] | None:
        bayer = self.metadata.bayer
        if bayer is None:
            return None
        blacks = sorted(set(bayer.blacks)) if len(set(bayer.blacks)) == 1 else list(bayer.blacks)
        return {"pattern": bayer.pattern, "black": blacks, "white": bayer.white}

    def _shares(self) -> dict[str, float]:
        options = self.denoiser.options
        return {name: getattr(options, name) for name in ("strength", "luma", "chroma", "keep_grain")}

    def _engine(self) -> dict[str, Any]:
        denoiser = self.denoiser
        size = self.metadata.height, self.metadata.width
        if self.metadata.bayer is not None:
            size = -(-size[0] // 2), -(-size[1] // 2)  # of the planes
        plan = denoiser.report.plan or denoiser.plan_for(*size)
        return {
            "model": denoiser.model_name,
            "noise_model": denoiser.noise_kind,
            "model_file": str(denoiser.model_path),
            "flow": denoiser.flow_name,
            "device": denoiser.device_names,
            "precision": self._precision(),
            "passes": denoiser.passes,
            "plan": plan.describe(),
        }

    def _how(self) -> str:
        passes = self.denoiser.passes
        several = f" in {passes} passes" if passes > 1 else ""
        return (
            f"model {self.denoiser.model_name} on {self.denoiser.device_names}, {self._precision()}{several}"
        )

    def _precision(self) -> str:
        from stbn_cli.inference.device import precision_name

        return precision_name(self.denoiser.dtype)

    def _noise(self) -> str:
        if self.metadata.bayer is not None:
            noise = self.raw_noise()
            if noise is None:
                return "noise unknown"
            source = "measured" if noise["estimated"] else "given"
            return f"noise variance {noise['gain']:.3g} times the value above black + {noise['floor']:.3g} ({source})"
        if self.sigma is not None:
            return f"noise level {self.sigma:g}"
        scenes = self.scenes()
        learned = bool(scenes) and scenes[0]["learned"]
        if self.measured is not None:
            source = "measured; the model uses what it has learned" if learned else "measured"
            return f"noise level {self.measured.level:.3g} ({source})"
        source = "learned with the model" if learned else "measured"
        levels = sorted(scene["level"] for scene in scenes)
        if not levels:
            return "noise level unknown"
        if len(levels) == 1:
            return f"noise level {levels[0]:.3g} ({source})"
        return f"noise levels {levels[0]:.3g} to {levels[-1]:.3g} ({source}, {len(levels)} scenes)"


def fields(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A document as (name, text) lines, nested names joined by dots, empty ones left out."""
    for name, value in document.items():
        if isinstance(value, dict):
            yield from fields(value, f"{prefix}{name}.")
        elif value is not None and value != []:
            yield prefix + name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def plan_rows(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A plan (`RunReport.plan`, with what the command adds) for people: what, and how."""
    yield "input", plan["input"]
    count = plan["frames"]
    frames = "unknown number of frames" if count is None else counted(count, "frame")
    about = "" if plan["frames_exact"] or count is None else "about "
    rate = "" if plan["input_fps"] is None else f", {plan['input_fps']:g} fps"
    fields = ", interlaced (denoised by fields)" if plan["by_fields"] else ""
    yield "", f"{about}{frames} of {plan['input_size']}{rate}, {plan['input_format']}{fields}"
    yield "output", plan["output"]
    coding = plan["encoding"]
    if "images" in coding:
        yield "", f"images, {coding['images']}"
    else:
        options = "".join(f", {name} {value}" for name, value in (coding["options"] or {}).items())
        yield "", f"{coding['encoder']} in {coding['container']}, {coding['pix_fmt']}{options}"
    grain = plan["film_grain"]
    places = [place for place in ("the video" if grain["in_stream"] else None, grain["table"]) if place]
    if places:
        yield "film grain", f"measured, and written to {' and '.join(places)}"
    noise = plan["noise"]
    given = plan["sigma"]
    bayer = plan["bayer"]
    if bayer is not None:
        black = ", ".join(f"{level:g}" for level in bayer["black"])
        yield "raw", f"{bayer['pattern']}, black {black}, white {bayer['white']:g}"
    level = f"{given:g} (given)" if given != "auto" else "measured for each scene"
    if noise is not None and given == "auto":
        level = f"{noise['level']:.3g} (measured)"
    if bayer is not None:
        yield "noise", "as given" if plan["raw_noise_given"] else "measured in the first frames"
    else:
        yield "noise level", f"{level}, on the 0-255 scale"
    if noise is not None:
        yield "kind of noise", noise["kind"]
    for name, usual in (("strength", 1.0), ("luma", 1.0), ("chroma", 1.0), ("keep_grain", 0.0)):
        if plan[name] != usual:
            yield name.replace("_", " "), f"{plan[name]:g}"
    yield "quality", plan["quality"]
    yield "model", f"{plan['model']} (for {plan['noise_model']} noise), flow {plan['flow']}"
    yield "", plan["model_file"]
    if plan["passes"] > 1:
        yield "passes", str(plan["passes"])
    if plan["adapt_minutes"] is not None:
        yield "adapt", f"finetune the model for {plan['adapt_minutes']:g} minutes first"
    engine = plan["plan"]
    tiles = f"tiles of {engine['tile']} pixels" if engine["tile"] else "whole frames"
    ahead = counted(engine["chunk_overlap"], "frame")
    yield (
        "device",
        f"{plan['device']}, {plan['precision']}, about {engine['estimated_device_mib']} MiB of memory",
    )
    yield "chunks", f"{counted(engine['chunk'], 'frame')} and {ahead} of look-ahead, {tiles}"
    if plan["progress_bytes"] is not None:
        megabytes = plan["progress_bytes"] / 1e6
        yield "kept progress", f"up to {megabytes:.3g} MB beside the output until it is done"
    yield "config file", plan["config"] or "none"


def describe_grain(result: "DenoiseResult") -> dict[str, Any]:
    """What was measured of the grain, on the 0-255 scale, and where it was written."""
    job, grain = result.job, result.summary.grain or ()
    return {
        "in_stream": job.encode.film_grain and bool(grain),
        "table": None if job.grain_table is None or not grain else str(job.grain_table),
        "segments": [
            {
                "start": round(float(segment.start), 6),
                "end": round(float(segment.end), 6),
                **{
                    name: round(value, 3)
                    for name, value in zip(("luma", "cb", "cr"), segment.strengths, strict=True)
                },
                "correlation_right": list(segment.correlation[0]),
                "correlation_below": list(segment.correlation[1]),
            }
            for segment in grain
        ],
    }


def grain_line(grain: dict[str, Any]) -> str:
    """What `describe_grain` found, in a line."""
    levels = [segment["luma"] for segment in grain["segments"]]
    span = f"{min(levels):.3g} to {max(levels):.3g}" if max(levels) > min(levels) else f"{levels[0]:.3g}"
    places = ["in the video"] if grain["in_stream"] else []
    places += [f"in {grain['table']}"] if grain["table"] else []
    return f"Film grain of strength {span} in {counted(len(levels), 'segment')}, {' and '.join(places)}"
