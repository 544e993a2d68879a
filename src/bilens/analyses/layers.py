"""The command that shows what gated MLPs a language model has, and proves that they are read right."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bilens.errors import BilensError
from bilens.models import gated
from bilens.models.gated import Comparison, Entry


def layers(model: str, /, *, check: bool = False, layout: str | None = None) -> None:
    """Show the gated MLPs of a language model, and which of them are exactly bilinear.

    Only the headers of its files are read. Example: bilens layers runs/smollm2 --check

    Args:
        model: a folder or file of safetensors, a GGUF file, or the name of a model on Hugging Face's hub.
        check: also run the original through transformers on a few tokens, and compare what every MLP gives.
        layout: for a model of no known family: a JSON file that says which tensors are gate, up and down, or the name
            of a family with the same layout.
    """
    checkpoint = gated.load(model, layout=layout_of(layout))
    entries = checkpoint.entries()
    compared = gated.check(checkpoint) if check else ()
    console = Console(markup=False, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
    console.print(table(entries, compared), soft_wrap=False)
    exact = sum(entry.bilinear for entry in entries)
    which = "every layer is" if exact == len(entries) else "no layer is" if not exact else f"{exact} of them are"
    console.print(
        f"{checkpoint.source.title}: {checkpoint.family.name}, {len(checkpoint)} layers; {which} exactly bilinear"
    )
    if not check:
        return
    wrong = [one for one in compared if not one.agrees]
    if wrong:
        worst = max(wrong, key=lambda one: one.error)
        raise BilensError(
            f"{len(wrong)} of {len(compared)} MLPs that differ from the original's, layer {worst.layer} ({worst.part}) "
            f"by {worst.error:.1e} of its largest output",
            f"at most {gated.AGREE:.0e}",
            "report it with the model's name",
        )
    largest = max(one.error for one in compared)
    console.print(
        f"checked: {len(compared)} MLPs on {compared[0].tokens} random tokens give what the original gives, "
        f"up to {largest:.1e} of their largest output"
    )


def table(entries: tuple[Entry, ...], compared: tuple[Comparison, ...] = ()) -> Table:
    """One row per layer, or per kind of MLP in it: sizes, gate, norms, biases, type, and whether it is bilinear."""
    shown = Table(box=None, pad_edge=False)
    names = ["layer", "part", "inputs", "units", "outputs", "gate", "norm", "biases", "type", "bilinear"]
    for name in [*names, "error"] if compared else names:
        shown.add_column(name, justify="right" if name in ("layer", "inputs", "units", "outputs") else "left")
    for entry in entries:
        cells = [
            str(entry.layer),
            entry.part if entry.part != "experts" else f"{entry.count} experts",
            *(str(size) for size in (entry.inputs, entry.units, entry.outputs)),
            entry.activation.title,
            f"{entry.norm}, and after" if entry.post_norm else entry.norm,
            ", ".join(entry.biases) or "none",
            entry.dtype,
            "exactly" if entry.bilinear else "no",
        ]
        errors = [one.error for one in compared if one.layer == entry.layer and _kind(one.part) == entry.part]
        shown.add_row(*cells, *([f"{max(errors):.1e}"] if errors else []))
    return shown


def _kind(part: str) -> str:
    return "experts" if part.startswith("expert ") else part


def layout_of(given: str | None) -> gated.Layout | str | None:
    """What --layout names: a layout in a file, or a family. Raises BilensError for anything else."""
    if given is None or given in {**gated.FAMILIES, **gated.GGUF_FAMILIES}:
        return given
    if not Path(given).is_file():
        raise BilensError(
            f"--layout {given}", f"a JSON file, or one of {', '.join({**gated.FAMILIES, **gated.GGUF_FAMILIES})}"
        )
    return gated.read_layout(given)


__all__ = ["layers", "layout_of", "table"]
