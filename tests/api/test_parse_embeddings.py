"""The body of POST /v1/embeddings: whatever it holds, it is items in their order, or an error in words."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.parse_embeddings import parse_embeddings
from app.errors import InvalidRequest, TooLarge

STRINGS = st.sampled_from(
    [
        "",
        "a red star",
        "data:image/png;base64,iVBORw0KGgo=",
        "https://example.com/a.png",
        "image",
        "audio",
        '"data:',
        "%",
    ]
)
PART_KEYS = st.sampled_from(
    ["type", "text", "image", "image_url", "url", "content", "images", "image_base64", "audio"]
)
KEYS = st.sampled_from(
    "input inputs messages images texts modality input_type model dimensions encoding_format embedding_type x".split()
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PART_KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
@settings(max_examples=500)
def test_any_body_is_items_in_their_order_or_an_error(body: dict[str, object]) -> None:
    try:
        request = parse_embeddings(json.dumps(body).encode(), 5)
    except TooLarge:
        return
    except InvalidRequest as error:
        assert error.message and (error.position is None or error.parameter is not None)
        return
    assert request.parameter in body
    assert [request.kinds.count("texts"), request.kinds.count("images")] == [len(request.texts), len(request.images)]
    assert request.kinds
    assert not any(b"data:image" in text or b"base64" in text for text in request.texts)


@given(st.lists(STRINGS, min_size=1, max_size=5))
@settings(max_examples=100)
def test_strings_are_as_many_items_under_each_key(strings: list[str]) -> None:
    objects = [{"content": [{"type": "text", "text": each}]} for each in strings]
    bodies = [{"input": strings}, {"inputs": strings}, {"inputs": objects}]
    plain, other, parts = (parse_embeddings(json.dumps(body).encode(), 5) for body in bodies)
    assert plain.texts == other.texts == parts.texts
    assert plain.images == other.images == parts.images
    assert plain.kinds == other.kinds == parts.kinds
