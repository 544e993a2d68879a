"""While a command works, a terminal shows that it does; its status, its output and Ctrl-C are its own."""

import os
import pty
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

WAITING = Path(__file__).parent.parent / ".ci" / "waiting.sh"


@pytest.mark.parametrize("status", [0, 3])
def test_without_a_terminal_nothing_is_added(status: int) -> None:
    command = ["sh", str(WAITING), "sh", "-c", f"echo out; echo 'two  words' >&2; exit {status}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, "out\n", "two  words\n")


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """As at a terminal, whatever these tests were started with: a program inherits that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Terminal:
    """A command under waiting.sh with standard error on a terminal, where 2 s pass in no time."""

    def __init__(self, folder: Path, *command: str) -> None:
        sleep = folder / "sleep"
        sleep.write_text("#!/bin/sh\nexec /bin/sleep 0.02\n")
        sleep.chmod(0o755)
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            ["sh", str(WAITING), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=slave,
            env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
            start_new_session=True,  # a group of its own, as a terminal gives one
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str) -> None:
        while text not in self.seen:
            self.seen += os.read(self.master, 1000).decode()

    def rest(self) -> str:
        """What is printed until no process has the terminal open: the one that counts has ended."""
        try:
            while part := os.read(self.master, 1000):
                self.seen += part.decode()
        except OSError:  # Linux' end of a terminal
            pass
        os.close(self.master)
        return self.seen


@pytest.mark.parametrize("status", [0, 3])
def test_a_terminal_shows_the_time_until_the_command_ends(status: int, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "sh", "-c", f"read line; test \"$line\" = 'go on' && exit {status}")
    terminal.until("still at work, 6 s\r")
    terminal.process.communicate(b"go on\n")
    assert terminal.process.returncode == status
    seen = terminal.rest()
    assert seen.startswith("still at work, 2 s\rstill at work, 4 s\r")
    assert seen.endswith(" " * len("still at work, 2 s") + "\r")  # nothing is left on the line


def test_ctrl_c_ends_the_command_and_the_counting(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "/bin/sleep", "600")
    terminal.until("2 s\r")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.process.wait() == 130
    terminal.process.stdin.close()
    assert terminal.rest().endswith(" \r")


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_the_environment_of_the_demos_is_made_with_signs_of_life() -> None:
    command = ["make", "--dry-run", "--always-make", ".venv/demo-lm"]
    done = subprocess.run(command, cwd=WAITING.parents[1], check=True, capture_output=True, text=True)
    before = re.findall(r"(\S+) \S*python\S* -m (?:pip|venv) ", done.stdout)
    assert before == [".ci/waiting.sh"] * 5
