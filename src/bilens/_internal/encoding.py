"""Numbers as text: arrays as base64 of plain binary types, which a page turns back without a library.

Whole arrays are kept in the smallest type that serves: float32 where the page computes with them, 16 bits with a scale
for each row where it draws and sums, 8 bits for pixels.
"""

from __future__ import annotations

import base64
import math
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bilens.errors import BilensError


class _Plain(TypedDict):
    type: Literal["f4", "i2", "u1"]
    shape: list[int]
    data: str


class Array(_Plain, total=False):
    """An array: little-endian numbers of `type`, row by row, in base64.

    `f4` is float32, `i2` int16, `u1` uint8. A value is scale · number where there is a `scale`, one for each row of
    the first axis.
    """

    scale: list[float]


def floats(what: str, values: Tensor) -> Array:
    """float32. Raises BilensError for NaN or infinity."""
    return _array("f4", _numbers(what, values).astype("<f4"))


def shorts(what: str, rows: Tensor) -> Array:
    """int16, each row of the first axis with its own scale: off by at most 1/65,534 of the row's largest |entry|.

    Raises:
        BilensError: NaN or infinity.
    """
    values = _numbers(what, rows)
    flat = values.reshape(len(values), -1)
    scale = np.abs(flat).max(axis=1, initial=0.0) / 32767
    whole = np.rint(flat / np.where(scale > 0, scale, 1)[:, None]).astype("<i2")
    return {**_array("i2", whole.reshape(values.shape)), "scale": [number(value, 10) for value in scale.tolist()]}


def pixels(what: str, rows: Tensor) -> Array:
    """uint8 with the scale 1/255 where the values are 0 … 1 in steps of 1/255, as images are; float32 otherwise.

    Raises:
        BilensError: NaN or infinity.
    """
    values = _numbers(what, rows)
    whole = np.rint(values * 255)
    if values.size and whole.min() >= 0 and whole.max() <= 255 and np.abs(whole / 255 - values).max() < 1e-6:
        return {**_array("u1", whole.astype("u1")), "scale": [1 / 255] * len(values)}
    return floats(what, rows)


def number(value: float, digits: int = 7) -> float:
    """A number with this many digits: JSON is read by people too."""
    return float(f"{value:.{digits}g}")


def finite(what: str, value: float | int) -> float:
    """A number of at most seven digits. Raises BilensError for NaN or infinity."""
    if not math.isfinite(value):
        raise BilensError(f"{what} with NaN or infinity", "finite numbers")
    return number(float(value))


def listed(what: str, values: Tensor) -> list[float]:
    """A vector as JSON numbers. Raises BilensError for NaN or infinity."""
    return [number(value) for value in _numbers(what, values).reshape(-1).tolist()]


def _numbers(what: str, values: Tensor) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = values.detach().cpu().double().numpy()
    if not np.isfinite(numbers).all():
        raise BilensError(f"{what} with NaN or infinity", "finite numbers")
    return numbers


def _array(kind: Literal["f4", "i2", "u1"], values: NDArray[np.generic]) -> Array:
    data = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
    return {"type": kind, "shape": list(values.shape), "data": data}
