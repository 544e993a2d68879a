"""`python -m reproduction`, as it is typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reproduction", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_help_has_an_example_and_every_option() -> None:
    found = run("--help")
    assert found.returncode == 0
    told = " ".join(found.stdout.split())
    assert "python -m reproduction svd --seeds 5" in told
    for option in ("--seeds", "--out", "--quick", "--docs", "--only-text"):
        assert option in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "got recipe 'nonsense'; expected one of front, "),
        (["svd", "--seeds", "0"], "got seeds = 0; "),
        (["--sedes", "2"], "got option --sedes; expected an option of python -m reproduction. Did you mean --seeds?"),
        (["--only-text"], "got --only-text without --docs; "),
    ],
)
def test_a_mistake_is_one_plain_line(arguments: list[str], told: str, tmp_path: Path) -> None:
    found = run(*arguments, "--out", str(tmp_path / "out"))
    assert found.returncode == 2
    assert found.stderr.startswith(f"bilens: {told}")
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
