"""`python -m reproduction [NAME …]` measures the founding programme again."""

import importlib
import sys

from bilens import cli

if __name__ == "__main__":
    sys.exit(
        cli.run(
            lambda: importlib.import_module("reproduction.reproduce").reproduce,
            sys.argv[1:],
            program="python -m reproduction",
            example="python -m reproduction svd --seeds 5 --out runs/reproduce",
        )
    )
