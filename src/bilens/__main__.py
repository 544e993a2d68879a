"""`python -m bilens` is `bilens`."""

import sys

from bilens.cli import main

if __name__ == "__main__":
    sys.exit(main())
