"""The scale on which people state noise levels and differences, and 8-bit files store them; the engine's is [0, 1]."""

BYTE_SCALE = 255.0


def to_unit(level: float | None) -> float | None:
    """A noise level on [0, 1] of one on the 0-255 scale; None stays None."""
    return None if level is None else level / BYTE_SCALE
