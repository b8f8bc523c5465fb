"""Optical flow of noisy frames: error on rendered motion, and how well a frame predicts its neighbour.

    python benchmarks/flow.py CLIP... [--model weights/flow-light.safetensors] [--sigma 0,10,30,50]

CLIP is anything OpenCV reads and no flow network was trained on. Rendered motion moves over the clips' first frames
(rotation, zoom, two layers; 256x256), so the true flow is known: mean end-point error in pixels where the target can be
seen. On the clips themselves (the middle 256x256 of the first 6 frames) the clean neighbour is warped by the flow that
was found on the noisy frames: PSNR in dB against the clean frame. Compared: no motion, DIS as stbn uses it, and the
network. Prints a table, and one JSON document as the last line.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from stbn_cli.checkpoints.flow import load_flow_checkpoint
from stbn_cli.checkpoints.store import find_flow
from stbn_cli.flow.estimator import FlowEstimator, create_flow_estimator
from stbn_cli.training.footage import Footage, load_clip
from stbn_cli.training.validation import CLIP_FRAMES, crop_clips, validate_flow


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, help="a flow checkpoint; default: the one that comes with stbn")
    parser.add_argument("--sigma", default="0,10,30,50", help="noise levels, 0-255 scale")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    sigmas = [float(word) for word in arguments.sigma.split(",")]
    frames = [torch.from_numpy(load_clip(clip, CLIP_FRAMES)).permute(0, 3, 1, 2) for clip in arguments.clips]
    clips = crop_clips(Footage(frames, [clip.name for clip in arguments.clips]))
    estimators: dict[str, FlowEstimator] = {name: create_flow_estimator(name) for name in ("none", "dis")}
    checkpoint = load_flow_checkpoint(arguments.model or find_flow())
    estimators[checkpoint.info.name] = create_flow_estimator(
        checkpoint.info.flow, checkpoint.build().to(arguments.device)
    )
    results = {}
    print(f"{'flow':12} {'sigma':>6} {'end-point error, px':>20} {'warping PSNR, dB':>18}")
    for name, estimator in estimators.items():
        begun = time.perf_counter()
        row = validate_flow(estimator, clips, sigmas, arguments.device).row
        results[name] = {**row, "seconds": time.perf_counter() - begun}
        for sigma in (f"{value:g}" for value in sigmas):
            error, score = row["end_point_error"][sigma], row["warp_psnr"][sigma]  # type: ignore[index]
            print(f"{name:12} {sigma:>6} {error:20.3f} {score:18.2f}")
    print(json.dumps({"clips": [clip.name for clip in arguments.clips], "results": results}))


if __name__ == "__main__":
    main()
