"""Takes the pictures of the page that the documentation shows.

    python -m tests.page.screenshots http://localhost:8080 docs/images

of a server with the demo model. They look best where the font Inter is installed (Debian: fonts-inter).
"""

import argparse
import base64
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from tests.page.browser import Browser
from tests.page.pictures import broken, draw

# A mouse, which a browser without a screen denies having.
MOUSE = "blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
QUERY = "a pink cross"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        programs = (shutil.which(name) or name for name in ("chromium", "chromedriver"))
        browser = Browser(*programs, Path(temporary) / "profile", MOUSE, "hide-scrollbars")
        try:
            take_all(browser, options.url, options.folder, Path(temporary))
        finally:
            browser.quit()


def take_all(browser: Browser, url: str, folder: Path, temporary: Path) -> None:
    for scheme in ("light", "dark"):
        browser.look(1200, 970, scheme)
        browser.open(url)
        browser.until(lambda: len(browser.numbers()) == 25)
        take(browser, folder / f"page-{scheme}.png")
        show_gallery(browser, url)
        take(browser, folder / f"gallery-{scheme}.png")
    browser.look(1200, 1000)
    browser.open_empty(url)
    browser.drop(
        draw(temporary / "star.png", "star", "red", "white"),
        broken(temporary / "cut in half.jpg"),
        draw(temporary / "ring.png", "ring", "green", "black"),
    )
    for text in ("a red star", "a green ring"):
        browser.type("#new-text", text + "\n")
    browser.until(lambda: len(browser.numbers()) == 4)
    browser.run("document.activeElement.blur()")
    take(browser, folder / "page-error.png")
    for scheme, show in (("light", None), ("dark", show_gallery)):
        browser.look(390, 844, scheme)
        browser.open(url)
        browser.until(lambda: len(browser.numbers()) == 25)
        if show:
            show(browser, url)
        take(browser, folder / f"phone-{scheme}.png")


def show_gallery(browser: Browser, url: str) -> None:
    browser.open("about:blank")
    browser.open(f"{url}#gallery")
    browser.click("#gallery-examples")
    browser.until(lambda: "60 pictures embedded" in browser.text("#gallery-time"))
    browser.until(lambda: f"60 pictures, as a search for “{QUERY}”" in browser.text("#gallery-order"))
    browser.run("document.activeElement.blur()")


def take(browser: Browser, path: Path) -> None:
    """The screen as a PNG of 256 colours, twice as fine as it is on the screen."""
    browser.until(lambda: not browser.run("return document.querySelectorAll('.frame:empty').length"))
    browser.until(lambda: browser.run("return [...document.images].every((image) => image.complete)"))
    browser.run("scrollTo(0, 0)")
    width, height = browser.run("return [innerWidth, innerHeight]")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 2}
    data = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})["data"]
    picture = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
