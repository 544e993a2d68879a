"""Two processes share moments, streams and training, and end with what one has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from bilens import activations, sae, store
from tiny_models import made, texts

sys.path.insert(0, str(Path(__file__).parent))
import stream_job

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1200)]


def test_two_processes_give_what_one_does(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(stream_job.__file__), str(tmp_path)]
    children = [subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE) for rank in (0, 1)]
    said = [child.communicate(timeout=1100)[1].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    one = activations.moments(made(), texts(9), progress=False)
    for rank in (0, 1):
        both = store.load(tmp_path / f"moments-{rank}", activations.Moments)
        assert both.texts == 9
        for ours, theirs in zip(both.sites, one.sites, strict=True):
            assert (ours.layer, ours.site) == (theirs.layer, theirs.site)
            assert_close(ours.mean, theirs.mean, rtol=1e-10, atol=1e-10)
            assert_close(ours.sums, theirs.sums, rtol=1e-10, atol=1e-10)
    for name, alone in (("coder", stream_job.coder(None)), ("transcoder", stream_job.transcoder(None))):
        first, second = (sae.load(tmp_path / f"{name}-{rank}") for rank in (0, 1))
        for a, b, expected in zip(first.parameters(), second.parameters(), alone.parameters(), strict=True):
            assert torch.equal(a, b)
            assert_close(a, expected, rtol=1e-3, atol=1e-4)
