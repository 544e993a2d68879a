"""The list of files in architecture.md: `python docs/architecture.py` writes it anew, from the first line of each."""

from __future__ import annotations

import ast
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")
SOURCE = PAGE.parents[1] / "src" / "bilens"
BEGIN, END = "<!-- files: written by docs/architecture.py -->", "<!-- end of files -->"


def first_line(path: Path) -> str:
    """What a file says it is, as a cell of a table."""
    said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return said.splitlines()[0].replace("|", "\\|")


def files() -> str:
    """One table per folder, one row per file: its name, and the first line of its docstring."""
    folders: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py"), key=lambda path: (len(path.parts), path)):
        name = path.relative_to(SOURCE)
        if name.name == "__init__.py" and path.parent != SOURCE:
            continue  # its line is the folder's
        folders.setdefault(name.parent.as_posix(), []).append(f"| `{name.name}` | {first_line(path)} |")
    tables = []
    for folder, rows in sorted(folders.items()):
        package = SOURCE / folder / "__init__.py"
        title = "bilens" if folder == "." else f"bilens/{folder}"
        about = "" if folder == "." else f"{first_line(package)}\n\n"
        tables.append(f"### {title}\n\n{about}| file | holds |\n|---|---|\n" + "\n".join(rows))
    return "\n\n".join(tables)


def written(text: str) -> str:
    """The page with the list in its place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{files()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
