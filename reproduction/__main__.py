"""`python -m reproduction [NAME …]` measures the founding programme again."""

import sys

from bilens import cli
from reproduction.reproduce import reproduce

if __name__ == "__main__":
    sys.exit(
        cli.run(
            lambda: reproduce,
            sys.argv[1:],
            program="python -m reproduction",
            example="python -m reproduction svd --seeds 5 --out runs/reproduce",
        )
    )
