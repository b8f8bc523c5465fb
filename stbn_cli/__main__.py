"""`python -m stbn_cli` is the same as `stbn`."""

import sys

from stbn_cli.cli.app import run

if __name__ == "__main__":
    sys.exit(run())
