"""`python -m reproduction [NAME …]` measures the founding programme again."""

import sys
from collections.abc import Callable

from bilens import cli


def main() -> int:
    """Run the programme and return the exit status: 0, 2 after bad input, 130 after Ctrl-C."""
    return cli.run(
        _reproduce,
        sys.argv[1:],
        program="python -m reproduction",
        example="python -m reproduction svd --seeds 5 --out runs/reproduce",
    )


def _reproduce() -> Callable[..., object]:
    from reproduction.reproduce import reproduce

    return reproduce


if __name__ == "__main__":
    sys.exit(main())
