"""SAEs over the pair vectors of a layer, trained once each and kept in the folder of the programme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bilens import pairs, sae
from bilens.sae import TopKSAE
from bilens.tensor import BilinearTensor
from reproduction.lab import Lab


@dataclass(frozen=True)
class Plan:
    """An SAE to train: how many atoms, how many codes per pair, and for how many updates of 1,024 pairs."""

    atoms: int
    k: int
    steps: int

    def size(self, lab: Lab) -> Plan:
        """The plan itself, or a small one in a quick programme."""
        if not lab.quick:
            return self
        return Plan(max(12, self.atoms // 50), min(self.k, 5), max(5, self.steps // 40))


MAIN = Plan(5000, 30, 400)
"""The pair SAE whose claim stands in the README."""

OUTPUTS = (MAIN, Plan(500, 4, 400))
"""SAEs of the pair vectors of the layer's hidden outputs."""

BRIEFLY = 10
"""How many times fewer updates SAEs of the logits have that are trained briefly."""

LOGITS = tuple(Plan(atoms, k, 600) for atoms in (100, 1000) for k in (1, 2))
"""SAEs of the pair vectors of the logits, which have ten coordinates and are cheap to sweep."""


def of_outputs(lab: Lab, tensor: BilinearTensor, seed: int) -> dict[Plan, TopKSAE]:
    """Every SAE of `OUTPUTS`: read from the folder, or trained and kept there."""
    return _trained(lab, tensor, OUTPUTS, f"front-pairs-{seed}", seed)


def of_logits(lab: Lab, tensor: BilinearTensor, seed: int, *, briefly: bool) -> dict[Plan, TopKSAE]:
    """Every SAE of `LOGITS`, trained for all of its updates or briefly: read from the folder, or kept there."""
    share = BRIEFLY if briefly else 1
    plans = [Plan(plan.atoms, plan.k, plan.steps // share) for plan in LOGITS]
    found = _trained(lab, tensor, plans, f"front-logits-{seed}", seed)
    return dict(zip(LOGITS, found.values(), strict=True))


def _trained(lab: Lab, tensor: BilinearTensor, plans: Sequence[Plan], name: str, seed: int) -> dict[Plan, TopKSAE]:
    models = lab.run.path / "models"
    folders = {plan: models / f"{name}-{plan.atoms}-{plan.k}-{plan.steps}" for plan in plans}
    if not all((folder / "cfg.json").exists() for folder in folders.values()):
        sizes = [plan.size(lab) for plan in plans]
        coders = [TopKSAE(tensor.output.size, size.atoms, size.k, seed=seed) for size in sizes]
        steps = sizes[0].steps
        checkpoint = models / f"{name}-{steps}.part"
        stream = pairs.stream(tensor, batch_size=1024, seed=seed)
        title = f"{len(coders)} SAEs on pairs, seed {seed}"
        sae.train_many(coders, stream, steps=steps, checkpoint=checkpoint, title=title, device="cpu")
        for coder, folder in zip(coders, folders.values(), strict=True):
            coder.save_pretrained(folder)
        checkpoint.unlink(missing_ok=True)
    return {plan: TopKSAE.from_pretrained(folder).requires_grad_(False) for plan, folder in folders.items()}
