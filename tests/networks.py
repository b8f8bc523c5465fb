"""The small network that tests run: the structure of the shipped model at a few channels."""

import dataclasses

from stbn_cli.models.stbn import MODEL_SIZES

TINY = dataclasses.replace(
    MODEL_SIZES["stbn-xs"],
    channels=8,
    blocks=1,
    fusion_channels=8,
    fusion_blocks=1,
    expansion_channels=16,
    expansion_blocks=1,
)
