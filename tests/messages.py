"""How every refusal of bilens must read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from bilens.errors import BilensError


@contextlib.contextmanager
def refuses(kind: type[BilensError], *words: str) -> Iterator[None]:
    """Expect an error of exactly this kind, in one line "got …; expected …" and perhaps a hint, with these words."""
    with pytest.raises(BilensError) as caught:
        yield
    line = str(caught.value)
    assert type(caught.value) is kind, f"{type(caught.value).__name__}: {line}"
    assert line.startswith("got ")
    assert "; expected " in line
    assert "; do " not in line
    assert line.isprintable(), "more than one line"
    assert not line.endswith(("got", "expected", ";", ".."))
    for word in words:
        assert word in line, f"{word!r} is not in: {line}"
