"""The small networks that tests run: the structure of the models at a few channels."""

import dataclasses

from stbn_cli.models.config import MODEL_SIZES, STBNConfig


def narrowed(config: STBNConfig) -> STBNConfig:
    """The same structure with few channels and blocks."""
    return dataclasses.replace(
        config,
        channels=8,
        blocks=1,
        fusion_channels=8,
        fusion_blocks=1,
        expansion_channels=16,
        expansion_blocks=1,
    )


TINY = narrowed(MODEL_SIZES["stbn-xs"])
