"""What the shell offers for options whose values have names."""


def complete_models() -> list[tuple[str, str]]:
    """Names that --model takes, and what they are."""
    from stbn_cli.checkpoints.registry import AUTO, load_registry

    rows = [(AUTO, "the model for the noise that is measured")]
    return rows + [
        (spec.name, spec.description) for spec in load_registry().values() if spec.kind == "denoiser"
    ]


def complete_kinds() -> list[str]:
    """Values of --noise-model."""
    from stbn_cli.noise.kinds import KINDS

    return ["auto", *KINDS]


def complete_codecs() -> list[str]:
    """Values of --codec."""
    from stbn_cli.video.encoders import FAMILIES, HARDWARE_ENCODERS

    return [*FAMILIES, *HARDWARE_ENCODERS]


def complete_speeds() -> list[str]:
    """Values of --preset."""
    from stbn_cli.video.encoders import X26X_PRESETS

    return list(X26X_PRESETS)


def complete_presets() -> list[str]:
    """Names of the presets in the config file that is found without being named."""
    from stbn_cli.cli.config import find_config, read_config
    from stbn_cli.errors import OptionError

    try:
        found = find_config(None)
        return [] if found is None else list(read_config(found).presets)
    except OptionError:
        return []
