"""The pictures of networks of two layers: the page of a tree, and of the difference of two networks, in a real browser.

    bilens demo --layers 2 --out runs/two
    bilens compare base fine-tuned --metric mnist --out runs/difference
    python docs/depth_pictures.py --tree runs/two/report.html --difference runs/difference/report.html

The two networks are those that `python -m reproduction backdoor` leaves in its models/, seed 0: the base and the one
fine-tuned with the square, copied under these names. Needs Chromium and Playwright (`pip install 'bilens[dev]'`).
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ASSETS = Path(__file__).parent / "assets"
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking"]
PICTURES = {"tree": ("tree-page", "#tree=3", 1120), "difference": ("difference", "", 1350)}
"""By the name of an option: the file, the view, and the height that is shown in pixels."""


def main() -> None:
    """Take those whose page is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in PICTURES:
        parser.add_argument(f"--{name}", type=Path, help="its report.html")
    pages = {name: page for name, page in vars(parser.parse_args()).items() if page is not None}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, path in pages.items():
            file, view, height = PICTURES[name]
            context = browser.new_context(
                viewport={"width": 1280, "height": height}, offline=True, color_scheme="light"
            )
            page = context.new_page()
            page.goto(path.resolve().as_uri() + view)
            page.wait_for_timeout(500)
            target = ASSETS / f"{file}.webp"
            Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(target, quality=70, method=6)
            print(f"{target.relative_to(ASSETS.parent.parent)}: {target.stat().st_size / 1e3:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
