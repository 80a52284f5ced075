"""Many pictures, ordered by a sentence."""

from pathlib import Path

import httpx
import numpy as np
from selenium.webdriver import Keys

from demo.world import COLOURS, SHAPES
from tests.page.browser import Browser
from tests.page.pictures import broken, draw
from tests.page.reference import similarities


def answers(url: str) -> dict[str, float]:
    """Answers of POST /vectorize by status."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = (line.split() for line in lines if line.startswith("clip_responses_total{"))
    return {name.split('"')[1]: float(value) for name, value in found}


def names(browser: Browser) -> list[str]:
    captions = "document.querySelectorAll('.tile .caption span:first-child')"
    return list(browser.run(f"return [...{captions}].map(e => e.textContent)"))


def test_a_sentence_orders_the_pictures_as_a_search_would(browser: Browser, demo: str, folder: Path) -> None:
    colours = ["red", "yellow", "green", "purple", "black"]
    pictures = [
        draw(folder / f"{colour} {shape}.png", shape, colour, "white" if i % 2 else "blue", i)
        for i, (shape, colour) in enumerate((shape, colour) for shape in SHAPES for colour in colours)
    ]
    assert set(colours) <= set(COLOURS)
    before = answers(demo)
    browser.open(f"{demo}#gallery")
    browser.until(lambda: browser.text("#state") == "Ready")
    browser.drop(*pictures, broken(folder / "broken.jpg"))
    browser.until(lambda: "30 pictures embedded in" in browser.text("#gallery-time"))
    assert names(browser) == [*(path.name for path in pictures), "broken.jpg"]
    query = "a green ring"
    browser.type("#gallery-query", query)
    browser.until(lambda: f"30 pictures, as a search for “{query}” finds them: " in browser.text("#gallery-order"))
    cosines = similarities(demo, [query], pictures)[0]
    order = names(browser)
    assert order[-1] == "broken.jpg"
    assert [path.name for path in sorted(pictures, key=lambda path: -cosines[pictures.index(path)])] == order[:-1]
    assert order[0].startswith("green")
    shown = [float(e.text) for e in browser.all(".tile .score") if e.text]
    np.testing.assert_allclose(shown, np.sort(cosines)[::-1], atol=6e-4)
    assert [e.text for e in browser.all(".tile .rank")][:3] == ["1", "2", "3"]
    assert len(browser.all(".tile.failed")) == 1
    # One item a request: 25 for the examples of the first visit (10), the pictures, the sentence and our own.
    after = answers(demo)
    assert after["422"] - before.get("422", 0) == 1
    assert after["200"] - before.get("200", 0) == 10 + 30 + 1 + (30 + 1)
    browser.errors()  # the broken picture


def test_a_picture_can_be_the_query(browser: Browser, demo: str, folder: Path) -> None:
    pictures = [draw(folder / f"{c}.png", "circle", c, "white", i) for i, c in enumerate(["green", "red", "blue"])]
    pictures.append(draw(folder / "red again.png", "circle", "red", "white", 9))
    browser.open(f"{demo}#gallery")
    browser.drop(*pictures)
    browser.until(lambda: "4 pictures embedded" in browser.text("#gallery-time"))
    browser.click("[aria-label^='red.png']")
    browser.until(lambda: names(browser)[:2] == ["red.png", "red again.png"])
    assert browser.text(".tile.top .rank") == "2"
    browser.click("[aria-label^='red.png']")
    browser.until(lambda: names(browser) == [path.name for path in pictures])


def test_two_hundred_at_most(browser: Browser, demo: str, folder: Path) -> None:
    pictures = [draw(folder / f"{i:03}.png", "star", "red", "white", i) for i in range(203)]
    browser.open(f"{demo}#gallery")
    browser.drop(*pictures)
    browser.until(lambda: browser.text("#toast") == "3 pictures left out: 200 at most")
    browser.until(lambda: "200 pictures embedded in" in browser.text("#gallery-time"))
    browser.type("#gallery-query", "a red star")
    browser.keys(Keys.ENTER)
    browser.until(lambda: "200 pictures, as a search for" in browser.text("#gallery-order"))
    browser.click("#gallery-clear")
    browser.until(lambda: browser.all(".tile") == [])


def test_the_examples_answer_their_own_query(browser: Browser, demo: str) -> None:
    browser.open(f"{demo}#gallery")
    browser.click("#gallery-examples")
    browser.until(lambda: "60 pictures embedded" in browser.text("#gallery-time"))
    browser.until(lambda: names(browser)[0] == "pink cross.png")
