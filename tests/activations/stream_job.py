"""What each of two processes of test_processes.py does."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import distributed as dist

from bilens import activations, sae, store
from bilens.sae.distributed import Ranks
from tiny_models import made, texts

for record in (activations.SiteMoments, activations.Moments):
    store.register(record)


def coder(processes: Ranks | None) -> sae.TopKSAE:
    """Trained on a stream that processes share."""
    stream = activations.stream(made(), 1, "mlp_out", texts(9), batch_size=12, lanes=2)
    made_here = sae.TopKSAE(16, 24, 3)
    sae.train(made_here, stream, steps=20, processes=processes, progress=False, device="cpu")
    return made_here


def transcoder(processes: Ranks | None) -> sae.Coder:
    """The same of two sites."""
    stream = activations.stream(made(), 1, ("mlp_in", "mlp_out"), texts(9), batch_size=12, lanes=2)
    made_here = sae.Coder(16, 24, "standard", transcodes=True)
    sae.train_transcoder(made_here, stream, steps=20, l1=0.1, processes=processes, progress=False, device="cpu")
    return made_here


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    store.save(activations.moments(made(), texts(9), progress=False), folder / f"moments-{rank}")
    coder(Ranks()).save_pretrained(folder / f"coder-{rank}")
    transcoder(Ranks()).save_pretrained(folder / f"transcoder-{rank}")
    dist.destroy_process_group()
