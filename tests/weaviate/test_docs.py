"""The Python of docs/weaviate.md, against the stand-in."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import weaviate

from tests.support.held_out import HeldOut
from tests.support.server import ROOT
from tests.support.weaviate_module import ClassSettings
from tests.support.weaviate_standin import Standin


@pytest.fixture
def client(standin: Standin) -> Iterator[weaviate.WeaviateClient]:
    port = urlsplit(standin.env["WEAVIATE_URL"]).port or 0
    with weaviate.connect_to_local("127.0.0.1", port, int(standin.env["WEAVIATE_GRPC_PORT"])) as client:
        yield client


def snippets(heading: str) -> list[str]:
    """The Python below a heading of any level, up to the next one of any level."""
    text = (ROOT / "docs/weaviate.md").read_text()
    section = re.split(r"^#+ .*\n", text.partition(f"# {heading}\n")[2], flags=re.M)[0]
    return re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)


def test_the_class_and_an_import(client: weaviate.WeaviateClient, standin: Standin, held_out: HeldOut) -> None:
    [create], [insert] = snippets("The class"), snippets("Import")
    names = {
        "client": client,
        "base64_text": held_out.images[0],
        "id_of_the_picture": "9b6f7b0e-0000-4000-8000-000000000000",
    }
    exec(create, names)
    assert standin.settings == ClassSettings(("name",), ("image",), (0.7,), (0.3,))
    exec(insert, names)
    assert len(standin.objects) == 1


def test_several_vectors(client: weaviate.WeaviateClient, standin: Standin, held_out: HeldOut) -> None:
    create, both = snippets("Several vectors an object")
    names = {"client": client}
    exec(create, names)
    photos = client.collections.use("Photos")
    for image, name in zip(held_out.images[:20], held_out.names[:20], strict=True):
        photos.data.insert({"caption": name, "image": image})
    assert all(each.vectors.keys() == {"words", "look"} for each in standin.objects.values())
    exec(both, names)
    for targets in ("words", "look"):
        best = photos.query.near_text(held_out.questions[3], target_vector=targets, limit=1).objects[0]
        assert best.properties["caption"] == held_out.names[3]


def test_pictures_that_are_not_stored(client: weaviate.WeaviateClient, standin: Standin, held_out: HeldOut) -> None:
    [create] = snippets("Pictures that are not stored")
    exec(create, {"client": client})
    photos = client.collections.use("Photos")
    for number, image in enumerate(held_out.images[:20]):
        photos.data.insert({"path": f"{number}.png", "image": image})
    assert {len(each.properties["image"]) for each in standin.objects.values()} == {64}
    assert photos.query.near_image(held_out.images[3], limit=1).objects[0].properties["path"] == "3.png"


def test_a_hash_and_words_in_one_vector_are_refused(client: weaviate.WeaviateClient) -> None:
    [create] = snippets("Pictures that are not stored")
    mixed = create.replace('image_fields=["image"]', 'image_fields=["image"], text_fields=["path"]')
    with pytest.raises(weaviate.exceptions.UnexpectedStatusCodeError, match="cannot be combined"):
        exec(mixed, {"client": client})
