"""What an axis of a tensor means: its name, size, labels, image shape and constant coordinate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bilens._internal import checks
from bilens._internal.checks import instance, whole
from bilens.errors import BilensError, ShapeError, SpaceError


@dataclass(frozen=True, repr=False)
class Space:
    """A named axis of `size` coordinates, and one more that is always 1 when `constant` is true.

    The constant coordinate comes last and carries the biases: x' = [x; 1], so that an affine map of x is a linear map
    of x'. `size` never counts it; `dim` does.

    Args:
        name: what the axis is, for example "pixels"; spaces with different names do not mix.
        size: number of coordinates without the constant one, at least 1.
        labels: one string per coordinate, all different, for example the class names.
        image: (height, width) when the coordinates are the pixels of an image in row-major order.
        constant: whether one more, last coordinate is always 1.

    Raises:
        BilensError: a name or label that is not a string, or a size below 1. ShapeError: labels or image do not fit
            the size. SpaceError: a label occurs twice.
    """

    name: str
    size: int
    labels: tuple[str, ...] | None = None
    image: tuple[int, int] | None = None
    constant: bool = False

    def __post_init__(self) -> None:
        instance("name", self.name, str, "a text", 'name the axis, for example "pixels"')
        size = whole(f"size of space {self.name!r}", self.size, 1)
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "constant", checks.flag("constant", self.constant))
        if self.labels is not None:
            labels = checks.several("labels", self.labels, "one text per coordinate", 'pass ("cat", "dog"), say')
            object.__setattr__(self, "labels", tuple(labels))
            for label in self.labels:
                instance(f"label {label!r:.40}", label, str, "a text", "write it as one, str(label)")
            if len(self.labels) != self.size:
                raise ShapeError(f"{len(self.labels)} labels for space {self.name!r}", f"{self.size} labels")
            if len(set(self.labels)) != self.size:
                twice = next(label for label in self.labels if self.labels.count(label) > 1)
                raise SpaceError(f"label {twice!r} more than once", "labels that differ", "rename one of them")
            for label in self.labels:
                try:
                    label.encode()
                except UnicodeEncodeError:
                    raise SpaceError(f"label {label!a}", "text that can be written as UTF-8", "rename it") from None
        if self.image is None:
            return
        try:
            height, width = self.image
        except (TypeError, ValueError):
            raise ShapeError(f"image shape {self.image!r:.40} for space {self.name!r}", "(height, width)") from None
        image = whole("image height", height, 1), whole("image width", width, 1)
        object.__setattr__(self, "image", image)
        if image[0] * image[1] != self.size:
            raise ShapeError(
                f"image shape {self.image} for space {self.name!r}",
                f"height × width = {self.size}",
            )

    def __repr__(self) -> str:
        """For example "Space('pixels', 784, image 28×28, constant)"."""
        named = f"labels {self.labels[0]!r} … {self.labels[-1]!r}" if self.labels else ""
        image = f"image {self.image[0]}×{self.image[1]}" if self.image else ""
        parts = (repr(self.name), str(self.size), named, image, "constant" if self.constant else "")
        return f"Space({', '.join(part for part in parts if part)})"

    def to_json(self) -> dict[str, Any]:
        """The space as values of JSON, from which `from_json` makes it again.

        Examples:
            >>> Space.from_json(Space("pixels", 4, image=(2, 2)).to_json())
            Space('pixels', 4, image 2×2)
        """
        return {
            "name": self.name,
            "size": self.size,
            "labels": None if self.labels is None else list(self.labels),
            "image": None if self.image is None else list(self.image),
            "constant": self.constant,
        }

    @classmethod
    def from_json(cls, entry: object) -> Space:
        """The space of an entry that `to_json` made; without "constant" it has no constant coordinate.

        Raises:
            BilensError: another entry, or one that is no space.
        """
        names = {"name", "size", "labels", "image"}
        if not isinstance(entry, dict) or entry.keys() - {"constant"} != names:
            raise BilensError(f"space {entry!s:.80}", "its name, size, labels and image shape")
        labels, image, constant = entry["labels"], entry["image"], entry.get("constant", False)
        lists = all(value is None or isinstance(value, list) for value in (labels, image))
        if not lists or type(entry["size"]) is not int or entry["size"] >= 2**31:
            raise BilensError(f"space {entry!s:.80}", "a size below 2³¹, and lists of labels and of two sides, or none")
        constant = checks.flag("constant", constant)
        return cls(entry["name"], entry["size"], labels and tuple(labels), image and tuple(image), constant)

    @property
    def dim(self) -> int:
        """Number of coordinates, the constant one included."""
        return self.size + int(self.constant)

    @property
    def title(self) -> str:
        """Name and size as messages show them, for example "pixels (784+1)"."""
        return f"{self.name!r} ({self.size}{'+1' if self.constant else ''})"

    def with_constant(self) -> Space:
        """The same space with the constant coordinate."""
        return replace(self, constant=True)

    def without_constant(self) -> Space:
        """The same space without the constant coordinate."""
        return replace(self, constant=False)

    def fold(self, x: Float[Tensor, "*n size"], like: Tensor | None = None) -> Float[Tensor, "*n dim"]:
        """x' = [x; 1] when the space has a constant coordinate, x itself otherwise.

        Examples:
            >>> Space("x", 2, constant=True).fold(torch.tensor([[3.0, 4.0]]))
            tensor([[3., 4., 1.]])

        Args:
            x: vectors without the constant coordinate, one per row.
            like: a tensor whose type x is converted to, and on whose device x must be; x keeps its type when None.

        Raises:
            ShapeError: the last axis of x is not `size`. BilensError: x is not a dense floating-point tensor.
        """
        x = checks.vectors(
            "vectors",
            x,
            x if like is None else like,
            self.size,
            expected=f"{self.size} coordinates of space {self.title} on the last axis",
            hint="pass one vector per row, without the constant coordinate",
        )
        return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1) if self.constant else x

    def label(self, index: int) -> str:
        """Text of one coordinate: its label, "1" for the constant coordinate, else its number.

        Raises:
            BilensError: no whole number from 0 to `dim` − 1.
        """
        index = whole("index", index, 0, self.dim - 1)
        if self.constant and index == self.size:
            return "1"
        return str(index) if self.labels is None else self.labels[index]

    def index(self, label: str | int) -> int:
        """Position of a coordinate, given by its label (or its number where there are no labels, or as an int).

        Examples:
            >>> Space("pets", 2, ("cat", "dog")).index("dog")
            1

        Raises:
            SpaceError: no such coordinate.
        """
        if not isinstance(label, str):
            try:
                label = whole("label", label)
            except BilensError:
                raise SpaceError(
                    f"label {label!r:.40} of type {type(label).__name__}", "a text or a whole number"
                ) from None
        if isinstance(label, int):
            if 0 <= label < self.size:
                return label
        elif self.labels is not None:
            if label in self.labels:
                return self.labels.index(label)
        elif label.isdecimal() and int(label) < self.size:
            return int(label)
        known = (
            f"a number from 0 to {self.size - 1}"
            if self.labels is None or isinstance(label, int)
            else f"one of {', '.join(self.labels[:12])}{', …' if self.size > 12 else ''}"
        )
        raise SpaceError(f"label {label!r} for space {self.title}", known)

    def require(self, other: Space, what: str) -> None:
        """Check that `other` is this very space.

        Raises:
            SpaceError: it is another one. BilensError: it is no space.
        """
        instance(what, other, Space)
        if other != self:
            differs = ", ".join(
                field
                for field in ("name", "size", "labels", "image", "constant")
                if getattr(self, field) != getattr(other, field)
            )
            raise SpaceError(
                f"{what} over space {other.title}",
                f"one over space {self.title} (they differ in {differs})",
                "build it on the same space",
            )
