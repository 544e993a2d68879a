"""The recipe of known rules on a tiny model that the test makes: what it reads against loops, whatever the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from reports import check_report

from bilens.errors import StoreError
from bilens.models.decoder import BilinearDecoder
from messages import refuses
from oracle import array, near
from reproduction import reproduce
from reproduction.measurement import Measurement
from reproduction.methods.rules import Rules, checkpoints, home, loaded
from reproduction.recipes import rules as recipe
from reproduction.recipes import rules_measure as read

TOKENS = ("<bos>", "subj0", "subj1", "verb0", "verb1", "verb2", "loc0", "loc1", "adj0", "adj1", "conn0", "conn1",
          "filler0", "filler1", "filler2")  # fmt: skip
SKIP = [("loc0", "adj0", "conn1"), ("loc1", "adj0", "conn0"), ("loc1", "adj1", "conn1")]


def make(folder: Path, *, seed: int = 0) -> BilinearDecoder:
    """A folder in the layout of rules-lm: a random model, one checkpoint, the truth and sequences with its logits."""
    folder.mkdir(parents=True, exist_ok=True)
    model = BilinearDecoder(len(TOKENS), width=6, head=4, mlp=5, length=8, std=0.4, seed=seed).requires_grad_(False)
    earlier = BilinearDecoder(len(TOKENS), width=6, head=4, mlp=5, length=8, std=0.1, seed=seed + 1)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    safetensors.torch.save_file(earlier.state_dict(), folder / "step_00500.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config), "utf-8")
    truth = {
        "tokens": TOKENS,
        "bigram": {"subj0": {"verb0": 0.7, "verb2": 0.3}, "subj1": {"verb1": 1.0}},
        "skip": [dict(zip(("loc", "adj", "conn"), rule, strict=True)) for rule in SKIP],
        "skip_window": 3,
    }
    (folder / "rules.json").write_text(json.dumps(truth), "utf-8")
    tokens = torch.randint(0, len(TOKENS), (6, 8), generator=torch.Generator().manual_seed(seed))
    tokens[0] = torch.tensor([TOKENS.index(name) for name in
                              ("<bos>", "loc0", "filler0", "adj0", "conn1", "subj0", "verb2", "filler1")])  # fmt: skip
    rule = torch.zeros(6, 8, dtype=torch.int8)
    rule[0, 4], rule[0, 6], rule[1, 3] = 2, 1, 3
    text = {"tokens": tokens.to(torch.int16), "rule": rule, "logits": model(tokens[:2])}
    safetensors.torch.save_file(text, folder / "sequences.safetensors")
    return model


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BILENS_DATA", str(tmp_path))
    make(tmp_path / "rules-lm")
    return tmp_path / "rules-lm"


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Measurement:
    """What the recipe finds: no data of the lab, nothing trained."""
    parent = tmp_path_factory.mktemp("data")
    make(parent / "rules-lm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BILENS_DATA", str(parent))
        return recipe.measure(None, 0)


def run(model: BilinearDecoder, names: list[str], positions: list[int]) -> torch.Tensor:
    tokens = torch.tensor([[TOKENS.index(name) for name in names]])
    return model(tokens, torch.tensor(positions))[0, -1]


def test_the_recipe_is_whole_on_any_model(measured):
    assert measured["error of the stored logits"] < 1e-5
    assert measured["error of the sum of paths"] < 1e-12
    assert measured["score error over its certificate"] <= 1
    assert measured["rules"] == 3
    assert 0 <= measured["rules found, in the window"] <= 3
    assert sum(measured[name] for name in
               ("visible before followed", "visible and followed at once", "followed before visible")) == 3  # fmt: skip
    check_report(recipe.RECIPE, [measured, measured])
    rows = recipe.tables([measured])["every"].splitlines()
    assert len(rows) == 2 + 3
    assert rows[2].startswith("| loc0 … adj0 → conn1 |")


def test_strengths_and_shares_are_differences_of_runs(folder):
    rules = Rules.read(folder)
    model = loaded(folder, labels=rules.tokens)
    found, strengths, scores = read.skips(model, rules, 3)
    conns = rules.kind("conn")
    for i, loc in enumerate(("loc0", "loc1")):
        for j, adj in enumerate(("adj0", "adj1")):
            change = (run(model, [loc, adj], [0, 3]) - run(model, [adj], [3]))[conns]
            near(strengths[i, j], array(change - change.mean()))
    true = torch.tensor([[True, False], [True, True]])
    assert (rules.table >= 0).tolist() == true.tolist()
    best = strengths.max(dim=-1).values
    assert found["weakest rule"] == float(best[true].min())
    assert found["strongest other"] == float(best[0, 1])
    assert found["rules found"] == 3 - float(best[0, 1] > best[true].min())
    chosen = torch.tensor([1, 0, 1])  # the conns of SKIP, loc by loc
    assert found["right conn"] == float((strengths.argmax(dim=-1)[true] == chosen).sum())
    names, parts, off = read.shares(model, rules)
    near(parts.sum(dim=0), torch.ones(3))
    assert off < 1e-12
    assert len(names) == len(parts) == 19
    x = model.block(0)(model.embed(torch.tensor([[TOKENS.index("loc1"), TOKENS.index("adj0")]])), torch.tensor([0, 3]))
    near(scores[1, 0], float(model.score(1, 3)(x[0, 1], x[0, 0])))


def test_products_of_the_last_mlp_add_up_to_its_share(folder):
    rules = Rules.read(folder)
    model = loaded(folder, labels=rules.tokens)
    effect = read.pairs(model, rules, read.NEAR)
    through = [place for place, name in enumerate(effect.paths) if name.startswith("mlp 2")]
    expected = read.of_rules(rules, read.contrasts(rules, effect.logits[through].sum(dim=0)))
    near(read.units(model, rules).sum(dim=1), array(expected))
    terms, _ = read.components(model, rules)
    assert terms.shape[0] == 3


def test_rules_that_are_alike():
    rules = Rules(TOKENS, torch.zeros(2, 15), torch.tensor([[TOKENS.index(n) for n in rule] for rule in SKIP]), 3)
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    found = read.alike(rules, rows)
    assert found == pytest.approx({"conn": 0.6, "adj": 0.0, "loc": 0.8, "nothing": 0.0})


def test_which_rule_made_a_token(folder):
    rules = Rules.read(folder)
    place = {name: number for number, name in enumerate(TOKENS)}

    def applied(*names: str) -> int:
        return rules.applied([place[name] for name in names], len(names))

    assert applied("loc0", "filler0", "adj0") == 0
    assert applied("loc0", "loc1", "adj0") == 1  # the most recent one
    assert applied("loc1", "loc0", "adj1") == 2  # the most recent one that has a rule
    assert applied("loc0", "filler0", "filler0", "adj0") == 0
    assert applied("loc0", "filler0", "filler0", "filler0", "adj0") == -1  # beyond the window
    assert applied("loc0", "adj1") == -1


def test_what_the_model_does_on_text(folder):
    rules = Rules.read(folder)
    model = loaded(folder, labels=rules.tokens)
    text = read.text_of(folder)
    found = read.followed(model, rules, text)
    tokens = text["tokens"].long()
    p = model(tokens).softmax(dim=-1)
    near(found["rules"], [float(p[0, 3, TOKENS.index("conn1")]), 0, 0], rtol=1e-6)
    assert found["counts"].tolist() == [1, 0, 0]
    near(found["bigrams"][0], float((p[0, 5] - rules.bigram[0]).abs().max()), rtol=1e-6)
    near(found["copied"], float(p[1, 2, tokens[1, 3]]), rtol=1e-6)


def test_copying_is_measured_beside_another_first_token(folder):
    rules = Rules.read(folder)
    model = loaded(folder, labels=rules.tokens)
    found = read.induction(model, rules)
    first, second = [], []
    for a, c in (("loc0", "loc1"), ("loc1", "loc0")):
        for b in TOKENS[1:]:
            if b != a:
                first.append(run(model, [a, b, a], [0, 1, 5]).softmax(0)[TOKENS.index(b)])
                second.append(run(model, [c, b, a], [0, 1, 5]).softmax(0)[TOKENS.index(b)])
    near(found["copied, loc"], float(torch.stack(first).mean()))
    near(found["copied without A, loc"], float(torch.stack(second).mean()))


def test_it_runs_when_it_is_named(measured, tmp_path, monkeypatch):
    toy = replace(recipe.RECIPE, name="toy", complete=True, measure=lambda lab, seed: measured)
    monkeypatch.setattr(reproduce, "RECIPES", {"toy": toy, "rules": recipe.RECIPE})
    assert not recipe.RECIPE.complete
    found = reproduce.reproduce(seeds=1, out=tmp_path / "all", quick=True)
    assert list(found["recipes"]) == ["toy"]


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("BILENS_DATA", raising=False)
    with refuses(StoreError, "no BILENS_DATA", "rules-lm", "Set BILENS_DATA"):
        home()
    monkeypatch.setenv("BILENS_DATA", str(tmp_path))
    with refuses(StoreError, "rules-lm, which is no folder"):
        home()
    make(tmp_path / "rules-lm")
    assert home() == tmp_path / "rules-lm"
    assert list(checkpoints(home()).values()) == ["step_00500.safetensors", "model.safetensors"]
    (home() / "rules.json").write_text('{"tokens": []}', "utf-8")
    with refuses(StoreError, "rules.json without"):
        Rules.read(home())
