"""Sparse coders over the pair vectors of a layer, trained once each and kept in the folder of the programme."""

from __future__ import annotations

from dataclasses import dataclass

from bilens import pairs, sae
from bilens.recipes.programme.lab import Lab
from bilens.sae import TopKSAE
from bilens.tensor import BilinearTensor


@dataclass(frozen=True)
class Plan:
    """A coder to train: how many atoms, how many codes per pair, and for how many updates of 1,024 pairs."""

    atoms: int
    k: int
    steps: int

    def size(self, lab: Lab) -> Plan:
        """The plan itself, or a small one in a quick programme."""
        if not lab.quick:
            return self
        return Plan(max(12, self.atoms // 50), min(self.k, 5), max(10, self.steps // 40))


MAIN = Plan(5000, 30, 1600)
"""The coder whose claim stands in the README."""

FULL = (MAIN, Plan(500, 4, 1600))

SHORT = (Plan(5000, 30, 160), Plan(500, 4, 160))


def trained(lab: Lab, tensor: BilinearTensor, seed: int) -> dict[Plan, TopKSAE]:
    """Every coder of `FULL` and `SHORT`, trained on all pairs alike: read from the folder, or trained and kept there."""
    found: dict[Plan, TopKSAE] = {}
    for plans in (SHORT, FULL):
        folders = {
            plan: lab.run.path / "models" / f"front-pairs-{seed}-{plan.atoms}-{plan.k}-{plan.steps}" for plan in plans
        }
        if not all((folder / "cfg.json").exists() for folder in folders.values()):
            sizes = [plan.size(lab) for plan in plans]
            coders = [TopKSAE(tensor.output.size, size.atoms, size.k, seed=seed) for size in sizes]
            steps = sizes[0].steps
            checkpoint = lab.run.path / "models" / f"front-pairs-{seed}-{steps}.part"
            stream = pairs.stream(tensor, batch_size=1024, seed=seed)
            title = f"{len(coders)} SAEs on pairs, seed {seed}"
            sae.train_many(coders, stream, steps=steps, checkpoint=checkpoint, title=title)
            for coder, folder in zip(coders, folders.values(), strict=True):
                coder.cpu().save_pretrained(folder)
            checkpoint.unlink(missing_ok=True)
        found |= {plan: TopKSAE.from_pretrained(folder).requires_grad_(False) for plan, folder in folders.items()}
    return found
