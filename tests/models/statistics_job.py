"""What each of two processes of test_token_statistics.py does."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import distributed as dist

from bilens import store
from bilens.analyses.text_statistics import text_statistics
from tiny_models import made, texts

if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    store.save(text_statistics(made(), texts(7), folder / "kept", progress=False), folder / f"sums-{rank}")
    dist.destroy_process_group()
