"""Print constraints.txt for the environment this runs in: every package at its exact version, with a marker when it
needs a newer Python than bilens does."""

import re
from importlib.metadata import distributions

OURS = "3.10"
SKIPPED = {"bilens", "pip", "setuptools", "wheel"}
HEADER = f"""\
# Exact versions for the Makefile (`make constraints` writes this file). Users of the library are held by the lower
# bounds in pyproject.toml alone. A package that has left Python {OURS} behind is held only where it can be installed.
"""

lines = {}
for package in distributions():
    name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
    needs = re.search(r">=\s*3\.(\d+)", package.metadata.get("Requires-Python") or "")
    newer = needs is not None and int(needs[1]) > int(OURS.split(".")[1])
    marker = f'; python_version >= "3.{needs[1]}"' if newer else ""
    lines[name] = f"{name}=={package.version.split('+')[0]}{marker}"  # 2.13.0+cpu is a build of 2.13.0
print(HEADER + "\n".join(line for name, line in sorted(lines.items()) if name not in SKIPPED))
