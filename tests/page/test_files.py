"""What the page is on the wire."""

import re
from collections.abc import Callable

import httpx
import pytest

from tests.support.server import ROOT

PAGE = ROOT / "app" / "page"
FILES = sorted(path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
def test_files_come_with_a_strict_policy_and_are_asked_for_again(demo: str, path: str) -> None:
    response = httpx.get(demo + path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    scripts = r"'self' 'sha256-[\w+/=]{44}'"
    assert re.match(rf"default-src 'none'; script-src {scripts}; style-src 'self'; img-src 'self' blob:;", policy)
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"
    again = httpx.get(demo + path, headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = httpx.head(demo + path)
    assert (head.status_code, head.headers["content-length"]) == (200, response.headers["content-length"])


@pytest.mark.parametrize("name", FILES)
def test_nothing_points_elsewhere_and_nothing_is_inline(name: str) -> None:
    content = (PAGE / name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]", content)
    assert not re.search(r"<style|style=|\son[a-z]+=|javascript:|innerHTML", content)
    # One script moves the page to its last slash, without which the browser finds no other; the policy has its hash.
    assert len(re.findall(r"<script(?![^>]* src=)", content)) == (name == "index.html")


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_scripts_are_scripts_to_the_browser(demo: str, name: str) -> None:
    assert "javascript" in httpx.get(f"{demo}/page/{name}").headers["content-type"]


@pytest.mark.parametrize(
    "path", ["/page", "/page/", "/page/nothing.js", "/page/%2e%2e/settings.py", "/page//etc/passwd"]
)
def test_only_the_files_of_the_page_are_served(demo: str, path: str) -> None:
    response = httpx.get(demo + path)
    assert response.status_code == 404
    assert isinstance(response.json()["error"], str)


def test_the_page_can_be_turned_off(serve: Callable[..., str]) -> None:
    url = serve(ROOT / "demo" / "models", ENABLE_PAGE="false")
    for path in ("/", "/page/main.js"):
        assert httpx.get(url + path).status_code == 404
    assert httpx.get(f"{url}/meta").status_code == 200
