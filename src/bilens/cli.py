"""The command line: one table of commands, each the recipe that it runs."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import io
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bilens import __version__
from bilens.errors import BilensError


class Command(NamedTuple):
    """Where a command's recipe is, what it does in one line, and an example."""

    recipe: str
    summary: str
    example: str


COMMANDS = {
    "demo": Command(
        "bilens.analyses.demo:demo",
        "Train a bilinear digit classifier and read its features from its weights in four ways.",
        "bilens demo --out runs/mnist",
    ),
    "read": Command(
        "bilens.analyses.read:read",
        "Read a checkpoint that somebody else trained: an image classifier, or layers of a language model.",
        "bilens read runs/mnist/model --data mnist --out runs/again",
    ),
    "explore": Command(
        "bilens.analyses.explore:explore",
        "Write the page that shows everything a run found.",
        "bilens explore runs/mnist --open",
    ),
    "compare": Command(
        "bilens.analyses.compare:compare",
        "Compare two networks, or two layers of language models: how far apart, in which outputs, inputs or features.",
        "bilens compare runs/a runs/b --metric mnist",
    ),
    "layers": Command(
        "bilens.analyses.layers:layers",
        "Show the gated MLPs of a language model, and which are exactly bilinear.",
        "bilens layers runs/smollm2 --check",
    ),
    "coder": Command(
        "bilens.analyses.coders:coder",
        "Show the sparse autoencoder or transcoder in a folder, whoever wrote it.",
        "bilens coder layers.5.mlp",
    ),
    "demo-lm": Command(
        "bilens.analyses.demo_lm:demo_lm",
        "Read one gated layer of a language model, measure what that costs, and write the page of its features.",
        "bilens demo-lm --out runs/lm",
    ),
    "train-lm": Command(
        "bilens.analyses.train_lm:train_lm",
        "Train a small language model from scratch whose every MLP is bilinear.",
        "bilens train-lm --text essays --out runs/small",
    ),
    "convert": Command(
        "bilens.analyses.convert:convert",
        "Turn a language model into one whose MLPs are bilinear, and measure what that costs.",
        "bilens convert runs/smollm2 --out runs/bilinear",
    ),
    "audit": Command(
        "bilens.analyses.audit:audit",
        "Ask how much of a layer's features their first eigenpairs explain, beside random directions.",
        "bilens audit runs/smollm2 --layer 12 --out runs/audit",
    ),
    "rewrite": Command(
        "bilens.analyses.rewrite:rewrite",
        "Replace a layer by its strongest interactions between features, beside transcoders of the same size.",
        "bilens rewrite runs/smollm2 --layer 12 --out runs/rewritten",
    ),
    "query": Command(
        "bilens.analyses.query:query",
        "Ask the tables of a run in SQL: features, eigenpairs, interactions, examples.",
        'bilens query runs/smol "SELECT label, held FROM features LIMIT 5"',
    ),
    "import": Command(
        "bilens.analyses.importing:import_file",
        "Write a .pt file of weights as a folder of safetensors, without running what it holds.",
        "bilens import model.pt --out runs/theirs",
    ),
}

KINDS = {int: "a whole number", float: "a number", Path: "a path", str: "a text"}
SEVERAL = {int: "whole numbers", float: "numbers", Path: "paths", str: "texts"}
"""What an option takes, in words, by its type: one, or several."""


MOVED = {
    "mnist": ("bilens demo", ""),
    "decompile": ("bilens read", ""),
    "reproduce": ("python -m reproduction", "run that in a clone of the repository"),
}
"""Commands of earlier versions: what is run instead, and where."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 after bad input, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"bilens {__version__}")
        return 0
    name = arguments[0]
    if name in MOVED:
        return _fail(BilensError(f"bilens {name}, an earlier name", *MOVED[name]))
    if name not in COMMANDS:
        names = ", ".join(COMMANDS)
        return _fail(BilensError(f"command {name!r}", f"one of {names}", _nearest(name, COMMANDS)))
    command = COMMANDS[name]
    return run(lambda: _recipe(command.recipe), arguments[1:], program=f"bilens {name}", example=command.example)


def run(recipe: Callable[[], Callable[..., object]], arguments: Sequence[str], *, program: str, example: str) -> int:
    """Run a function as a command: its options are its arguments, its help its docstring, its errors one plain line.

    Args:
        recipe: gives the function, which is imported only when it is to run, with annotated arguments and a docstring.
        arguments: what was typed after the program's name; program: that name, as it is typed; example: a whole command
            that works, for the line that says what is missing.

    Returns:
        The exit status: 0, 2 after bad input, 130 after Ctrl-C.
    """
    # What libraries read as they are imported. Torch's threads wait for one another by spinning, which on a machine
    # with other work to do takes ten times as long; bars of other libraries would fill a file.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        with _warnings_in_one_line(), _Interrupts():
            _parse(recipe(), arguments, program, example)()
    except BilensError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("\nbilens: stopped; what is finished is kept, and the same command continues from it", file=sys.stderr)
        return 130
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    return 0


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Warnings as one line on standard error, without the file and the line of code that they come from."""
    with warnings.catch_warnings():
        # Images of one pixel leave matplotlib no room for titles: their figures are right without its layout.
        warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)
        warnings.showwarning = _show_warning
        yield


class _Interrupts:
    """Ctrl-C stops the command, also where Python drops the exception; a context, which puts back what it found.

    A KeyboardInterrupt that is raised in a finalizer or in the callback of a weak reference (matplotlib has thousands
    of them) goes no further than `sys.unraisablehook`. Such a one is raised again a moment later, when that code is
    left. One that a library swallowed is raised at the next step of the job, which looks at `asked`.

    Attributes:
        asked: whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: types.FrameType | None) -> None:
        """Handle SIGINT."""
        self.asked = True
        raise KeyboardInterrupt

    def __enter__(self) -> None:
        self._handler = signal.getsignal(signal.SIGINT)
        # Python calls handlers in the main thread alone; and whoever ignores SIGINT (nohup, a shell's "&") means it.
        self._ours = self._handler is signal.default_int_handler and (
            threading.current_thread() is threading.main_thread()
        )
        if self._ours:
            signal.signal(signal.SIGINT, self)
        self._report, sys.unraisablehook = sys.unraisablehook, self._dropped

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._report
        if self._ours:
            signal.signal(signal.SIGINT, self._handler)

    def _dropped(self, unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._report(unraisable)
            return
        again = threading.Timer(0.01, signal.raise_signal, (signal.SIGINT,))
        again.daemon = True
        again.start()


def _parse(recipe: Callable[..., Any], arguments: Sequence[str], program: str, example: str) -> Callable[[], object]:
    """A recipe with its arguments, read by the recipe's signature and docstring.

    Raises:
        BilensError: arguments that the recipe does not take.
    """
    hints = typing.get_type_hints(recipe)
    options = _options(recipe)
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in options:
            raise BilensError(
                f"option {option}",
                f"an option of {program}",
                _nearest(option, options, f"run {program} --help"),
            )
        hint = hints.get(option[2:].replace("-", "_"))
        if option in options and ... in typing.get_args(hint) and not _values(arguments, option):
            raise BilensError(f"{option} without a value", _takes(hint))  # the parser would take the default
        if not argument or (option.startswith("--") and argument.endswith("=")):
            raise BilensError("an empty argument", "a value in it", f"run {program} --help")
    parser = importlib.import_module("tyro")
    if "-h" in arguments or "--help" in arguments:
        _print_help(lambda: parser.cli(_shown(recipe, hints, parser), prog=program, args=["--help"]))
    complaint = io.StringIO()
    try:
        # Standard output too: the parser asks it whether to write colour codes.
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(io.StringIO()):
            bound: Callable[[], object] = parser.cli(_shown(recipe, hints, parser), prog=program, args=list(arguments))
            return bound
    except SystemExit:
        raise _complaint(program, example, arguments, hints, complaint.getvalue()) from None


def _print_help(write: Callable[[], object]) -> None:
    """What the parser writes and ends with SystemExit, as plain lines: no boxes or colours, and none too wide."""
    width = max(40, shutil.get_terminal_size().columns)  # the parser's own least
    with io.StringIO() as text:
        try:
            with contextlib.redirect_stdout(text):  # no terminal and no UTF-8: the parser draws a rule at most
                write()
        finally:
            lines = (line.rstrip() for line in text.getvalue().rstrip().splitlines())
            for line in lines:
                if re.fullmatch(r" \w[\w ]*", line):  # over the rule
                    print(f"{line.strip()}:")
                elif not re.fullmatch(r" -+", line):
                    wrapped = textwrap.wrap(line, width, break_on_hyphens=False) if len(line) > width else [line]
                    print("\n".join(wrapped))


def _options(recipe: Callable[..., Any]) -> set[str]:
    """Every option of a recipe as it is typed."""
    found = {"--help"}
    for parameter in inspect.signature(recipe).parameters.values():
        option = parameter.name.replace("_", "-")
        found |= {f"--{option}", f"--no-{option}"} if isinstance(parameter.default, bool) else {f"--{option}"}
    return found


def _shown(recipe: Callable[..., Any], hints: dict[str, Any], parser: Any) -> Callable[..., Callable[[], object]]:
    """The recipe for the parser: called, it gives itself with its arguments, to be run later.

    An option whose default is None has it in words: in `DEFAULTS` of the recipe's module, or else in the docstring.
    """

    def bind(*args: Any, **settings: Any) -> Callable[[], object]:
        return functools.partial(recipe, *args, **settings)

    parameters = []
    defaults: dict[str, str] = getattr(sys.modules[recipe.__module__], "DEFAULTS", {})
    for parameter in inspect.signature(recipe).parameters.values():
        kind = hints[parameter.name]
        if parameter.default is None:
            default = f"(default: {defaults[parameter.name]})" if parameter.name in defaults else ""
            kind = typing.Annotated[kind, parser.conf.arg(help_behavior_hint=default, metavar=_metavar(kind))]
        elif parameter.default == ():
            kind = typing.Annotated[kind, parser.conf.arg(help_behavior_hint="")]
        parameters.append(parameter.replace(annotation=kind))
    bind.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    bind.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    bind.__doc__, bind.__name__, bind.__module__ = recipe.__doc__, recipe.__name__, recipe.__module__
    return bind


def _plain(kind: Any) -> Any:
    """A type without its None."""
    some = [part for part in typing.get_args(kind) if part is not types.NoneType]
    return some[0] if types.NoneType in typing.get_args(kind) and len(some) == 1 else kind


def _metavar(kind: Any) -> str:
    plain = _plain(kind)
    choices = typing.get_args(plain)
    return f"{{{','.join(map(str, choices))}}}" if choices else str(plain.__name__).upper()


def _complaint(program: str, example: str, arguments: Sequence[str], hints: dict[str, Any], text: str) -> BilensError:
    """The parser's complaint, which is a box of several lines, as one of ours."""
    plain = " ".join(re.sub(r"\x1b\[[0-9;]*m|[^\x00-\x7f]|[|+]|-{3,}", " ", text).split())
    help = f"run {program} --help"
    named = re.search(r"(?:parsing|argument) '?--([\w-]+)", plain)
    if named and (option := named[1].replace("-", "_")) in hints:
        values = [value for value in _values(arguments, f"--{named[1]}") if value]
        return BilensError(
            f"--{named[1]} {' '.join(values)}" if values else f"--{named[1]} without a value",
            _takes(hints[option]),
            help,
        )
    if "Missing from" in plain:
        wanted = re.search(rf"Missing from {re.escape(program)}: (\S+) (.*?) \(required\)", plain)
        what = f"{wanted[1]}: {wanted[2]}".rstrip(".") if wanted else "its first argument"
        return BilensError(f"{program} alone", what, f"for example: {example}")
    unknown = re.search(r"Unrecognized options: (.*?) For full", plain)
    what = f"argument {unknown[1]}" if unknown else f"arguments that {program} does not take ({plain})"
    return BilensError(what, f"the arguments of {program}", help)


def _takes(hint: Any) -> str:
    """What an option of a type takes, in words."""
    kind = _plain(hint)
    choices = typing.get_args(kind)
    if ... in choices:
        return SEVERAL.get(choices[0], "values")
    if choices:
        return f"one of {', '.join(map(str, choices))}" if len(choices) > 1 else str(choices[0])
    return KINDS.get(kind, "a value")


def _values(arguments: Sequence[str], option: str) -> list[str]:
    """What was typed after an option, up to the next one."""
    found: list[str] = []
    inside = False
    for argument in arguments:
        head, equals, value = argument.partition("=")
        if head.startswith("--"):
            inside = head.replace("_", "-") == option
            found += [value] if inside and equals else []
        elif inside:
            found.append(argument)
    return found


def _nearest(word: str, known: typing.Iterable[str], otherwise: str = "run bilens --help") -> str:
    near = difflib.get_close_matches(word, sorted(known), 1)
    return f"did you mean {near[0]}?" if near else otherwise


def _recipe(path: str) -> Callable[..., Any]:
    module, name = path.split(":")
    # What the recipe needs takes seconds to load, and nobody knows yet that it is at work.
    with importlib.import_module("bilens.progress").bar("loading", show=module not in sys.modules):
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
    lines.append("Run bilens COMMAND --help for the options of a command, bilens --version for the version.")
    return "\n".join(lines)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"bilens: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(error: BilensError) -> int:
    print(f"bilens: {error}", file=sys.stderr)
    return 2


__all__ = ["COMMANDS", "Command", "main", "run"]

if __name__ == "__main__":
    sys.exit(main())
