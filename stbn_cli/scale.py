"""The scale on which people state noise levels and differences, and 8-bit files store them; the engine's is [0, 1]."""

BYTE_SCALE = 255.0
