"""How far sizes of a kernel can be compared: next tokens from the weights of a layer beside their lift in a text.

    python docs/next_tokens.py [MODEL] [TEXT]

For every pair of a current token a and a next token u the kernel's value at the normalised embedding of a, from the
weights of the first layer alone, beside log P(u | a) / P(u) in the text. The text is used to judge, and by the rows
that say so. Without arguments: the tiny model and the plays that bilens carries. Writes the table in results-lm.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from bilens import directions, files, statistics
from bilens.models import gated, language
from bilens.models.gated.original import original
from bilens.models.surrogate import weights_only
from bilens.text import corpus, found, tokenizer

FOLDER = Path(__file__).parent
KEPT, PAGE = FOLDER / "results" / "next-tokens.json", FOLDER / "results-lm.md"
START, END = "<!-- next tokens: written by docs/next_tokens.py -->", "<!-- end of next tokens -->"
KERNEL, REPAIRED = "the kernel, from weights alone", "the same, less the mean of each current token"
LEAST = 20
"""Times that a token must be in the text to be one of the pairs."""

TOP, PAIRS, DRAWS = 6, 100, 200
"""Tokens that are counted for each next token, pairs that are counted over all, and draws of next tokens."""


def counted(model: str, text: Path) -> tuple[np.ndarray, list[str]]:
    """How often each token follows each in the rows of a text, (v, v), the current one first; and the tokens' texts."""
    known = tokenizer(model)
    split = corpus([text], hold_out=0.1, seed=0).tokens(known, length=128)
    counts = np.zeros((len(known), len(known)))
    for rows in (split.fit.numpy(), split.held_out.numpy()):
        np.add.at(counts, (rows[:, 1:-1].ravel(), rows[:, 2:].ravel()), 1)  # the first token of a row is no text
    return counts, [known.decode([number]) for number in range(len(known))]


def scores(model: str, some: np.ndarray, often: np.ndarray) -> dict[str, np.ndarray]:
    """By its name each way of scoring pairs: (u, a), next and current tokens that are asked about."""
    checkpoint = gated.load(model)
    mlp = checkpoint.mlp(0)
    embedded = original(checkpoint).get_input_embeddings().weight.detach()[some.tolist()]
    read = directions.tokens(model, some.tolist(), mlp=mlp).matrix.double()
    normal = mlp.norm.normalize(embedded)
    kernel = (weights_only(mlp).tensor()(normal).double() @ read.T).T.numpy()
    straight = (embedded.double() @ read.T).T.numpy()
    given = often / often.sum()
    less = kernel - kernel @ given[:, None]
    units = less / np.sqrt((less**2) @ given)[:, None]
    return {
        KERNEL: kernel,
        "less the mean of each next token over the text": less,
        "the same, over its standard deviation over the text": units,
        REPAIRED: units - given @ units,
        "the path around all layers": straight,
        "both paths": kernel + straight,
        "*null: the most frequent current tokens*": np.repeat(given[None], len(some), axis=0),
        "*null: random numbers*": np.random.default_rng(0).standard_normal(kernel.shape),
    }


def judged(score: np.ndarray, lift: np.ndarray, delimiter: np.ndarray) -> dict[str, Any]:
    """What a score has to do with log lift: over all pairs, within a next token, and among the first."""
    n = len(score)
    sums = np.stack([each.sum(axis=1) for each in (score, lift, score**2, lift**2, score * lift)])  # of each next token
    draws = np.random.default_rng(0).integers(0, n, (DRAWS, n))
    within, over_all = correlation(sums, n), correlation(sums[:, draws].sum(axis=2), n * n)
    best = np.take_along_axis(lift, np.argsort(-score, axis=1)[:, :TOP], axis=1)
    first = np.argsort(-score, axis=None)[:PAIRS]
    middle = statistics.median(within.tolist())
    return {
        "all": [float(correlation(sums.sum(axis=1), n * n)), *np.quantile(over_all, [0.025, 0.975]).tolist()],
        "within": [middle.value, middle.low, middle.high],
        "above_1": float((best > 0).mean()),
        "above_5": float((best > np.log(5)).mean()),
        "delimiters": float((delimiter[first // n] | delimiter[first % n]).mean()),
    }


def correlation(sums: np.ndarray, n: int) -> np.ndarray:
    """Pearson's, from sums of x, y, x², y² and xy over n pairs; 0 where one does not vary."""
    x, y, xx, yy, xy = sums / n
    size = np.sqrt(np.maximum((xx - x**2) * (yy - y**2), 0))
    return np.where(size > 0, (xy - x * y) / np.where(size > 0, size, 1), 0)


def measured(model: str, text: Path) -> dict[str, Any]:
    """Everything that the page says."""
    counts, names = counted(model, text)
    often = np.minimum(counts.sum(axis=0), counts.sum(axis=1))
    some = np.flatnonzero(often >= LEAST)
    pairs = counts[np.ix_(some, some)].T
    by_chance = np.outer(counts.sum(axis=0)[some], counts.sum(axis=1)[some]) / counts.sum()
    lift = np.log((pairs + 0.5) / (by_chance + 0.5))
    delimiter = np.array([not any(letter.isalnum() for letter in names[number]) for number in some])
    ways = scores(model, some, often[some])
    return {
        "model": Path(model).stem,
        "text": text.name,
        "tokens": int(counts.sum()),
        "named": len(some),
        "delimiters": float((delimiter[:, None] | delimiter).mean()),
        "chance": [float((lift > 0).mean()), float((lift > np.log(5)).mean())],
        "ways": {name: judged(score, lift, delimiter) for name, score in ways.items()},
    }


def lines(kept: dict[str, Any]) -> list[str]:
    """The table and how it is to be read."""
    rows = [
        "| score of a pair | correlation with log lift, all pairs | within a next token | first six: lift > 1 | > 5 "
        "| delimiters among the first 100 pairs |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in kept["ways"].items():
        over_all, within = (
            "{:.2f} ({:.2f} … {:.2f})".format(*(round(number, 2) + 0.0 for number in one[part]))  # no "-0.00"
            for part in ("all", "within")
        )
        rows.append(
            f"| {name} | {over_all} | {within} | {one['above_1']:.0%} | {one['above_5']:.0%} "
            f"| {one['delimiters']:.0%} |"
        )
    raw, repaired = kept["ways"][KERNEL], kept["ways"][REPAIRED]
    return [
        *rows,
        "",
        f"- **Across next tokens sizes cannot be compared as they are**: over all pairs the kernel's values have a "
        f"correlation of {raw['all'][0]:.2f} with log lift, within one next token {raw['within'][0]:.2f}.",
        f"- **Weights alone rank delimiters first**: {raw['delimiters']:.0%} of the first {PAIRS} pairs have one, of "
        f"all pairs {kept['delimiters']:.0%}.",
        f"- **Centring and scaling by the text repair both in part**: {repaired['all'][0]:.2f} over all pairs, "
        f"{repaired['delimiters']:.0%} with a delimiter among the first {PAIRS}, and of the first six of a next token "
        f"{repaired['above_1']:.0%} with a lift above 1 instead of {raw['above_1']:.0%}. The relation stays weak.",
        "",
        f"`{kept['model']}`, first layer, {kept['named']} tokens that are {LEAST} times or more in `{kept['text']}` "
        f"({kept['tokens']:,} pairs of tokens); counts plus ½. Of all pairs {kept['chance'][0]:.0%} have a lift above "
        f"1, {kept['chance'][1]:.0%} above 5, and {kept['delimiters']:.0%} have a delimiter, a token without letter or "
        "digit. Intervals are 95 %, over next tokens: drawn again for all pairs, of the median within one.",
    ]


def write(kept: dict[str, Any]) -> None:
    """The page's section."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    files.write_text(PAGE, "\n".join([before + START, "", *lines(kept), "", END + rest.split(END)[1]]))


def main() -> None:
    """Measure, keep and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(language.TINY), help="a model of transformers")
    parser.add_argument("text", type=Path, nargs="?", default=found.PLAYS, help="a text to judge by")
    asked = parser.parse_args()
    kept = measured(asked.model, asked.text)
    files.write_json(KEPT, kept)
    write(kept)


if __name__ == "__main__":
    main()
