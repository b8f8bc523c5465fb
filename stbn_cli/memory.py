"""How much memory this process has taken at most. Knows nothing of torch, so that it costs nothing to ask."""

import sys


def peak_memory() -> int | None:
    """Bytes of resident memory at their highest so far, or since `reset_peak_memory`; None where nobody tells."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                # Not getrusage, whose peak a new program inherits from the one that started it.
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> None:
    """Begin anew with what is resident now; does nothing where the system is not Linux."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass
