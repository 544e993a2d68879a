"""Kills `bilens read` of the tiny model at random moments and runs it again: the same files as of a straight run.

`python tests/kills.py --count 50 --seed 0`; kill n of a seed is drawn the same way every time, so that a finding can
be repeated by `--first n --count 1`. Half of the kills come after a random time, in processor seconds, half right
before or after a random file appears. A kill is the end of the process at once: nothing of its own runs after it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

from bilens.analyses.language import input_coder, job
from bilens.analyses.language.job import Plan
from bilens.analyses.language.subject import Subject, subject
from bilens.models.language import TINY
from bilens.text import found

LAYER = 1
PLAN = Plan(tokens=12, controls=4, pairs=5, interactions=6, inputs=input_coder.TRAIN)
CODER = {"FEATURES": 24, "CODES": 4, "STEPS": 40, "BATCH": 32}
STOPPED = (signal.SIGKILL, signal.SIGPROF)


def opened() -> Subject:
    """The tiny model and some lines of the plays; everything that is slow to load is loaded."""
    torch.set_num_threads(1)
    made = subject(str(TINY), [found.PLAYS], tokens=1600, seed=0)
    made.live()
    return made


def read(made: Subject, out: Path, kill: tuple[str, float] | None = None) -> tuple[int, str]:
    """Read the model's layer in a process of its own, as `run` does."""

    def reading() -> None:
        with mock.patch.multiple(input_coder, **CODER):
            job.read_layers(made, [LAYER], out, PLAN)

    return run(reading, out, kill)


def run(work: Callable[[], object], out: Path, kill: tuple[str, float] | None = None) -> tuple[int, str]:
    """Work in a process of its own: its exit status, below 0 for a signal, and what it said.

    Args:
        work: what it does; out: the run's folder; kill: ("time", seconds), ("before", n) or ("after", n) the nth file.
    """
    said = out.with_name("said")
    process = os.fork()
    if process == 0:
        status = 1
        try:
            handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(handle, number)
            watched(work, out, kill)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(ended), said.read_text("utf-8", "replace")


def watched(work: Callable[[], object], out: Path, kill: tuple[str, float] | None) -> None:
    """What the process does; at its end it writes how many files appeared, and its processor seconds."""
    kind, at = kill or ("", 0.0)
    replace, count = os.replace, 0

    def counting(*arguments: str) -> None:
        nonlocal count
        count += 1
        if kind == "before" and count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*arguments)
        if kind == "after" and count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    before = processor()
    if kind == "time":
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process at once
        signal.setitimer(signal.ITIMER_PROF, at)
    with mock.patch("os.replace", counting):
        work()
    signal.setitimer(signal.ITIMER_PROF, 0)
    out.with_name("cost").write_text(json.dumps([count, processor() - before]))


def processor() -> float:
    """Seconds that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def content(run: Path) -> dict[str, bytes]:
    """Every file of a run but for how long things took, and what a kill left beside it."""
    paths = [path for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(run).as_posix(): plain(path) for path in paths if path.name != "timings.json"}


def plain(path: Path) -> bytes:
    """The bytes of a file; of safetensors, whose header is in another order each time, the same in one order."""
    whole = path.read_bytes()
    if path.suffix == ".json":
        return json.dumps(json.loads(whole) | {"sha256": ""}, sort_keys=True).encode()  # of the bytes of another file
    if path.suffix != ".safetensors":
        return whole
    size = int.from_bytes(whole[:8], "little")
    return json.dumps(json.loads(whole[8 : 8 + size]), sort_keys=True).encode() + whole[8 + size :]


def finished(run: Path) -> dict[str, tuple[int, int]]:
    """The files that are not to be written again: batches, records, activations; with their times and numbers."""
    features = {path.stem for path in (run / "tables" / "features").glob("[!.]*.parquet")}
    kept = {}
    for path in run.rglob("*"):
        name = path.relative_to(run)
        last = name.parts[:2] in (("tables", "eigenpairs"),) or name.parts[0] == "vectors"
        whole = (
            name.parts[0] in ("tables", "vectors", "activations")
            or (name.parts[0] == "records" and path.with_suffix(".json").exists())
        )  # fmt: skip
        if path.is_file() and not path.name.startswith(".") and whole and (not last or path.stem in features):
            kept[name.as_posix()] = (path.stat().st_mtime_ns, path.stat().st_ino)
    return kept


def draw(number: int, seed: int, files: int, seconds: float) -> tuple[str, float]:
    """The moment of a kill."""
    chance = random.Random(f"{seed} {number}")
    if number % 2:
        return "time", max(1e-3, chance.uniform(0, seconds))
    return chance.choice(("before", "after")), chance.randint(1, files)


def kills(count: int, seed: int, first: int = 0, say: Callable[[str], None] = print) -> Counter[str]:
    """Kill so many runs, from a number on; the counter says in which step, and "lost", "different" and "failed"."""
    told: Counter[str] = Counter()
    made = opened()
    with tempfile.TemporaryDirectory() as place:
        straight = Path(place, "straight", "run")
        straight.parent.mkdir()
        status, said = read(made, straight)
        if status:
            raise RuntimeError(f"a run that nobody killed: {said[-2000:]}")
        expected = content(straight)
        files, seconds = json.loads(straight.with_name("cost").read_text())
        for number in range(first, first + count):
            run = Path(place, "killed", "run")
            shutil.rmtree(run.parent, ignore_errors=True)
            run.parent.mkdir()
            kill = draw(number, seed, files, seconds)
            status, said = read(made, run, kill)
            steps = re.findall(r"^step \d+ of \d+ · (.*?)(?: \(|$)", said, re.MULTILINE)
            where = (steps or ["before the first step"])[-1] if -status in STOPPED else "after its end"
            told[f"killed: {where}"] += 1
            before = finished(run)
            again, said = read(made, run)
            after = finished(run)
            findings = []
            if again or (status and -status not in STOPPED):
                findings.append("failed")
            if lost := [name for name, which in before.items() if after.get(name) != which]:
                findings.append("lost")
            now = {} if again else content(run)
            if strange := [name for name in {*expected, *now} if expected.get(name) != now.get(name)]:
                findings.append("different")
            for finding in findings:
                told[finding] += 1
                some = {"lost": lost, "different": strange, "failed": said.splitlines()[-3:]}[finding]
                say(f"{finding}: seed {seed}, kill {number} {kill}, {where}: {', '.join(sorted(some)[:4])}")
            told["batches kept"] += sum(name.startswith("tables/") for name in before)
    return told


def main() -> int:
    """Run, print the counts, and return 1 where there is a finding."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=50, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--first", type=int, default=0, help="number of the first kill")
    asked = parser.parse_args()
    started = time.monotonic()
    told = kills(asked.count, asked.seed, asked.first)
    for name, number in sorted(told.items()):
        print(f"{number:>5} {name}")
    findings = {name: told[name] for name in ("failed", "lost", "different")}
    print(f"{findings} in {asked.count} kills, {time.monotonic() - started:.0f} s")
    return int(any(findings.values()))


if __name__ == "__main__":
    sys.exit(main())
