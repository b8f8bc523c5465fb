"""`python -m stbn_cli` is the same as `stbn`."""

import sys

from stbn_cli.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
