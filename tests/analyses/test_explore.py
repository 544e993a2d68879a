"""`bilens explore`: from a run's folder to the page, and one clear line where the folder is not right."""

from __future__ import annotations

import json
import re
import shutil
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_job import undrawn

from bilens import data
from bilens._internal import files
from bilens.analyses import explore
from bilens.cli import main
from bilens.models import ImageClassifier
from bilens.space import Space


@pytest.fixture(scope="module", autouse=True)
def blank() -> Iterator[None]:
    """No figures: these tests are about the page."""
    with undrawn():
        yield


def content(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_main_job_ends_with_the_page_and_explore_writes_the_same(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["explore", str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"page: {tmp_path / 'page.html'}"
    assert (tmp_path / "page.html").read_bytes() == (run / "report.html").read_bytes()
    assert len((run / "report.html").read_bytes()) < 8_000_000


def test_the_page_holds_what_the_run_found(run: Path) -> None:
    shown = content(run / "report.html")["runs"][0]
    summary = json.loads((run / "summary.json").read_text())
    assert [view["name"] for view in shown["sets"]] == ["digits", "svd", "sae", "pairs"]
    assert [len(view["features"]) for view in shown["sets"]] == [10, 3, 3, 3]
    totals = {view["name"]: view["total"] for view in shown["sets"]}
    assert totals == {"digits": None, "svd": 24, "sae": summary["sae"]["active"], "pairs": 64}
    assert {row["name"]: row["accuracy"] for row in shown["scores"]} == pytest.approx(
        {name: score["accuracy"] for name, score in summary["faithfulness"].items()}
    )
    views = [curve for curve in shown["curves"] if curve["beside"] is None]
    assert [len(curve["kept"]) > 3 for curve in views] == [True] * 4
    assert {curve["beside"] for curve in shown["curves"]} - {None} == {curve["name"] for curve in views[:3]}
    assert any("pair vectors" in note for note in shown["notes"])
    assert shown["training"]["columns"][0] == "step"
    facts = {fact["name"]: fact["value"] for fact in shown["facts"]}
    assert facts["test accuracy"].startswith(f"{summary['model']['test_accuracy']:.2%}")
    assert facts["layer"] == "64 inputs → 24 hidden → 10 outputs"


def test_stored_samples_have_the_logits_of_the_weights(run: Path) -> None:
    found = explore.read(run).samples
    assert found is not None
    tensors = load_file(run / "model" / "model.safetensors")
    left, right, readout = (
        tensors[name].astype(np.float64) for name in ("layers.0.left.weight", "layers.0.right.weight", "readout.weight")
    )
    test = data.digits().test
    x = test.images[found.numbers].double().numpy()
    np.testing.assert_array_equal(found.inputs.numpy(), x.astype(np.float32))
    logits = ((x @ left.T) * (x @ right.T)) @ (readout - readout.mean(axis=0)).T
    np.testing.assert_allclose(found.outputs.numpy(), logits, atol=1e-4)
    assert found.labels is not None
    assert torch.equal(found.labels, test.labels[found.numbers])


def test_curves_of_the_sparse_coders_end_at_their_scores(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    scores = summary["faithfulness"]
    inverse = next(score for name, score in scores.items() if "pseudoinverse" in name)
    curve = summary["sae"]["curve"]
    assert curve["accuracy"][-1] == pytest.approx(inverse["accuracy"], abs=0.004)
    assert curve["cross_entropy"][-1] == pytest.approx(inverse["cross_entropy"], rel=1e-3)
    curve, score = summary["pairs"]["curve"], scores["SAE on input pairs, all features"]
    assert [curve[name][-1] for name in ("accuracy", "cross_entropy", "recovered")] == [
        score[name] for name in ("accuracy", "cross_entropy", "recovered")
    ]
    assert curve["kept"][-1] == 64


def test_scores_and_curves_are_all_measured_on_all_test_images(run: Path) -> None:
    summary, shown = json.loads((run / "summary.json").read_text()), content(run / "report.html")["runs"][0]
    count = len(data.digits().test.labels)
    curves = [summary[name]["curve"] for name in ("digits", "svd", "sae", "pairs")]
    stated = [entry["samples"] for entry in (*summary["faithfulness"].values(), *curves, *shown["scores"])]
    stated += [entry["samples"] for entry in shown["curves"]]
    assert set(stated) == {count}
    assert summary["sae"]["code_samples"] == count
    assert summary["pairs"]["output_nmse_samples"] == count  # of at most 2,000
    eigenvectors = summary["digits"]["curve"]
    assert eigenvectors["numbers"] == [10 * k * (64 + 1) for k in eigenvectors["kept"]]
    rows = {row["name"]: row for row in shown["scores"]}
    assert rows["10 eigenvectors kept for each output"]["numbers"] == 10 * 10 * 65
    assert rows["the model itself"]["numbers"] == 24 * 64 * 2 + 10 * 24
    assert rows["the model itself"]["kind"] == "model"
    factors, active = 2 * 24 * 64, summary["sae"]["active"]
    assert rows["SAE on outputs, ReLU codes"]["numbers"] == factors + 2000 * (24 + 1 + 10) + 10
    inverse = next(row for name, row in rows.items() if "pseudoinverse" in name)
    assert inverse["numbers"] == summary["sae"]["curve"]["numbers"][-1] == factors + active * (24 + 1 + 10) + 10


def as_of_seed(run: Path, folder: Path, seed: int) -> Path:
    """A copy of a run whose settings, and the checksums made with them, say another seed."""
    shutil.copytree(run, folder)
    settings = json.loads((folder / "settings.json").read_text())
    settings["seed"] = settings["model"]["seed"] = seed
    files.write_json(folder / "settings.json", settings)
    for path in (folder / "records").rglob("*.json"):
        header = files.read_sealed(path)
        files.write_sealed(path, header | {"place": header["place"] | {"run": files.checksum(settings)}})
    summary = files.read_sealed(folder / "summary.json")
    files.write_sealed(folder / "summary.json", summary | {"run": files.checksum(settings)})
    return folder


def test_two_runs_and_seeds_are_embedded(run: Path, tmp_path: Path) -> None:
    page, others = tmp_path / "two.html", []
    for seed in (1, 2):  # as other seeds would leave them; SAEs of other seeds have other numbers of active features
        others.append(as_of_seed(run, tmp_path / str(seed), seed))
    seeds = [str(folder) for folder in others]
    assert main(["explore", str(run), "--compare", str(run), "--seeds", *seeds, "--out", str(page)]) == 0
    shown = content(page)["runs"]
    assert len(shown) == 2
    assert shown[0]["curves"][0]["seeds"] == 3
    assert shown[0]["curves"][0]["accuracy_half"] == pytest.approx([0] * len(shown[0]["curves"][0]["kept"]), abs=1e-9)
    assert shown[1]["curves"][0]["seeds"] == 1


def test_seeds_that_are_the_same_or_of_another_run_are_refused(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["explore", str(run), "--seeds", str(run)]) == 2
    assert "with seed 0, like" in capsys.readouterr().err
    other = shutil.copytree(run, tmp_path / "other")
    settings = json.loads((other / "settings.json").read_text())
    settings["seed"], settings["budget"]["sae_steps"] = 1, 26
    (other / "settings.json").write_text(json.dumps(settings))
    assert main(["explore", str(run), "--seeds", str(other)]) == 2
    assert "with another budget than" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_without_images_or_with_inputs_that_are_no_image(tmp_path: Path) -> None:
    labels = tuple("abcdefghijkl")
    ImageClassifier(Space("words", 12, labels), Space("out", 3), 4).save_pretrained(tmp_path / "model")
    flags = ["--count", "3", "--pair-features", "8", "--pair-steps", "5"]
    assert main(["read", str(tmp_path / "model"), "--out", str(tmp_path / "run"), *flags]) == 0
    shown = content(tmp_path / "run" / "report.html")["runs"][0]
    assert shown["input"]["labels"] == list(labels)
    assert shown["samples"] is None
    assert shown["curves"] == []
    assert [view["name"] for view in shown["sets"]] == ["digits", "svd", "pairs"]
    assert shown["model"] is not None


def test_a_run_that_was_stopped_early_is_still_a_page(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "summary.json").unlink()
    for path in (copy / "records").rglob("*.*"):
        if not path.name.startswith(("training", "logits.", "digits.")):
            path.unlink()
    assert main(["explore", str(copy)]) == 0
    shown = content(copy / "report.html")["runs"][0]
    assert [view["name"] for view in shown["sets"]] == ["digits"]
    assert shown["facts"] == []
    assert shown["model"] is not None  # written before the views, so that what is there can be computed with
    assert shown["outputs_set"] == "digits"
    assert shown["sets"][0]["title"] == "Digit directions"


def refused(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("bilens: got ")
    return lines[0]


def test_a_foreign_folder_is_told(tmp_path: Path, capsys) -> None:
    assert "no settings.json" in refused(capsys, "explore", tmp_path)
    assert "no settings.json" in refused(capsys, "explore", tmp_path / "nowhere")
    (tmp_path / "settings.json").write_text('{"command": "reproduce"}')
    assert "'reproduce'" in refused(capsys, "explore", tmp_path)
    (tmp_path / "settings.json").write_text("[]")
    refused(capsys, "explore", tmp_path)
    (tmp_path / "file").write_text("")
    refused(capsys, "explore", tmp_path / "file")
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("settings.json", '{"command": "demo"'),
        ("summary.json", "no JSON"),
        ("summary.json", '{"model": 3}'),
        ("summary.json", '{"model": {"inputs": "x"}}'),
        ("summary.json", '{"faithfulness": {"x": {"accuracy": 1}}}'),
        ("records/features/digits.json", '{"format": 99}'),
        ("records/features/digits.json", '{"format": 1, "record": {"kind": "Score", "fields": {}}}'),
        ("records/features/digits.safetensors", "damaged"),
        ("records/samples.safetensors", ""),
        ("records/features/svd.json", '{"format": 1, "record": null}'),
    ],
)
def test_a_damaged_folder_is_told(run: Path, tmp_path: Path, capsys, file: str, text: str) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "report.html").unlink()
    (copy / file).write_text(text)
    refused(capsys, "explore", copy)
    assert not (copy / "report.html").exists()


@pytest.mark.slow
def test_records_of_two_runs_in_one_folder_are_told(run: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    ImageClassifier(Space("words", 12), Space("out", 3), 4).save_pretrained(tmp_path / "model")
    flags = ["--count", "2", "--pair-features", "8", "--pair-steps", "5"]
    assert main(["read", str(tmp_path / "model"), "--out", str(other), *flags]) == 0
    capsys.readouterr()
    copy = shutil.copytree(run, tmp_path / "run")
    for ending in (".json", ".safetensors"):
        shutil.copy(other / "records" / f"features/svd{ending}", copy / "records" / f"features/svd{ending}")
    assert "svd.json with a record of another run" in refused(capsys, "explore", copy)


def test_a_record_in_the_place_of_another_of_the_same_run_is_refused(run: Path, tmp_path: Path, capsys) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for ending in (".json", ".safetensors"):
        shutil.copy(run / "records" / f"features/svd{ending}", copy / "records" / f"features/digits{ending}")
    line = refused(capsys, "explore", copy)
    assert "digits.json with the record 'features/svd'; expected the record 'features/digits'" in line


def test_numbers_of_the_summary_and_settings_that_were_altered_are_refused(run: Path, tmp_path: Path, capsys) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for file, old, new in (
        ("summary.json", '"test_accuracy": 0.', '"test_accuracy": 1.'),
        ("summary.json", '"sha256": "', '"sha265": "'),
        ("settings.json", '"seed": 0', '"seed": 5'),
    ):
        whole = (copy / file).read_text("utf-8")
        assert old in whole
        (copy / file).write_text(whole.replace(old, new), "utf-8")
        assert copy.name in refused(capsys, "explore", copy)
        (copy / file).write_text(whole, "utf-8")
    for path in (copy / "records").glob("features/sae.*"):
        path.unlink()
    assert "without the record 'features/sae'" in refused(capsys, "explore", copy)
    (copy / "summary.json").unlink()
    assert main(["explore", str(copy), "--out", str(tmp_path / "page.html")]) == 0
    assert content(tmp_path / "page.html")["runs"][0]["notes"][0].startswith("This run is not finished")


@pytest.mark.parametrize("name", ["svd", "sae_pairs_history"])
def test_a_record_that_the_page_does_not_show_is_refused_too_where_it_was_altered(run, name, tmp_path, capsys) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "records" / f"{name}.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"}))
    assert main(["explore", str(copy), "--out", str(tmp_path / "page.html")]) == 2
    line = capsys.readouterr().err
    assert f"{name}.json without a checksum" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_settings_of_odd_types_are_refused(run: Path, tmp_path: Path, capsys) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    settings = json.loads((copy / "settings.json").read_text())
    for name, value in (("seed", [1]), ("seed", None), ("weights", {}), ("model", 3), ("command", ["demo"])):
        files.write_json(copy / "settings.json", settings | {name: value})
        refused(capsys, "explore", run, "--seeds", copy)
        refused(capsys, "explore", copy)


def test_the_page_is_a_new_file_or_replaces_a_page_and_nothing_else(run: Path, tmp_path: Path, capsys) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "other.html").write_text("<!doctype html>\n<title>somebody's page</title>")
    (tmp_path / "empty.html").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out in ("thesis.tex", "other.html", "empty.html", "run/settings.json", "run/records/samples.safetensors"):
        assert f"{out}, which exists and is not a page of bilens" in refused(
            capsys, "explore", copy, "--out", tmp_path / out
        )
    assert "which is a folder" in refused(capsys, "explore", copy, "--out", copy)
    assert "which does not exist" in refused(capsys, "explore", copy, "--out", tmp_path / "link")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for _ in range(2):  # a new file, then over the page
        assert main(["explore", str(copy), "--out", str(tmp_path / "page.html")]) == 0
    (copy / "report.html").write_text("my notes")
    refused(capsys, "explore", copy)
    assert (copy / "report.html").read_text() == "my notes"


def test_open_shows_the_page(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    page = tmp_path / "page.html"
    assert main(["explore", str(run), "--open", "--out", str(page)]) == 0
    assert shown == [page.as_uri()]
