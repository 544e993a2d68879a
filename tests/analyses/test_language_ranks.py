"""bilens read by two processes that torchrun starts: the same tables and pages as by one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bilens import cli, files, tables
from bilens.models.language import TINY
from bilens.text import found

pytest.importorskip("duckdb", reason="pip install 'bilens[tables]'")
pytest.importorskip("transformers", reason="pip install 'bilens[lm]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]

LAYERS = (0, 1)
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bilens")
READ = ("read", str(TINY), "--layers", "0,1", "--text", str(found.PLAYS), "--tokens", "1200", "--out")


def everything(out: Path) -> dict[str, list[dict[str, Any]]]:
    asked = tables.open(out)
    return {table: asked.query(f"SELECT * FROM {table} ORDER BY ALL").to_pylist() for table in tables.TABLES}


def page(path: Path) -> dict[str, Any]:
    match = re.search(r'id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert match
    return json.loads(match[1])


def test_two_processes_write_the_tables_and_pages_of_one(tmp_path: Path) -> None:
    runs = [tmp_path / name / "run" for name in ("one", "two")]
    assert cli.main([*READ, str(runs[0])]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*TORCHRUN, *READ, str(runs[1])], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r"^step 1 of \d+ · ", done.stderr, re.MULTILINE)) == 1  # the first process alone says so
    assert everything(runs[0]) == everything(runs[1])
    assert all(everything(runs[0])[table] for table in tables.TABLES)
    for layer in LAYERS:
        name = f"layer-{layer:03d}.html"
        assert page(runs[0] / name) == page(runs[1] / name)
    for path in sorted((runs[0] / "vectors").iterdir()):
        one, two = (files.read_tensors(run / "vectors" / path.name)[0] for run in runs)
        assert all((one[name] == two[name]).all() for name in one)
