"""What people drop that is no file of a picture, or that has one beside it."""

import base64
from pathlib import Path

from tests.page.browser import Browser
from tests.page.pictures import draw

ADDRESS = "https://example.com/star.png"


def data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_a_picture_of_another_page_that_comes_with_its_data_is_taken(
    browser: Browser, demo: str, folder: Path
) -> None:
    star = data_uri(draw(folder / "star.png", "star", "red", "white"))
    browser.open_empty(demo)
    browser.drop_from_another_page(uri_list=star, html=f'<img src="{star}">')
    browser.until(lambda: len(browser.all(".vector")) == 1)
    # In a link the list has the link's address alone.
    link = f'<a href="https://example.com/"><img class="a" src="{star}" alt="a star"></a>'
    browser.drop_from_another_page(uri_list="https://example.com/", html=link)
    browser.until(lambda: len(browser.all(".vector")) == 2)
    browser.type("#new-text", "a red star\n")
    browser.until(lambda: len(browser.numbers()) == 2)
    assert browser.numbers()[0] == browser.numbers()[1]


def test_a_picture_of_another_page_of_which_only_the_address_comes_is_said_to_be(browser: Browser, demo: str) -> None:
    browser.open_empty(demo)
    for items in (
        {"uri_list": ADDRESS, "html": f'<img src="{ADDRESS}">', "plain": ADDRESS},
        {"uri_list": f"{ADDRESS}\r\n", "plain": ADDRESS},
        {"uri_list": "data:image/png;base64,%%%"},
    ):
        browser.run("document.getElementById('toast').textContent = ''")
        browser.drop_from_another_page(**items)
        browser.until(lambda: "Only an address came" in browser.text("#toast"))
        assert "save the picture" in browser.text("#toast")
    assert browser.run("return location.href").startswith(demo)
    assert not browser.one("#drop").is_displayed()
    assert browser.all(".picture") == []


def test_a_text_of_another_page_is_none_of_the_pages_business(browser: Browser, demo: str) -> None:
    browser.open_empty(demo)
    browser.drop_from_another_page(plain="a red star", html="<b>a red star</b>")
    assert browser.text("#toast") == ""


def test_files_that_macos_puts_beside_others_are_left_aside(browser: Browser, demo: str, folder: Path) -> None:
    pictures = folder / "card" / "DCIM"
    pictures.mkdir(parents=True)
    for number in range(3):
        draw(pictures / f"IMG_{number}.jpg", "star", "red", "white", number)
        (pictures / f"._IMG_{number}.jpg").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    browser.open_empty(demo)
    browser.drop(folder / "card")
    browser.until(lambda: len(browser.all(".vector")) == 3)
    assert len(browser.all(".picture")) == 3
    # One by one, or from the dialog of the system, they are left aside too, and the page says so.
    browser.drop(pictures / "IMG_0.jpg", pictures / "._IMG_0.jpg")
    browser.until(lambda: len(browser.all(".vector")) == 4)
    assert "1 file left out" in browser.text("#toast")
    browser.choose("#compare-files", pictures / "._IMG_1.jpg", pictures / "._IMG_2.jpg")
    browser.until(lambda: "2 files left out" in browser.text("#toast"))
    assert len(browser.all(".picture")) == 4
    browser.click("#tab-gallery")
    browser.drop(pictures / "._IMG_0.jpg", pictures / "IMG_1.jpg")
    browser.until(lambda: "1 file left out" in browser.text("#toast"))
    browser.until(lambda: len(browser.all(".tile")) == 1)
