"""The rules of a language read from the weights of a bilinear transformer, beside truth, nulls and rival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from bilens.models.decoder import BilinearDecoder
from reproduction.lab import Claim, Lab, Recipe
from reproduction.measurement import Measurement
from reproduction.methods.rules import KINDS, Rules, checkpoints, home, loaded
from reproduction.recipes import rules_figure
from reproduction.recipes import rules_measure as read
from reproduction.recipes.rules_measure import FAR, NEAR

RIVAL = (1, 3, 6, 10)
"""Distances of the made-up contexts."""

COPIED = ("verb", "loc", "adj", "conn")
"""Kinds of tokens after which the language copies what followed them before."""


def measure(lab: Lab, seed: int) -> Measurement:
    """Everything of the model and its checkpoints; the seed draws the fillers of the rival and an untrained model."""
    folder = home()
    rules = Rules.read(folder)
    text = read.text_of(folder)
    decoder = loaded(folder, labels=rules.tokens)
    stored = text["logits"]
    own = BilinearDecoder.from_pretrained(folder).requires_grad_(False)(text["tokens"][: len(stored)].long())
    numbers = {
        "error of the stored logits": float((own - stored).abs().max()),
        "largest stored logit": float(stored.abs().max()),
        "rules": float(len(rules.skip)),
        "pairs": float(rules.table.numel()),
        "verbs": float((rules.bigram > 0).sum()),
        **read.bigrams(decoder, rules)[0],
    }
    for distance in range(1, FAR + 1):
        found, strengths, scores = read.skips(decoder, rules, distance)
        numbers |= {f"{name}, {distance}": value for name, value in found.items()}
        if distance == NEAR:
            numbers |= _pairs(rules, "strength", strengths.max(dim=-1).values) | _pairs(rules, "score", scores)
    inside = range(1, rules.window + 1)
    for name, worst in (("rules found", min), ("right conn", min), ("found by score", min), ("strongest other", max),
                        ("weakest rule", min), ("weakest score", min), ("strongest other score", max)):  # fmt: skip
        numbers[f"{name}, in the window"] = worst(numbers[f"{name}, {distance}"] for distance in inside)
    numbers |= _machinery(decoder, rules) | read.induction(decoder, rules) | _offsets(decoder)
    numbers |= _training(folder, rules, text) | {"nearer loc wins": read.nearest(decoder, rules)}
    untrained = BilinearDecoder(
        len(rules.tokens),
        width=decoder.config["d_model"],
        head=decoder.config["d_head"],
        mlp=decoder.config["d_mlp"],
        blocks=decoder.config["n_layers"],
        std=0.1,
        seed=seed,
    )
    numbers["untrained found"] = read.skips(untrained.double().requires_grad_(False), rules, NEAR)[0]["rules found"]
    generator = torch.Generator().manual_seed(seed)
    for distance in RIVAL:
        first, strongest = read.contexts(decoder, rules, distance, generator)
        numbers |= {f"rival first, {distance}": first, f"rival found, {distance}": strongest}
    return Measurement.of(numbers)


def _pairs(rules: Rules, name: str, values: torch.Tensor) -> dict[str, float]:
    """One number for each loc and adj."""
    locs, adjs = ([rules.tokens[n] for n in rules.kind(kind).tolist()] for kind in ("loc", "adj"))
    return {f"{name}, {loc}, {adj}": float(values[i, j]) for i, loc in enumerate(locs) for j, adj in enumerate(adjs)}


def _machinery(decoder: BilinearDecoder, rules: Rules) -> dict[str, float]:
    """Shares of paths and products, and how alike rules are that share a conn, an adj or a loc."""
    names, parts, off = read.shares(decoder, rules)
    last = len(decoder.blocks)
    numbers = {"error of the sum of paths": off}
    for name, part in zip(names, parts, strict=True):
        numbers |= {
            f"share, {name}": float(part.mean()),
            f"least share, {name}": float(part.min()),
            f"most share, {name}": float(part.max()),
            f"rules led by, {name}": float((parts.argmax(dim=0) == names.index(name)).sum()),
        }
    reads = [set(name.removeprefix(f"mlp {last}: ").split(" × ")) for name in names]
    alone = torch.tensor([read_ <= {"own", f"attention {last}"} for read_ in reads])
    numbers["share of the last block's reading alone"] = float(parts[alone].sum(dim=0).mean())
    direct = torch.tensor([name.startswith("attention") for name in names])
    numbers["share without an MLP"] = float(parts[direct].sum(dim=0).mean())
    products = read.units(decoder, rules)
    sizes = products.sort(dim=1, descending=True).values.cumsum(dim=1)
    whole = products.sum(dim=1, keepdim=True)
    numbers["products for half of the MLP's share"] = float(((sizes < whole / 2).sum(dim=1) + 1).double().mean())
    numbers |= {f"products alike, same {name}": value for name, value in read.alike(rules, products).items()}
    terms, slack = read.components(decoder, rules)
    numbers["score error over its certificate"] = slack
    numbers |= {f"components alike, same {name}": value for name, value in read.alike(rules, terms).items()}
    for place, (loc, adj, conn) in enumerate(read.in_order(rules).tolist()):
        best = int(parts[:, place].argmax())
        label = f"{rules.tokens[loc]} {rules.tokens[adj]} {rules.tokens[conn]}"
        numbers |= {
            f"path of {label}": float(best),
            f"share of {label}": float(parts[best, place]),
            f"product of {label}": float(products[place].argmax()),
            f"product's share of {label}": float(products[place].max() / whole[place, 0]),
        }
    return numbers


def _offsets(decoder: BilinearDecoder) -> dict[str, float]:
    """Root mean square of the first block's score over all pairs of tokens, and the norm of its tensor, by offset."""
    rows = decoder.embed.weight
    numbers: dict[str, float] = {}
    for offset in range(FAR + 1):
        score = decoder.score(0, offset)
        numbers |= {
            f"first score, {offset}": float(score.table(rows, rows).square().mean().sqrt()),
            f"norm of the first score, {offset}": float(score.norm()),
            f"norm of the last score, {offset}": float(decoder.score(len(decoder.blocks) - 1, offset).norm()),
        }
    return numbers


def _training(folder: Path, rules: Rules, text: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """At each checkpoint what the weights show and what the model does on text, and which of the two comes first."""
    numbers: dict[str, float] = {}
    seen, done = [], []
    steps = checkpoints(folder)
    for step, weights in steps.items():
        decoder = loaded(folder, weights, labels=rules.tokens)
        found, strengths, _ = read.skips(decoder, rules, NEAR)
        own = read.of_rules(rules, strengths)
        right = (strengths.argmax(dim=-1) == rules.table)[rules.table >= 0]
        visible = right & (own > found["strongest other"])
        acts = read.followed(decoder.float(), rules, text)
        order = [rules.skip.tolist().index(row) for row in read.in_order(rules).tolist()]
        follows = acts["rules"][order] > 0.5
        seen.append(visible)
        done.append(follows)
        copying = read.induction(decoder.double(), rules)
        numbers |= {
            f"visible, {step}": float(visible.sum()),
            f"followed, {step}": float(follows.sum()),
            f"found, {step}": found["rules found"],
            f"visible and not followed, {step}": float((visible & ~follows).sum()),
            f"followed and not visible, {step}": float((follows & ~visible).sum()),
            f"bigram error of weights, {step}": read.bigrams(decoder, rules)[0]["bigram error"],
            f"bigram error on text, {step}": float(acts["bigrams"].max()),
            f"copied by weights, {step}": sum(copying[f"copied, {kind}"] for kind in COPIED) / len(COPIED),
            f"copied on text, {step}": float(acts["copied"]),
        }
    first = [torch.stack(rows).double() for rows in (seen, done)]
    never = float(len(steps))
    when = [torch.where(rows.any(dim=0), rows.argmax(dim=0).double(), never) for rows in first]
    for name, which in (
        ("visible before followed", when[0] < when[1]),
        ("visible and followed at once", when[0] == when[1]),
        ("followed before visible", when[0] > when[1]),
    ):
        numbers[name] = float(which.sum())
    return numbers


def claims(measured: Measurement) -> Sequence[Claim]:
    """What was found, what the nulls give, and what the rival finds."""
    rules, pairs, window = measured["rules"], measured["pairs"], "at every distance in the window, the worst"
    whole = f"{rules:.0f} rules of {pairs:.0f} pairs"
    table = [
        Claim("largest |own logit − stored logit| of the first sequences, float32", "error of the stored logits",
              form=".1e"),
        Claim("largest |sum of paths − with and without the loc|, float64", "error of the sum of paths", form=".1e"),
        Claim("bigrams: largest |p − truth| over all subjects and tokens", "bigram error", "≤ 0.05", ".3f"),
        Claim("true verbs among as many strongest (subject, verb) pairs", "verbs found", form=".0f", scale=100,
              unit=" %"),
        Claim("probability of the weakest true verb", "weakest verb", form=".3f"),
        Claim("probability of the strongest other verb", "strongest other verb", form=".3f"),
        Claim(f"{whole} among as many strongest, {window}", "rules found, in the window", form=".0f"),
        Claim(f"rules with the right conn, {window}", "right conn, in the window", form=".0f"),
        Claim(f"logit contrast of the weakest rule, {window}", "weakest rule, in the window", form=".1f"),
        Claim(f"logit contrast of the strongest other pair, {window}", "strongest other, in the window", form=".2f"),
        Claim(f"{whole} among as many largest scores of the last block, {window}", "found by score, in the window",
              form=".0f"),
        Claim(f"score of the weakest rule, {window}", "weakest score, in the window"),
        Claim(f"largest |score| of another pair, {window}", "strongest other score, in the window"),
        Claim("rules among as many strongest pairs of an untrained model", "untrained found", form=".1f"),
    ]  # fmt: skip
    for distance in RIVAL:
        table += [
            Claim(f"rival, made-up contexts at distance {distance}: rules whose conn comes first",
                  f"rival first, {distance}", form=".0f"),
            Claim(f"rival at distance {distance}: rules among as many strongest pairs", f"rival found, {distance}",
                  form=".0f"),
        ]  # fmt: skip
    for kind in KINDS:
        table += [
            Claim(f"p(B) after A B … A, A a {kind}", f"copied, {kind}", form=".3f"),
            Claim(f"p(B) after C B … A, A and C two {kind}s", f"copied without A, {kind}", form=".3f"),
            Claim(f"smallest |score| of a filler B for A after A B … A, A a {kind}", f"score of B after A, {kind}",
                  form=".3f"),
            Claim(f"largest |score| of a filler B for A after C B … A, A and C two {kind}s",
                  f"score of B after C, {kind}", form=".3f"),
        ]  # fmt: skip
    table += [
        Claim("of two locs with rules for the adj the nearer one's conn is likelier", "nearer loc wins", form=".0f",
              scale=100, unit=" %"),
        Claim("share of a rule that the last block adds by reading the loc itself, mean",
              "share of the last block's reading alone", form=".0f", scale=100, unit=" %"),
        Claim("share of a rule that goes around every MLP, mean", "share without an MLP", form=".0f", scale=100,
              unit=" %"),
        Claim("products that make half of the last MLP's share of a rule, mean",
              "products for half of the MLP's share", form=".1f"),
        Claim("|score − reconstruction| over its certificate, largest", "score error over its certificate", form=".1e"),
        Claim("rules visible in the weights at an earlier checkpoint than followed on text",
              "visible before followed", form=".0f"),
        Claim("rules visible and followed from the same checkpoint on", "visible and followed at once", form=".0f"),
        Claim("rules followed on text at an earlier checkpoint than visible", "followed before visible", form=".0f"),
    ]  # fmt: skip
    return table


def tables(seeds: Sequence[Measurement]) -> Mapping[str, str]:
    """Every rule with its path and product; the paths; and the training."""
    one = seeds[0]
    names = [name.removeprefix("share, ") for name in one.names if name.startswith("share, ")]
    rows = [
        f"| {label.replace(' ', ' … ', 1).replace(' conn', ' → conn')} | {one[f'strength, {loc}, {adj}']:.1f} "
        f"| {one[f'score, {loc}, {adj}']:.2f} | {names[int(one[f'path of {label}'])]} "
        f"| {one[f'share of {label}']:.0%} | {one[f'product of {label}']:.0f} "
        f"| {one[f'product{chr(39)}s share of {label}']:.0%} |"
        for label in (name.removeprefix("path of ") for name in one.names if name.startswith("path of "))
        for loc, adj, _ in [label.split()]
    ]
    head = ["| rule | contrast | score | largest path | its share | largest product | its share of the MLP's |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    led = sorted(names, key=lambda name: -one[f"share, {name}"])
    paths = [
        f"| {name} | {one[f'share, {name}']:.1%} | {one[f'least share, {name}']:.0%} to "
        f"{one[f'most share, {name}']:.0%} | {one[f'rules led by, {name}']:.0f} |"
        for name in led
    ]
    steps = [int(name.removeprefix("visible, ")) for name in one.names if name.startswith("visible, ")]
    training = [
        f"| {step:,} | {one[f'found, {step}']:.0f} | {one[f'visible, {step}']:.0f} | {one[f'followed, {step}']:.0f} "
        f"| {one[f'bigram error of weights, {step}']:.3f} | {one[f'bigram error on text, {step}']:.3f} "
        f"| {one[f'copied by weights, {step}']:.3f} | {one[f'copied on text, {step}']:.3f} |"
        for step in steps
    ]
    return {
        "every": "\n".join([*head, *rows]),
        "paths": "\n".join(["| path | mean share | from, to | largest in, rules |", "|---|---|---|---|", *paths]),
        "training": "\n".join([
            "| step | rules among the strongest | visible | followed | bigram error, weights | on text "
            "| p(B) by weights | on text |",
            "|---|---|---|---|---|---|---|---|",
            *training,
        ]),
    }  # fmt: skip


def figures(seeds: Sequence[Measurement]) -> Mapping[str, tuple[Figure, str]]:
    """The tables of pairs, what distance does, and the training."""
    return rules_figure.figures(seeds[0])


RECIPE = Recipe(
    "rules",
    "A language model whose rules are known",
    lambda lab: (
        "A bilinear transformer of two blocks that others trained on a language of known rules, and five of its "
        "checkpoints; weights alone but where text is named. One network: intervals are over the rival's fillers and "
        "untrained models, and say nothing of other trainings."
    ),
    measure,
    claims,
    figures,
    tables,
    complete=False,
)
