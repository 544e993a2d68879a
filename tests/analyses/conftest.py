"""One run of the main job, small, for every test that needs what it writes; with several workers it is shared, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock
from small_job import FLAGS, undrawn

from bilens.cli import main


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of `bilens demo` with FLAGS, with blank figures.

    Tests may run the job in it again, and alter copies of it alone.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent  # a worker's folder lies in that of the whole session
    out = shared / "main job"
    with FileLock(shared / "main job.lock"):
        if not (out / "report.html").exists():
            with undrawn():
                assert main(["demo", "--out", str(out), *FLAGS]) == 0
    return out
