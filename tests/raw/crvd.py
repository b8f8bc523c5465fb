"""A small CRVD made by the tests: folders and names as it ships, noise by its calibration."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from stbn_cli.raw.bayer import unpack
from stbn_cli.raw.crvd import CRVD_FORMAT
from stbn_cli.raw.noise import CRVD_NOISE, add_noise


def write_crvd(
    folder: Path,
    *,
    scenes: Sequence[int] = (7,),
    isos: Sequence[int] = (1600,),
    frames: int = 3,
    draws: int = 1,
    outdoor: Sequence[int] = (),
    nested: bool = False,
    size: tuple[int, int] = (48, 64),
) -> Path:
    """Writes `folder/CRVD_dataset` with mosaics of `size` (H, W), and gives its path."""
    root = folder / "CRVD_dataset"
    for kind, numbers in (("indoor", scenes), ("outdoor", outdoor)):
        for scene in numbers:
            clean = clean_planes(scene, frames, size)
            for iso in isos:
                place = f"scene{scene}/{'ISO' if kind == 'indoor' else 'iso'}{iso}"
                noisy = root / _part(f"{kind}_raw_noisy", scene, nested) / place
                for draw in range(draws if kind == "indoor" else 1):
                    generator = torch.Generator().manual_seed(1000 * scene + 10 * iso + draw)
                    for index, planes in enumerate(add_noise(clean, CRVD_NOISE[iso], generator)):
                        name = f"frame{index + 1}_noisy{draw}" if kind == "indoor" else f"frame{index}"
                        _write(noisy / f"{name}.tiff", planes, size)
                if kind == "indoor":
                    truth = root / _part("indoor_raw_gt", scene, nested) / place
                    for index, planes in enumerate(clean):
                        _write(truth / f"frame{index + 1}_clean_and_slightly_denoised.tiff", planes, size)
                        _write(truth / f"frame{index + 1}_clean.tiff", planes, size)
    return root


def clean_planes(scene: int, frames: int, size: tuple[int, int]) -> torch.Tensor:
    """Moving texture `(T, 4, H / 2, W / 2)` float32, black 0 and white 1."""
    random = np.random.default_rng(scene)
    height, width = size[0] // 2, size[1] // 2
    texture = cv2.resize(random.random((6, 8, 4)), (width + frames, height), interpolation=cv2.INTER_CUBIC)
    texture = (0.05 + 0.6 * texture.clip(0, 1)).astype(np.float32)
    clip = np.stack([texture[:, index : index + width] for index in range(frames)])
    return torch.from_numpy(clip).permute(0, 3, 1, 2).contiguous()


def _part(name: str, scene: int, nested: bool) -> Path:
    return Path(name, f"{name}_scene{scene}") if nested else Path(name)


def _write(path: Path, planes: torch.Tensor, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mosaic = np.rint(unpack(planes.numpy(), CRVD_FORMAT, size)).clip(0, CRVD_FORMAT.white)
    assert cv2.imwrite(str(path), mosaic.astype(np.uint16))
