"""What is wrong with items is counted by cause, and texts that are cut are counted."""

import base64
import io
from collections.abc import Callable

import httpx
import pytest
from PIL import Image

from tests.support.server import ROOT

DEMO = ROOT / "demo/models"


def picture(form: str, size: tuple[int, int] = (300, 200)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def url(serve: Callable[..., str]) -> str:
    return serve(DEMO, MAX_PIXELS="1000000")


def count(url: str, line: str) -> float:
    metrics = httpx.get(f"{url}/metrics").text.splitlines()
    return next((float(each.split()[-1]) for each in metrics if each.startswith(line)), 0.0)


@pytest.mark.parametrize(
    ("cause", "item"),
    [
        ("not_base64", b"<html>"),
        ("no_picture", base64.b64encode(b"hello, world")),
        ("no_picture", base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n")),
        ("broken_picture", base64.b64encode(picture("JPEG")[:2000])),
        ("too_large", base64.b64encode(picture("PNG", (1001, 1000)))),
        ("too_large", base64.b64encode(picture("TIFF", (1001, 1000)))),
        ("broken_picture", base64.b64encode(picture("TIFF")[:2000])),
    ],
)
def test_faults_are_counted_by_cause(url: str, cause: str, item: bytes) -> None:
    line = f'clip_items_failed_total{{cause="{cause}",kind="images"}}'
    before = count(url, line)
    answer = httpx.post(f"{url}/vectorize", json={"images": [item.decode()]})
    assert answer.status_code == 422, answer.text
    assert count(url, line) == before + 1, answer.text


def test_texts_that_are_cut_are_counted(url: str) -> None:
    before = count(url, "clip_texts_cut_total")
    texts = ["short", "a red circle " * 100]
    assert httpx.post(f"{url}/vectorize", json={"texts": texts}).status_code == 200
    assert count(url, "clip_texts_cut_total") == before + 1
