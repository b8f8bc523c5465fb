"""The command as a process that gets a signal at a moment of its own work, whatever the machine's speed."""

import signal
import subprocess
import sys

PROGRAM = """
import functools, importlib, os, sys
from stbn_cli.cli.app import main

number, place, left = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.argv[1:] = sys.argv[4:]
module, _, path = place.partition(":")
*owners, name = path.split(".")
owner = functools.reduce(getattr, owners, importlib.import_module(module))
original = getattr(owner, name)

@functools.wraps(original)
def counted(*arguments, **options):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), number)
    return original(*arguments, **options)

setattr(owner, name, counted)
sys.exit(main())
"""


def signalled(
    number: signal.Signals, place: str, count: int, *arguments: object
) -> subprocess.CompletedProcess[str]:
    """Run `stbn arguments`, which gets the signal when it calls `place` ("module:function") for the time `count`."""
    command = [sys.executable, "-c", PROGRAM, int(number), place, count, *arguments]
    return subprocess.run([str(word) for word in command], stderr=subprocess.PIPE, text=True, check=False)
