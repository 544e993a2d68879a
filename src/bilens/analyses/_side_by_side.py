"""A page of text from a model and from its conversion, side by side: what each finds likeliest, word after word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bilens._internal.checks import whole

PROMPTS, LENGTH, MORE = 8, 48, 48
"""How many texts, tokens of each that both are given, and tokens that each adds."""


@dataclass(frozen=True)
class Continued:
    """A text, and how two models go on.

    Args:
        prompt: what both were given; theirs, ours: what the original and the conversion add.
        same: how many tokens of it are the same from the start.
    """

    prompt: str
    theirs: str
    ours: str
    same: int


def continued(
    theirs: nn.Module,
    ours: nn.Module,
    tokenizer: Any,
    tokens: Int[Tensor, "n t"],
    *,
    prompts: int = PROMPTS,
    length: int = LENGTH,
    more: int = MORE,
) -> tuple[Continued, ...]:
    """The likeliest next token but for an end of text, again and again, of the first texts cut after some tokens.

    Args:
        theirs, ours: models of transformers; tokenizer: theirs; tokens: texts that nothing was fitted to.
        prompts: how many of them; length: tokens that are given; more: that are added.
    """
    found = []
    for text in tokens[: whole("prompts", prompts, 1), : whole("length", length, 1)]:
        adds = [_greedy(model, text, whole("more", more, 1)) for model in (theirs, ours)]
        differ = (adds[0] != adds[1]).nonzero()
        said = [tokenizer.decode(part.tolist(), skip_special_tokens=True) for part in (text, *adds)]
        found.append(Continued(said[0], said[1], said[2], int(differ[0]) if len(differ) else len(adds[0])))
    return tuple(found)


def _greedy(model: nn.Module, text: Tensor, count: int) -> Tensor:
    called: Any = model
    given = text[None].to(next(model.parameters()).device)
    settings = {"do_sample": False, "max_new_tokens": count, "min_new_tokens": count, "pad_token_id": 0}
    whole_text: Tensor = called.generate(given, attention_mask=torch.ones_like(given), **settings)
    return whole_text[0, len(text) :].cpu()


def page(texts: Sequence[Continued], *, title: str, facts: Sequence[str], more: int = MORE) -> str:
    """One HTML page that loads nothing and runs nothing.

    Args:
        texts: to show; title: of the page; facts: lines above them, plain text; more: tokens that each model added.
    """
    mean = sum(text.same for text in texts) / max(1, len(texts))
    rows = "\n".join(
        f'<section><p class="given">{escape(text.prompt)}</p>\n<div>'
        f"<p><b>original</b> {escape(text.theirs)}</p>\n"
        f"<p><b>converted</b> {escape(text.ours)}</p></div>\n"
        f'<p class="note">the same for {text.same} of {more} tokens</p></section>'
        for text in texts
    )
    told = "\n".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem; font: 0.95rem/1.5 system-ui, sans-serif;
  color: light-dark(#1b1f24, #e8eaed); background: light-dark(#fff, #121519) }}
section {{ border-top: 1px solid light-dark(#d5d9df, #3a414b); padding: 0.75rem 0 }}
section div {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 0 2rem }}
p {{ margin: 0.4rem 0; white-space: pre-wrap; overflow-wrap: anywhere }}
b {{ display: block; font-size: 0.8rem }}
.given, .note {{ color: light-dark(#667080, #9aa4b1) }}
.note {{ font-size: 0.85rem }}
</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<ul>
{told}
</ul>
<p class="note">Each text is cut after some tokens; both models then add the likeliest token, {more} times.
They say the same for {mean:.1f} tokens on average: one other token changes all that follow.</p>
{rows}
</main>
</body>
</html>
"""


__all__ = ["LENGTH", "MORE", "PROMPTS", "Continued", "continued", "page"]
