"""Sentences that a person types on the page of a small model, beside its tokenizer and transformers itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bilens import explorer, store
from bilens.models import gated
from bilens.models.gated.original import original
from bilens.models.language import TINY

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

sys.path.insert(0, str(Path(__file__).parents[1] / "analyses"))
import reading_job  # noqa: E402

from bilens.analyses.language.job import Plan, read_layers  # noqa: E402
from bilens.analyses.language.seen import Seen  # noqa: E402
from bilens.analyses.language.subject import subject  # noqa: E402
from bilens.text import found, tokenizer  # noqa: E402

LAYER = 1
TEXTS = (
    "The king is dead, my lord.",
    "  What's   this?\n\tI'll go\u00a0 now \u3000 12345 times...  ",
    "na\u00efve \u4f60\u597d \U0001f600 </script><img src=x onerror=alert(1)> \u202e __DATA__ \x85x",
    "a<|endoftext|>b <|endoftext|>",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("duckdb", reason="pip install 'bilens[tables]'")
    pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
    out = tmp_path_factory.mktemp("typed") / "run"
    made = subject(str(TINY), [found.PLAYS], tokens=1200, seed=0)
    read_layers(made, [LAYER], out, Plan(**{**reading_job.PLAN.__dict__, "pairs": 20}))
    return out


@pytest.fixture
def page(browser: Any, run: Path) -> Iterator[Any]:
    context, told = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True), []
    tab = context.new_page()
    tab.set_default_timeout(90000)
    for event in ("console", "pageerror", "dialog"):
        tab.on(event, lambda what: told.append(str(what)))
    tab.goto((run / f"layer-{LAYER:03d}.html").as_uri() + "#sentence")
    yield tab
    context.close()
    assert told == []


def number(text: str) -> float:
    text = text.replace("\u2212", "-").replace(",", "").lstrip("+")
    if "10" in text and any(
        sign in text for sign in "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
    ):
        mantissa, _, power = text.rpartition("10")
        signs = str.maketrans("\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "-0123456789")
        return float(mantissa.rstrip("\u00b7") or 1) * 10 ** int(power.translate(signs))
    return float(text)


def values(text: str) -> tuple[list[int], np.ndarray]:
    """Tokens, and y at each, by a hook in transformers."""
    known, checkpoint = tokenizer(TINY), gated.load(TINY)
    tokens = [known.bos_token_id, *known(text, add_special_tokens=False)["input_ids"]]
    model: Any = original(checkpoint)
    found_: dict[str, torch.Tensor] = {}
    hook = model.model.layers[LAYER].mlp.register_forward_hook(lambda _, __, y: found_.update(y=y))
    with torch.no_grad():
        model(torch.tensor([tokens]))
    hook.remove()
    return tokens[1:], found_["y"][0, 1:].double().numpy()


def direction(run: Path, place: int) -> np.ndarray:
    content = explorer.reading_of(run / f"layer-{LAYER:03d}.html")
    label = content["sets"][0]["features"][place]["label"]
    texts = subject(str(TINY), [], tokens=2, seed=0).pieces
    model: Any = original(gated.load(TINY))
    weights = model.lm_head.weight.detach().double().numpy()
    gain = model.model.norm.weight.detach().double().numpy()
    return ((weights - weights.mean(axis=0)) * gain)[texts.index(label)]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_typed_has_the_models_own_tokens_and_values(page: Any, run: Path, text: str) -> None:
    page.get_by_label("Or type one").fill(text)
    typed = page.get_by_label("Or type one").input_value()  # a browser leaves line breaks out
    page.keyboard.press("Enter")
    expected, y = values(typed)
    shown = page.locator("button.word").count()
    assert shown == len(expected)
    u = direction(run, 0)
    told = [number(each.get_attribute("title")) for each in page.locator("button.word").all()]
    np.testing.assert_allclose(told, y @ u, rtol=6e-3, atol=2e-3)
    page.locator("figure").get_by_role("button", name="Table").click()
    for place in (0, shown // 2, shown - 1):
        page.locator("button.word").nth(place).click()
        cells = [number(cell) for cell in page.locator("figure tbody td").all_inner_texts()]
        assert len(cells) == 8 + 2 + 1
        assert cells[-1] == pytest.approx(sum(cells[:-1]), abs=0.01 * sum(map(abs, cells)))
        assert cells[-1] == pytest.approx(float(y[place] @ u), rel=6e-3, abs=2e-3)
    assert page.locator("main img, main script").count() == 0


def test_a_sentence_that_was_typed_is_in_the_link_and_a_long_one_is_cut(page: Any) -> None:
    field = page.get_by_label("Or type one")
    field.fill("my lord & my king = 100% #1")
    page.get_by_role("button", name="Show").click()
    words = page.locator("button.word").all_inner_texts()
    address = page.url
    assert "sentence=typed" in address
    page.goto("about:blank")
    page.goto(address)
    assert page.get_by_label("Or type one").input_value() == "my lord & my king = 100% #1"
    assert page.locator("button.word").all_inner_texts() == words
    page.get_by_label("Or type one").fill("lord " * 79)
    page.keyboard.press("Enter")
    assert page.locator("button.word").count() == 63
    assert "first 64 tokens" in page.locator(".verdict").inner_text()
    page.get_by_label("Or type one").fill("")
    page.keyboard.press("Enter")
    assert page.locator("button.word").count() == 63  # nothing was typed
    page.get_by_label("Sentence", exact=True).select_option("2")
    assert "sentence=2" in page.url
    assert "&t=" not in page.url


def test_the_page_carries_the_model_up_to_its_layer(page: Any) -> None:
    content = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    assert content["typed"]["first"] == 0
    assert content["typed"]["pairs"] == 8
    assert len(content["typed"]["blocks"]) == LAYER + 1


def test_sixteen_pairs_predict_the_sum_of_their_terms(page: Any, run: Path) -> None:
    page.evaluate("location.hash = 'feature=tokens:0'")
    figure = page.locator("figure", has=page.get_by_role("heading", name="Predicted against true"))
    figure.get_by_role("radio", name="16", exact=True).check()
    figure.get_by_role("button", name="Table").click()
    told = [number(text) for text in figure.locator("tbody td:nth-child(3)").all_inner_texts()]
    seen = store.read_record(run, f"layer-{LAYER:03d}/tokens/seen", Seen)
    assert seen is not None
    assert seen.terms.shape[1] > 16
    expected = (seen.terms[0, :16].sum(dim=0) + seen.mean[0] - seen.pairs[0, :16].sum()).numpy()
    np.testing.assert_allclose(told, expected, rtol=6e-3, atol=1e-3 * np.abs(expected).max())
