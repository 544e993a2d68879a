"""From records to the page's data and file, without a browser: the schema, exact numbers, and texts that stay texts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import runpy
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from bilens import explorer, plots
from bilens._internal.encoding import floats, pixels, shorts
from bilens.errors import BilensError, ShapeError, SpaceError, StoreError
from bilens.explorer import Exploration
from bilens.explorer.document import Document
from bilens.explorer.page import source
from bilens.faithfulness import Row, Score
from bilens.features import FeatureSet, singular, table
from bilens.space import Space
from explorations import CLASSES, EVIL, PIXELS, make_curve, parts_missing, whole
from messages import refuses

APP = Path(explorer.__file__).parent / "app"
DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "explorer-schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)
PARTS = parts_missing()


@pytest.fixture(scope="module")
def run() -> Exploration:
    return whole()


@pytest.fixture(scope="module")
def document(run: Exploration) -> Document:
    return explorer.document([run])


@pytest.fixture(scope="module")
def html(document: Document) -> str:
    return explorer.render(document)


def decode(array: dict) -> np.ndarray:
    """By numpy, as docs/explorer-format.md says."""
    kinds = {"f4": "<f4", "i2": "<i2", "u1": "u1"}
    values = np.frombuffer(base64.b64decode(array["data"]), kinds[array["type"]]).reshape(array["shape"])
    if "scale" not in array:
        return values
    return values * np.array(array["scale"]).reshape(-1, *[1] * (values.ndim - 1))


def blocks(html: str) -> dict[str, str]:
    """The texts of the page's elements that hold text of another language, by name and type."""
    found: dict[str, str] = {}

    class Reader(HTMLParser):
        inside = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag != "img"
            assert not any(name.startswith("on") or name == "style" for name, _ in attrs)
            self.inside = f"{tag} {dict(attrs).get('type', '')}".strip() if tag in ("script", "style", "title") else ""
            if tag == "meta" and dict(attrs).get("http-equiv"):
                found["policy"] = dict(attrs)["content"] or ""

        def handle_data(self, data: str) -> None:
            if self.inside:
                found[self.inside] = found.get(self.inside, "") + data

        def handle_endtag(self, tag: str) -> None:
            self.inside = ""

    reader = Reader(convert_charrefs=True)
    reader.feed(html)
    reader.close()
    return found


def test_the_schema_and_the_scripts_types_are_those_of_the_typed_dictionaries() -> None:
    VALIDATOR.check_schema(SCHEMA)
    written = runpy.run_path(str(DOCS / "explorer_schema.py"))["written"]()
    names = ["explorer-schema.json", "layout.js", "explorer-lm-schema.json", "lm_layout.js"]
    assert [path.name for path in written] == names
    for path, text in written.items():
        assert path.read_text("utf-8") == text, f"run python docs/explorer_schema.py: {path.name} is another"


@pytest.mark.parametrize("name", ["everything", *PARTS])
def test_every_document_is_as_the_schema_says(name: str, document: Document) -> None:
    content = document if name == "everything" else explorer.document([PARTS[name]])
    VALIDATOR.validate(json.loads(json.dumps(content, allow_nan=False)))


def test_the_schema_refuses_what_is_no_document(document: Document) -> None:
    for change in (
        lambda content: content.update(format=1),
        lambda content: content["runs"][0].pop("sets"),
        lambda content: content["runs"][0]["sets"][0]["features"][0].update(label=3),
        lambda content: content["runs"][0].update(surprise=1),
        lambda content: content["palette"].append("url(x)"),
    ):
        broken = json.loads(json.dumps(document))
        change(broken)
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate(broken)


def test_the_factors_give_the_logits_of_the_library(run: Exploration, document: Document) -> None:
    model, samples = document["runs"][0]["model"], document["runs"][0]["samples"]
    assert model is not None
    assert samples is not None
    left, right, down = (decode(model[name]).astype(np.float64) for name in ("left", "right", "down"))
    x = decode(samples["inputs"])
    lifted = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    np.testing.assert_allclose(((lifted @ left.T) * (lifted @ right.T)) @ down.T, decode(samples["outputs"]), atol=1e-4)
    assert run.samples is not None
    np.testing.assert_allclose(x, run.samples.inputs.numpy(), atol=1e-6)


def test_a_features_eigenpairs_rebuild_its_value_within_the_bound(run: Exploration, document: Document) -> None:
    assert run.model is not None
    dense = run.model.to_dense().double().numpy()
    for o, feature in enumerate(document["runs"][0]["sets"][0]["features"]):
        values, vectors = decode(feature["eigenvalues"]), decode(feature["vectors"])
        expected = np.linalg.eigvalsh(dense[o])
        np.testing.assert_allclose(np.sort(values), expected, atol=1e-5 * np.abs(expected).max())
        assert len(vectors) == 32  # the outputs' view keeps all that were stored
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(32), atol=2e-4)
        rebuilt = (vectors.T * values[:32]) @ vectors
        assert np.linalg.norm(rebuilt - dense[o], 2) <= np.abs(values[32]) + 1e-3 * np.abs(values[0])


def test_errors_extremes_and_pairs_are_those_of_the_dense_kernel(run: Exploration, document: Document) -> None:
    assert run.model is not None
    assert run.samples is not None
    x = np.concatenate([run.samples.inputs.double().numpy(), np.ones((40, 1))], axis=1)
    section = document["runs"][0]["sets"][0]
    assert section["norm"] == pytest.approx(np.linalg.norm(x, axis=1).max(), rel=1e-5)
    dense = run.model.to_dense().double().numpy()
    for q, feature in zip(dense, section["features"], strict=True):
        response = np.einsum("ni,ij,nj->n", x, q, x)
        values, vectors = np.linalg.eigh(q)
        order = np.argsort(-np.abs(values))
        terms = (x @ vectors[:, order]) ** 2 * values[order]
        errors = np.abs(terms.cumsum(axis=1) - response[:, None]).max(axis=0)
        np.testing.assert_allclose(decode(feature["errors"]), errors, atol=1e-4 * np.abs(response).max())
        best = [item["value"] for item in feature["largest"]]
        np.testing.assert_allclose(best, np.sort(response)[::-1][:6], atol=1e-4 * np.abs(response).max())
        worst = [item["value"] for item in feature["smallest"]]
        np.testing.assert_allclose(worst, np.sort(response)[:6], atol=1e-4 * np.abs(response).max())
        assert feature["largest"][0]["sample"] == int(response.argmax())
        upper = np.triu(q[:36, :36]) + np.triu(q[:36, :36], 1)
        strongest = np.sort(np.abs(upper), axis=None)[::-1][:24]
        np.testing.assert_allclose([abs(pair["strength"]) for pair in feature["pairs"]], strongest, rtol=1e-4)
        for pair in feature["pairs"]:
            assert pair["strength"] == pytest.approx(upper[pair["i"], pair["j"]], rel=1e-4)


def test_arrays_come_back_as_close_as_their_type_says() -> None:
    rows = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-6, 1, 0, 3e5, 1])[:, None]
    exact = decode(floats("x", rows))
    np.testing.assert_array_equal(exact, rows.numpy())
    close = decode(shorts("x", rows))
    assert (np.abs(close - rows.numpy()).max(axis=1) <= rows.abs().amax(dim=1).numpy() / 65534 * 1.001).all()
    assert pixels("x", rows)["type"] == "f4"
    images = torch.randint(0, 256, (3, 7)) / 255
    assert pixels("x", images)["type"] == "u1"
    np.testing.assert_allclose(decode(pixels("x", images)), images.numpy(), atol=1e-6)
    for encode in (floats, shorts, pixels):
        with refuses(BilensError, "weights", "NaN"):
            encode("weights", torch.tensor([[1.0, torch.nan]]))


def test_every_score_and_curve_says_on_how_many_samples_and_nulls_follow_their_view(document: Document) -> None:
    shown = document["runs"][0]
    assert [(row["name"], row["kind"], row["beside"], row["samples"], row["numbers"]) for row in shown["scores"]] == [
        ("the model itself", "model", None, 40, 390),
        (EVIL, "view", None, 40, None),
        ("never trained", "null", EVIL, 40, 152),
    ]
    assert [line["samples"] for line in shown["curves"]] == [40, 40]
    assert [line["numbers"] for line in shown["curves"]] == [[38, 152, 456], None]
    figures = [figure for view in shown["sets"] for figure in view["figures"]]
    assert [(figure["kind"], figure["name"]) for figure in figures] == [
        ("lines", "singular-values"),
        ("cells", "codes"),
    ]
    assert "compared on 40 samples" in figures[1]["note"]


def test_a_sets_own_row_gives_way_to_one_of_the_page(run: Exploration) -> None:
    stated = replace(run, scores=(*run.scores, Row(EVIL, Score(0.25, 1.2, None, 40))))
    assert [row.score.accuracy for row in stated.all_scores if row.name == EVIL] == [0.25]


def test_rivals_are_rows_of_other_sets_beside_the_first_of_ones_own(run: Exploration) -> None:
    score = Row("mine", Score(0.5, 1.0, 0.5, 40))
    mine = replace(run.features[3], scores=(score,), rivals={"digits": 4, "svd": 5, "none": 1})
    rows = table((run.features[0], mine), None)
    assert [(row.name, row.kind, row.beside) for row in rows] == [
        (EVIL, "view", None),
        ("mine", "view", None),
        ("4 eigenvectors", "rival", "mine"),  # the curve of "svd" has no point at 5, and there is no set "none"
    ]


def test_the_figures_of_a_set_are_its_charts(run: Exploration, document: Document) -> None:
    (figure,) = document["runs"][0]["sets"][1]["figures"]
    chart = run.features[1].charts["singular-values"]
    assert figure["columns"] == [chart.x, *chart.columns]
    np.testing.assert_allclose(np.array(figure["rows"])[:, 1:], chart.values.numpy(), rtol=1e-6)
    assert document["runs"][0]["sets"][2]["words"] == [{"name": "Norm of Q", "value": EVIL}]


def test_curves_of_seeds_on_other_samples_are_refused(run: Exploration) -> None:
    other = replace(make_curve("eigenvectors"), samples=20)
    with refuses(BilensError, "curve 'eigenvectors' on 40 samples, and of another seed on 20"):
        explorer.document([replace(run, repeats=[(other,)])])


@pytest.mark.parametrize("name", ["digits", "kinds", "svd"])
def test_the_outputs_are_known_by_their_kernels_whatever_the_set_is_called(run: Exploration, name: str) -> None:
    mine = replace(run.features[0], name=name)
    others = tuple(found for found in run.features[1:] if found.name != name)
    other = replace(run.features[1], name="digits" if name != "digits" else "more")
    shown = explorer.document([replace(run, features=(other, mine, *others))])["runs"][0]
    assert shown["outputs_set"] == name
    section = next(view for view in shown["sets"] if view["name"] == name)
    assert len(section["features"][0]["eigenvalues"]["shape"]) == 1
    assert section["features"][0]["vectors"]["shape"][0] == 32  # all that are stored, and not the first 16
    assert (section["title"], section["tab"], section["feature"]) == ("Class directions", "Classes", "Class")
    plain = replace(mine, title="", tab="")
    section = explorer.document([Exploration("Plain", features=(plain,))])["runs"][0]["sets"][0]
    assert (section["title"], section["tab"]) == (name, name)
    without = replace(run, features=others, scores=())
    assert explorer.document([without])["runs"][0]["outputs_set"] is None


def test_a_set_with_other_kernels_is_not_the_outputs(run: Exploration) -> None:
    first = run.features[0]
    swapped = replace(first, spectra=(first.spectra[1], first.spectra[0], *first.spectra[2:]))
    assert explorer.document([replace(run, features=(swapped,))])["runs"][0]["outputs_set"] is None
    stated = replace(swapped, are_outputs=True)
    with refuses(BilensError, "a set 'digits' with other kernels than the model's outputs"):
        replace(run, features=(stated,))
    with refuses(BilensError, "7 features that are the 4 outputs"):
        replace(run.features[1], are_outputs=True)
    alone = replace(run, features=(stated,), model=None, samples=None)
    assert explorer.document([alone])["runs"][0]["outputs_set"] == "digits"


def test_names_of_single_outputs() -> None:
    names = ["digits", "species", "series", "class", "classes", "boxes", "output"]
    assert [singular(name) for name in names] == ["digit", "species", "series", "class", "class", "box", "output"]


def test_what_a_feature_lowers_is_named_and_the_larger_effect_comes_first(run: Exploration) -> None:
    digits = Space("digits", 10)
    rows = torch.zeros(7, 10)
    rows[0, [7, 5, 2, 4]] = torch.tensor([0.20, 0.17, 0.05, -0.46])
    rows[1, [0, 1, 3]] = torch.tensor([0.3, -0.9, 0.28])
    rows[2] = torch.eye(10)[3] - 0.1  # the mean over outputs taken off: against none of the others
    rows[3, [4, 9]] = torch.tensor([-0.5, -0.4])
    rows[5, [1, 2]] = torch.tensor([1.0, -1.0])
    rows[6] = 0.1 - torch.eye(10)[8]
    spectra = (run.features[1].spectra[1],) * 7
    view = FeatureSet("svd", spectra, torch.ones(7), "σ", rows, digits)
    assert [view.speaks(place) for place in range(7)] == [
        "against 4; for 7, 5",
        "against 1; for 0, 3",
        "for 3",
        "against 4, 9",
        "moves no output",
        "for 1; against 2",
        "against 8",
    ]
    three, two = Space("kinds", 3), Space("sides", 2)
    for output, row, expected in (
        (three, torch.eye(3)[1] - 1 / 3, "for 1"),
        (two, torch.tensor([-0.5, 0.5]), "for 1; against 0"),
    ):
        assert FeatureSet("svd", spectra[:1], torch.ones(1), "σ", row[None], output).speaks(0) == expected
    assert (view.raises(0), view.lowers(0), view.raises(3)) == (("7", "5"), ("4",), ())
    features = explorer.document([Exploration(title="Speaks", features=(view,))])["runs"][0]["sets"][0]["features"]
    assert [features[0][name] for name in ("speaks", "raises", "lowers")] == ["against 4; for 7, 5", ["7", "5"], ["4"]]


def test_samples_that_are_not_in_the_page_are_not_dropped(run: Exploration) -> None:
    assert run.samples is not None
    few = replace(run.samples, **{name: getattr(run.samples, name)[:10] for name in ("inputs", "numbers", "outputs")},
                  labels=None)  # fmt: skip
    whole_, part = (explorer.document([each])["runs"][0]["sets"][1]["features"] for each in
                    (run, replace(run, samples=few)))  # fmt: skip
    for before, after in zip(whole_, part, strict=True):
        for name in ("largest", "smallest"):
            assert [(item["number"], item["value"]) for item in before[name]] == [
                (item["number"], item["value"]) for item in after[name]
            ]
            assert [item["sample"] for item in after[name]] == [
                item["number"] if item["number"] < 10 else -1 for item in after[name]
            ]


def test_means_over_seeds_have_intervals(run: Exploration) -> None:
    others = [(make_curve("eigenvectors", 0.02),), (make_curve("eigenvectors", 0.04), make_curve("another"))]
    line = explorer.document([replace(run, repeats=others)])["runs"][0]["curves"][0]
    assert line["seeds"] == 3
    assert line["accuracy"] == pytest.approx([0.23, 0.73, 0.9175])
    # three values 0.02 apart: t(0.975, 2) · 0.02 / √3
    assert line["accuracy_half"] == pytest.approx([4.30265 * 0.02 / 3**0.5] * 3, rel=1e-4)
    fewer = make_curve("eigenvectors", 0.02)
    fewer = replace(fewer, kept=torch.tensor([1, 4, 9]))  # an SAE of another seed has another number of features
    line = explorer.document([replace(run, repeats=[(fewer,)])])["runs"][0]["curves"][0]
    assert (line["seeds"], line["kept"], len(line["bound"])) == (2, [1, 4], 2)
    assert line["accuracy"] == pytest.approx([0.24, 0.74])
    alone = explorer.document([run])["runs"][0]["curves"][0]
    assert alone["accuracy_half"] is None


def test_no_text_of_the_data_is_markup(html: str) -> None:
    found = blocks(html)
    assert set(found) == {"policy", "title", "style", "script", "script application/json"}
    data = json.loads(found["script application/json"])
    texts = json.dumps(data, ensure_ascii=False)
    assert texts.count(json.dumps(EVIL, ensure_ascii=False)[1:-1]) > 8  # as it is, once JSON is read
    for character in "<>&":
        assert character not in found["script application/json"]
    assert "<img" not in html
    assert "\x1b" not in html
    assert "{{ 7*7 }}" in found["title"]


def test_the_policy_lets_nothing_run_but_the_script_itself(html: str) -> None:
    found = blocks(html)
    policy = dict(part.split(" ", 1) for part in found["policy"].split("; "))
    assert policy["default-src"] == "'none'"
    for kind, block in (("script-src", "script"), ("style-src", "style")):
        digest = base64.b64encode(hashlib.sha256(found[block].encode()).digest()).decode()
        assert policy[kind] == f"'sha256-{digest}'"
    assert policy["img-src"] == "data: blob:"
    assert not re.search(r"""(?:src|href)=["']?(?!#|data:)[a-z]*:""", html)


IMPORT = re.compile(r'import \{ ([\w, ]+) \} from "\./([a-z_]+)\.js";')


def test_the_modules_are_what_the_joiner_can_join() -> None:
    names: dict[str, list[str]] = {}
    for path in sorted(APP.glob("*.js")):
        text = path.read_text("utf-8")
        imports = re.findall(r"^import .*$", text, flags=re.MULTILINE)
        assert all(IMPORT.fullmatch(line) for line in imports), path.name
        code = re.sub(r"/\*\*.*?\*/", "", text, flags=re.DOTALL)
        assert not re.search(r"^export (default|\{|\*)|\bimport\(|\beval\b|\bFunction\(", code, re.MULTILINE)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", text), path.name
        for line in imports:
            wanted, module = IMPORT.fullmatch(line).groups()
            there = (APP / f"{module}.js").read_text("utf-8")
            for name in wanted.split(", "):
                assert re.search(rf"^export (async )?(function|const|let|class) {name}\b", there, re.MULTILINE), name
        found = re.findall(r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", text, flags=re.MULTILINE)
        names[path.stem] = found
    joined = {entry: source(entry) for entry in ("main", "lm_main")}
    for text in joined.values():
        assert not re.search(r"</script|<!--", text)
        assert not re.search(r"^(import|export) ", text, flags=re.MULTILINE)
        declared = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", text, flags=re.MULTILINE)
        assert len(set(declared)) == len(declared), sorted({name for name in declared if declared.count(name) > 1})
    for module, found in names.items():
        assert any(all(re.search(rf"\b{name}\b", text) for name in found) for text in joined.values()), module


def test_the_palette_is_the_plots_own(document: Document) -> None:
    assert document["palette"] == list(plots.PATTERN)
    assert len(document["palette"]) == 127


def test_a_page_is_written_whole_and_the_same_each_time(run: Exploration, html: str, tmp_path: Path) -> None:
    explorer.write([run], tmp_path / "out" / "page.html")
    assert (tmp_path / "out" / "page.html").read_text("utf-8") == html == explorer.page([run])
    (tmp_path / "file").write_text("")
    with refuses(StoreError, f"below the file {tmp_path / 'file'}"):
        explorer.write([Exploration(title="Small")], tmp_path / "file" / "page.html")


def test_what_is_not_finite_is_refused(run: Exploration) -> None:
    view = run.features[1]
    for broken, what in (
        (replace(view, importance=torch.full((7,), torch.nan)), "importance"),
        (replace(view, effects=torch.full((7, 4), torch.inf)), "effects"),
    ):
        with refuses(BilensError, f"{what} with NaN or infinity"):
            explorer.page([Exploration(title="Broken", features=(broken,))])
    with refuses(BilensError, "loss with NaN"):
        explorer.page([Exploration(title="Broken", facts={"loss": float("nan")})])
    compared = replace(run.features[2].codes["codes"], trained=torch.tensor([torch.nan, 0, 0]))
    chart = replace(run.features[1].charts["singular-values"], level=float("nan"))
    for more, what in (({"codes": {"codes": compared}}, "codes"), ({"charts": {"mine": chart}}, "mine")):
        with refuses(BilensError, f"{what} with NaN"):
            explorer.page([Exploration(title="Broken", features=(replace(view, **more),))])


def test_what_does_not_fit_together_is_refused(run: Exploration) -> None:
    view = run.features[1]
    with refuses(BilensError, "two sets named 'svd'"):
        Exploration(title="Twice", features=(view, view))
    score = Score(0.5, 1.0, 0.5)
    with refuses(BilensError, "two scores named 'a'"):
        Exploration(title="Twice", scores=(Row("a", score), Row("a", score)))
    with refuses(BilensError, "'b' beside 'c'"):
        Exploration(title="Beside", scores=(Row("a", score), Row("b", score, 1, "null", beside="c")))
    with refuses(BilensError, "eigenvectors = 0"):
        Exploration(title="None", eigenvectors=0)
    with refuses(BilensError, "details of 4 features", "each of its 7"):
        replace(view, detail=run.features[0].detail)
    with refuses(BilensError, "a total of 6 for the 7 features"):
        replace(view, total=6)
    with refuses(BilensError, "without a name"):
        replace(view, name="")
    chart = view.charts["singular-values"]
    with refuses(BilensError, "3 lines drawn of 2"):
        replace(chart, drawn=3)
    with refuses(ShapeError, "values of shape"):
        replace(chart, values=chart.values[:, :1])
    assert run.samples is not None
    with refuses(SpaceError, "a set of samples"):
        replace(run, samples=replace(run.samples, input=replace(PIXELS.without_constant(), name="others")))
    with refuses(SpaceError, "the set"):
        replace(run, features=(replace(view, output=replace(CLASSES, name="others")),), scores=())
    for runs in ([], [run, run, run]):
        with refuses(BilensError, f"{len(runs)} runs"):
            explorer.document(runs)
