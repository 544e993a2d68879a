"""A language whose rules are known: the truth beside a model that was trained on it, and where each rule acted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bilens import files
from bilens.errors import StoreError
from bilens.models.decoder import BilinearDecoder

KINDS = ("subj", "verb", "loc", "adj", "conn", "filler")
"""Categories of tokens, by which their names begin."""


@dataclass(frozen=True, eq=False)
class Rules:
    """The truth: which subject predicts which verbs, and the skip rules "loc … adj → conn".

    Args:
        tokens: names; bigram: probability of each token after each subject, (s, v).
        skip: numbers of the loc, the adj and the conn of each rule, (r, 3); window: how far back a loc is looked for.
    """

    tokens: tuple[str, ...]
    bigram: Float[Tensor, "s v"]
    skip: Int[Tensor, "r 3"]
    window: int

    @classmethod
    def read(cls, folder: Path) -> Rules:
        """The truth in `rules.json`. Raises StoreError when it is missing, or says something else."""
        path = folder / "rules.json"
        content = files.read_json(path)
        try:
            tokens = tuple(content["tokens"])
            place = {token: number for number, token in enumerate(tokens)}
            subjects = [token for token in tokens if token.startswith("subj")]
            bigram = torch.zeros(len(subjects), len(tokens), dtype=torch.float64)
            for row, subject in enumerate(subjects):
                for verb, share in content["bigram"][subject].items():
                    bigram[row, place[verb]] = share
            skip = [[place[rule[part]] for part in ("loc", "adj", "conn")] for rule in content["skip"]]
            return cls(tokens, bigram, torch.tensor(skip), int(content["skip_window"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path} without {error}", "tokens, bigram, skip and skip_window") from error

    def kind(self, name: str) -> Int[Tensor, " n"]:
        """Numbers of the tokens of a category."""
        return torch.tensor([n for n, token in enumerate(self.tokens) if token.startswith(name)])

    @property
    def table(self) -> Int[Tensor, "l a"]:
        """Place of the conn that a loc and an adj predict among the conns; −1 where there is no rule."""
        locs, adjs, conns = self.kind("loc").tolist(), self.kind("adj").tolist(), self.kind("conn").tolist()
        found = torch.full((len(locs), len(adjs)), -1)
        for loc, adj, conn in self.skip.tolist():
            found[locs.index(loc), adjs.index(adj)] = conns.index(conn)
        return found

    def applied(self, tokens: Sequence[int], at: int) -> int:
        """Which skip rule made token `at`: of the adj before it and the most recent loc with a rule; −1 for none."""
        found = {(loc, adj): number for number, (loc, adj, _) in enumerate(self.skip.tolist())}
        adj = tokens[at - 1]
        for place in range(at - 2, max(-1, at - 2 - self.window), -1):
            if (tokens[place], adj) in found:
                return found[tokens[place], adj]
        return -1


def home() -> Path:
    """The folder of the model, its checkpoints, the truth and the sequences: `rules-lm` below $BILENS_DATA.

    Raises:
        StoreError: BILENS_DATA is not set, or the folder is not there.
    """
    set_to = os.environ.get("BILENS_DATA")
    folder = Path(set_to or "") / "rules-lm"
    if not set_to or not folder.is_dir():
        raise StoreError(
            f"{folder}, which is no folder" if set_to else "no BILENS_DATA",
            "a folder that holds rules-lm: the model, rules.json and sequences.safetensors",
            "set BILENS_DATA to it",
        )
    return folder


def checkpoints(folder: Path) -> dict[int, str]:
    """Names of the weights at each step of the training, the model at the end last."""
    steps = {int(path.stem.partition("_")[2]): path.name for path in folder.glob("step_*.safetensors")}
    return {**dict(sorted(steps.items())), END: "model.safetensors"}


END = 50_000
"""The step at which the model was ready."""


def loaded(folder: Path, weights: str = "model.safetensors", *, labels: tuple[str, ...]) -> BilinearDecoder:
    """A model in float64, without gradients."""
    return BilinearDecoder.from_pretrained(folder, weights, labels=labels).double().requires_grad_(False)
