"""Odd values in any argument of a documented function end in one clear line, never in another library's own error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import odd_arguments
from bilens import Space
from bilens.errors import BilensError

TESTS = [
    "decompose/test_audit.py", "decompose/test_features.py", "decompose/test_interactions.py",
    "decompose/test_kernel_tree.py", "decompose/test_odt.py", "decompose/test_scores.py", "decompose/test_strongest.py",
    "deep", "pairs", "test_convolution.py", "test_dictionary.py", "test_faithfulness.py", "test_matching.py",
    "test_pair_coding.py", "test_plots.py", "test_score.py", "test_space.py", "test_statistics.py", "test_store.py",
    "test_tables.py", "test_tensor.py",
]  # fmt: skip
"""From whose calls the arguments are taken, beside the examples in the docstrings."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_odd_argument_ends_in_a_raw_error(tmp_path: Path) -> None:
    report = tmp_path / "failures.txt"
    tests = Path(__file__).parent
    given = {
        **os.environ,
        "ODD_ARGUMENTS": str(report),
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
        "HYPOTHESIS_PROFILE": "few",
    }
    command = [sys.executable, "-m", "pytest", "-p", "odd_arguments", "-p", "no:xdist", "-W", "ignore"]
    command += ["-c", str(tests.parent / "pyproject.toml"), "--rootdir", str(tests.parent), "--doctest-modules"]
    command += [str(tests.parent / "src" / "bilens"), *(str(tests / name) for name in TESTS)]
    work = tmp_path / "work"  # what an odd path makes is made there
    work.mkdir()
    done = subprocess.run(command, env=given, cwd=work, capture_output=True, text=True, timeout=1700, check=False)
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    functions, *failed = report.read_text(encoding="utf-8").splitlines()
    assert int(functions.split()[0]) > 200
    assert not failed, "\n".join(failed)


def test_a_raw_error_is_listed_and_a_clear_one_is_not() -> None:
    def raw(k: int) -> int:
        return k + 1

    def clear(space: Space) -> int:
        if not isinstance(space, Space):
            raise BilensError("something else", "a space")
        return space.size

    found = list(odd_arguments.failures({"raw": (raw, (1,), {}), "clear": (clear, (Space("x", 1),), {})}))
    assert len(found) > 5
    assert all(line.startswith("raw(k = ") for line in found)
    assert any("raw(k = None): TypeError" in line for line in found)
