"""The command that shows what coder a folder holds: whose format, which rule for codes, its sizes, and its site."""

from __future__ import annotations

from pathlib import Path

from bilens.sae import Coder, load


def coder(folder: Path, /, *, scale: float | None = None) -> None:
    """Show the sparse coder in a folder of SAELens, sparsify, dictionary_learning, Gemma Scope or bilens.

    All of its files are read and checked. Example: bilens coder layers.5.mlp

    Args:
        folder: of one coder.
        scale: what training multiplied its vectors by, where the folder says that there was such a factor and does not
            hold it.
    """
    read = load(folder, scale=scale)
    k = read.settings.get("k")
    done = read.normalization if isinstance(read, Coder) else "none"
    skip = isinstance(read, Coder) and read.W_skip is not None
    rows = {
        "kind": "transcoder" if read.transcodes else "autoencoder",
        "codes": read.architecture + (f", k = {k}" if k else ""),
        "sizes": f"{read.d_in:,} inputs, {read.d_sae:,} features, {read.d_out:,} outputs",
        "vectors": "as they are" if done == "none" else f"normalised first: {done}",
        "b_dec": "subtracted from vectors first" if read.apply_b_dec_to_input else "added by the decoder alone",
        "skip": "W_skip x is added" if skip else "none",
        "class": type(read).__name__,
        "made for": "any vectors" if read.site is None else str(read.site),
    }
    for name, value in rows.items():
        print(f"{name:9} {value}")
