"""What an installed bilens must do in an empty folder: read a layer, draw it, write a page, and the whole quick start.

Run: python .ci/smoke.py, with the Python of an environment that has the wheel and nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pages
import torch

import bilens
from bilens import BilinearTensor, Space, decompose, models, pairs, plots, sae, store, text
from bilens.models import gated, language

QUICK_START = Path(__file__).resolve().parents[1] / "docs" / "quickstart.md"


def main() -> None:
    """Each in turn; an error ends it."""
    if "site-packages" not in bilens.__file__:
        sys.exit(f"got bilens from {bilens.__file__}; expected the installed wheel")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        torch.manual_seed(0)
        pixels, digits = Space("pixels", 16, image=(4, 4)), Space("digits", 3)
        left, right, down = torch.nn.Linear(16, 8), torch.nn.Linear(16, 8), torch.nn.Linear(8, 3)
        tensor = BilinearTensor.from_layer(
            left.weight, right.weight, down.weight,
            left_bias=left.bias, right_bias=right.bias, down_bias=down.bias, input=pixels, output=digits,
        )  # fmt: skip
        x = torch.randn(5, 16)
        torch.testing.assert_close(tensor(x), down(left(x) * right(x)).detach(), rtol=1e-4, atol=1e-5)
        spectrum = decompose.eigh(tensor.kernel(2))
        torch.testing.assert_close(spectrum.reconstruct(x), tensor(x)[:, 2], rtol=1e-4, atol=1e-5)
        plots.save(plots.spectrum(spectrum), "kernel.svg")
        coder = sae.TopKSAE(3, 6, k=2)
        sae.train(coder, pairs.stream(tensor, batch_size=32), steps=3, progress=False)
        coder.save_pretrained("coder")
        store.save(decompose.svd(tensor), "svd")
        assert len(store.load("svd", decompose.TensorSVD)) == 3
        models.ImageClassifier(pixels, digits, hidden=8).save_pretrained("model")
        command = ["-m", "bilens", "read", "model", "--out", "run", "--pair-features", "8", "--pair-steps", "3"]
        for arguments in (["-m", "bilens", "--help"], command):
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        assert Path("run/report.html").stat().st_size > 10_000
        assert gated.load(language.TINY).mlp(1).input.size > 0
        assert len(list(text.documents(text.PLAYS))) == 9
        examples, report = pages.run(QUICK_START)
        if report or not examples:
            sys.exit(f"{QUICK_START.name}: {report or 'no examples'}")
    names = ("torch", "numpy", "scipy", "jaxtyping", "safetensors", "tyro", "rich", "matplotlib")
    print(f"bilens {bilens.__version__} works with {', '.join(f'{name} {version(name)}' for name in names)}")


if __name__ == "__main__":
    main()
