"""The pages' data for other programs and their own scripts, from the typed dictionaries of `explorer.layout`.

python docs/explorer_schema.py    writes docs/explorer-schema.json and src/bilens/explorer/app/layout.js,
                                  and the same of lm_layout, for language models
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from pathlib import Path
from typing import Any

from bilens.explorer import layout, lm_layout

ROOT = Path(__file__).parents[1]
PLAIN = {
    str: ("string", "string"),
    float: ("number", "number"),
    int: ("integer", "number"),
    bool: ("boolean", "boolean"),
    types.NoneType: ("null", "null"),
}
"""Plain types as JSON schema and as JSDoc have them."""


PAGES = (
    (layout, "explorer", "bilens explorer", "the explorer's page", {"FORMAT": "FORMAT"}),
    (
        lm_layout,
        "explorer-lm",
        "bilens reading",
        "the page of one layer of a language model",
        {"LM_FORMAT": "FORMAT", "ONE_BY_ONE": "ONE_BY_ONE"},
    ),
)
"""Modules of typed dictionaries: the schema's file and title, what it is of, and the module's numbers by their names in
the script."""


def written() -> dict[Path, str]:
    """The text of each file."""
    found = {}
    for module, file, title, page, numbers in PAGES:
        name = module.__name__.rpartition(".")[2]
        records = [kind for kind in vars(module).values() if typing.is_typeddict(kind)]
        document = records.pop()
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": title,
            "description": f"The data of {page}, written by docs/explorer_schema.py. Texts are never markup.",
            **described(document),
            "$defs": {kind.__name__: described(kind) for kind in records},
        }
        script = f"// The types of the page's data, written by docs/explorer_schema.py from explorer/{name}.py.\n\n"
        script += "".join(f"export const {ours} = {getattr(module, name)};\n" for ours, name in numbers.items())
        text = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        text = text.replace(f'"#/$defs/{document.__name__}"', '"#"')  # a document that holds another one
        found[ROOT / "docs" / f"{file}-schema.json"] = text
        found[ROOT / "src" / "bilens" / "explorer" / "app" / f"{name}.js"] = script + "".join(
            map(typed, [*records, document])
        )
    return found


def described(record: Any) -> dict[str, Any]:
    """A typed dictionary as JSON schema."""
    return {
        "type": "object",
        "description": " ".join((inspect.getdoc(record) or "").split()),
        "properties": {name: schema_of(kind) for name, kind in fields(record).items()},
        "required": [name for name in fields(record) if name in record.__required_keys__],
        "additionalProperties": False,
    }


def typed(record: Any) -> str:
    """A typed dictionary as JSDoc."""
    lines = [*(inspect.getdoc(record) or "").splitlines(), f"@typedef {{object}} {record.__name__}"]
    for name, kind in fields(record).items():
        shown = name if name in record.__required_keys__ else f"[{name}]"
        lines.append(f"@property {{{type_of(kind)}}} {shown}")
    return "\n/**\n" + "".join(f" * {line}".rstrip() + "\n" for line in lines) + " */\n"


def fields(record: Any) -> dict[str, Any]:
    """The types of a typed dictionary, with what their annotations add."""
    return typing.get_type_hints(record, include_extras=True)


def schema_of(kind: Any) -> dict[str, Any]:
    """A type as JSON schema."""
    parts = typing.get_args(kind)
    if hasattr(kind, "__metadata__"):
        return schema_of(kind.__origin__) | kind.__metadata__[0]
    if typing.get_origin(kind) is typing.Literal:
        return {"enum": list(parts)}
    if typing.get_origin(kind) is list:
        return {"type": "array", "items": schema_of(parts[0])}
    if parts:
        return {"anyOf": [schema_of(part) for part in parts]}
    return {"type": PLAIN[kind][0]} if kind in PLAIN else {"$ref": f"#/$defs/{kind.__name__}"}


def type_of(kind: Any) -> str:
    """A type as JSDoc."""
    parts = typing.get_args(kind)
    if hasattr(kind, "__metadata__"):
        return type_of(kind.__origin__)
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(json.dumps(part) for part in parts)
    if typing.get_origin(kind) is list:
        inner = type_of(parts[0])
        return f"({inner})[]" if "|" in inner else f"{inner}[]"
    if parts:
        return "|".join(dict.fromkeys(type_of(part) for part in parts))
    return PLAIN[kind][1] if kind in PLAIN else kind.__name__


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, "utf-8")
