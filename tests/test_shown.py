"""How records show themselves: all of them in one line, three of them in a notebook as bars as long as the numbers."""

from __future__ import annotations

import ast
import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bilens import BilinearTensor, Kernel, Space, decompose, pairs
from bilens._internal import shown
from bilens.features import FeatureSet

SOURCE = Path(__file__).parents[1] / "src" / "bilens"
SVG = "{http://www.w3.org/2000/svg}"
POSITIVE, NEGATIVE = "#2166ac", "#b2182b"
HOSTILE = "<script>alert(1)</script>&\"'\x00\x1b]]>"


def tensor() -> BilinearTensor:
    generator = torch.Generator().manual_seed(0)
    left, right, bias = (torch.randn(shape, generator=generator) for shape in ((5, 4), (5, 4), (5,)))
    labels = (HOSTILE, "b", "c", "d", "e")
    return BilinearTensor.from_layer(left, right, left_bias=bias, input=Space("x", 4), output=Space("y", 5, labels))


def bars(picture: str) -> list[tuple[str, float, float, str]]:
    """Title, start, length and colour of every bar of a picture, read as XML."""
    root = ET.fromstring(picture)
    found = []
    for group in root.iter(f"{SVG}g"):
        (rect,), title = group.findall(f"{SVG}rect"), group.findtext(f"{SVG}title", "")
        found.append((title, float(rect.attrib["x"]), float(rect.attrib["width"]), rect.attrib["fill"]))
    return found


def check(picture: str, values: list[float]) -> None:
    """Bars from one 0, to the right and blue above it, to the left and red below, as long as the numbers are large."""
    found = bars(picture)
    assert len(found) == len(values)
    longest = max(abs(value) for value in values)
    scale = max(width for _, _, width, _ in found) / longest
    zero = {round(x if color == POSITIVE else x + width, 1) for _, x, width, color in found}
    assert max(zero) - min(zero) < 0.11
    for (_, _, width, color), value in zip(found, values, strict=True):
        assert width == pytest.approx(scale * abs(value), abs=0.02)
        assert color == (POSITIVE if value >= 0 else NEGATIVE)


def test_a_spectrum_shows_its_eigenvalues() -> None:
    spectrum = decompose.eigh(tensor().kernel(0))
    picture = spectrum._repr_html_()
    check(picture, spectrum.values.tolist())
    assert "hold 100.0% of ‖Q‖²" in "".join(ET.fromstring(picture).itertext())
    first = spectrum.keep(1)
    share = float(first.values[0] ** 2) / float(spectrum.values.square().sum())
    assert f"hold {share:.1%} of" in first._repr_html_()


def test_many_rows_are_counted_and_not_drawn() -> None:
    values = torch.arange(40.0, 0, -1)
    kernel = Kernel.from_matrix(torch.diag(values), Space("x", 40))
    picture = decompose.eigh(kernel)._repr_html_()
    check(picture, values[:16].tolist())
    assert "and 24 more" in picture


def test_interactions_show_the_largest_with_their_names() -> None:
    found = decompose.interactions(tensor())
    largest = found.top(16)
    picture = found._repr_html_()
    check(picture, [each.coefficient for each in largest])
    for (title, *_), each in zip(bars(picture), largest, strict=True):
        assert title.startswith(f"{each.first} · {each.second} → ")
        assert f"{each.coefficient:+.4g}" in title
    assert f"and {len(found) - 16} more" in picture


def test_a_set_of_features_shows_importance_and_effects() -> None:
    layer = tensor()
    spectra = tuple(decompose.eigh(layer.kernel(n), 2) for n in range(3))
    effects = torch.eye(5)[:3]
    found = FeatureSet("mine", spectra, torch.tensor([3.0, 2.0, 0.5]), "mean |code|", effects, layer.output, total=3)
    picture = found._repr_html_()
    check(picture, [3.0, 2.0, 0.5])
    assert [title.split(", ")[-1] for title, *_ in bars(picture)][1:] == [found.speaks(1), found.speaks(2)]
    assert "mean |code|" in picture


def test_text_from_data_is_text() -> None:
    layer = tensor()
    spectrum = decompose.eigh(layer.kernel(0))
    for picture in (spectrum._repr_html_(), decompose.interactions(layer)._repr_html_()):
        root = ET.fromstring(picture)
        assert {node.tag.removeprefix(SVG) for node in root.iter()} == {"svg", "title", "text", "g", "rect", "path"}
        assert not any(name.startswith("on") or "href" in name for node in root.iter() for name in node.attrib)
    assert "alert(1)" in "".join(ET.fromstring(spectrum._repr_html_()).itertext())


def test_nothing_but_zeros_and_nothing_at_all() -> None:
    zero = decompose.eigh(Kernel.from_matrix(torch.zeros(2, 2), Space("x", 2)))
    assert [width for _, _, width, _ in bars(zero._repr_html_())] == [0.0, 0.0]
    assert bars(zero.keep(0)._repr_html_()) == []
    odd = bars(shown.bars("t", [("a", float("nan"), ""), ("b", 1.0, "")], 2))
    assert [width > 0 for _, _, width, _ in odd] == [False, True]


def records() -> Iterator[object]:
    layer = tensor()
    kernel = layer.kernel(0)
    stream = pairs.stream(layer, shuffle=False)
    yield from (layer, kernel, layer.input, layer.output, stream, stream.features)
    yield from (
        decompose.eigh(kernel),
        decompose.svd(layer),
        decompose.input_basis(layer),
        decompose.interactions(layer),
    )
    yield pairs.PairCodes.of(stream, torch.relu)
    yield pairs.sampled(layer, pairs.norms(layer))
    yield decompose.eigh_weighted(kernel, torch.eye(5))


@pytest.mark.parametrize("record", list(records()), ids=lambda record: type(record).__name__)
def test_a_record_is_one_line_with_its_shapes_spaces_and_type(record: object) -> None:
    said = repr(record)
    assert "\n" not in said
    assert len(said) < 1000
    assert said.startswith(f"{type(record).__name__}(")
    parts = [getattr(record, field.name) for field in dataclasses.fields(record)]  # type: ignore[arg-type]
    if any(isinstance(part, Tensor) for part in parts):
        assert said.endswith(("float32)", "float64)"))
    for part in parts:
        assert not isinstance(part, Space) or part.title in said


def test_what_a_line_says() -> None:
    spectrum = decompose.eigh(Kernel.from_matrix(torch.eye(3), Space("x", 3), "3"), 2)
    tensors = "values (2,), vectors (2, 3), residuals (2,), discarded (), energy ()"
    assert repr(spectrum) == f"Spectrum({tensors}, input 'x' (3), label '3', float32)"


def test_every_record_with_tensors_has_a_line() -> None:
    """Python's own would print every number."""
    wordy = []
    for path in SOURCE.rglob("*.py"):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if "@dataclass" in text and "Tensor" in text else ():
            if isinstance(node, ast.ClassDef):
                made = [ast.unparse(decorator) for decorator in node.decorator_list]
                held = [ast.unparse(field.annotation) for field in node.body if isinstance(field, ast.AnnAssign)]
                if any("dataclass" in text and "repr=False" not in text for text in made) and "Tensor" in str(held):
                    wordy.append(node.name)
    assert not wordy
