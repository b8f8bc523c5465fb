"""The denoising networks that the engine runs: what it calls them, whichever they are.

A network has a `config`, and the steps `advance`, `advance_both`, `align` and `fuse`.
"""

from typing import TypeAlias

from stbn_cli.models.config import RecurrentConfig, STBNConfig
from stbn_cli.models.recurrent import Recurrent
from stbn_cli.models.stbn import STBN

Network: TypeAlias = STBN | Recurrent
NetworkConfig: TypeAlias = STBNConfig | RecurrentConfig
# What model files call them.
NETWORKS: dict[str, tuple[type[STBNConfig], type[STBN]] | tuple[type[RecurrentConfig], type[Recurrent]]] = {
    "stbn": (STBNConfig, STBN),
    "recurrent": (RecurrentConfig, Recurrent),
}


def build(config: NetworkConfig) -> Network:
    """A new network of this shape, with random weights."""
    return STBN(config) if isinstance(config, STBNConfig) else Recurrent(config)


def name_of(config: NetworkConfig) -> str:
    """What model files call the network of this shape."""
    return next(name for name, (kind, _) in NETWORKS.items() if isinstance(config, kind))
