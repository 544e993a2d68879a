"""The README's picture and its tour of the explorer, taken from the page of a real run in a real browser.

    bilens demo --out runs/mnist
    python docs/tour.py runs/mnist/report.html

writes docs/assets/explorer.png and docs/assets/explorer-tour.webp. Needs Chromium and Playwright (`pip install
'bilens[dev]'`).
"""

from __future__ import annotations

import argparse
import io
import math
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ASSETS = Path(__file__).parent / "assets"
SIZE = {"width": 1120, "height": 720}
SHOWN = (840, 540)
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking"]

FIVE = [
    [(0.66, 0.22), (0.42, 0.23), (0.37, 0.47)],
    [(0.37, 0.47), (0.52, 0.41), (0.65, 0.50), (0.66, 0.66), (0.54, 0.78), (0.36, 0.74)],
]
"""A digit to draw: strokes of points, as shares of the pad."""


class Film:
    """Frames with the seconds that each is shown."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.seconds: list[float] = []

    def take(self, seconds: float) -> None:
        """One frame, shown this long."""
        self.page.wait_for_timeout(60)
        image = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB").resize(SHOWN, Image.Resampling.LANCZOS)
        self.frames.append(image)
        self.seconds.append(seconds)

    def scroll(self, to: float, steps: int = 6) -> None:
        """Scroll smoothly to a height in pixels."""
        start = self.page.evaluate("scrollY")
        for step in range(1, steps + 1):
            share = (1 - math.cos(math.pi * step / steps)) / 2
            self.page.evaluate("y => scrollTo(0, y)", start + (to - start) * share)
            self.take(0.06)

    def scroll_to(self, selector: str) -> None:
        """Scroll to an element."""
        top = self.page.locator(selector).first.evaluate("each => each.getBoundingClientRect().top + scrollY")
        self.scroll(max(0, top - 90))

    def save(self, path: Path) -> None:
        """Write the film as an animated WebP."""
        first, *others = self.frames
        milliseconds = [round(1000 * value) for value in self.seconds]
        first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0, quality=60, method=4)


def tour(page: Page, address: str) -> Film:
    """About twenty seconds: all features, one of them, a drawn digit taken apart, and how faithful each view is."""
    film = Film(page)
    page.goto(f"{address}#overview=digits")
    film.take(1.6)
    film.scroll_to(".tabs")
    film.take(1.0)
    for tab in ("SVD", "SAE on outputs", "SAE on pairs"):
        page.get_by_role("tab", name=tab).click()
        film.take(0.9)
    page.goto(f"{address}#feature=digits:3")
    page.evaluate("scrollTo(0, 0)")
    film.take(1.2)
    slider = page.get_by_role("slider", name="Eigenvalue")
    slider.focus()
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
        film.take(0.45)
    film.scroll_to("figure:nth-of-type(1) ~ figure, .feature > figure")
    film.take(1.2)
    film.scroll_to("h2.section")
    film.take(1.4)
    page.goto(f"{address}#sample=drawn")
    page.evaluate("scrollTo(0, 0)")
    film.take(0.6)
    box = page.locator("canvas.pad").bounding_box()
    assert box is not None
    for stroke in FIVE:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for x, y in points[1:]:
            page.mouse.move(x, y, steps=3)
            film.take(0.12)
        page.mouse.up()
        film.take(0.25)
    film.take(1.4)
    film.scroll_to(".sample > section:last-child")
    film.take(2.0)
    page.goto(f"{address}#faithfulness")
    page.evaluate("scrollTo(0, 0)")
    film.take(2.2)
    return film


def main() -> None:
    """Take both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path, help="the report.html of a run")
    arguments = parser.parse_args()
    address = arguments.page.resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_context(viewport=SIZE, offline=True, color_scheme="light").new_page()
        page.on("pageerror", lambda error: print(error))
        film = tour(page, address)
        film.save(ASSETS / "explorer-tour.webp")
        page = browser.new_context(viewport={"width": 1280, "height": 940}, offline=True).new_page()
        page.goto(f"{address}#feature=digits:3")
        page.wait_for_timeout(300)
        page.screenshot(path=ASSETS / "explorer.png")
        browser.close()
    image = Image.open(ASSETS / "explorer.png").convert("RGB")
    few = image.quantize(192, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(ASSETS / "explorer.png", optimize=True)
    for name in ("explorer-tour.webp", "explorer.png"):
        print(f"docs/assets/{name}: {(ASSETS / name).stat().st_size / 1e6:.2f} MB")
    print(f"{sum(film.seconds):.1f} s in {len(film.frames)} frames")


if __name__ == "__main__":
    main()
