"""bilens read of a language model: its tables and page, beside numpy and the layer's own output in transformers."""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import reading_job
import torch
from reading_job import LAYER, directions, in_transformers, page
from torch import nn

import tiny_models
from bilens import cli, sae, store, tables
from bilens.analyses import _language_read as language_read
from bilens.analyses import explore
from bilens.analyses.language import job, seen
from bilens.analyses.language._made import Made
from bilens.analyses.language.input_coder import trained
from bilens.analyses.language.layer import Costs
from bilens.analyses.language.seen import APART, Seen, kept, picked, stretches
from bilens.analyses.language.subject import labels
from bilens.errors import BilensError, StoreError
from bilens.models.gated import Gate
from messages import refuses

pytest.importorskip("duckdb", reason="pip install 'bilens[tables]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "explorer-lm-schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_models.made("llama")


@pytest.fixture(scope="module")
def run(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reading") / "run"
    reading_job.read(out, reading_job.subject(model))
    return out


def test_what_is_shown_as_true_is_the_layers_output_in_transformers(model: nn.Module, run: Path) -> None:
    text = reading_job.subject(model).split
    assert text is not None
    _, y = in_transformers(model, text.held_out)
    asked = tables.open(run)
    labels = [int(label) for label in asked.features(layer=LAYER, set="tokens").column("label").to_pylist()]
    expected = y @ directions(model, labels).T
    shown = store.read_record(run, f"layer-{LAYER:03d}/tokens/seen", Seen)
    assert shown is not None
    where = kept(stretches(text.held_out, reading_job.subject(model).pieces), text.held_out.shape[1])
    np.testing.assert_allclose(shown.true.numpy(), expected[where].T, atol=1e-4 * np.abs(expected).max())


def test_contexts_are_those_of_brute_force(model: nn.Module, run: Path) -> None:
    text = reading_job.subject(model).split
    assert text is not None
    _, y = in_transformers(model, text.held_out)
    asked, length = tables.open(run), text.held_out.shape[1] - 1
    labels = [int(label) for label in asked.features(layer=LAYER, set="tokens").column("label").to_pylist()]
    values = (y @ directions(model, labels).T).T
    for feature in (0, 7):
        for kind, sign in (("largest", 1), ("smallest", -1)):
            chosen: list[int] = []
            for place in sorted(range(len(values[feature])), key=lambda place: -sign * values[feature][place]):
                near = [one for one in chosen if one // length == place // length and abs(one - place) < APART]
                if len(chosen) < seen.EACH and not near:
                    chosen.append(place)
            rows = asked.examples(layer=LAYER, set="tokens", feature=feature, kind=kind).to_pylist()
            assert [(row["document"], row["position"]) for row in rows] == [
                (place // length, place % length + 1) for place in chosen
            ]
            for row, place in zip(rows, chosen, strict=True):
                assert row["value"] == pytest.approx(values[feature][place], rel=1e-3, abs=1e-4)
                assert row["values"][row["focus"]] == pytest.approx(row["value"], rel=1e-4, abs=1e-5)
                assert row["tokens"][row["focus"]] == f" {int(text.held_out[row['document'], row['position']])}"


def test_correlations_are_numpys_on_the_tables_own_pairs(model: nn.Module, run: Path) -> None:
    text = reading_job.subject(model).split
    assert text is not None
    x, y = in_transformers(model, text.held_out)
    unit = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + model.config.rms_norm_eps)  # type: ignore[union-attr]
    lifted = np.concatenate([unit, np.ones((len(unit), 1))], axis=1)
    asked = tables.open(run)
    label = int(asked.features(layer=LAYER, set="tokens").column("label").to_pylist()[3])
    true = y @ directions(model, [label])[0]
    vectors = asked.vectors(layer=LAYER, set="tokens", feature=3).double().numpy()
    values = [row["value"] for row in asked.eigenpairs(layer=LAYER, set="tokens", feature=3).to_pylist()]
    terms = (lifted @ vectors.T) ** 2 * np.array(values)
    rows = asked.query("SELECT pairs, correlation FROM audit WHERE \"set\" = 'tokens' AND feature = 3").to_pylist()
    told = {row["pairs"]: row["correlation"] for row in rows}
    assert set(told) == {0, 1, 2, 4}
    for k in (1, 2, 4):
        expected = np.corrcoef(true, terms[:, :k].sum(axis=1))[0, 1]
        assert told[k] == pytest.approx(expected, abs=2e-3)
    failed = asked.examples(layer=LAYER, set="tokens", feature=3, kind="failed").to_pylist()[0]
    fit_x, _ = in_transformers(model, text.fit)
    off = np.abs(true - terms[:, :2].sum(axis=1) - _rest(model, fit_x, label, vectors, values))
    assert (failed["document"], failed["position"]) == (off.argmax() // 23, off.argmax() % 23 + 1)


def _rest(model: Any, x: np.ndarray, label: int, vectors: np.ndarray, values: list[float]) -> float:
    """The mean over fitted tokens of what two pairs leave of the surrogate, from the surrogate's own code."""
    from bilens.models.surrogate import least_squares

    mlp = reading_job.subject(model).checkpoint.mlp(LAYER)
    rows = torch.from_numpy(x).float()
    whole = least_squares(mlp, rows)(rows).double().numpy() @ directions(model, [label])[0]
    unit = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + model.config.rms_norm_eps)
    lifted = np.concatenate([unit, np.ones((len(unit), 1))], axis=1)
    return float((whole - ((lifted @ vectors[:2].T) ** 2 * np.array(values[:2])).sum(axis=1)).mean())


def test_all_terms_of_a_bilinear_layer_add_up_to_its_output_in_transformers(tmp_path: Path) -> None:
    model = tiny_models.made("llama", hidden_act="linear")
    found = reading_job.subject(model)
    assert found.checkpoint.mlp(LAYER).activation == Gate("identity")
    (path,) = reading_job.read(tmp_path / "run", found, pairs=16)
    shown = store.read_record(tmp_path / "run", f"layer-{LAYER:03d}/tokens/seen", Seen)
    assert shown is not None
    assert found.split is not None
    _, y = in_transformers(model, found.split.held_out)
    labels = tables.open(tmp_path / "run").features(layer=LAYER, set="tokens").column("label").to_pylist()
    where = kept(stretches(found.split.held_out, found.pieces), found.split.held_out.shape[1])
    expected = (y @ directions(model, [int(label) for label in labels]).T)[where].T
    np.testing.assert_allclose(shown.terms.sum(dim=1).numpy(), expected, atol=1e-4 * np.abs(expected).max())
    document = page(path)
    assert document["method"] == "exact"
    assert document["costs"] == []
    assert document["apart"] < 1e-4
    assert store.read_record(tmp_path / "run", f"layer-{LAYER:03d}/costs", Costs) is None


def test_the_small_matrix_has_the_coefficients_of_the_table(run: Path) -> None:
    made = store.read_record(run, f"layer-{LAYER:03d}/tokens/made", Made)
    assert made is not None
    checked = 0
    for row in tables.open(run).interactions(layer=LAYER, set="tokens").to_pylist():
        places = made.square[row["feature"]].tolist()
        if row["first"] in places and row["second"] in places:
            at = made.square_values[row["feature"], places.index(row["first"]), places.index(row["second"])]
            assert float(at) == pytest.approx(row["coefficient"], rel=1e-3, abs=1e-4)
            checked += 1
    assert checked > 20


def test_the_page_is_as_its_schema_says_and_names_what_it_rests_on(run: Path) -> None:
    document = page(run / f"layer-{LAYER:03d}.html")
    jsonschema.validate(document, SCHEMA)
    assert (document["method"], document["order"], document["text"]["fit"]) == ("least_squares", "data", 8 * 23)
    assert [cost["kind"] for cost in document["costs"]] == ["surrogate", "null", "null"]
    assert [each["name"] for each in document["sets"]] == ["tokens", "random"]
    assert [each["control"] for each in document["shares"]] == [False, True]
    feature = document["sets"][0]["features"][2]
    assert len(feature["largest"]) == len(feature["failed"]) == seen.EACH
    assert document["tokens"][feature["token"]] == feature["label"]


def test_weights_alone_give_a_page_without_values(model: nn.Module, tmp_path: Path) -> None:
    (path,) = reading_job.read(tmp_path / "run", reading_job.subject(model, text=False))
    document = page(path)
    jsonschema.validate(document, SCHEMA)
    assert (document["method"], document["order"], document["text"]) == ("weights_only", "plain", None)
    assert document["correlations"] == document["costs"] == []
    assert document["sets"][0]["terms"] is None
    assert any("in the order of |λ|" in note for note in document["notes"])
    assert not tables.open(tmp_path / "run").examples(layer=LAYER, set="tokens", feature=0).num_rows


@pytest.mark.slow
def test_several_layers_have_an_index_that_leads_to_each(model: nn.Module, tmp_path: Path) -> None:
    written = reading_job.read(tmp_path / "run", reading_job.subject(model), (0, 2))
    assert [path.name for path in written] == ["index.html", "layer-000.html", "layer-002.html"]
    text = written[0].read_text("utf-8")
    assert re.findall(r'href="([^"]+)"', text) == ["layer-000.html", "layer-002.html"]
    assert "<script" not in text
    assert page(written[1])["others"] == [2]


@pytest.mark.slow
def test_a_coder_of_the_input_is_trained_once_and_names_interactions(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FEATURES", 20), ("CODES", 4), ("STEPS", 5), ("BATCH", 32)):
        monkeypatch.setattr(f"bilens.analyses.language.input_coder.{name}", value)
    (path,) = reading_job.read(tmp_path / "run", reading_job.subject(model), inputs="train")
    document = page(path)
    jsonschema.validate(document, SCHEMA)
    assert document["inputs"]["kind"] == "coder"
    assert any(document["inputs"]["tokens"])
    assert document["sets"][0]["features"][0]["parts"][0]["inputs_one"]["inputs"]
    row = tables.open(tmp_path / "run").interactions(layer=LAYER, limit=1).to_pylist()[0]
    assert row["inputs"] == "mlp-in-001"
    assert row["samples"] == 4 * 23
    before = (trained(tmp_path / "run", LAYER) / "sae_weights.safetensors").stat().st_mtime_ns
    checkpoint = tmp_path / "run" / "mlp-in-001.part"
    checkpoint.write_bytes(b"of a run that was killed when the coder was there already")
    reading_job.read(tmp_path / "run", reading_job.subject(model), inputs="train")
    assert not checkpoint.exists()
    assert (trained(tmp_path / "run", LAYER) / "sae_weights.safetensors").stat().st_mtime_ns == before
    again = trained(tmp_path / "run", LAYER)  # a coder by its folder, on either side
    (path,) = reading_job.read(
        tmp_path / "other", reading_job.subject(model), inputs=str(again), directions=("tokens", str(again))
    )
    assert [each["name"] for each in page(path)["sets"]] == ["tokens", "mlp-in-001", "random"]
    coder = sae.load(again)
    coder.site = sae.Site("mlp_out", layer=0)
    coder.save_pretrained(tmp_path / "one")
    with pytest.warns(sae.SiteWarning, match=r"one was made for mlp_out of layer 0, and is used on layer 1$"):
        reading_job.read(tmp_path / "third", reading_job.subject(model), directions=("tokens", str(tmp_path / "one")))


@pytest.mark.slow
def test_a_bilinear_layer_without_biases_reads_as_one_whose_biases_are_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FEATURES", 20), ("CODES", 4), ("STEPS", 5), ("BATCH", 32)):
        monkeypatch.setattr(f"bilens.analyses.language.input_coder.{name}", value)
    plain = tiny_models.made("llama", hidden_act="linear")
    biased = tiny_models.made("llama", hidden_act="linear", mlp_bias=True)
    biased.load_state_dict(
        plain.state_dict() | {name: torch.zeros_like(value) for name, value in biased.state_dict().items()
                              if name.endswith("_proj.bias")}
    )  # fmt: skip
    ours, theirs = (
        page(reading_job.read(tmp_path / name, reading_job.subject(each), inputs="train")[0])
        for name, each in (("plain", plain), ("biased", biased))
    )
    assert (ours["method"], theirs["method"]) == ("exact", "exact")
    pairs = list(zip(ours["sets"][0]["features"], theirs["sets"][0]["features"], strict=True))
    assert pairs
    for one, other in pairs:
        np.testing.assert_allclose(one["values"][:2], other["values"][:2], rtol=1e-3)
        for mine, yours in zip(one["parts"][:2], other["parts"][:2], strict=True):
            sides = [
                sorted(max(map(abs, part[side]["values"]), default=0) for side in ("inputs_one", "inputs_other"))
                for part in (mine, yours)
            ]
            np.testing.assert_allclose(*sides, rtol=0.02, atol=1e-4)
            assert max(sides[0]) > 0


def everything(out: Path) -> dict[str, list[dict[str, Any]]]:
    asked = tables.open(out)
    return {table: asked.query(f"SELECT * FROM {table} ORDER BY ALL").to_pylist() for table in tables.TABLES}


FULL = OSError(errno.ENOSPC, "No space left on device")


@contextlib.contextmanager
def stopping(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> Iterator[None]:
    """From the at-th file on, none appears: Ctrl-C there, or a full disk."""
    replace, count = os.replace, 0

    def counting(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count >= at:
            raise error
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", counting)
        yield


def stopped(out: Path, model: nn.Module) -> bool:
    """Run the job; whether it was stopped."""
    try:
        reading_job.read(out, reading_job.subject(model))
    except (KeyboardInterrupt, StoreError):
        return True
    return False


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FULL], ids=["stopped", "full disk"])
@pytest.mark.parametrize("at", [9, *(pytest.param(at, marks=pytest.mark.slow) for at in range(1, 30) if at != 9)])
def test_a_run_that_was_stopped_ends_with_the_tables_and_page_of_a_straight_one(
    at: int, error: BaseException, model: nn.Module, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopping(monkeypatch, at, error):
        was = stopped(tmp_path / "run", model)
    if not was:
        assert at > 20, "the job writes fewer files than it did, and fewer places to stop at are tried"
        pytest.skip("fewer files than that")
    finished = {path.name for path in (tmp_path / "run" / "tables" / "features").glob("*.parquet")}  # written last
    there = [path for path in (tmp_path / "run").glob("tables/*/*.parquet") if path.name in finished]
    kept_before = {path: path.stat().st_mtime_ns for path in there}
    reading_job.read(tmp_path / "run", reading_job.subject(model))
    assert everything(tmp_path / "run") == everything(run)
    assert all(path.stat().st_mtime_ns == time for path, time in kept_before.items())  # nothing finished is lost
    name = f"layer-{LAYER:03d}.html"
    assert page(tmp_path / "run" / name) == page(run / name)


def test_another_run_does_not_mix_with_the_first(model: nn.Module, run: Path) -> None:
    with refuses(StoreError, "of a run with other settings (pairs: 5 → 6)"):
        reading_job.read(run, reading_job.subject(model), pairs=6)


def test_a_model_of_the_same_name_with_other_weights_elsewhere_is_refused(model: nn.Module, run: Path) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(value for name, value in other.named_parameters() if "self_attn.o_proj" in name).mul_(2)
    with refuses(StoreError, "of a run with other settings (weights: "):
        reading_job.read(run, reading_job.subject(other))


def test_the_explorer_of_image_classifiers_says_whose_folder_it_is(run: Path) -> None:
    with refuses(StoreError, "the folder of layers of a language model"):
        explore.read(run)


def test_tokens_that_read_alike_have_names_that_differ(model: nn.Module) -> None:
    found = reading_job.subject(model, pieces=["a", "a", "a #0", "b", *(str(n) for n in range(36))])
    assert labels(found, [0, 1, 2, 3]) == ["a #0 #0", "a #1", "a #0", "b"]


@pytest.mark.bad_input
@pytest.mark.parametrize("asked", ["x", "3", "0-7", "", "1,", "-1"])
def test_layers_that_are_not_there_are_refused(asked: str) -> None:
    with refuses(BilensError, f"--layers {asked}".strip()):
        job.numbers(asked, 3)


def test_layers_by_number_range_and_all() -> None:
    assert [job.numbers(asked, 6) for asked in (None, "all", "4", "1,3-5", "5,5")] == [
        [3], [0, 1, 2, 3, 4, 5], [4], [1, 3, 4, 5], [5]]  # fmt: skip


def test_places_close_to_a_better_one_wait_for_the_others() -> None:
    scores = torch.tensor([0.0, 9.0, 8.0, 1.0, 7.0, 2.0])
    assert picked(scores, 6, 2).tolist() == [1, 5]
    assert picked(scores, 3, 3).tolist() == [1, 4, 2]  # two rows of three: 4 is in another one
    assert picked(scores, 6, 9).tolist()[:2] == [1, 5]
    assert sorted(picked(scores, 6, 9).tolist()) == list(range(6))


def test_a_language_model_is_told_by_its_files(tmp_path: Path) -> None:
    for name, config in (("lm", {"model_type": "llama"}), ("image", {"d_input": 3}), ("authors", {"n_ctx": 3})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "a.gguf").write_bytes(b"GGUF")
    told = {name: language_read.is_language(tmp_path / name) for name in ("lm", "image", "authors", "gguf", "absent")}
    assert told == {"lm": True, "image": False, "authors": True, "gguf": True, "absent": False}
    assert language_read.is_language(tmp_path / "gguf" / "a.gguf")
    assert language_read.is_language(Path("someone/model-7b"))
    assert not language_read.is_language(Path("model"))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data", "mnist"), "got --data for another kind of model"),
        (("--count", "3"), "got the analyses of a classifier for another kind of model"),
        (("--tokens", "100"), "got --tokens without --text"),
        (("--layers", "9"), "got --layers 9; expected layers from 0 to 1"),
        (("--inputs", "train"), "got an SAE to be trained without text"),
        (("--directions", "absent"), "got absent, which does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    more: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bilens.models.language import TINY

    assert cli.main(["read", str(TINY), "--out", str(tmp_path / "out"), *more]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("step ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"bilens: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_reads_the_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bilens.models.language import TINY
    from bilens.text import found

    command = ["read", str(TINY), "--text", str(found.PLAYS), "--tokens", "3000", "--out", str(tmp_path / "run")]
    assert cli.main(command) == 0
    text = capsys.readouterr()
    assert "about" in text.out
    assert f"page: {tmp_path / 'run' / 'layer-001.html'}" in text.out
    document = page(tmp_path / "run" / "layer-001.html")
    jsonschema.validate(document, SCHEMA)
    assert document["tokens"][document["sets"][0]["features"][0]["token"]] == "\n"
    assert (tmp_path / "run" / "layer-001.html").stat().st_size < 10e6
    assert document["text"]["described"].endswith(f"; {found.PLAYS.name}")


@pytest.mark.slow
def test_the_command_on_a_full_disk_says_so_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bilens.models.language import TINY
    from bilens.text import found

    reading_job.little(monkeypatch)
    command = ["read", str(TINY), "--text", str(found.PLAYS), "--tokens", "800", "--out"]
    assert cli.main([*command, str(tmp_path / "straight")]) == 0
    out, kept_before = tmp_path / "run", dict[Path, bytes]()
    capsys.readouterr()
    for at in (5, 9, 11):  # files of one attempt
        with stopping(monkeypatch, at, FULL):
            assert cli.main([*command, str(out)]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bilens:")]
        assert len(lines) == 1
        assert "No space left on device" in lines[0]
        assert not (out / "layer-001.html").exists()
        assert all(path.read_bytes() == content for path, content in kept_before.items())
        finished = [path for path in out.rglob("*") if path.suffix in (".parquet", ".safetensors")]
        assert len(finished) > len(kept_before)
        kept_before = {path: path.read_bytes() for path in finished}
    assert cli.main([*command, str(out)]) == 0
    assert all(path.read_bytes() == content for path, content in kept_before.items())
    assert everything(out) == everything(tmp_path / "straight")
    ours, theirs = (page(folder / "layer-001.html") for folder in (out, tmp_path / "straight"))
    assert ours | {"run": ""} == theirs | {"run": ""}
