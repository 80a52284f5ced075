"""Small screens, keyboards, screen readers, dark rooms."""

from pathlib import Path

import pytest
from selenium.webdriver import Keys

from tests.page.browser import Browser
from tests.page.pictures import broken


def nodes(browser: Browser) -> list[tuple[str, str]]:
    """Role and name of what a screen reader meets."""
    browser.driver.execute_cdp_cmd("Accessibility.enable", {})
    tree = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node.get("ignored")
    ]


@pytest.mark.parametrize("tab", ["compare", "gallery"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, demo: str, folder: Path, width: int, tab: str) -> None:
    browser.look(width, 800)
    browser.open(f"{demo}#{tab}")
    browser.until(lambda: "64 numbers" in browser.text(".facts"))
    if tab == "gallery":
        browser.click("#gallery-examples")
        browser.until(lambda: len(browser.all(".tile .score")) == 60)
    else:
        browser.until(lambda: len(browser.numbers()) == 25)
        browser.choose("#compare-files", broken(folder / f"{'a long name ' * 10}.jpg"))
        browser.until(lambda: browser.all(".picture.failed"))
        browser.errors()
    # Whose system has no font of usual width gets a wider one.
    for spacing in ("", ".06em"):
        browser.run("document.body.style.letterSpacing = arguments[0]", spacing)
        assert browser.run("return document.documentElement.scrollWidth") <= width


def test_everything_can_be_done_with_the_keyboard(browser: Browser, demo: str) -> None:
    def focus() -> str:
        focused: str = browser.run("return document.activeElement.id || document.activeElement.textContent")
        return focused

    browser.open(demo)
    browser.until(lambda: len(browser.numbers()) == 25)
    browser.keys(Keys.TAB)
    assert focus() == "Skip to the content"
    browser.keys(Keys.ENTER, Keys.TAB)
    assert focus() == "tab-compare"
    browser.keys(Keys.TAB, Keys.TAB, Keys.TAB)
    assert focus() == "compare-clear"
    browser.keys(Keys.SPACE)
    assert browser.all(".picture") == []
    assert focus() == "compare-choose"
    while focus() != "new-text":
        before = focus()
        browser.keys(Keys.TAB)
        assert focus() not in (before, "gallery-query")
    browser.keys("one", Keys.ENTER, "two", Keys.ENTER)
    browser.until(lambda: len(browser.all(".vector")) == 2)
    # Back into the first text, and on by Enter.
    browser.run("document.querySelector('.text textarea').focus()")
    browser.keys(Keys.ENTER)
    assert browser.run("return document.activeElement.value") == "two"
    # Removing one leaves the focus at its neighbour.
    browser.keys(Keys.TAB, Keys.ENTER)
    assert browser.run("return document.activeElement.getAttribute('aria-label')") == "Remove text 1"
    browser.run("document.getElementById('tab-compare').focus()")
    browser.keys(Keys.ARROW_RIGHT)
    assert browser.run("return document.activeElement.id") == "tab-gallery"
    assert browser.one("#panel-gallery").is_displayed()
    assert not browser.one("#panel-compare").is_displayed()


def test_a_screen_reader_finds_names_and_is_told_results(browser: Browser, demo: str) -> None:
    browser.open(demo)
    browser.until(lambda: len(browser.numbers()) == 25)
    found = nodes(browser)
    controls = "button textbox searchbox radio tab link table region rowheader columnheader".split()
    assert [pair for pair in found if pair[0] in controls and not pair[1].strip()] == []
    roles = [role for role, _ in found]
    assert roles.count("rowheader") == 5
    assert roles.count("columnheader") >= 6
    first = next(name for role, name in found if role == "cell" and name.startswith("0."))
    assert "best text of this picture" in first
    assert "best picture of this text" in first
    assert "10 vectors" in browser.run("return document.getElementById('announcer').textContent")
    assert browser.run("return document.documentElement.lang") == "en"


def test_light_and_dark_follow_the_system_and_numbers_can_be_read(browser: Browser, demo: str) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        browser.look(scheme=scheme)
        browser.open(demo)
        browser.until(lambda: len(browser.numbers()) == 25)
        grounds.append(browser.run("return getComputedStyle(document.documentElement).backgroundColor"))
        contrasts = browser.run(
            """
            const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
            const light = (colour) => {
              pen.fillStyle = colour;
              pen.fillRect(0, 0, 1, 1);
              const linear = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => {
                const share = value / 255;
                return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
              });
              return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
            };
            return [...document.querySelectorAll(".cell")].map((cell) => {
              const style = getComputedStyle(cell);
              const [a, b] = [light(style.color), light(style.backgroundColor)];
              return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            });
            """
        )
        assert min(contrasts) >= 4.5
    assert grounds[0] != grounds[1]
