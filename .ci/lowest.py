"""Print the lowest versions that pyproject.toml allows, one requirement per line; torch as constraints.txt pins it.

Old builds of torch for other machines than the one in constraints.txt bring gigabytes of CUDA libraries.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lowest(requirement: str, constraints: str) -> str:
    """`numpy>=1.26` → `numpy==1.26`."""
    found = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
    if found is None:
        raise SystemExit(f"got requirement {requirement!r}; expected NAME>=VERSION")
    name, version = found.groups()
    if name == "torch":
        version = re.search(r"^torch==(\S+)$", constraints, re.MULTILINE)[1]
    return f"{name}=={version}"


def main() -> None:
    """Print them."""
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    dependencies = ast.literal_eval(re.search(r"^dependencies = (\[.*?^\])", project, re.MULTILINE | re.DOTALL)[1])
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    print("\n".join(lowest(requirement, constraints) for requirement in dependencies))


if __name__ == "__main__":
    main()
