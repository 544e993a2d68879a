"""Public functions called again with an odd value in each argument; what ends in anything but one clear line is listed.

A plugin for pytest: while tests and doctests run it keeps the first call of every function and method that the
reference documents, and at the end makes each call again, once per argument and odd value. Odd are other types, NaN,
sparse and complex tensors, tensors without numbers, and numbers far out of range. A call may succeed or raise a
BilensError; all else is written into the file that ODD_ARGUMENTS names.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import signal
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bilens.errors import BilensError

ROOT = Path(__file__).parent.parent
ASIDE = (
    *("bilens.analyses.", "bilens.cli", "bilens.explorer", "bilens.files", "bilens.errors", "bilens.models."),
    *("bilens.activations.sites", "bilens.decompose.linalg", "bilens.plots.style"),
)
"""Documented modules that are left out: commands, whose arguments are text, what reads and writes files, what is called
with whole models, and pieces of decompositions and figures of one's own."""

SECONDS = 20
"""A call that takes longer is stopped and listed."""

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def odd() -> dict[str, Any]:
    """Values by name, made anew for each call."""
    return {
        "None": None,
        "an array": np.zeros((2, 3)),
        "a text": "zz",
        "NaN": torch.full((3,), float("nan")),
        "a tensor without axes": torch.tensor(2.0),
        "a tensor without numbers": torch.zeros(3, device="meta"),
        "a sparse tensor": torch.eye(3).to_sparse(),
        "complex numbers": torch.zeros(3, dtype=torch.complex64),
        "whole numbers": torch.tensor([1, 2]),
        "an empty tensor": torch.zeros(0),
        "10³⁰": 10**30,
        "−1": -1,
        "0.5": 0.5,
        "infinity": float("inf"),
        "True": True,
        "an object": object(),
        "a list": [1, "a"],
        "an empty tuple": (),
        "a mapping": {"a": 1},
    }


class Recorder:
    """The first call of each documented function."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}
        self.recording = True

    def watch(self) -> None:
        """Put a wrapper around each documented function and method, wherever it is known by name."""
        replaced: dict[Any, Any] = {}
        for module in documented():
            for name in getattr(module, "__all__", ()):
                found = getattr(module, name)
                if not getattr(found, "__module__", "").startswith("bilens"):
                    continue
                if inspect.isclass(found):
                    self._watch_class(found)
                elif inspect.isfunction(found) and found not in replaced:
                    replaced[found] = self._wrapped(found)
        for module in [module for name, module in sys.modules.items() if name.startswith("bilens")]:
            for name, value in list(vars(module).items()):
                if inspect.isfunction(value) and value in replaced:
                    setattr(module, name, replaced[value])

    def _watch_class(self, kind: type) -> None:
        for name, value in list(vars(kind).items()):
            if hasattr(getattr(value, "__func__", value), "__wrapped__"):
                continue
            if name.startswith("_") and name not in ("__call__", "__init__"):
                continue
            if isinstance(value, classmethod | staticmethod):
                setattr(kind, name, type(value)(self._wrapped(value.__func__)))
            elif inspect.isfunction(value):
                setattr(kind, name, self._wrapped(value, f"{kind.__module__}.{kind.__qualname__}.{name}"))

    def _wrapped(self, function: Callable[..., Any], name: str = "") -> Callable[..., Any]:
        name = name or f"{function.__module__}.{function.__qualname__}"

        @functools.wraps(function)
        def wrapper(*given: Any, **named: Any) -> Any:
            if self.recording and name not in self.calls:
                self.calls[name] = (function, given, named)
            return function(*given, **named)

        return wrapper


def documented() -> list[types.ModuleType]:
    """The modules of the reference."""
    pages = (ROOT / "docs" / "reference").glob("*.md")
    names = {name for page in pages for name in re.findall(r"^::: ([\w.]+)", page.read_text(encoding="utf-8"), re.M)}
    return [importlib.import_module(name) for name in sorted(names) if not name.startswith(ASIDE)]


def failures(calls: dict[str, Call]) -> Iterator[str]:
    """One line for each call with an odd value that neither succeeds nor raises a BilensError."""
    signal.signal(signal.SIGALRM, _late)
    for name, (function, given, named) in sorted(calls.items()):
        for place, argument in _arguments(function, given, named):
            for said, value in odd().items():
                positional, keywords = list(given), dict(named)
                if place is None:
                    keywords[argument] = value
                else:
                    positional[place] = value
                if name.endswith(".__init__"):
                    positional[0] = object.__new__(type(given[0]))
                signal.alarm(SECONDS)
                try:
                    found = function(*positional, **keywords)
                    if isinstance(found, types.GeneratorType):
                        next(found, None)
                except BilensError:
                    pass
                except TimeoutError as error:
                    if said != "10³⁰":  # so many steps may be asked for
                        yield f"{name}({argument} = {said}): {error}"
                except Exception as error:
                    first = (str(error).splitlines() or [""])[0]
                    yield f"{name}({argument} = {said}): {type(error).__name__}: {first:.120}"
                finally:
                    signal.alarm(0)


def _arguments(
    function: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]
) -> Iterator[tuple[int | None, str]]:
    """The arguments of a call by place or name, those by keyword that it left out included."""
    parameters = inspect.signature(function).parameters
    names = list(parameters)
    own = bool(names) and names[0] in ("self", "cls")
    for place in range(own, len(given)):
        yield place, names[min(place, len(names) - 1)]
    for name, parameter in parameters.items():
        if name in named or parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            yield None, name


def _late(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


RECORDER = Recorder()


def pytest_configure(config: pytest.Config) -> None:
    """Watch from before the tests are imported."""
    RECORDER.watch()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Make the calls again, and write down what failed, after a line that says how many functions there were."""
    RECORDER.recording = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lines = [f"{len(RECORDER.calls)} functions", *failures(RECORDER.calls)]
    Path(os.environ["ODD_ARGUMENTS"]).write_text("\n".join(lines) + "\n", encoding="utf-8")
