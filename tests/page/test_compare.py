"""The table of texts and pictures."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver import Keys

from tests.page.browser import Browser
from tests.page.pictures import broken, draw
from tests.page.reference import similarities, vectors


def marked(browser: Browser, sign: str) -> list[int]:
    """Which cells, counted row by row, bear a mark: "best-text" or "best-picture"."""
    cells = browser.all(".cell")
    return [i for i, cell in enumerate(cells) if cell.find_elements("css selector", f".{sign}")]


def test_the_first_visit_shows_pictures_and_texts_that_fit(browser: Browser, demo: str) -> None:
    browser.open(demo)
    browser.until(lambda: len(browser.numbers()) == 25)
    assert marked(browser, "best-text") == marked(browser, "best-picture") == [0, 6, 12, 18, 24]
    facts = browser.text(".facts")
    for fact in ("coloured-shapes", "sentence-transformers", "OpenVINO", "float32", "64 × 64 pixels", "64 numbers"):
        assert fact in facts
    assert browser.text("#state") == "Ready"


def test_a_model_that_knows_more_gets_pictures_of_things(browser: Browser, serve_tiny: str) -> None:
    browser.open(serve_tiny)
    browser.until(lambda: len(browser.numbers()) == 25)
    assert browser.text(".picture .name") == "cat.png"
    assert browser.run("return document.querySelector('.text textarea').value") == "a cat"


def test_of_two_captions_the_right_one_wins(browser: Browser, demo: str, folder: Path) -> None:
    picture = draw(folder / "what is it.png", "star", "red", "white")
    texts = ["a blue circle on a yellow background", "a red star on a white background"]
    browser.open_empty(demo)
    browser.drop(picture)
    for text in texts:
        browser.type("#new-text", text)
        browser.keys(Keys.ENTER)
    browser.until(lambda: len(browser.numbers()) == 2)
    np.testing.assert_allclose(browser.numbers(), similarities(demo, texts, [picture])[:, 0], atol=6e-4)
    assert marked(browser, "best-text") == [1]
    assert browser.text("#by-picture-list strong") == texts[1]
    text_rows, picture_rows = vectors(demo, texts, [picture])
    lengths = [float(e.text.removeprefix("length ")) for e in browser.all(".vector .length")]
    np.testing.assert_allclose(lengths, np.linalg.norm([*picture_rows, *text_rows], axis=1), atol=6e-4)
    assert all(e.text.endswith(("ms", " s")) for e in browser.all(".vector .took"))


def test_softmax_adds_up_by_picture_and_by_text(browser: Browser, demo: str, folder: Path) -> None:
    pictures = [draw(folder / f"{c}.png", "circle", c, "white") for c in ("red", "pink", "green")]
    texts = ["a red circle", "a pink circle"]
    browser.open_empty(demo)
    browser.drop(*pictures)
    for text in texts:
        browser.type("#new-text", text)
        browser.keys(Keys.ENTER)
    browser.until(lambda: len(browser.numbers()) == 6)
    exponents = np.exp(100 * similarities(demo, texts, pictures))
    for choice, axis in (("texts", 0), ("pictures", 1)):
        browser.run(f"document.querySelector('[name=scale][value={choice}]').click()")
        cells = browser.run("return [...document.querySelectorAll('.cell')].map(e => e.firstChild.textContent)")
        shown = [float(cell.removesuffix(" %")) for cell in cells]
        want = 100 * exponents / exponents.sum(axis=axis, keepdims=True)
        np.testing.assert_allclose(np.reshape(shown, (2, 3)), want, atol=0.3)


def test_an_error_stands_at_its_picture(browser: Browser, demo: str, folder: Path) -> None:
    good = [draw(folder / "good.png", "star", "red", "white"), draw(folder / "fine.png", "ring", "green", "black")]
    (folder / "notes.txt").write_text("no picture at all")
    browser.open_empty(demo)
    browser.drop(good[0], broken(folder / "broken.jpg"), folder / "notes.txt", good[1])
    browser.type("#new-text", "a red star")
    browser.keys(Keys.ENTER)
    browser.until(lambda: len(browser.numbers()) == 2 and len(browser.all(".picture.failed")) == 2)
    by_name = {e.find_element("css selector", ".name").text: e for e in browser.all(".picture")}
    faults = {name: e.find_element("css selector", ".fault").text for name, e in by_name.items()}
    assert faults["good.png"] == faults["fine.png"] == ""
    for name in ("broken.jpg", "notes.txt"):
        assert "Try again" not in faults[name]
        assert len(faults[name]) > 25
        assert "images[" not in faults[name]
    assert browser.errors()  # the browser itself logs an answer of 422
    # What was wrong goes with its picture.
    for name in ("broken.jpg", "notes.txt"):
        browser.click(f"[aria-label='Remove {name}']")
    assert browser.all(".picture.failed") == []
    assert len(browser.numbers()) == 2


def test_a_text_is_edited_in_place(browser: Browser, demo: str, folder: Path) -> None:
    picture = draw(folder / "p.png", "square", "blue", "white")
    browser.open_empty(demo)
    browser.drop(picture)
    browser.type("#new-text", "a red star")
    browser.keys(Keys.ENTER)
    browser.until(lambda: len(browser.numbers()) == 1)
    want = pytest.approx(similarities(demo, ["a blue square"], [picture])[0], abs=6e-4)
    browser.type(".text textarea", "a blue square")
    browser.until(lambda: browser.numbers() == want)  # each key may bring numbers of its own before
    assert browser.run("return document.activeElement.tagName") == "TEXTAREA"


def test_a_vector_is_copied_as_json_and_as_the_command_that_makes_it(
    browser: Browser, demo: str, folder: Path
) -> None:
    picture = draw(folder / "p.png", "cross", "pink", "black")
    text = """it's a "pink" cross \\ 'plus'"""
    browser.open_empty(demo)
    browser.drop(picture)
    browser.type("#new-text", text)
    browser.keys(Keys.ENTER)
    browser.until(lambda: len(browser.all(".vector")) == 2)
    text_rows, picture_rows = vectors(demo, [text], [picture])
    for row, key, want in zip(
        browser.all(".vector"), ("imageVectors", "textVectors"), (picture_rows[0], text_rows[0]), strict=True
    ):
        as_json, as_command = row.find_elements("css selector", "button")
        as_json.click()
        browser.until(lambda: browser.text("#toast") == "Vector copied")
        np.testing.assert_allclose(json.loads(browser.clipboard()), want, rtol=1e-4, atol=1e-4)
        as_command.click()
        browser.until(lambda: browser.text("#toast") == "Command copied")
        command = browser.clipboard()
        answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
        np.testing.assert_allclose(json.loads(answer)[key][0], want, rtol=1e-4, atol=1e-4)


def test_pasted_pictures_are_taken(browser: Browser, demo: str) -> None:
    browser.open_empty(demo)
    browser.run(
        """
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 64;
        canvas.toBlob((blob) => {
          const data = new DataTransfer();
          data.items.add(new File([blob], "image.png", { type: "image/png" }));
          dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
        });
        """
    )
    browser.until(lambda: len(browser.all(".vector")) == 1)


def test_a_folder_is_walked_and_what_is_no_picture_is_left(browser: Browser, demo: str, folder: Path) -> None:
    inner = folder / "pictures" / "more"
    inner.mkdir(parents=True)
    draw(folder / "pictures" / "a.png", "star", "red", "white")
    draw(inner / "b.png", "ring", "red", "white")
    (inner / "readme.txt").write_text("not this")
    browser.open_empty(demo)
    browser.drop(folder / "pictures")
    browser.until(lambda: len(browser.all(".vector")) == 2)
    assert sorted(e.text for e in browser.all(".picture .name")) == ["a.png", "b.png"]


def test_too_many_pictures_are_said_to_be(browser: Browser, demo: str, folder: Path) -> None:
    pictures = [draw(folder / f"{i}.png", "circle", "red", "white", i) for i in range(27)]
    browser.open_empty(demo)
    browser.drop(*pictures)
    browser.until(lambda: browser.text("#toast") == "3 pictures left out: 24 at most")
    browser.until(lambda: len(browser.all(".vector")) == 24)
