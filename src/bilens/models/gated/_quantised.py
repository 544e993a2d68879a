"""Weights that a checkpoint stores in few bits, as the numbers that they stand for: MXFP4 of gpt-oss, and FP8.

Both are exact: each stored number times its scale is a float32. Nothing but the asked tensor (or expert) is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bilens.errors import StoreError
from bilens.models.gated._stored import Source, Stored

MXFP4, FP8 = "MXFP4", "FP8"
"""The types of weights that are read by their scales, as tables show them."""

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The eight sizes of an FP4 number; its fourth bit is the sign."""
_BLOCK = 32
"""Numbers that share a scale in MXFP4."""
_SCALES = ("weight_scale_inv", "weight_scale")
"""Names of the scales of FP8: of blocks, and of rows or a whole matrix."""


def dequantised(source: Source) -> Source:
    """The source itself, or over it one that gives the numbers of what is stored in MXFP4 or FP8."""
    names = set(source.names())
    packed = {stem for name in names if (stem := name.removesuffix("_blocks")) != name and f"{stem}_scales" in names}
    scaled = {
        f"{stem}.weight": f"{stem}.{scale}"
        for scale in reversed(_SCALES)
        for name in names
        if (stem := name.removesuffix(".weight")) != name and f"{stem}.{scale}" in names
    }
    return Dequantised(source, packed, scaled) if packed or scaled else source


class Dequantised:
    """A source whose quantised tensors are given as float32.

    A tensor NAME of experts in MXFP4 is stored as NAME_blocks (experts, rows, columns / 32, 16), two numbers per byte
    with the first in its low half, and NAME_scales (experts, rows, columns / 32), exponents of 2 with 127 added, of
    which 255 stands for NaN. It is given as transformers holds it in memory, (experts, columns, rows).

    A matrix NAME.weight in FP8 (E4M3) has NAME.weight_scale_inv, one scale per block of a size in the config, or
    NAME.weight_scale, one per row or a single one.

    Args:
        source: of the stored tensors; packed: names in MXFP4; scaled: names in FP8, and of their scales.
    """

    def __init__(self, source: Source, packed: set[str], scaled: Mapping[str, str]) -> None:
        self._source, self._packed, self._scaled = source, packed, dict(scaled)
        hidden = {f"{name}{part}" for name in packed for part in ("_blocks", "_scales")} | set(scaled.values())
        self._names = tuple(sorted(packed)) + tuple(name for name in source.names() if name not in hidden)

    @property
    def title(self) -> str:
        """Of the model, for messages."""
        return self._source.title

    @property
    def config(self) -> Mapping[str, Any]:
        """What is known of the model."""
        return self._source.config

    @property
    def gguf(self) -> bool:
        """Whether the names are those of GGUF files."""
        return self._source.gguf

    def names(self) -> tuple[str, ...]:
        """The names of all tensors, without their scales."""
        return self._names

    def describe(self, name: str) -> Stored:
        """Shape of the numbers, and the type that they are stored in.

        Raises:
            StoreError: blocks and scales that do not fit together.
        """
        if name in self._packed:
            blocks, scales = (self._source.describe(f"{name}{part}") for part in ("_blocks", "_scales"))
            fits = len(blocks.shape) == 4 and blocks.shape[3] == _BLOCK // 2 and blocks.shape[:3] == scales.shape
            if not fits or blocks.dtype != "U8" or scales.dtype != "U8":
                raise StoreError(
                    f"{self.title} with {name}_blocks {blocks.shape} {blocks.dtype} and {name}_scales {scales.shape} "
                    f"{scales.dtype}",
                    f"bytes of shapes (experts, rows, columns / {_BLOCK}, {_BLOCK // 2}) and the first three of these",
                    "copy or download it again",
                )
            experts, rows, groups, _ = blocks.shape
            return Stored((experts, groups * _BLOCK, rows), MXFP4)
        stored = self._source.describe(name)
        return stored._replace(dtype=FP8) if self._is_fp8(name, stored) else stored

    def read(self, name: str, row: int | None = None) -> Tensor:
        """One tensor, or that expert of it alone.

        Raises:
            StoreError: scales that do not fit, or that are no numbers.
        """
        stored = self.describe(name)
        if stored.dtype == MXFP4:
            return _mxfp4(self._source.read(f"{name}_blocks", row), self._source.read(f"{name}_scales", row))
        value = self._source.read(name, row)
        return self._fp8(name, value) if stored.dtype == FP8 else value

    def _is_fp8(self, name: str, stored: Stored) -> bool:
        return name in self._scaled and stored.dtype in ("F8_E4M3", "float8_e4m3fn") and len(stored.shape) == 2

    def _fp8(self, name: str, value: Tensor) -> Tensor:
        scale, (rows, columns) = self._source.read(self._scaled[name]), value.shape
        if not scale.is_floating_point() or scale.element_size() < 2:
            raise StoreError(
                f"{self.title} with {self._scaled[name]} of type {scale.dtype}", "numbers of 16 bits or more"
            )
        scale = scale.float()
        if self._scaled[name].endswith("_inv"):
            high, wide = self._block()
            fits = tuple(scale.shape) == (-(-rows // high), -(-columns // wide))
            spread = scale.repeat_interleave(high, 0)[:rows] if fits else scale
            spread = spread.repeat_interleave(wide, 1)[:, :columns] if fits else spread
        else:
            fits = scale.numel() == 1 or tuple(scale.shape) in ((rows, 1), (rows,))
            spread = scale.reshape(-1, 1)
        if not fits:
            raise StoreError(
                f"{self.title} with {self._scaled[name]} of shape {tuple(scale.shape)} beside a weight of "
                f"{tuple(value.shape)}",
                "one scale per block, per row, or one",
                "copy or download it again",
            )
        return value.float() * spread

    def _block(self) -> tuple[int, int]:
        """The size of the blocks of FP8 that share a scale, by the config."""
        stated = self.config.get("quantization_config")
        size = stated.get("weight_block_size") if isinstance(stated, Mapping) else None
        if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
            raise StoreError(
                f"{self.title} with weight_block_size = {size!r:.60} in its quantization_config",
                "two sizes, such as [128, 128]",
            )
        return size[0], size[1]


def _mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """Numbers of bytes (…, rows, groups, 16) under scales (…, rows, groups), as (…, columns, rows) in float32."""
    sizes = torch.tensor((*_E2M1, *(-size for size in _E2M1)), dtype=torch.float32)
    both = torch.stack([sizes[(blocks & 15).long()], sizes[(blocks >> 4).long()]], dim=-1)
    numbers = torch.ldexp(both.flatten(-2), scales[..., None].int() - 127)
    return torch.where(scales[..., None] == 255, torch.nan, numbers).flatten(-2).mT


__all__ = ["FP8", "MXFP4", "Dequantised", "dequantised"]
