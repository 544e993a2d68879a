"""The type checker of a run with --typecheck: beartype, for which an int is a float, as it is for mypy."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
