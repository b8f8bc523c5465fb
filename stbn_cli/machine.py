"""Memory and processor cores of this machine. Knows nothing of torch, so that it costs nothing to ask."""

import sys

import psutil

_sharers = 1


def share_memory(processes: int) -> None:
    """From now on this process takes for free what remains for each of so many that work beside each other."""
    global _sharers
    _sharers = max(processes, 1)


def free_memory() -> int:
    """Bytes the system could give to this process without swapping."""
    return psutil.virtual_memory().available // _sharers


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(psutil.Process, "cpu_affinity"):  # not on macOS, where processes are not bound to cores
        return len(psutil.Process().cpu_affinity())
    return psutil.cpu_count() or 1


def peak_memory() -> int | None:
    """Bytes of resident memory at their highest so far, or since `reset_peak_memory`; None where none is known."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            for line in file:
                # Not getrusage, whose peak a new program inherits from the one that started it. psutil has none.
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory() -> None:
    """Begin anew with what is resident now; does nothing where the system is not Linux."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass
