"""The page of a layer of a language model in a browser: its size, and how soon it can be used.

Its peer is the same browser reading a page of the same size that holds the same data and runs nothing but
`JSON.parse`, in the same run. Asked: at most 10 MB, and used after 1.5 s.

Run: python benchmarks/reading.py [--small] [--page FILE …]; without a page, the tiny model that bilens carries is
read first. Needs Chromium, Playwright and the extras `lm` and `tables`.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import statistics
import tempfile
from pathlib import Path

from measuring import machine

from bilens import cli
from bilens.models.language import TINY
from bilens.text import found
from explorer import FLAGS, loads

SIZE, SECONDS = 10e6, 1.5
_DATA = re.compile(r'<script type="application/json" id="data">.*?</script>', re.DOTALL)
PARSED = "JSON.parse(document.getElementById('data').textContent);performance.mark('read')"


def peer(page: Path, folder: Path) -> Path:
    """The same data on a page that only parses them."""
    data = _DATA.search(page.read_text("utf-8"))
    assert data is not None
    path = folder / "peer.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{data[0]}<script>{PARSED}</script>", "utf-8")
    return path


def read(folder: Path, tokens: int) -> Path:
    """The page of the tiny model's second layer."""
    out = folder / "run"
    text = ("--text", str(found.PLAYS), "--tokens", str(tokens))
    if cli.main(["read", str(TINY), "--layers", "1", *text, "--out", str(out)]):
        raise SystemExit("bilens read failed")
    return out / "layer-001.html"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="less text, fewer runs")
    parser.add_argument("--page", type=Path, nargs="*", default=[], help="pages that bilens read wrote")
    asked = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        print("skipped: needs a browser (apt-get install -y chromium) and Playwright (pip install 'bilens[dev]')")
        return
    from playwright.sync_api import sync_playwright

    runs = 5 if asked.small else 15
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pages = asked.page or [read(folder, 1500 if asked.small else 6000)]
        print(f"{machine()['processor']}; {runs} runs each, in turn, each in a fresh context")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            for page in pages:
                other, size = peer(page, folder), page.stat().st_size
                times: list[list[float]] = [[], []]
                for _ in range(runs + 1):
                    for side, (path, mark) in enumerate(((page, "bilens:interactive"), (other, "read"))):
                        times[side] += loads(browser, path, mark, 1)
                ours, theirs = (statistics.median(each[1:]) for each in times)
                print(f"{page.name}: {size / 1e6:.2f} MB (asked: {SIZE / 1e6:.0f})")
                print(f"  can be used after {ours:.3f} s, at most {max(times[0][1:]):.3f} s (asked: {SECONDS})")
                print(f"  {ours / theirs:.2g}× the time of parsing its data and nothing else, {theirs:.3f} s")
            browser.close()


if __name__ == "__main__":
    main()
