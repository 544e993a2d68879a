"""The house: which module may import which, and what no module may do; read from the source, not from a run."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "bilens"
FILES = sorted(SOURCE.rglob("*.py"))

LEVELS = {
    **dict.fromkeys(("errors", "space", "files", "progress", "history", "schedules", "state_dicts"), 0),
    **dict.fromkeys(("_internal", "checks", "seeds", "shown", "scale", "factors", "checkpoint", "device", "ranks"), 0),
    **dict.fromkeys(("sums", "levels", "grams", "encoding"), 0),
    **dict.fromkeys(("dictionary", "kernel", "tensor", "pairs", "deep", "score", "convolution"), 1),
    **dict.fromkeys(("decompose", "sae", "models", "data", "text", "faithfulness", "activations"), 2),
    **dict.fromkeys(("statistics", "matching", "pair_coding"), 2),
    **dict.fromkeys(("features", "store", "tables", "plots", "explorer", "directions"), 3),
    "analyses": 4,
    "cli": 5,
    "__main__": 6,  # `python -m bilens`
}
"""Every module or package of the library and its level; arrows point down. Those of `_internal` count one by one."""

WITHIN = {
    "checks": {"errors"},
    "space": {"errors", "checks"},
    "scale": {"errors", "checks"},
    "factors": {"errors", "checks", "scale", "space"},
    "files": {"errors"},
    "checkpoint": {"errors", "files"},
    "levels": {"scale"},
    "grams": {"errors", "checks", "scale", "space", "levels", "factors"},
    "encoding": {"errors"},
    "state_dicts": {"errors", "files"},
    "shown": {"space"},
    "history": {"checks", "shown"},
    "device": {"errors", "checks"},
    "tensor": {"dictionary", "kernel"},
    "pairs": {"tensor", "kernel", "dictionary"},
    "deep": {"tensor"},
    "score": {"tensor"},
    "convolution": {"tensor", "kernel"},
    "models": {"faithfulness", "text"},
    "activations": {"models"},
    "decompose": {"statistics"},
    "pair_coding": {"sae"},
    "store": {"features"},
    "tables": {"store"},
    "plots": {"features"},
    "explorer": {"plots", "features"},
}
"""The only arrows within a level."""

APART = {
    "models": {"kernel", "pairs", "dictionary"},  # .tensor() and .deep() are the only bridges to the algebra
    "sae": {"tensor", "kernel", "pairs", "deep"},  # knows vectors and dictionaries
    "data": {"tensor", "kernel", "pairs", "dictionary", "deep"},  # plain tensors
    "text": {"tensor", "kernel", "pairs", "dictionary", "deep"},  # plain tokens
    "faithfulness": {"tensor", "kernel", "pairs", "dictionary", "deep"},
    "activations": {"tensor", "kernel", "pairs", "dictionary", "deep"},  # plain vectors
    "statistics": {"tensor", "kernel", "pairs", "dictionary", "deep"},  # plain numbers
    "features": {"models", "data", "sae"},  # records only
    "store": {"models", "data"},  # records only
    "tables": {"models", "data", "sae"},  # records only
    "plots": {"models", "data", "sae"},
    "explorer": {"models", "data", "sae"},
    "cli": set(LEVELS) - {"errors", "cli"},  # names recipes by path, so that --help does not import torch
}
"""Arrows that would point down and are still not drawn."""

DEPENDENCIES = {"torch", "numpy", "scipy", "jaxtyping", "safetensors", "rich", "matplotlib"}
"""What may be imported at the top of a module; everything else is optional, or imported by a command when it runs."""


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Every node of a file: the rules go through them again and again."""
    return list(ast.walk(tree(path)))


def module(path: Path) -> str:
    """Dotted name below bilens: "decompose.svd"; "" for the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top(name: str) -> str:
    """The module or package at the top of a dotted name; of `_internal`, the module in it."""
    return name.removeprefix("_internal.").partition(".")[0]


MODULES = {module(path) for path in FILES}


def imported(node: ast.AST) -> Iterator[str]:
    """Full names that an import statement brings in: "bilens.errors.BilensError", "numpy"."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "a relative import"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def arrows(path: Path) -> set[str]:
    """Modules of the library that a file imports, dotted, below bilens."""
    found = set()
    for node in nodes(path):
        for name in imported(node):
            if top(name) == "bilens" and name != "bilens.__version__":
                rest = name.partition(".")[2]
                while rest and rest not in MODULES:
                    rest = rest.rpartition(".")[0]
                assert rest, f"{name} is no module of the library"
                found.add(rest)
    return found


def allowed(source: str, target: str) -> bool:
    """Whether a module may import another, both by their names at the top level."""
    if source == target:
        return True
    if target in APART.get(source, set()):
        return False
    return LEVELS[target] < LEVELS[source] or target in WITHIN.get(source, set())


@functools.cache
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call in a file, by its dotted name as written."""
    return [(ast.unparse(node.func), node) for node in nodes(path) if isinstance(node, ast.Call)]


def by_file(rule: Callable[[Path], None]) -> Callable[[], None]:
    """One test per rule, of every file of the library; what it finds is said with the file's name."""

    def test() -> None:
        for path in FILES:
            try:
                rule(path)
            except AssertionError as broken:
                raise AssertionError(f"{path.relative_to(SOURCE)}: {broken}") from broken

    test.__name__ = rule.__name__
    return test


def test_every_module_has_a_level():
    assert {top(name) for name in MODULES} - {""} <= set(LEVELS)


def test_the_arrows_have_no_cycle():
    """The rules themselves: each allowed arrow goes down a level, or down the order that WITHIN gives."""
    order = ["errors", *sorted(set(LEVELS) - {"errors"}, key=lambda name: (LEVELS[name], len(depth(name))))]
    for source, targets in WITHIN.items():
        for target in targets:
            assert LEVELS[source] == LEVELS[target]
            assert order.index(target) < order.index(source)


def depth(name: str) -> set[str]:
    """All modules of its level that a module may reach."""
    reached: set[str] = set()
    for target in WITHIN.get(name, set()):
        reached |= {target} | depth(target)
    return reached


@by_file
def test_arrows_point_down(path):
    name = module(path)
    if not name:  # the package may name whatever is public
        return
    wrong = {target for target in arrows(path) if not allowed(top(name), top(target))}
    assert not wrong, f"{name} imports {', '.join(sorted(wrong))}"


def test_the_rules_refuse_what_the_design_refuses():
    for source, target in (
        ("errors", "space"),
        ("tensor", "pairs"),
        ("dictionary", "tensor"),
        ("decompose", "models"),
        ("models", "decompose"),
        ("sae", "models"),
        ("sae", "tensor"),
        ("plots", "models"),
        ("store", "plots"),
        ("analyses", "cli"),
        ("explorer", "analyses"),
        ("features", "models"),
        ("cli", "analyses"),
        ("data", "tensor"),
    ):
        assert not allowed(source, target), f"{source} → {target}"
    for source, target in (
        ("decompose", "pairs"),
        ("sae", "dictionary"),
        ("explorer", "decompose"),
        ("models", "tensor"),
    ):
        assert allowed(source, target), f"{source} → {target}"


def test_no_package_imports_itself_in_a_circle():
    """Within a package too: importing its files one after another must end."""
    inside = {module(path): {target for target in arrows(path) if top(target) == top(module(path))} for path in FILES}
    done: set[str] = set()
    while len(done) < len(inside):
        ready = {name for name, needs in inside.items() if name not in done and needs - {name} <= done}
        assert ready, f"a circle among {', '.join(sorted(set(inside) - done))}"
        done |= ready


@by_file
def test_nothing_private_is_imported_from_elsewhere(path):
    """A name with an underscore is for its own folder and those in it, `_internal` for the whole library."""
    folder = ".".join(("bilens", *path.relative_to(SOURCE).parent.parts))
    for node in nodes(path):
        for name in imported(node):
            for place, part in enumerate(parts := name.split(".")):
                if part.startswith("_") and not part.endswith("__") and part != "_internal":
                    owner, private = ".".join(parts[:place]), ".".join(parts[1 : place + 1])
                    assert f"{folder}.".startswith(f"{owner}."), f"{module(path)} imports {name}"
                    assert private in MODULES, f"{name} is no module"


@by_file
def test_only_declared_dependencies_at_the_top(path):
    for node in nodes(path):
        for name in imported(node):
            known = top(name) in sys.stdlib_module_names or top(name) in DEPENDENCIES | {"bilens"}
            assert known or node not in tree(path).body, f"{module(path)} imports {name}"


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def guards(node: ast.AST) -> set[int]:
    """Lines inside `try: import … except ImportError: raise …Error(… "install" …)`."""
    lines: set[int] = set()
    for attempt in ast.walk(node):
        if not isinstance(attempt, ast.Try):
            continue
        for handler in attempt.handlers:
            caught = ast.unparse(handler.type) if handler.type else ""
            raised = [ast.unparse(part) for part in ast.walk(handler) if isinstance(part, ast.Raise)]
            if caught in ("ImportError", "ModuleNotFoundError") and any(
                "Error(" in text and "install" in text for text in raised
            ):
                lines |= {line for part in attempt.body for line in range(part.lineno, (part.end_lineno or 0) + 1)}
    return lines


@by_file
def test_no_import_inside_a_function_but_a_guarded_optional_one(path):
    if not any(isinstance(node, ast.Import | ast.ImportFrom) and node.col_offset for node in nodes(path)):
        return  # all stand at the left edge
    for function in functions(path):
        guarded = guards(function)
        for node in ast.walk(function):
            for name in imported(node):
                assert node.lineno in guarded, f"{module(path)}:{node.lineno} imports {name} inside {function.name}"
                assert top(name) not in DEPENDENCIES | {"bilens"} | sys.stdlib_module_names


def test_modules_are_imported_by_name_only_by_commands_and_for_optional_data():
    who = set()
    for path in FILES:
        for node in nodes(path):
            name = getattr(node, "attr" if isinstance(node, ast.Attribute) else "id", "")
            if name.endswith(("import_module", "__import__")):
                who.add(module(path))
    assert who <= {"", "cli", "data"}


# What no module does


FORBIDDEN = {
    "torch.save": "pickles",
    "torch.load": "unpickles",
    "eval": "runs text",
    "exec": "runs text",
    "torch.manual_seed": "is global: use a torch.Generator",
    "torch.seed": "is global",
    "np.random.seed": "is global",
    "random.seed": "is global",
    "torch.set_default_dtype": "is global",
    "torch.set_default_device": "is global",
    "torch.set_grad_enabled": "is global",
    "torch.set_num_threads": "is global",
    "torch.use_deterministic_algorithms": "is global",
    "pdb.set_trace": "stops",
    "breakpoint": "stops",
}


RESTRICTED = "state_dicts"
"""The only module that reads a pickle, by torch's reader that makes weights and nothing else."""


def test_the_only_pickles_are_read_by_the_restricted_reader():
    where = [(module(path), node) for path in FILES for name, node in calls(path) if name == "torch.load"]
    assert [name for name, _ in where] == [RESTRICTED]
    given = {entry.arg: ast.unparse(entry.value) for entry in where[0][1].keywords}
    assert given["weights_only"] == "True"
    unsafe = ("add_safe_globals", "safe_globals")
    assert not [name for path in FILES for name, _ in calls(path) if name.endswith(unsafe)]


@by_file
def test_no_pickle_and_nothing_global(path):
    allowed_here = {"torch.load", "pickle.UnpicklingError"} if module(path) == RESTRICTED else set()
    for node in nodes(path):
        for name in imported(node):
            if name not in allowed_here:
                assert top(name) not in ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"), name
                assert name not in FORBIDDEN, name
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle" or ast.unparse(node.value) == "False", node.arg
            assert node.arg != "weights_only" or allowed_here, node.arg
        assert not isinstance(node, ast.Global), f"{module(path)} has a global statement"
        assert not isinstance(node, ast.Assert), f"{module(path)}:{getattr(node, 'lineno', 0)} asserts"
    blocks = [item.context_expr for node in nodes(path) if isinstance(node, ast.With) for item in node.items]
    local = {(block.lineno, block.col_offset) for block in blocks}  # a with block puts back what it changed
    for name, node in calls(path):
        if name == "torch.set_grad_enabled" and (node.lineno, node.col_offset) in local:
            continue
        assert name not in FORBIDDEN or name in allowed_here, (
            f"{module(path)}:{node.lineno} {name} {FORBIDDEN.get(name)}"
        )


@by_file
def test_only_the_command_line_and_analyses_print(path):
    if top(module(path)) not in ("cli", "analyses"):
        assert not [node.lineno for name, node in calls(path) if name in ("print", "sys.stdout.write")]


@by_file
def test_nothing_but_to_dense_builds_the_dense_tensor(path):
    named = [(name, node.lineno) for name, node in calls(path) if name.endswith(".to_dense")]
    assert not [line for name, line in named if "to_mkldnn" not in name]  # torch's own, out of oneDNN's layout


@by_file
def test_no_keyword_arguments_that_swallow_typos(path):
    for function in functions(path):
        extra = function.args.kwarg
        if extra is not None and not ast.unparse(extra.annotation or ast.Constant(None)).endswith(".kwargs"):
            assert extra.arg not in ("kwargs", "kw", "options"), f"{module(path)}.{function.name}"


def test_no_file_is_longer_than_one_reads():
    lines = {path.relative_to(SOURCE): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {str(path): count for path, count in lines.items() if count > 400} == {}


def test_no_grab_bags():
    for name in MODULES:
        assert name.split(".")[-1] not in ("utils", "util", "helpers", "misc", "common", "config")
        assert not name.startswith("_") or name == "__main__" or top(name) in LEVELS


# Docstrings


@by_file
def test_every_public_name_says_what_it_is(path):
    body = tree(path)
    said = ast.get_docstring(body)
    assert said, f"{module(path)} has no docstring"
    assert said.splitlines()[0].endswith("."), f"{module(path)}: {said.splitlines()[0]!r}"
    classes = [node for node in body.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for owner in [body, *classes]:
        for node in owner.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                first = (ast.get_docstring(node) or "").splitlines()[:1]
                assert first, f"{module(path)}.{node.name} has no docstring"
                assert first[0].strip(), f"{module(path)}.{node.name} begins with an empty line"


# What is for users


BY_NAME = {
    "decompose.linalg": "decompositions of one's own",
    "explorer.layout": "the page's data, whose schema is documented",
    "explorer.lm_layout": "the data of a page of text",
    "models.gated.original": "the model that a layer is checked against",
    "models.imported": "a state dict of one's own",
    "models.language": "small language models",
    "models.replaced": "a model with a layer replaced",
    "models.surrogate": "the best bilinear layer in a gated one's place",
    "models.token_statistics": "the moments that surrogates are fitted to",
    "models.unembedding": "the ends of a language model, without building it",
    "plots.kernels": "figures of one's own",
    "plots.scores": "figures of one's own",
    "plots.style": "figures of one's own",
    "sae.distributed": "training in several processes",
    "text.found": "text for a first look",
}
"""Modules of packages that a user imports by their own names, and what for; all others are known by their package."""

DIRECTIVE = re.compile(r"^::: bilens\.([\w.]+)\n(?:    options:\n(?:      inherited_members: true\n)?)?"
                       r"(?:      members: (false|\[.*\])\n)?", flags=re.MULTILINE)  # fmt: skip
"""An entry of the reference: a module, and which of its members are shown."""


def path_of(name: str) -> Path:
    folder = SOURCE.joinpath(*name.split("."))
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def listed(path: Path) -> set[str] | None:
    """The names in a file's `__all__`; None for a file without one."""
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def named(path: Path) -> set[str]:
    """The public names that a file defines or, where it has `__all__`, offers."""
    found: set[str] = set()
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        for target in getattr(node, "targets", None) or [getattr(node, "target", None)]:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                found |= {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}
    return listed(path) or {name for name in found if not name.startswith("_")}


def private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


def shown() -> dict[str, set[str]]:
    """What the reference shows: names by module."""
    found: dict[str, set[str]] = {}
    for page in sorted((SOURCE.parents[1] / "docs" / "reference").glob("*.md")):
        for name, members in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            assert name not in found, f"{name} is shown twice"
            every = named(path_of(name)) if not members else set()
            found[name] = every if members in ("", "false") else set(re.findall(r"\w+", members))
    return found


@by_file
def test_a_public_module_is_for_users(path):
    """Its package offers names of it, or it is imported by its own; in `analyses` the reference says which are open."""
    name = module(path)
    if private(name) or "." not in name or top(name) == "analyses" or path.name == "__init__.py":
        return
    offered = listed(path.parent / "__init__.py") or set()
    assert name in BY_NAME or named(path) & offered, "neither for users nor with an underscore"


def test_modules_that_are_imported_by_name_exist():
    assert set(BY_NAME) <= MODULES


def test_the_reference_shows_public_names_and_all_of_them():
    reference = shown()
    for name, names in reference.items():
        assert not private(name), name
        assert names <= named(path_of(name)), f"{name}: {names - named(path_of(name))} is nowhere"
        assert not {one for one in names if one.startswith("_")}, name
        package = name.rpartition(".")[0]
        if package and name not in BY_NAME and path_of(name).name != "__init__.py" and top(name) != "analyses":
            offered = listed(path_of(package)) or set()
            assert names <= offered, f"{name}: {package} does not offer {', '.join(sorted(names - offered))}"
    for name in sorted(MODULES - {"", "_internal", "__main__", "analyses", "cli"}):
        offered = listed(path_of(name)) if path_of(name).name == "__init__.py" else None
        if not private(name) and top(name) != "analyses" and (offered or "." not in name or name in BY_NAME):
            below = {one for other, names in reference.items() if f"{other}.".startswith(f"{name}.") for one in names}
            missing = (offered or named(path_of(name)) - {"Any"}) - below if name not in BY_NAME else set()
            assert name in reference, f"{name} is not in the reference"
            assert missing <= {"Figure"}, f"{name}: {', '.join(sorted(missing))} is not in the reference"


def test_the_reference_lets_no_module_hide_a_name():
    """mkdocstrings shows the module where a function of a package has its name: such a package is shown in parts."""
    for name, names in shown().items():
        modules = {other.rpartition(".")[2] for other in MODULES if other.rpartition(".")[0] == name}
        assert not names & modules, name
    settings = (SOURCE.parents[1] / "mkdocs.yml").read_text(encoding="utf-8")
    assert "show_submodules: false" in settings
    assert "filters: public" in settings


# What an import costs


def test_help_needs_no_torch_and_imports_change_nothing_global():
    script = f"""
        import contextlib, importlib, io, sys
        if {(SOURCE / "cli.py").exists()}:
            from bilens.cli import main
            with contextlib.redirect_stdout(io.StringIO()) as out:
                for arguments in (["--help"], [], ["--version"]):
                    status = main(arguments)
                    assert not status, status
            assert "usage" in out.getvalue().lower()
            for heavy in ("torch", "numpy", "matplotlib", "scipy"):
                assert heavy not in sys.modules, f"bilens --help imports {{heavy}}"

        import torch
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        import bilens
        for name in set(bilens.__all__) - {{"explore"}}:  # which writes a page, and loads what draws when asked for
            getattr(bilens, name)
        for heavy in ("matplotlib", "tyro", "sklearn", "mlxtend", "huggingface_hub", "pandas"):
            assert heavy not in sys.modules, f"import bilens imports {{heavy}}"

        for name in {sorted(MODULES - {""})!r}:
            importlib.import_module(f"bilens.{{name}}")
        optionals = ("mlxtend", "sklearn", "huggingface_hub", "pyarrow", "duckdb", "datasets", "sae_lens")
        for optional in (*optionals, "transformers", "gguf", "tokenizers"):
            assert optional not in sys.modules, f"a module of bilens imports {{optional}}"
        assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
        assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
