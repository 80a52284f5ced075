"""A request body piece by piece: what JSON allows, and nothing else."""

import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api import reader, vectorize
from app.api.vectorize import parse_request
from app.errors import InvalidRequest, TooLarge
from tests.support.search import times

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
BODIES = st.fixed_dictionaries(
    {"other": VALUES},
    optional={"texts": st.none() | st.lists(st.text(), max_size=6), "images": st.none() | st.lists(st.text())},
)


@pytest.fixture(autouse=True, scope="module", params=[(1, 0), (1000, 0), (1000, 4096)])
def small_pieces(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pieces so small that every body has some, and each way to cut a character comes up; read in all three ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_PIECE", 16)
        patch.setattr(reader, "_WORTH_A_LOOK", request.param[0])
        patch.setattr(vectorize, "_SMALL_BODY", request.param[1])
        yield


NOISE = [b"", b'"', b"\\", b"\\u", b"\\ud83d", b"\\udc00", b",", b"[", b"}", b"\x00", b"\xff", b"\xc3", b"0", b" "]


def expected(body: bytes) -> tuple[list[bytes], list[bytes]]:
    """By the standard library; raises ValueError."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    document = json.loads(body.decode(), parse_constant=refuse)
    if not isinstance(document, dict):
        raise ValueError("no object")
    texts, images = ([] if (items := document.get(key)) is None else items for key in ("texts", "images"))
    for items in (texts, images):
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise ValueError("no strings")
    json.dumps(document, ensure_ascii=False).encode()  # half a pair is no character
    return [text.encode() for text in texts], [image.encode() for image in images]


def check(body: bytes) -> None:
    try:
        want = expected(body)
    except (ValueError, RecursionError):
        with pytest.raises(InvalidRequest):
            parse_request(body, 1000)
    else:
        try:
            got = parse_request(body, 1000)
        except InvalidRequest as error:
            assert "there are no items" in str(error) and want == ([], [])
        else:
            assert (got.texts, got.images) == want


@given(BODIES, st.booleans(), st.sampled_from([None, 1]))
@settings(max_examples=times(200))
def test_json_of_any_kind_is_read(body: dict[str, object], ascii_only: bool, indent: int | None) -> None:
    check(json.dumps(body, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "replace"))


@given(BODIES, st.booleans(), st.randoms())
@settings(max_examples=times(400))
def test_what_is_no_json_is_refused(body: dict[str, object], ascii_only: bool, rng: random.Random) -> None:
    data = bytearray(json.dumps(body, ensure_ascii=ascii_only).encode("utf-8", "replace"))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        data[at : at + rng.randrange(3)] = rng.choice(NOISE)
    check(bytes(data))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"null", "null, not an object"),
        (b"[]", "an array, not an object"),
        (b"{", "ends here"),
        (b'{"texts": "a"}', "texts: expected an array of strings, got a string"),
        (b'{"texts": ["a", 1]}', "texts[1]: expected a string, got a number"),
        (b'{"images": [{"b64": "x"}]}', "images[0]: expected a string, got an object"),
        (b'{"texts": ["a", "\\ud800"]}', "texts[1]: holds half a surrogate pair"),
        (b'{"texts": ["\\ude00 \\ud83d"]}', "texts[0]: holds half a surrogate pair"),
        (b'{"texts": ["a", "\xff"]}', "texts[1]: is not valid UTF-8"),
        (b'{"texts": ["\xed\xa0\x80"]}', "texts[0]: is not valid UTF-8"),
        (b'{"\\ud800": 1, "texts": ["a"]}', "the body: holds half a surrogate pair"),
        (b'{"x": {"\xff": 1}, "texts": ["a"]}', "x: is not valid UTF-8"),
        (b'{"x": ["\xff"], "texts": ["a"]}', "x[0]: is not valid UTF-8"),
        (b'{"texts": ["a\nb"]}', "texts[0]: holds the control character 0x0a"),
        (b'{"texts": ["a\\x41"]}          ', "texts[0]: holds an escape"),
        (b'{"texts": ["a', "texts[0]: does not end"),
        (b'{"text": ["a"]}', 'the key is "texts", not "text"'),
        (b'{"Image": "a", "texts": []}', 'the key is "images", not "Image"'),
        (
            b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b', "texts": ["a"]}',
            "x[0]: is nested more than 100 deep",
        ),
        (b"[" * 200_000, "nested"),
        (b'{"texts": ["a"], "x": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", "nested"),
        (b'{"texts": [' + b"[" * 200_000, "nested"),
        (b'{"x": [' + b"1," * 200_000 + b"1]}", "more than 11000 values"),
    ],
)
def test_what_is_wrong_is_said(body: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_request(body, 1000)
    assert words in str(error.value)


def test_items_are_counted_while_they_are_read() -> None:
    body = b'{"texts": [' + b'"a",' * 7000 + b'"a"], "images": [' + b'"a",' * 7000 + b"this is not even looked at"
    with pytest.raises(TooLarge, match="split it"):
        parse_request(body, 1000)


def test_a_byte_order_mark_is_skipped_and_the_last_of_equal_keys_counts() -> None:
    assert parse_request(b'\xef\xbb\xbf {"texts": ["a"], "texts": ["b"]}', 2).texts == [b"b"]
