"""bilens convert: what it leaves in its folder, that it goes on where it was stopped, and bad input in one line."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reading_job
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import tiny_models
from bilens import activations, cli, explorer, plots, store, text
from bilens._internal import files
from bilens.analyses import _converted as converted
from bilens.analyses import _side_by_side as side_by_side
from bilens.analyses.convert import convert
from bilens.analyses.language import sets
from bilens.analyses.language.subject import Subject, subject
from bilens.errors import StoreError
from bilens.faithfulness import TextScore
from bilens.models import gated
from bilens.models.conversion import ConvertedLayer, Sequence
from bilens.models.surrogate import least_squares

transformers = pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and its tokenizer in model/, and four documents in text/."""
    return tiny_models.folder(tmp_path_factory.mktemp("given") / "all")


def run(given: Path, out: Path, **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"text": (str(given / "text"),), "tokens": 1200, "length": 16, "device": "cpu"}
    return convert(str(given / "model"), out=out, **{**settings, **more})


@pytest.fixture
def unshown(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures and no texts of both models: they take most of a small run, and `done` has them."""
    monkeypatch.setattr(converted, "drawn", lambda *_, **__: None)
    monkeypatch.setattr(converted, "samples", lambda *_, **__: None)


@pytest.fixture(scope="module")
def done(given: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("runs") / "bilinear"
    return out, run(given, out, distill=5, end_to_end=3, curve=True)


def test_what_a_conversion_leaves(given: Path, done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    kept = store.read_summary(out, "conversion.json")
    assert {name: value for name, value in kept.items() if name != "seconds"} == json.loads(json.dumps(summary))
    assert [layer["layer"] for layer in kept["layers"]] == [0, 1]
    for layer in kept["layers"]:
        assert layer["relative_error"]["set_aside"] <= layer["relative_error"]["closed_form"]
        for score in (*layer["so_far"].values(), layer["mean_instead"]):
            assert score["delta_ce_error"] > 0
            assert 0 <= score["agreement"] <= 1
    assert kept["whole"].keys() == {"fit", "held_out"}
    assert kept["logits"]["written"] < 1e-4
    assert kept["end_to_end"]["kl_after"] <= kept["end_to_end"]["kl_before"]
    assert [point["converted"] for point in kept["left_gated"]["estimated"]] == [2, 1, 0]
    assert [point["converted"] for point in kept["left_gated"]["measured"]] == [2, 1]
    assert kept["left_gated"]["estimated"][-1]["delta_ce"] == pytest.approx(0, abs=1e-12)
    assert {path.name for path in (out / "figures").iterdir()} == {"conversion.svg", "left_gated.svg"}
    assert all(entry.bilinear for entry in gated.load(out / "model").entries())
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer("the cat")["input_ids"] == text.tokenizer(given / "model")("the cat")["input_ids"]
    assert not (out / "distillation.part").exists()


def test_distillation_stands_beside_what_the_command_finds_without_it(
    given: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(done[0], tmp_path / "bilinear")
    without = run(given, tmp_path / "bilinear", distill=5)
    assert done[1]["end_to_end"]["before"] == without["whole"] != done[1]["whole"]
    assert done[1]["logits"]["layers"] is None  # they were trained on since
    assert without["logits"]["layers"] < 1e-4
    assert without["end_to_end"] is None


def test_the_leading_process_says_which_layers_a_curve_leaves_gated(
    given: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others know no scores of layers that were finished before."""

    def told(tensors: list[torch.Tensor]) -> None:
        if tensors[0].dtype == torch.int64:
            tensors[0].copy_(torch.tensor([1, 0]))

    shutil.copytree(done[0], tmp_path / "bilinear")
    monkeypatch.setattr(converted.ranks, "equal", told)
    summary = run(given, tmp_path / "bilinear", distill=5, curve=True)
    first = summary["layers"][0]["so_far"]["held_out"]["delta_ce"]
    assert done[1]["left_gated"]["costliest"] == [0, 1]
    assert summary["left_gated"]["measured"][1]["delta_ce"] == pytest.approx(first, rel=1e-5)
    assert done[1]["left_gated"]["measured"][1]["delta_ce"] != pytest.approx(first, rel=1e-2)


def test_records_of_another_model_are_refused(given: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """It has the same MLPs, and one number of its attention differs."""
    shutil.copytree(given, tmp_path / "given")
    path = tmp_path / "given" / "model" / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.self_attn.q_proj.weight"][0, 0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(StoreError, match=r"a run with other settings \((model: \S+ → \S+, )?weights: \S+ → \S+\)"):
        run(tmp_path / "given", done[0], text=(str(given / "text"),), distill=5, end_to_end=3, curve=True)


def test_the_written_model_is_read_as_exactly_bilinear(
    given: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("duckdb", reason="pip install 'bilens[tables]'")
    reading_job.little(monkeypatch)
    model, out = done[0] / "model", tmp_path / "read"
    command = ["read", str(model), "--layers", "1", "--text", str(given / "text"), "--tokens", "800"]
    assert cli.main([*command, "--out", str(out)]) == 0
    reading_job.exact(out / "layer-001.html", model, 1)


def test_numbers_are_those_of_the_written_model(given: Path, done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    split = text.read([str(given / "text")], text.tokenizer(given / "model"), length=16, tokens=1200)
    losses = []
    for folder in (given / "model", out / "model"):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            losses.append(torch.stack([model(row[None], labels=row[None]).loss for row in split.held_out[:64]]))
    more = losses[1] - losses[0]
    found = summary["whole"]["held_out"]
    assert found["delta_ce"] == pytest.approx(float(more.mean()), abs=1e-4)
    assert found["delta_ce_error"] == pytest.approx(float(more.std() / len(more) ** 0.5), abs=1e-4)
    assert found["original"] == pytest.approx(float(losses[0].mean()), abs=1e-4)
    assert (found["texts"], found["tokens"]) == (len(more), 15 * len(more))


def texts_losses(folder: Path, tokens: torch.Tensor, records: tuple[ConvertedLayer, ...]) -> np.ndarray:
    """The cross-entropy of each text, by numpy from transformers' logits, with the layers of the records replaced."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def replaced(one: ConvertedLayer) -> Any:
        left, left_bias, right, right_bias, down, bypass, down_bias = (
            value.double().numpy() for value in one.mlp.tensors
        )

        def hook(_: Any, given: Any, __: Any) -> torch.Tensor:
            n = given[0].double().numpy()
            y = ((n @ left.T + left_bias) * (n @ right.T + right_bias)) @ down.T + n @ bypass.T + down_bias
            return torch.from_numpy(y).float()

        return hook

    for one in records:
        model.model.layers[one.mlp.layer].mlp.register_forward_hook(replaced(one))
    with torch.no_grad():
        logits = model(tokens).logits[:, :-1].double().numpy()
    likely = np.log(np.exp(logits).sum(axis=2)) - np.take_along_axis(logits, tokens[:, 1:, None].numpy(), 2)[..., 0]
    return np.asarray(likely.mean(axis=1))


def test_what_a_layer_adds_has_the_error_of_paired_texts(given: Path, done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    split = text.read([str(given / "text")], text.tokenizer(given / "model"), length=16, tokens=1200)
    records = store.read_records(out, "layers", ConvertedLayer)
    tokens = split.held_out[: records[0].score.texts]
    losses = [texts_losses(given / "model", tokens, records[:count]) for count in range(3)]
    for layer, before, after in zip(summary["layers"], losses, losses[1:], strict=False):
        more = after - before
        assert layer["added_delta_ce"] == pytest.approx(more.mean(), abs=1e-5)
        assert layer["added_delta_ce_error"] == pytest.approx(np.std(more, ddof=1) / len(more) ** 0.5, abs=1e-5)
    unpaired = np.hypot(*(layer["so_far"]["held_out"]["delta_ce_error"] for layer in summary["layers"]))
    assert abs(summary["layers"][1]["added_delta_ce_error"] - unpaired) > 1e-4


def test_what_a_layer_adds_is_shown_with_its_error_where_the_record_has_its_texts(
    done: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Records of before texts were kept lack them: the same numbers, and nothing after them."""
    out, summary = done
    shutil.copytree(out, tmp_path / "run")
    path = tmp_path / "run" / "records" / "layers" / "001.json"
    record = files.read_sealed(path)
    del record["record"]["fields"]["deltas"]
    files.write_sealed(path, record)
    for run_of, known in ((out, 2), (tmp_path / "run", 1)):
        found = store.read_records(run_of, "layers", ConvertedLayer)
        each = converted.added(found)
        assert [one.delta_ce for one in each] == [layer["added_delta_ce"] for layer in summary["layers"]]
        assert [one.error is not None for one in each] == [True, known == 2]
        column = next(one for one in converted.table(found).columns if one.header == "ΔCE added")
        assert ["±" in str(cell) for cell in column.cells] == [True, known == 2]
        parts = {"held out": [one.score for one in found]}
        axes = plots.conversion([0, 1], parts, [(one.delta_ce, one.error) for one in each]).axes[2]
        bars, errors = axes.containers
        assert [bar.get_height() for bar in bars] == [one.delta_ce for one in each]
        segments = errors[2][0].get_segments()
        assert [line[:, 1].tolist() for line in segments] == [
            pytest.approx([one.delta_ce - one.error, one.delta_ce + one.error]) for one in each if one.error is not None
        ]


class Page(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.said = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick"}

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_page_shows_both_texts_escaped(done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    page = Page((out / "samples.html").read_text())
    assert "script" not in page.tags
    assert page.tags.count("section") == min(8, summary["whole"]["held_out"]["texts"])
    shown = side_by_side.page(
        [side_by_side.Continued("if a < b & c", "<script>x</script>", "y", 3)], title="T", facts=["ΔCE <0.1"], more=5
    )
    one = Page(shown)
    assert "script" not in one.tags
    for said in ("if a < b & c", "<script>x</script>", "ΔCE <0.1", "the same for 3 of 5 tokens"):
        assert said in one.said


def test_both_models_add_the_likeliest_token(given: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(given / "model", dtype=torch.float32)
    tokenizer = text.tokenizer(given / "model")
    tokens = torch.tensor([tokenizer("the old king sees a tree")["input_ids"][:6]])
    (found,) = side_by_side.continued(model, model, tokenizer, tokens, length=5, more=7)
    longer = tokens[:, :5]
    for _ in range(7):
        with torch.no_grad():
            logits = model(input_ids=longer, use_cache=False).logits[:, -1]
        logits[:, model.config.eos_token_id] = -torch.inf
        longer = torch.cat([longer, logits.argmax(dim=-1, keepdim=True)], dim=1)
    assert found.theirs == found.ours == tokenizer.decode(longer[0, 5:], skip_special_tokens=True)
    assert found.same == 7


def test_a_run_that_was_killed_goes_on_with_the_next_layer(given: Path, tmp_path: Path, unshown: None) -> None:
    whole = run(given, tmp_path / "whole", distill=3)
    convert_layer = Sequence.convert
    layers: list[int] = []

    def killed(self: Sequence, *arguments: Any) -> ConvertedLayer:
        layers.append(self.next)
        if len(layers) == 2:
            raise KeyboardInterrupt
        return convert_layer(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sequence, "convert", killed)
        with pytest.raises(KeyboardInterrupt):
            run(given, tmp_path / "stopped", distill=3)
        again = run(given, tmp_path / "stopped", distill=3)
        assert layers == [0, 1, 1]
        run(given, tmp_path / "stopped", distill=3)
        assert layers == [0, 1, 1]  # all are there
    assert again["layers"] == whole["layers"]
    ours, theirs = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("stopped", "whole"))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def fitted_to(folder: Path, found: Subject) -> np.ndarray:
    """x̂ of layer 1 and a 1, on the text that is fitted to, by a hook in transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    seen: list[torch.Tensor] = []
    norm = model.model.layers[1].post_attention_layernorm
    norm.register_forward_pre_hook(lambda _, x: seen.append(x[0][:, 1:].flatten(0, 1)))
    assert found.split is not None
    with torch.no_grad():
        model(found.split.fit)
    x = seen[0].double().numpy()
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + model.config.rms_norm_eps)
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def test_a_written_layer_is_compared_with_the_gated_one_that_it_came_from(
    given: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {"gated": given / "model", "written": done[0] / "model"}
    found = {name: subject(str(folder), (given / "text",), tokens=800, seed=0) for name, folder in folders.items()}
    for name, each in found.items():
        reading_job.read(tmp_path / name, each, (1,), tokens=10, controls=4)
    runs = [str(tmp_path / name) for name in folders]
    assert cli.main(["compare", *runs, "--layers", "1", "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    content = explorer.reading_of(tmp_path / "out" / "report.html")
    beside = content["beside"]
    assert beside is not None
    sides = [content, beside["reading"]]
    assert [side["method"] for side in sides] == ["least_squares", "exact"]

    x = [fitted_to(folder, found[name]) for name, folder in folders.items()]
    sigma = sum(each.T @ each / len(each) for each in x) / 2
    weights = {
        name: value.double().numpy() for name, value in load_file(done[0] / "model" / "model.safetensors").items()
    }
    layer = "model.layers.1."
    gain = weights[f"{layer}post_attention_layernorm.weight"]
    w, v = (
        np.concatenate(
            [weights[f"{layer}mlp.{part}_proj.weight"] * gain, weights[f"{layer}mlp.{part}_proj.bias"][:, None]], axis=1
        )
        for part in ("gate", "up")
    )
    written = np.einsum("oh,hi,hj->oij", weights[f"{layer}mlp.down_proj.weight"], w, v)
    written[:, -1, -1] += weights[f"{layer}mlp.down_proj.bias"]
    mlp = gated.load(folders["gated"]).mlp(1)
    rows = activations.collect(found["gated"].live(), 1, "residual_before", found["gated"].split.fit)  # type: ignore[union-attr]
    gated_one = least_squares(mlp, rows).tensor().fold().to_dense().double().numpy()
    qs = []
    for side, dense, each in zip(sides, (gated_one, written), found.values(), strict=True):
        chosen = sets.tokens(each, 10)
        order = [chosen.labels.index(feature["label"]) for feature in side["sets"][0]["features"]]
        q = np.einsum("no,oij->nij", chosen.directions.double().numpy()[order], dense)
        qs.append((q + q.transpose(0, 2, 1)) / 2)
    inner = [np.einsum("nij,jk,mkl,li->nm", a, sigma, b, sigma, optimize=True) for a, b in
             ((qs[0], qs[1]), (qs[0], qs[0]), (qs[1], qs[1]))]  # fmt: skip
    expected = inner[0] / np.sqrt(np.outer(np.diag(inner[1]), np.diag(inner[2])))
    shown = beside["alike"]["cosines"]
    values = np.frombuffer(base64.b64decode(shown["data"]), {"f4": "<f4", "i2": "<i2"}[shown["type"]])
    values = values.reshape(shown["shape"]) * np.array(shown.get("scale", [1.0] * shown["shape"][0]))[:, None]
    np.testing.assert_allclose(values[:10, :10], expected, atol=2e-4)
    labels = [[feature["label"] for feature in side["sets"][0]["features"]] for side in sides]
    same = [expected[place, labels[1].index(label)] for place, label in enumerate(labels[0])]
    said = json.loads((tmp_path / "out" / "summary.json").read_text())["sets"]["tokens"]
    assert said["cosine"]["value"] == pytest.approx(np.median(same), abs=1e-4)


def test_some_layers_alone(given: Path, tmp_path: Path, unshown: None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path / "some"), "--text", str(given / "text"), "--tokens", "800", "--length", "16"]
    assert cli.main(["convert", str(given / "model"), *arguments, "--layers", "1"]) == 0
    said = capsys.readouterr()
    assert "on held-out text: cross-entropy" in said.out
    assert "step 2 of 4 · converting 1 of 2 layers" in said.err
    assert [entry.bilinear for entry in gated.load(tmp_path / "some" / "model").entries()] == [False, True]
    assert store.read_summary(tmp_path / "some", "conversion.json")["logits"]["written"] < 1e-4
    assert cli.main(["layers", str(tmp_path / "some" / "model")]) == 0
    assert "1 of them are exactly bilinear" in capsys.readouterr().out


def test_leaving_layers_gated_by_what_each_added() -> None:
    def layer(number: int, delta: float) -> Any:
        record = object.__new__(ConvertedLayer)
        score = TextScore(3.0, delta, 0.01, 0.1, 0.01, 0.9, 0.01, 4, 40)
        object.__setattr__(record, "score", score)
        mlp = object.__new__(type("Numbered", (), {"layer": number}))
        object.__setattr__(record, "mlp", mlp)
        return record

    found = [layer(0, 0.1), layer(2, 0.15), layer(3, 0.45)]
    assert [place for place, _ in converted.costliest(found)] == [3, 0, 2]
    points = converted.estimated(found)
    assert [count for count, _ in points] == [3, 2, 1, 0]
    assert [value for _, value in points] == pytest.approx([0.45, 0.15, 0.05, 0.0])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--layers", "0", "7"], "got --layers 7; expected numbers from 0 to 1"),
        (["--tokens", "0"], "tokens"),
        (["--distill", "-1"], "distill"),
        (["--text", "nowhere"], "nowhere"),
        (["--layers", "x"], "--layers"),
        (["--device", "abacus"], "device 'abacus'"),
        (["--seed", "1", "--out", "OTHER"], "files of something else"),
    ],
)
def test_bad_input_in_one_line(
    more: list[str], message: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "theirs").write_text("")
    more = [str(tmp_path / "other") if word == "OTHER" else word for word in more]
    common = [] if "--out" in more else ["--out", str(tmp_path / "out")]
    texts = [] if "--text" in more else ["--text", str(given / "text")]
    arguments = ["convert", str(given / "model"), *common, *texts, "--length", "16", *more]
    if "--tokens" not in more:
        arguments += ["--tokens", "800"]
    assert cli.main(arguments) == 2
    theirs = ("step ", "Loading weights", "[transformers]")  # transformers shows what it loads
    lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith(theirs)]
    assert len(lines) == 1, lines
    assert lines[0].startswith("bilens: got ")
    assert message in lines[0]


@pytest.mark.slow
@pytest.mark.timeout(1200)  # three processes that each import transformers
def test_two_processes_convert_what_one_does(given: Path, tmp_path: Path) -> None:
    job = [
        *("convert", str(given / "model"), "--text", str(given / "text"), "--tokens", "1200", "--length", "16"),
        *("--distill", "5", "--device", "cpu"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    runner = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bilens"]
    for out, start in (("two", runner), ("one", [sys.executable, "-m", "bilens"])):
        ended = subprocess.run(
            [*start, *job, "--out", str(tmp_path / out)], env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
    one, two = (store.read_summary(tmp_path / name, "conversion.json") for name in ("one", "two"))
    for ours, theirs in zip(two["layers"], one["layers"], strict=True):
        assert ours["relative_error"] == pytest.approx(theirs["relative_error"], rel=1e-3)
        assert ours["so_far"]["held_out"] == pytest.approx(theirs["so_far"]["held_out"], rel=1e-3, abs=1e-5)
        assert (ours["steps_kept"], ours["ridge"]) == (theirs["steps_kept"], theirs["ridge"])
    assert two["whole"]["held_out"] == pytest.approx(one["whole"]["held_out"], rel=1e-3, abs=1e-5)
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name, value in first.items():
        assert_close(second[name], value, rtol=1e-3, atol=1e-3 * float(1 + value.abs().max()))
