"""Base64 as people write it."""

import base64
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.processors.picture import decode_base64

DATA = b"GIF\xfb\xef\xff" + bytes(range(256)) * 3 + b"\x00"
PLAIN = base64.b64encode(DATA)


def wrapped(text: bytes, width: int = 76, end: bytes = b"\r\n") -> bytes:
    return end.join(text[i : i + width] for i in range(0, len(text), width)) + end


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        b"data:image/png;base64," + PLAIN,
        b"DATA:;base64," + PLAIN,
        wrapped(PLAIN),
        wrapped(PLAIN, end=b"\n"),
        wrapped(base64.urlsafe_b64encode(DATA)),
        base64.urlsafe_b64encode(DATA),
        PLAIN.rstrip(b"="),
        base64.urlsafe_b64encode(DATA).rstrip(b"="),
        PLAIN.replace(b"+", b" "),
        b"  " + PLAIN + b" \n",
        b"data:image/png;base64,\n" + wrapped(PLAIN),
    ],
)
def test_every_way_to_write_it(text: bytes) -> None:
    assert decode_base64(text) == DATA


def test_two_alphabets_at_once() -> None:
    mixed = base64.b64encode(DATA).replace(b"+", b"-", 1)
    assert b"+" in mixed.replace(b"+", b"-", 1) or b"/" in mixed
    assert decode_base64(mixed) == decode_base64(wrapped(mixed)) == DATA


@given(st.text(alphabet="AQgw+/-_= \n\r\t!.", max_size=40).map(str.encode))
def test_what_is_taken_is_what_the_characters_say(text: bytes) -> None:
    """Of one way or the other: without breaks, in the standard alphabet, padded."""
    kept = text.strip().rstrip(b"= \n\r\t").translate(bytes.maketrans(b"-_ ", b"+/+"), b"\r\n\t")
    try:
        want = base64.b64decode(kept + b"=" * (-len(kept) % 4), validate=True)
    except ValueError:
        want = None
    try:
        got = decode_base64(text)
    except InvalidRequest:
        got = None
    assert got == want


@given(st.binary(max_size=400), st.integers(1, 90), st.booleans(), st.booleans())
def test_any_bytes_in_any_way(data: bytes, width: int, url_safe: bool, padded: bool) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data)
    assert decode_base64(wrapped(text if padded else text.rstrip(b"="), width)) == data


def test_a_large_text_with_breaks() -> None:
    data = random.Random(0).randbytes(3_000_000)
    assert decode_base64(wrapped(base64.urlsafe_b64encode(data))) == data


@pytest.mark.parametrize(
    "text, says",
    [
        (b"!!!!", "not base64"),
        (b"Zm9v=Zm9v", "not base64"),
        (b"Zm9vY", "not base64"),
        ("Zm9vé".encode(), "not base64"),
        (b"https://example.com/a.png", "URL"),
        (b"<html><body>Not found</body></html>", "HTML"),
    ],
)
def test_what_is_none_is_named(text: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        decode_base64(text)
