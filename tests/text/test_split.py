"""Rows of tokens: whole documents held out, packed, shuffled, and the same from any place on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bilens.errors import BilensError, ShapeError, StoreError
from bilens.text import Corpus, Document, Split, corpus, english, read
from bilens.text.split import divided
from characters import Characters, written

LENGTHS = st.lists(st.integers(1, 60), min_size=2, max_size=12)


def numbered(lengths: list[int]) -> list[Document]:
    """Documents of one letter each, all different."""
    return [Document(f"document {k}", chr(ord("A") + k) * length) for k, length in enumerate(lengths)]


@given(LENGTHS, st.sampled_from([0.0, 0.1, 0.3]), st.integers(0, 5))
def test_whole_documents_are_held_out(lengths: list[int], share: float, seed: int) -> None:
    found = divided(numbered(lengths), "here", hold_out=share, seed=seed)
    assert sorted([*found.fit, *found.held_out], key=lambda one: one.name) == sorted(
        numbered(lengths), key=lambda one: one.name
    )
    assert found.fit
    held = sum(len(one.text) for one in found.held_out)
    if share == 0:
        assert not held
    elif min(lengths) <= share * sum(lengths):
        assert 0 < held <= share * sum(lengths)
    else:
        assert held == min(lengths)


@given(LENGTHS, st.integers(2, 9), st.sampled_from([None, 1]), st.integers(0, 5))
def test_rows_are_the_documents_one_after_another(
    lengths: list[int], length: int, first: int | None, seed: int
) -> None:
    found = Corpus(tuple(numbered(lengths)), tuple(numbered([30, 40])), "here", seed)
    own = length - (first is not None)
    joined = "".join(f"{one.text}\n\n" for one in found.fit)
    expected = [joined[start : start + own] for start in range(0, len(joined) - own + 1, own)]
    if not expected:
        return
    split = found.tokens(Characters(first), length=length)
    rows = written(split.fit)
    assert all(row[0] == chr(first) for row in rows if first is not None)
    assert sorted(row[length - own :] for row in rows) == sorted(expected)
    assert split.fit.shape == (len(expected), length)
    torch.testing.assert_close(found.tokens(Characters(first), length=length).fit, split.fit, rtol=0, atol=0)


def test_no_token_of_a_held_out_document_is_fitted_on() -> None:
    found = divided(numbered([50] * 20), "here", hold_out=0.2, seed=3)
    split = found.tokens(Characters(), length=7)
    fitted, held = (set(rows.flatten().tolist()) - {1, ord("\n")} for rows in (split.fit, split.held_out))
    assert len(held) == 4
    assert not fitted & held
    assert {f"document {token - ord('A')}" for token in held} == set(split.held_out_names)


def test_of_one_document_the_end_is_held_out_and_that_is_said(tmp_path: Path) -> None:
    text = "\n\n".join(f"paragraph {k} of one text" for k in range(50))
    (tmp_path / "a.txt").write_text(text)
    found = corpus(tmp_path / "a.txt", hold_out=0.2)
    assert found.fit[0].text + found.held_out[0].text == text
    assert found.held_out[0].text.startswith("paragraph ")
    assert abs(len(found.held_out[0].text) - 0.2 * len(text)) < 30
    assert "the end of its one document is held out" in found.tokens(Characters(), length=8).described
    assert len(divided([Document("a", "x" * 100)], "a").held_out[0].text) == 10  # no gap to cut at


def test_orders_follow_the_seed() -> None:
    first, again, other = (divided(numbered([50] * 20), "", seed=seed) for seed in (0, 0, 1))
    assert first.held_out == again.held_out != other.held_out
    rows = [replace(first, seed=seed).tokens(Characters(), length=5).fit for seed in (0, 1)]
    assert not torch.equal(*rows)
    assert sorted(rows[0].tolist()) == sorted(rows[1].tolist())


@given(st.integers(1, 7), st.integers(0, 30), st.integers(0, 30), st.integers(-3, 3))
def test_a_stream_goes_on_from_any_row(n: int, start: int, count: int, seed: int) -> None:
    split = Split(torch.arange(n)[:, None], torch.zeros(0, 1, dtype=torch.int64), "numbers", seed=seed)
    whole = split.rows(0, 60)
    assert torch.equal(split.rows(start, count), whole[start : start + count])
    assert whole[:n, 0].tolist() == list(range(n))
    for epoch in range(60 // n):
        assert sorted(whole[epoch * n : (epoch + 1) * n, 0].tolist()) == list(range(n))


def test_later_epochs_have_other_orders() -> None:
    split = Split(torch.arange(50)[:, None], torch.zeros(0, 1, dtype=torch.int64), "numbers")
    epochs = split.rows(0, 150)[:, 0].reshape(3, 50).tolist()
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_only_so_many_tokens_are_kept_and_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"{k} " * 200}) for k in range(400)]
    path.write_text("\n".join([*lines, "no JSON, and never read"]))
    split = read(path, Characters(), length=10, tokens=500, hold_out=0.2)
    assert split.fit.shape == (40, 10)
    assert split.held_out.shape == (10, 10)
    assert split.described.startswith("400 tokens to fit on, from ")
    assert f"in rows of 10, seed 0; {path}" in split.described
    with pytest.raises(StoreError, match="line 401, which is no JSON"):
        read(path, Characters(), length=10)
    few = read(tmp_path / "a.jsonl", Characters(), length=10, tokens=1000, hold_out=0.0)
    assert few.held_out.shape == (0, 10)
    assert few.fit.numel() == 1000


def test_fewer_tokens_than_were_asked_for_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 100)
    (tmp_path / "b.txt").write_text("b" * 100)
    split = read(tmp_path, Characters(), length=10, tokens=10_000)
    assert "fewer than the 10,000 asked for" in split.described
    assert split.fit.shape == split.held_out.shape == (11, 10)


def test_what_a_page_says_of_a_text_has_the_names_of_files_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("here/mine", "here"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "a.txt").write_text("a" * 100)
        (tmp_path / folder / "b.txt").write_text("b" * 100)
    sources = [tmp_path / "here" / "a.txt", f"{tmp_path}/here/mine/", tmp_path / "here"]
    split = read(sources, Characters(), length=10)
    assert str(tmp_path / "here" / "mine") in split.described
    assert split.named == split.described[: split.described.index(str(tmp_path))] + "a.txt, mine, here"
    monkeypatch.chdir(tmp_path / "here" / "mine")
    assert read("../a.txt", Characters(), length=10).named.endswith("; a.txt (the end of its one document is held out)")
    assert read(".", Characters(), length=10).named.endswith("seed 0; mine")
    monkeypatch.setenv("BILENS_TEXT", str(tmp_path / "here"))
    assert english().tokens(Characters(), length=10).named.endswith("BILENS_TEXT=here")


@pytest.mark.bad_input
def test_bad_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 100)
    (tmp_path / "b.txt").write_text("b" * 100)
    (tmp_path / "nothing.txt").write_text(" \n")
    rows, none = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int64)
    cases = [
        (lambda: read(tmp_path / "nothing.txt", Characters()), BilensError, "no text in .*nothing.txt"),
        (lambda: read(tmp_path, Characters(), length=500), BilensError, "102 tokens to fit on .*a row of 500"),
        (lambda: read(tmp_path, Characters(), length=1), BilensError, "length = 1"),
        (lambda: read(tmp_path, Characters(), tokens=10), BilensError, "10 tokens in rows of 256"),
        (lambda: read(tmp_path, Characters(), hold_out=1.0), BilensError, "hold_out = 1.0"),
        (lambda: read(tmp_path, "tokenizer"), BilensError, "tokenizer of type str; expected one of transformers"),
        (lambda: Split(rows, torch.zeros(1, 2, dtype=torch.int64), ""), ShapeError, r"held_out of shape \(1, 2\)"),
        (lambda: Split(rows.int(), none, ""), BilensError, "fit of type torch.int32"),
        (lambda: Split(none, none, "").rows(0, 1), BilensError, "no row to fit on"),
        (lambda: Split(rows, none, "").rows(-1, 1), BilensError, "start = -1"),
    ]
    for make, kind, message in cases:
        with pytest.raises(kind, match=message):
            make()
