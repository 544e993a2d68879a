"""One layer: the kernel of one of its outputs and that kernel's product Q v, against that product from the factors
alone; and the layer of a language model opened from its file.

Published code forms the matrix of the kernel by einsum, symmetrises it and multiplies.

A kernel shares its tensor's factors and is valid because they are, so that making one reads a row of the read-out and
nothing else. The limit asked for: kernel and product together take at most 1.5 times the product.

The file has the shapes of SmolLM2-135M's MLPs, random numbers in bfloat16. The few lines read the three matrices of one
layer with safetensors, as float32. Asked: at most 1 s.

Run: python benchmarks/kernel.py [--small] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from measuring import RUNS, Line, Peer, Rates, compare, options, peak_memory, rates, report
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bilens.models import gated
from bilens.space import Space
from bilens.tensor import BilinearTensor

MOST, SECONDS = 1.5, 1.0
MATRICES = ("gate_proj", "up_proj", "down_proj")


def plain(tensor: BilinearTensor, v: Tensor) -> Tensor:
    """Q_0 v = ½[Lᵀ(w ∘ R v) + Rᵀ(w ∘ L v)], w the first row of D."""
    left, right, weights = tensor.left, tensor.right, tensor.down[0]
    return (((v @ right.T) * weights) @ left + ((v @ left.T) * weights) @ right) / 2


def formed(tensor: BilinearTensor, v: Tensor) -> Tensor:
    """Q_0 v through the d × d matrix of the kernel."""
    kernel = torch.einsum("h,hi,hj->ij", tensor.down[0], tensor.left, tensor.right)
    return v @ ((kernel + kernel.T) / 2)


def written(folder: Path, layers: int, *, h: int, d: int) -> None:
    """A model in Llama's layout, nothing but its MLPs."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for layer in range(layers):
        for name, shape in zip(MATRICES, ((h, d), (h, d), (d, h)), strict=True):
            drawn = torch.randn(shape, generator=generator).bfloat16()
            tensors[f"model.layers.{layer}.mlp.{name}.weight"] = drawn
        tensors[f"model.layers.{layer}.post_attention_layernorm.weight"] = torch.ones(d).bfloat16()
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "llama", "hidden_size": d, "intermediate_size": h, "num_hidden_layers": layers}
    config |= {"hidden_act": "silu", "rms_norm_eps": 1e-5}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def matrices(folder: Path, layer: int) -> list[Tensor]:
    """The three of a layer."""
    with safe_open(str(folder / "model.safetensors"), framework="pt") as opened:
        return [opened.get_tensor(f"model.layers.{layer}.mlp.{name}.weight").float() for name in MATRICES]


def opening(limits: Rates, *, small: bool) -> Line:
    """One layer opened from the file of a model, from disk to float32; the file is in the system's cache."""
    layers, h, d = (4 if small else 30), 1536, 576
    layer, entries = layers // 2, 3 * h * d
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        written(folder, layers, h=h, d=d)
        seconds = compare(lambda: gated.load(folder).mlp(layer), lambda: matrices(folder, layer), runs=4 * RUNS)
        ours, theirs = gated.load(folder).mlp(layer), matrices(folder, layer)
        same = all(map(torch.equal, (ours.gate, ours.up, ours.down), theirs))
        del ours, theirs
        return Line(
            work=f"one of {layers} layers opened from safetensors, h={h}, d={d}; asked: at most {SECONDS:g} s",
            ours=seconds.ours,
            memory=peak_memory(lambda: gated.load(folder).mlp(layer)),
            plain=Peer(
                "safe_open and get_tensor of the three matrices",
                seconds.plain,
                peak_memory(lambda: matrices(folder, layer)),
                "the same numbers" if same else "other numbers",
            ),
            published=None,
            limit=6 * entries / limits.copy,
            limited_by=f"reading bfloat16 and writing float32, {6 * entries / 1e6:.0f} MB",
            spread=seconds.spread,
            brief=f"opening one of {layers} layers, h={h}, d={d}",
            runs=4 * RUNS,
        )


def main() -> None:
    asked = options(__doc__)
    device, limits = asked.device, rates(asked.device, small=asked.small)
    h, d, o, count = (1024, 256, 64, 8) if asked.small else (8192, 2048, 2048, 1)
    generator = torch.Generator().manual_seed(0)
    left, right, down, v = (
        torch.randn(size, generator=generator).to(device) for size in ((h, d), (h, d), (o, h), (count, d))
    )
    tensor = BilinearTensor.from_layer(left, right, down, input=Space("input", d), output=Space("output", o))
    seconds = compare(
        lambda: tensor.kernel(0).matvec(v),
        lambda: plain(tensor, v),
        lambda: formed(tensor, v),
        runs=4 * RUNS,
        device=device,
    )
    theirs = plain(tensor, v)
    off = float((tensor.kernel(0).matvec(v) - theirs).norm() / theirs.norm())
    read = 4 * tensor.left.numel() * tensor.left.element_size()
    line = Line(
        work=f"one kernel and its product Q v, h={h}, d={d}",
        ours=seconds.ours,
        memory=peak_memory(lambda: tensor.kernel(0).matvec(v), device=device),
        plain=Peer(
            "the product from the factors, without a kernel",
            seconds.plain,
            peak_memory(lambda: plain(tensor, v), device=device),
            f"within {off:.0e} of its norm",
        ),
        published=Peer(
            "einsum of its matrix, symmetrised, and the product",
            seconds.published,
            peak_memory(lambda: formed(tensor, v), device=device),
            f"within {float((formed(tensor, v) - theirs).norm() / theirs.norm()):.0e} of its norm",
        ),
        limit=read / limits.copy,
        limited_by=f"reading both factors twice, {read / 1e6:.0f} MB",
        reach=round(1 / MOST, 2),
        spread=seconds.spread,
        runs=4 * RUNS,
        device=device,
    )
    report([line, opening(limits, small=asked.small)], [], limits, asked.json)


if __name__ == "__main__":
    main()
