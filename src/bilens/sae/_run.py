"""One SAE in training: its settings, its part of a step, and what it logs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bilens.history import History
from bilens.sae._gradients import Gradients, gradients
from bilens.sae._processes import Processes
from bilens.sae.architectures import StandardSAE, TopKSAE
from bilens.sae.metrics import decoder_similarity

_NAMES = ("loss", "nmse", "l0", "dead")


class Run:
    """One SAE in training: its share of the settings, what it logs, and its part of a step."""

    def __init__(
        self,
        sae: StandardSAE | TopKSAE,
        *,
        lr: float,
        l1: float,
        similarity: float,
        every: int,
        where: torch.device,
    ) -> None:
        self.sae, self.lr, self.l1, self.similarity = sae, lr, l1, similarity
        dtype = torch.promote_types(sae.W_dec.dtype, torch.float32)
        # Since the last row of the history, for each step: error, penalty, Σ‖x‖², codes not 0, vectors, similarity.
        self.window = torch.zeros(every, 6, dtype=dtype, device=where)
        self.fired = torch.zeros(sae.d_sae, device=where)  # on how many vectors each code was not 0 since then
        self.rows: list[Tensor] = []
        self.cosines = torch.zeros((), dtype=dtype, device=where)

    def begin(self, first: Tensor, scale: float, unit_rows: bool) -> None:
        """Make the SAE ready for its first step."""
        with torch.no_grad():
            if unit_rows:
                _unit_rows(self.sae)
            if not bool(self.sae.b_dec.any()):
                self.sae.b_dec.copy_(first.mean(dim=0))
            self.sae.rescale(scale)

    def gradients(self, x: Tensor, size: int, products: torch.dtype | None) -> Gradients:
        """Put the batch's gradients where Adam looks for them, in the memory layout of the parameters."""
        sums = gradients(self.sae, x, l1=self.l1, weight=1 / size, products=products)
        for name, parameter in self.sae.named_parameters():
            gradient: Tensor = getattr(sums, name)
            if gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        return sums

    def given(self) -> list[Tensor]:
        """The gradients that Adam will see."""
        return [parameter.grad for parameter in self.sae.parameters() if parameter.grad is not None]

    def regularise(self, clip: float | None, unit_rows: bool, lead: bool) -> None:
        """What does not depend on the vectors: the penalty on cosines, and the shape of the gradient."""
        rows = self.sae.W_dec
        if rows.grad is None:
            return
        if self.similarity > 0:
            with torch.enable_grad():
                through = rows.detach().requires_grad_()
                value = decoder_similarity(through)
                (gradient,) = torch.autograd.grad(value, through)
            rows.grad.add_(gradient, alpha=self.similarity)
            if lead:
                self.cosines.copy_(value.detach())
        if unit_rows:
            along = torch.linalg.vecdot(rows.grad, rows)[:, None]
            rows.grad.addcmul_(along, rows, value=-1)
        if clip is not None:
            nn.utils.clip_grad_norm_(self.sae.parameters(), clip)

    def scale_back(self) -> None:
        """Rows of the decoder of norm 1, in place."""
        rows = self.sae.W_dec
        rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(torch.finfo(rows.dtype).tiny))

    def note(self, place: int, sums: Gradients, power: Tensor, vectors: int) -> None:
        """Keep the numbers of a step, where they are."""
        row = self.window[place]
        torch.stack(
            [part.to(row.dtype) for part in (sums.error, sums.penalty, power, sums.uses.sum(), power, self.cosines)],
            out=row,
        )
        row[4].fill_(vectors)
        self.fired += sums.uses

    def log(self, filled: int, processes: Processes) -> None:
        """Close a row of the history."""
        window, fired = self.window[:filled].clone(), self.fired.clone()
        processes.add([window, fired])
        self.rows.append(torch.cat([self._numbers(window), (fired == 0).to(window).mean()[None]]))
        self.fired.zero_()

    def latest(self, place: int, processes: Processes) -> Tensor:
        """Loss, NMSE and L0 of the last step."""
        row = self.window[place : place + 1].clone()
        processes.add([row])
        return self._numbers(row)

    def _numbers(self, window: Tensor) -> Tensor:
        """Loss, NMSE and L0 over the steps of the window; a batch of zeros has an error but no NMSE of its own."""
        error, penalty, power, active, vectors, cosines = window.unbind(dim=1)
        loss = ((error + self.l1 * penalty) / vectors + self.similarity * cosines).mean()
        return torch.stack([loss, error.sum() / power.sum(), active.sum() / vectors.sum()])

    def collect(self, number: int, processes: Processes) -> dict[str, Tensor]:
        """What a checkpoint keeps beside weights and Adam's state, the same in every process."""
        window, fired = self.window.clone(), self.fired.clone()
        processes.add([window, fired])
        rows = torch.stack(self.rows) if self.rows else self.window.new_zeros(0, len(_NAMES))
        return {f"{number}.rows": rows, f"{number}.window": window, f"{number}.fired": fired}

    def restore(self, extra: dict[str, Tensor], number: int, *, keep_sums: bool) -> None:
        """Go on from what `collect` gave; one process alone keeps the sums over all."""
        self.rows = list(extra[f"{number}.rows"].to(self.window))
        if keep_sums:
            self.window.copy_(extra[f"{number}.window"])
            self.fired.copy_(extra[f"{number}.fired"])

    def end(self, scale: float) -> None:
        """Leave an SAE that acts on the vectors as they are."""
        self.sae.rescale(1 / scale)
        for parameter in self.sae.parameters():
            parameter.grad = None

    def history(self, logged: Sequence[int]) -> History:
        """What was logged."""
        values = torch.stack(self.rows).cpu().double() if self.rows else torch.zeros(0, len(_NAMES)).double()
        return History(_NAMES, torch.tensor(logged), values)


@torch.no_grad()
def _unit_rows(sae: StandardSAE | TopKSAE) -> None:
    """Decoder rows of norm 1, the norms moved into the encoder: x̂ stays where the same features are chosen."""
    norm = sae.W_dec.norm(dim=1)
    norm = torch.where(norm > 0, norm, 1)
    sae.W_dec.div_(norm[:, None])
    sae.W_enc.mul_(norm)
    sae.b_enc.mul_(norm)


def lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give the moments that were read from a file the memory layout of their parameters, as the fused Adam expects."""
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter).copy_(value)
