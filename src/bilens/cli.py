"""The command line: one table of commands, each the recipe that it runs."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bilens import __version__
from bilens.errors import BilensError


class Command(NamedTuple):
    """Where a command's recipe is, what it does in one line, and an example."""

    recipe: str
    summary: str
    example: str


COMMANDS = {
    "mnist": Command(
        "bilens.recipes.mnist:mnist",
        "Train a bilinear digit classifier and read its features from its weights in four ways.",
        "bilens mnist --out runs/mnist",
    ),
    "reproduce": Command(
        "bilens.recipes.reproduce:reproduce",
        "Measure the claims of the founding programme again, over seeds, with intervals.",
        "bilens reproduce svd --seeds 5 --out runs/reproduce",
    ),
    "decompile": Command(
        "bilens.recipes.decompile:decompile",
        "Do the same for a checkpoint that somebody else trained.",
        "bilens decompile runs/mnist/model --data mnist --out runs/again",
    ),
    "explore": Command(
        "bilens.recipes.explore:explore",
        "Write the page in which a person looks at everything a run found; open or serve it.",
        "bilens explore runs/mnist --open",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 after bad input, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"bilens {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        names = ", ".join(COMMANDS)
        return _fail(BilensError(f"command {arguments[0]!r}", f"one of {names}", "run bilens --help"))
    warnings.showwarning = _show_warning
    try:
        _parse(arguments[0], arguments[1:])()
    except BilensError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("\nbilens: stopped; what is finished is kept, and the same command continues from it", file=sys.stderr)
        return 130
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return 0


def _parse(name: str, arguments: Sequence[str]) -> Callable[[], object]:
    """A recipe with its arguments, read by the recipe's signature and docstring.

    Raises:
        BilensError: arguments that the recipe does not take; the first lines of the parser's complaint, as one line.
    """
    recipe = _recipe(COMMANDS[name].recipe)

    @functools.wraps(recipe)
    def bind(*args: Any, **settings: Any) -> Callable[[], object]:
        return functools.partial(recipe, *args, **settings)

    complaint = io.StringIO()
    parser = importlib.import_module("tyro")
    try:
        with contextlib.redirect_stderr(complaint):
            bound: Callable[[], object] = parser.cli(bind, prog=f"bilens {name}", args=list(arguments))
            return bound
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("│ ") for line in complaint.getvalue().splitlines()]
        rule = next((i for i, line in enumerate(lines) if line.startswith("──")), len(lines))
        told = " ".join(line for line in lines[:rule] if not line.startswith("╭")).rstrip(".")
        raise BilensError(
            f"arguments that bilens {name} does not take ({told})",
            "the arguments that its help lists",
            f"run bilens {name} --help",
        ) from None


def _recipe(path: str) -> Callable[..., Any]:
    module, name = path.split(":")
    recipe: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return recipe


def _help() -> str:
    lines = [
        "usage: bilens COMMAND [OPTIONS]",
        "",
        "Reads features straight from the weights of bilinear networks.",
        "",
    ]
    for name, command in COMMANDS.items():
        lines += [f"  {name:<10} {command.summary}", f"  {'':<10} example: {command.example}", ""]
    lines.append("bilens COMMAND --help tells a command's options; bilens --version the version.")
    return "\n".join(lines)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"bilens: {message}", file=sys.stderr)


def _fail(error: BilensError) -> int:
    print(f"bilens: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
