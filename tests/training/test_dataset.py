"""Sequences are what they claim: repeatable, moving, and within the footage."""

import itertools

import pytest
import torch
from torch import Tensor

from stbn_cli.flow.clip import estimate_clip_flows
from stbn_cli.flow.dis import DisFlow
from stbn_cli.models.warp import warp_nearest
from stbn_cli.training.dataset import SequenceOptions, SequenceSource
from stbn_cli.training.footage import Footage
from tests.training.pictures import photograph


def source_of(footage: Footage, **changes: object) -> SequenceSource:
    values: dict[str, object] = {"frames": 4, "size": 64, "still_share": 0.5, "seed": 3}
    return SequenceSource(footage, SequenceOptions(**{**values, **changes}), "cpu")  # type: ignore[arg-type]


def panned(frames: int = 12) -> Tensor:
    """A clip (T, 3, 120, 160) that moves by (2, 1) pixels a frame."""
    still = photograph(200, 240)
    return torch.stack([still[:, t : t + 120, 2 * t : 2 * t + 160] for t in range(frames)])


def test_sequences_depend_on_their_number_alone() -> None:
    footage = Footage([panned()], ["a"], [photograph(300, 300)])
    one, other = source_of(footage), source_of(footage)
    other.sequence(7)
    for number in range(8):
        assert torch.equal(one.sequence(number), other.sequence(number))
    assert not torch.equal(one.sequence(5), one.sequence(6))
    assert torch.equal(one.batch(range(2, 4))[1], one.sequence(3))
    sigma, noise = one.noise(5, torch.zeros(2, 3), (0.1, 0.2))
    again, same = other.noise(5, torch.zeros(2, 3), (0.1, 0.2))
    assert sigma == again and 0.1 <= sigma <= 0.2 and torch.equal(noise, same)


def test_both_kinds_of_footage_are_used_as_often_as_asked() -> None:
    black = torch.zeros(6, 3, 100, 100, dtype=torch.uint8)
    footage = Footage([black], ["black"], [torch.full((3, 100, 100), 255, dtype=torch.uint8)])
    source = source_of(footage, still_share=0.25, size=32)
    rendered = sum(float(source.sequence(number).mean()) > 0.5 for number in range(200))
    assert 30 <= rendered <= 70


def test_noise_is_white_and_of_unit_variance() -> None:
    source = source_of(Footage(stills=[photograph()]))
    _, noise = source.noise(0, torch.zeros(4, 3, 96, 96), (0.1, 0.1))
    assert float(noise.std()) == pytest.approx(1.0, rel=0.02)
    for axis in (-1, -2, -3, -4):
        neighbours = (
            noise.narrow(axis, 1, noise.shape[axis] - 1),
            noise.narrow(axis, 0, noise.shape[axis] - 1),
        )
        assert abs(float((neighbours[0] * neighbours[1]).mean())) < 0.02


def test_neighbouring_frames_can_be_aligned() -> None:
    source = source_of(Footage([panned()], ["a"], [photograph(400, 500)]), size=96)
    still = aligned = 0.0
    for number in range(8):
        frames = source.sequence(number)
        to_previous, _ = estimate_clip_flows(DisFlow(), frames)
        warped = warp_nearest(frames[:-1], to_previous[1:])
        inner = (..., slice(16, -16), slice(16, -16))
        still += float((frames[1:] - frames[:-1])[inner].square().mean())
        aligned += float((frames[1:] - warped)[inner].square().mean())
    assert aligned < 0.3 * still


def test_clips_shorter_than_a_sequence_play_forth_and_back() -> None:
    clip = torch.stack([torch.full((3, 80, 80), 40 * t, dtype=torch.uint8) for t in range(3)])
    source = source_of(Footage([clip], ["a"]), frames=6)
    for number in range(6):
        levels = source.sequence(number).mean((2, 3)) * 255  # (T, 3), perhaps through a colour filter
        steps = [float((a - b).abs().max()) for a, b in itertools.pairwise(levels)]
        assert all(20 < step <= 41 for step in steps), steps


def test_without_augmentation_crops_are_the_footage_itself() -> None:
    clip = panned()
    source = source_of(Footage([clip], ["a"]), augment=False, frames=3)
    patches = clip.float() / 255
    for number in range(5):
        crop = source.sequence(number)
        corner = crop[1, :, 0, 0]
        found = (patches[:, :, :57, :97] == corner[None, :, None, None]).all(1).nonzero()
        assert any(
            torch.equal(patches[t, :, top : top + 64, left : left + 64], crop[1])
            for t, top, left in found.tolist()
        )
