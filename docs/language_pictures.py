"""The pictures of language models' layers: the pages of a gated layer, of a converted one, and of one from scratch.

    bilens demo-lm --layer 12 --out runs/lm
    bilens convert MODEL --out runs/bilinear
    bilens read runs/bilinear/model --layers 12 --inputs train --text TEXT --out runs/exact
    bilens train-lm --text PLAYS --out runs/small
    bilens read runs/small/model --layers 0 --inputs train --text PLAYS --out runs/scratch
    python docs/language_pictures.py --original runs/lm/read --original-view '#feature=tokens:152' \
        --converted runs/exact --converted-view '#feature=tokens:53' \
        --scratch runs/scratch --scratch-view '#feature=tokens:63'

Needs Chromium and Playwright (`pip install 'bilens[dev]'`). A view is named as in the page's address: of the first two
these are the token " workers", whose number depends on the text.
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
PICTURES = {"original": "reading-original", "converted": "reading-converted", "scratch": "reading-scratch"}
"""By the name of an option: the file."""

VIEW, HEIGHT = "#feature=tokens:0", 1400


def main() -> None:
    """Take those whose page is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in PICTURES:
        parser.add_argument(f"--{name}", type=Path, help="its layer-NNN.html, or the folder of its run")
        parser.add_argument(f"--{name}-view", default=VIEW, help=f"what of it is shown (default: {VIEW})")
    asked = vars(parser.parse_args())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, file in PICTURES.items():
            if asked[name] is None:
                continue
            context = browser.new_context(
                viewport={"width": 1280, "height": HEIGHT}, offline=True, color_scheme="light"
            )
            page = context.new_page()
            page.on("pageerror", lambda error: print(error))
            page.goto(page_of(asked[name]).resolve().as_uri() + asked[f"{name}_view"])
            page.wait_for_timeout(500)
            target = ASSETS / f"{file}.webp"
            Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(target, quality=70, method=6)
            print(f"{target.relative_to(ASSETS.parent.parent)}: {target.stat().st_size / 1e3:.0f} kB")
        browser.close()


def page_of(path: Path) -> Path:
    """A page, or the one of a run's folder."""
    if not path.is_dir():
        return path
    pages = sorted(path.glob("layer-*.html"))
    if len(pages) != 1:
        raise SystemExit(f"{path} has {len(pages)} pages of layers; name one of them")
    return pages[0]


if __name__ == "__main__":
    main()
