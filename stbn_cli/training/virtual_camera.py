"""Photographs under smooth random camera motion: translation, rotation, zoom, and two layers with parallax.

Everything is drawn on the CPU as a few numbers and rendered on the photographs' device, and the true motion is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stbn_cli.inference.transfer import upload
from stbn_cli.scale import BYTE_SCALE

# Ranges of the motion, per frame.
SPEED_RANGE = (0.2, 14.0)  # pixels, drawn log-uniformly
ACCELERATION = 0.15  # share of the speed
ROTATION = 0.012  # radians, standard deviation
ZOOM = 0.008  # relative, standard deviation
# Photograph pixels per rendered pixel at the start. Little more than one, or the sampling would alias.
SCALE_RANGE = (0.7, 1.15)
FOREGROUND_SHARE = 0.5  # of the scenes have a second layer
MATTE_CELL = 48  # pixels of the photograph between the random values that shape the foreground
MATTE_THRESHOLD_RANGE = (-0.3, 0.6)  # of values with standard deviation one


@dataclass(frozen=True, slots=True)
class Layer:
    """A photograph `(3, H, W)` uint8 and where the camera looks: `(T, 2, 3)` from rendered to photograph pixels."""

    still: Tensor
    views: np.ndarray


@dataclass(frozen=True, slots=True)
class VirtualScene:
    """What moves before the camera, ready to be rendered as square frames."""

    size: int  # pixels
    background: Layer
    foreground: Layer | None = None
    matte: Tensor | None = (
        None  # (h, w): the foreground shows where this, spread over its photograph, is positive
    )

    @property
    def frames(self) -> int:
        return len(self.background.views)


def draw_scene(stills: Sequence[Tensor], frames: int, size: int, random: np.random.Generator) -> VirtualScene:
    """A random scene over random photographs, each turned or flipped at random."""
    background = _draw_layer(stills, frames, size, random)
    if random.random() >= FOREGROUND_SHARE:
        return VirtualScene(size, background)
    foreground = _draw_layer(stills, frames, size, random)
    height, width = foreground.still.shape[-2:]
    cells = (height // MATTE_CELL + 2, width // MATTE_CELL + 2)
    values = random.standard_normal(cells, dtype=np.float32) - random.uniform(*MATTE_THRESHOLD_RANGE)
    return VirtualScene(size, background, foreground, torch.from_numpy(values))


def render(scene: VirtualScene) -> tuple[Tensor, Tensor | None]:
    """Frames `(T, 3, size, size)` float32 on [0, 1] and the foreground's share `(T, 1, size, size)` of each pixel.

    On the photographs' device; content outside a photograph is mirrored.
    """
    frames = _sample(scene.background.still, _view_grid(scene.background, scene.size)) / BYTE_SCALE
    if scene.foreground is None or scene.matte is None:
        return frames.clamp_(0.0, 1.0), None
    grid = _view_grid(scene.foreground, scene.size)
    # So steep that the edge of the foreground is about as soft as a camera's.
    alpha = torch.sigmoid(2.0 * MATTE_CELL * _sample(upload(scene.matte[None], frames.device), grid))
    frames = torch.lerp(frames, _sample(scene.foreground.still, grid) / BYTE_SCALE, alpha)
    return frames.clamp_(0.0, 1.0), alpha


def true_flow(scene: VirtualScene, alpha: Tensor | None, first: int, second: int) -> tuple[Tensor, Tensor]:
    """Motion from frame `first` to frame `second` and where it can be seen.

    `alpha` as `render` gives it. Returns the flow `(2, size, size)` float32 in pixels, (dx, dy), and whether the
    target lies in the picture and shows the same layer, `(size, size)` bool.
    """
    flow = _layer_flow(scene.background, first, second, scene.size)
    if scene.foreground is None or alpha is None:
        return flow, _inside(flow)
    front = alpha[first, 0] > 0.5
    flow = torch.where(front, _layer_flow(scene.foreground, first, second, scene.size), flow)
    rows, columns = _pixels(scene.size, alpha.device)
    target = torch.stack((columns + flow[0], rows + flow[1]), -1) * (2.0 / (scene.size - 1)) - 1.0
    there = F.grid_sample(alpha[second][None], target[None], align_corners=True)[0, 0]
    # Edges count for neither layer.
    same = torch.where(front, there > 0.95, there < 0.05) & ((alpha[first, 0] - 0.5).abs() > 0.45)
    return flow, _inside(flow) & same


def _draw_layer(stills: Sequence[Tensor], frames: int, size: int, random: np.random.Generator) -> Layer:
    still = stills[int(random.integers(len(stills)))]
    still = torch.rot90(still, int(random.integers(4)), (1, 2))
    if random.random() < 0.5:
        still = still.flip(2)
    height, width = still.shape[-2:]
    scale = float(np.exp(random.uniform(*np.log(SCALE_RANGE))))
    direction, turn = random.uniform(0, 2 * np.pi, size=2)
    speed = scale * float(np.exp(random.uniform(*np.log(SPEED_RANGE))))
    velocity = speed * np.array([np.cos(direction), np.sin(direction)])
    acceleration = ACCELERATION * speed * np.array([np.cos(turn), np.sin(turn)])
    rotation, zoom = random.normal(0, ROTATION), random.normal(0, ZOOM)
    # Near the middle rather than beyond the photograph's edge, as far as it is large enough.
    margins = np.minimum(scale * size / 2, np.array([width, height]) / 2)
    centre = random.uniform(margins, np.array([width, height]) - margins)
    angle = random.uniform(-0.2, 0.2)
    views = np.empty((frames, 2, 3), np.float32)
    for t in range(frames):
        views[t] = _view(centre, angle + rotation * t, scale * (1.0 + zoom) ** t, size)
        centre = centre + velocity
        velocity = velocity + acceleration
    return Layer(still, views)


def _view(centre: np.ndarray, angle: float, scale: float, size: int) -> np.ndarray:
    """2x3 matrix from rendered pixels to photograph pixels, `centre` being shown in the middle."""
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    middle = np.full(2, (size - 1) / 2)
    return np.hstack((linear, (centre - linear @ middle)[:, None]))


def _pixels(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of a square frame's pixels, `(size, size)` float32 each."""
    side = torch.arange(size, dtype=torch.float32, device=device)
    rows, columns = torch.meshgrid(side, side, indexing="ij")
    return rows, columns


def _view_grid(layer: Layer, size: int) -> Tensor:
    """Where every frame's pixels lie on the photograph, `(T, size, size, 2)` on [-1, 1] as grid_sample has it."""
    device = layer.still.device
    height, width = layer.still.shape[-2:]
    views = layer.views * (2.0 / np.array([[width - 1], [height - 1]]))
    views[..., 2] -= 1.0
    rows, columns = _pixels(size, device)
    # Written out: a matrix product may run in half precision, which is pixels off.
    matrix = upload(torch.from_numpy(views.astype(np.float32)), device)[:, None, None]
    return matrix[..., 0] * columns[..., None] + matrix[..., 1] * rows[..., None] + matrix[..., 2]


def _sample(picture: Tensor, grid: Tensor) -> Tensor:
    """`picture (C, h, w)` at `grid (T, size, size, 2)`: `(T, C, size, size)` float32."""
    pictures = picture.float().expand(len(grid), -1, -1, -1)
    return F.grid_sample(pictures, grid, mode="bicubic", padding_mode="reflection", align_corners=True)


def _layer_flow(layer: Layer, first: int, second: int, size: int) -> Tensor:
    """Motion `(2, size, size)` of a layer's content: through the photograph and back into the other frame."""
    to_photograph, to_second = (_square(layer.views[t]) for t in (first, second))
    motion = np.linalg.inv(to_second) @ to_photograph - np.eye(3)
    matrix = upload(torch.from_numpy(motion[:2].astype(np.float32)), layer.still.device)
    rows, columns = _pixels(size, layer.still.device)
    return matrix[:, 0, None, None] * columns + matrix[:, 1, None, None] * rows + matrix[:, 2, None, None]


def _square(view: np.ndarray) -> np.ndarray:
    return np.vstack((view.astype(np.float64), (0.0, 0.0, 1.0)))


def _inside(flow: Tensor) -> Tensor:
    """Whether the targets of `flow (2, size, size)` lie in the picture."""
    size = flow.shape[-1]
    rows, columns = _pixels(size, flow.device)
    x, y = columns + flow[0], rows + flow[1]
    return (x >= 0) & (x <= size - 1) & (y >= 0) & (y <= size - 1)
