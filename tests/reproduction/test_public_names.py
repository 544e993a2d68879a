"""The programme needs no more of bilens than anybody has: modules of the reference, and their public names."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "reproduction").rglob("*.py"))
SOURCE = ROOT / "src" / "bilens"
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
DOCUMENTED = set(re.findall(r"^::: (\S+)", "".join(page.read_text("utf-8") for page in PAGES), flags=re.MULTILINE))
"""Modules and packages of the reference; a package stands for what is in it."""

CLOSED = ("bilens.analyses", "bilens._internal")
"""Where nobody else's names are, although the reference may list them."""


@functools.cache
def home(module: str) -> Path | None:
    """The file of a module of bilens."""
    path = ROOT / "src" / Path(*module.split("."))
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


@functools.cache
def public(module: str) -> set[str]:
    """The names that a module offers: those of `__all__`, else all it defines, without an underscore."""
    file = home(module)
    assert file is not None
    body = ast.parse(file.read_text("utf-8")).body
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            if "__all__" in {target.id for target in targets if isinstance(target, ast.Name)} and node.value:
                return set(ast.literal_eval(node.value))
    return {name for name in names if not name.startswith("_")}


def refused(text: str) -> list[str]:
    """What a source imports of bilens, or takes from a module of it, that is nobody else's."""
    nodes = list(ast.walk(ast.parse(text)))
    wrong, modules = [], {}
    for node in nodes:
        if isinstance(node, ast.Import):
            wrong += [alias.name for alias in node.names if alias.name.partition(".")[0] == "bilens"]
        if not isinstance(node, ast.ImportFrom) or (node.module or "").partition(".")[0] != "bilens":
            continue
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            if home(name) is not None:
                modules[alias.asname or alias.name] = name
                wrong += [] if offered(name) else [name]
            elif not offered(str(node.module)) or alias.name not in public(str(node.module)):
                wrong.append(name)
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            module = modules[node.value.id]
            if node.attr not in public(module) and not offered(f"{module}.{node.attr}"):
                wrong.append(f"{module}.{node.attr}")
    return wrong


@functools.cache
def offered(module: str) -> bool:
    """Whether a module is in the reference and open to others."""
    if home(module) is None or any(part.startswith("_") for part in module.split(".")):
        return False
    if any(f"{module}.".startswith(f"{closed}.") for closed in CLOSED):
        return False
    # A package is in the reference by itself, or by its modules one by one.
    return any(f"{module}.".startswith(f"{name}.") or name.startswith(f"{module}.") for name in DOCUMENTED)


def test_only_public_names_of_bilens_are_imported() -> None:
    wrong = {path.relative_to(ROOT).as_posix(): refused(path.read_text("utf-8")) for path in FILES}
    assert {path: names for path, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from bilens.store import _save",
        "from bilens.analyses.subject import Subject",
        "from bilens.analyses.explore import explore",
        "from bilens.sae import AnyOldSAE",
        "from bilens import store\n\nstore._save",
        "from bilens import nothing",
        "import bilens.store",
    ],
)
def test_what_is_private_is_noticed(line: str) -> None:
    assert len(refused(line)) == 1


def test_what_is_public_passes() -> None:
    assert refused("from bilens import sae, store\nfrom bilens.kernel import Kernel\n\nstore.save\nsae.train") == []


def test_nothing_of_the_library_knows_the_programme() -> None:
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if "reproduction" in text else ():
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.partition(".")[0] == "reproduction" for name in names), path


def test_the_programme_is_in_no_wheel() -> None:
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    wheel = settings[settings.index("[tool.hatch.build.targets.wheel]") :].split("\n[", 1)[0]
    assert 'packages = ["src/bilens"]' in wheel
    assert "reproduction" not in wheel
