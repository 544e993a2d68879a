"""The explorer in a browser: its size, how soon it can be used, and how soon a drawn stroke has its new logits.

Its peer is the same browser reading plotly's script alone, where plotly is installed. Asked: a page of at most 8 MB
that can be used after 1.5 s, and new logits 50 ms after a stroke, on two cores.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import Line, Point, options, rates, report

from bilens import decompose, explorer
from bilens.explorer import Exploration
from bilens.features import FeatureSet, Samples, detail
from bilens.space import Space
from bilens.tensor import BilinearTensor

PIXELS = Space("pixels", 784, image=(28, 28))
DIGITS = Space("digits", 10, labels=tuple("0123456789"))
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking"]
WATCH = """() => { window.waits = []; addEventListener("pointermove", (event) => {
  if (!event.buttons) return; const start = event.timeStamp;
  requestAnimationFrame(() => setTimeout(() => window.waits.push(performance.now() - start))); }, true); }"""


def run(hidden: int, count: int) -> Exploration:
    """A run of MNIST's size with random weights: what is drawn costs the same, whatever it shows."""
    generator = torch.Generator().manual_seed(0)

    def draw(rows: int) -> torch.Tensor:
        return torch.randn(rows, 784, generator=generator) / 28

    left, right = draw(hidden), draw(hidden)
    model = BilinearTensor.from_layer(
        left, right, torch.randn(10, hidden, generator=generator), input=PIXELS, output=DIGITS
    ).centered()
    layer = BilinearTensor.from_layer(left, right, input=PIXELS, output=Space("hidden", hidden))
    inputs = (torch.rand(500, 784, generator=generator) * 255).round() / 255
    svd = decompose.svd(layer)
    kernels = {"digits": [model.kernel(o) for o in range(10)], "svd": [svd.kernel(s) for s in range(count)]}
    sets = []
    for name, chosen in kernels.items():
        whole = [decompose.eigh(kernel) for kernel in chosen]
        found = detail(zip(chosen, whole, strict=True), inputs)
        spectra = tuple(spectrum.keep(32) for spectrum in whole)
        norms = torch.stack([spectrum.energy.sqrt() for spectrum in whole])
        effects = torch.randn(len(chosen), 10, generator=generator)
        for alias in {"svd": ("svd", "sae", "pairs")}.get(name, (name,)):
            sets.append(FeatureSet(alias, spectra, norms, "norm of the kernel, ‖Q‖", effects, DIGITS, detail=found))
    samples = Samples(inputs, torch.arange(500), model(inputs), torch.arange(500) % 10, PIXELS, DIGITS)
    return Exploration("Random weights", model=model, features=tuple(sets), samples=samples)


def loads(browser: Any, page: Path, mark: str, runs: int) -> list[float]:
    """Seconds from the start of the navigation to a mark, each in a fresh context."""
    found = []
    for _ in range(runs):
        context = browser.new_context(offline=True)
        tab = context.new_page()
        tab.goto(page.as_uri(), wait_until="load")
        found.append(tab.evaluate(f"performance.getEntriesByName('{mark}')[0].startTime") / 1000)
        context.close()
    return found


def strokes(browser: Any, page: Path, moves: int) -> tuple[list[float], list[float]]:
    """Seconds of the page's own work for a move of the pen, and from the move to the frame with the new logits."""
    context = browser.new_context(offline=True)
    tab = context.new_page()
    tab.goto(f"{page.as_uri()}#sample")
    tab.evaluate(WATCH)
    box = tab.locator("canvas.pad").bounding_box()
    tab.mouse.move(box["x"] + 80, box["y"] + 60)
    tab.mouse.down()
    for step in range(moves):
        tab.mouse.move(box["x"] + 80 + 140 * step / moves, box["y"] + 60 + 180 * (step % 7) / 7)
        tab.wait_for_timeout(30)
    tab.mouse.up()
    work = tab.evaluate("performance.getEntriesByName('bilens:stroke').map((each) => each.duration)")
    waits = tab.evaluate("window.waits")
    context.close()
    return [value / 1000 for value in work], [value / 1000 for value in waits]


def main() -> None:
    arguments = options(__doc__)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        print("skipped: needs a browser (apt-get install -y chromium) and Playwright (pip install 'bilens[dev]')")
        return
    from playwright.sync_api import sync_playwright

    runs = 5 if arguments.small else 15
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "page.html"
        explorer.write([run(300, 24)], page)
        size = page.stat().st_size
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        ours = loads(browser, page, "bilens:interactive", runs + 1)[1:]
        plotly = importlib.util.find_spec("plotly")
        lines = []
        if plotly is not None and plotly.origin is not None:
            script = (Path(plotly.origin).parent / "package_data" / "plotly.min.js").read_text("utf-8")
            other = Path(folder) / "plotly.html"
            other.write_text(f"<script>{script}</script><script>performance.mark('read')</script>", "utf-8")
            theirs = loads(browser, other, "read", runs + 1)[1:]
            lines.append(
                Line(
                    work="explorer, MNIST, 300 hidden units, 82 features: time to interactive",
                    peer="the same browser reading plotly.min.js and drawing nothing",
                    ours=statistics.median(ours),
                    theirs=statistics.median(theirs),
                    ours_memory=size,
                    theirs_memory=other.stat().st_size,
                    limit=1.5,
                    limited_by="asked for: 1.5 s; memory is the size of the file",
                    agreement="none: the peer draws nothing",
                    at_least=None,
                    runs=runs,
                )
            )
        work, waits = strokes(browser, page, 20 if arguments.small else 60)
        browser.close()
    points = [
        Point("explorer: time to interactive, median", "bytes", size, statistics.median(ours)),
        Point("explorer: time to interactive, largest", "bytes", size, max(ours)),
        Point("explorer: work for a move of the pen, median", "moves", len(work), statistics.median(work)),
        Point("explorer: work for a move of the pen, largest", "moves", len(work), max(work)),
        Point("explorer: from a move of the pen to its frame, median", "moves", len(waits), statistics.median(waits)),
        Point("explorer: from a move of the pen to its frame, largest", "moves", len(waits), max(waits)),
    ]
    report(lines, points, rates(), arguments.json)
    print(f"{size / 1e6:.2f} MB (asked: 8), {max(ours):.3f} s (asked: 1.5), {max(waits):.3f} s (asked: 0.05)")


if __name__ == "__main__":
    main()
