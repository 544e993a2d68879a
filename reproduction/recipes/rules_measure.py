"""What the weights of a model say of the rules of its language: tables, paths, distances, machinery, induction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bilens import decompose, files
from bilens.models.decoder import BilinearDecoder, Effect, effect
from reproduction.methods.rules import KINDS, Rules

FAR = 16
"""The largest distance between a loc and its adj that is looked at, in tokens; the language's window is shorter."""

NEAR = 4
"""The distance at which paths and machinery are listed."""

COMPONENTS = 64
"""Components of the score that its terms are counted in."""


def bigrams(decoder: BilinearDecoder, rules: Rules) -> tuple[dict[str, float], Float[Tensor, "s v"]]:
    """What follows each subject by itself, beside the truth."""
    found = decoder(rules.kind("subj")[:, None])[:, -1].softmax(dim=-1)
    verbs = found[:, rules.kind("verb")]
    true = rules.bigram[:, rules.kind("verb")] > 0
    strongest = verbs.flatten().argsort(descending=True)[: int(true.sum())]
    return {
        "bigram error": float((found - rules.bigram).abs().max()),
        "verbs found": float(true.flatten()[strongest].double().mean()),
        "weakest verb": float(verbs[true].min()),
        "strongest other verb": float(verbs[~true].max()),
    }, found


def pairs(decoder: BilinearDecoder, rules: Rules, distance: int) -> Effect:
    """What each loc does to each adj that stands `distance` behind it, and nothing else is read; locs count slowest."""
    both = torch.cartesian_prod(rules.kind("loc"), rules.kind("adj"))
    return effect(decoder, both, torch.tensor([0, distance]))


def contrasts(rules: Rules, logits: Float[Tensor, "*p n v"]) -> Float[Tensor, "*p l a c"]:
    """Logits of the conns less their mean, by loc and adj: what speaks for one conn and not for another."""
    chosen = logits[..., rules.kind("conn")]
    chosen = chosen - chosen.mean(dim=-1, keepdim=True)
    return chosen.reshape(*chosen.shape[:-2], *rules.table.shape, chosen.shape[-1])


def of_rules(rules: Rules, values: Float[Tensor, "*p l a c"]) -> Float[Tensor, "*p r"]:
    """The value of each rule's own conn."""
    table = rules.table
    index = table.clamp(min=0)[..., None].expand(*values.shape[:-1], 1)
    return values.gather(-1, index)[..., 0][..., table >= 0]


def sorted_out(values: Float[Tensor, "l a"], true: Bool[Tensor, "l a"]) -> tuple[float, float, float]:
    """How many of the true pairs are among as many strongest ones; the weakest true pair and the strongest other."""
    strongest = values.flatten().argsort(descending=True, stable=True)[: int(true.sum())]
    return float(true.flatten()[strongest].sum()), float(values[true].min()), float(values[~true].max())


def read_scores(
    decoder: BilinearDecoder, tokens: Int[Tensor, "n l"], positions: Int[Tensor, " l"], block: int
) -> Float[Tensor, "n l"]:
    """How much the last token attends to each one in a block."""
    x = decoder.embed(tokens)
    for number in range(block):
        x = decoder.block(number)(x, positions)
    last = decoder.block(block)
    return last.attn.scores(last.norm_attn(x), positions)[:, -1]


def skips(decoder: BilinearDecoder, rules: Rules, distance: int) -> tuple[dict[str, float], Tensor, Tensor]:
    """The pairs at one distance: how the rules stand out, the strength of each pair, and the score of each pair."""
    true = rules.table >= 0
    strengths = contrasts(rules, pairs(decoder, rules, distance).total)
    both = torch.cartesian_prod(rules.kind("loc"), rules.kind("adj"))
    scores = read_scores(decoder, both, torch.tensor([0, distance]), len(decoder.blocks) - 1)[:, 0]
    scores = scores.reshape(true.shape)
    found, weakest, other = sorted_out(strengths.max(dim=-1).values, true)
    by_score = sorted_out(scores.abs(), true)
    numbers = {
        "rules found": found,
        "right conn": float((strengths.argmax(dim=-1) == rules.table)[true].sum()),
        "weakest rule": weakest,
        "strongest other": other,
        "found by score": by_score[0],
        "weakest score": by_score[1],
        "strongest other score": by_score[2],
        "mean strength": float(of_rules(rules, strengths).mean()),
    }
    return numbers, strengths, scores


def shares(decoder: BilinearDecoder, rules: Rules) -> tuple[tuple[str, ...], Float[Tensor, "p r"], float]:
    """Share of each path in each rule's effect, and how far the sum of paths is from two runs of the model."""
    found = pairs(decoder, rules, NEAR)
    parts = of_rules(rules, contrasts(rules, found.logits))
    both = torch.cartesian_prod(rules.kind("loc"), rules.kind("adj"))
    run = decoder(both, torch.tensor([0, NEAR]))[:, -1] - decoder(both[:, 1:])[:, -1]
    return found.paths, parts / parts.sum(dim=0), float((found.total - run).abs().max())


def units(decoder: BilinearDecoder, rules: Rules) -> Float[Tensor, "r m"]:
    """What each product of the last MLP adds to each rule's contrast."""
    found = pairs(decoder, rules, NEAR)
    weights = decoder.readout() @ decoder.block(len(decoder.blocks) - 1).mlp.w_proj.weight
    chosen = weights[rules.kind("conn")]
    chosen = chosen - chosen.mean(dim=0)  # conns × products
    changes = found.products[-1].reshape(*rules.table.shape, -1)  # loc × adj × products
    true = rules.table >= 0
    added: Tensor = changes[true] * chosen[rules.table[true]]
    return added


def components(decoder: BilinearDecoder, rules: Rules) -> tuple[Float[Tensor, "r k"], float]:
    """Terms of the last block's score of each rule in the score's singular components, and the certificate's slack."""
    last, positions = len(decoder.blocks) - 1, torch.tensor([0, NEAR])
    both = torch.cartesian_prod(rules.kind("loc"), rules.kind("adj"))[(rules.table >= 0).flatten()]
    x = decoder.embed(both)
    for number in range(last):
        x = decoder.block(number)(x, positions)
    score = decoder.score(last, NEAR)
    most = min(COMPONENTS, len(score.query1) ** 2)
    found = decompose.score_svd(score, most)
    query, key = x[:, 1], x[:, 0]
    off = (score(query, key) - found.reconstruct(query, key)).abs()
    return found.terms(query, key), float((off / found.bound(query.norm(dim=1), key.norm(dim=1))).max())


def alike(rules: Rules, rows: Float[Tensor, "r m"]) -> dict[str, float]:
    """Mean cosine between the rows of two rules, by what the rules have in common."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    cosines = unit @ unit.T
    loc, adj, conn = ((part[:, None] == part) for part in in_order(rules).T)
    other = ~torch.eye(len(rows), dtype=torch.bool)
    groups = {"conn": conn, "adj": adj, "loc": loc, "nothing": ~(loc | adj | conn)}
    return {
        name: float(cosines[chosen].mean()) if bool((chosen := same & other).any()) else 0.0
        for name, same in groups.items()
    }


def in_order(rules: Rules) -> Int[Tensor, "r 3"]:
    """The rules in the order of the table, loc by loc."""
    locs, adjs, conns = rules.kind("loc"), rules.kind("adj"), rules.kind("conn")
    places = (rules.table >= 0).nonzero()
    return torch.stack([locs[places[:, 0]], adjs[places[:, 1]], conns[rules.table[rules.table >= 0]]], dim=1)


def induction(decoder: BilinearDecoder, rules: Rules) -> dict[str, float]:
    """What "A B … A" does to B, for every A of a kind and every B, beside "C B … A" with another C of the kind."""
    some = torch.cat([rules.kind(kind) for kind in KINDS])
    positions = torch.tensor([0, 1, 1 + NEAR])
    numbers: dict[str, float] = {}
    for kind in KINDS:
        first = rules.kind(kind)
        both = torch.cartesian_prod(torch.arange(len(first)), some)
        both = both[first[both[:, 0]] != both[:, 1]]
        a, c, b = first[both[:, 0]], first[(both[:, 0] + 1) % len(first)], both[:, 1]
        after, control = torch.stack([a, b, a], dim=1), torch.stack([c, b, a], dim=1)
        with_a, with_c = (decoder(rows, positions)[:, -1].softmax(dim=-1) for rows in (after, control))
        found = effect(decoder, after, positions, source=0)
        parts = found.logits - found.logits.mean(dim=-1, keepdim=True)
        added = parts.gather(2, b[None, :, None].expand(len(parts), -1, 1))[..., 0]
        through = [number for number, path in enumerate(found.paths) if "elsewhere" in path]
        plain = torch.isin(b, rules.kind("filler"))  # no rule is about them, so that nothing else changes their score
        scores = [
            read_scores(decoder, rows[plain], positions, len(decoder.blocks) - 1)[:, 1] for rows in (after, control)
        ]
        numbers |= {
            f"copied, {kind}": float(with_a.gather(1, b[:, None]).mean()),
            f"copied without A, {kind}": float(with_c.gather(1, b[:, None]).mean()),
            f"copied first, {kind}": float((with_a.argmax(dim=1) == b).double().mean()),
            f"effect of A, {kind}": float(added.sum(dim=0).mean()),
            f"effect of A through B, {kind}": float(added[through].sum(dim=0).mean()),
            f"score of B after A, {kind}": float(scores[0].abs().min()),
            f"score of B after C, {kind}": float(scores[1].abs().max()),
        }
    return numbers


def nearest(decoder: BilinearDecoder, rules: Rules) -> float:
    """Of two locs with rules for one adj, 2·NEAR and NEAR tokens before it: how often the nearer's conn wins."""
    by_adj: dict[int, list[tuple[int, int]]] = {}
    for loc, adj, conn in rules.skip.tolist():
        by_adj.setdefault(adj, []).append((loc, conn))
    rows, conns = [], []
    for adj, found in by_adj.items():
        for far, one in found:
            for near, two in found:
                if one != two:
                    rows.append([far, near, adj])
                    conns.append([one, two])
    if not rows:
        return 0.0
    logits = decoder(torch.tensor(rows), torch.tensor([0, NEAR, 2 * NEAR]))[:, -1].gather(1, torch.tensor(conns))
    return float((logits[:, 1] > logits[:, 0]).double().mean())


def contexts(decoder: BilinearDecoder, rules: Rules, distance: int, generator: torch.Generator) -> tuple[float, float]:
    """The rival: loc, fillers, adj. Rules whose conn comes first, and rules among the strongest pairs."""
    both = torch.cartesian_prod(rules.kind("loc"), rules.kind("adj"))
    fillers = rules.kind("filler")
    between = fillers[torch.randint(0, len(fillers), (len(both), distance - 1), generator=generator)]
    found = decoder(torch.cat([both[:, :1], between, both[:, 1:]], dim=1))[:, -1].softmax(dim=-1)
    true = rules.table >= 0
    conns = found[:, rules.kind("conn")].reshape(*true.shape, -1)
    first = rules.kind("conn")[rules.table.clamp(min=0)] == found.argmax(dim=-1).reshape(true.shape)
    return float((first & true).sum()), sorted_out(conns.max(dim=-1).values, true)[0]


def followed(decoder: BilinearDecoder, rules: Rules, text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the model does where each rule made a token: its probability of that token, by rule, verb table and kind."""
    tokens, made = text["tokens"].long(), text["rule"]
    sums, counts = torch.zeros(len(rules.skip)), torch.zeros(len(rules.skip))
    tables, times = torch.zeros_like(rules.bigram), torch.zeros(len(rules.bigram))
    copied = torch.zeros(2)
    subjects = rules.kind("subj").tolist()
    for start in range(0, len(tokens), 64):
        rows, marks = tokens[start : start + 64], made[start : start + 64]
        found = decoder(rows)[:, :-1].softmax(dim=-1)
        chosen = found.gather(2, rows[:, 1:, None])[..., 0]
        for n, at in (marks[:, 1:] == 2).nonzero().tolist():
            rule = rules.applied(rows[n].tolist(), at + 1)
            if rule >= 0:
                sums[rule] += chosen[n, at]
                counts[rule] += 1
        for row, subject in enumerate(subjects):
            there = (rows[:, :-1] == subject) & (marks[:, 1:] == 1)
            tables[row] += found[there].sum(dim=0)
            times[row] += there.sum()
        there = marks[:, 1:] == 3
        copied += torch.stack([chosen[there].sum(), there.sum()])
    return {
        "rules": sums / counts.clamp(min=1),
        "counts": counts,
        "bigrams": (tables / times.clamp(min=1)[:, None] - rules.bigram).abs().amax(dim=1),
        "copied": copied[0] / copied[1].clamp(min=1),
    }


def text_of(folder: Path) -> dict[str, Tensor]:
    """The sequences beside the model. Raises StoreError when they are missing or damaged."""
    return files.read_tensors(folder / "sequences.safetensors")[0]
