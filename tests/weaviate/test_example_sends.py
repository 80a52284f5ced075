"""What the example's scripts send, against the stand-in."""

import base64
import copy
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image

from tests.support.example import User, hits, pictures_of
from tests.support.server import free_port
from tests.support.weaviate_module import ClassSettings
from tests.support.weaviate_standin import Standin


def test_the_class_is_the_documented_one(documented_class: dict[str, Any]) -> None:
    sent = documented_class
    assert sent["class"] == "ClipExample"
    assert {each["name"]: each["dataType"] for each in sent["properties"]} == {
        "name": ["text"],
        "image": ["blob"],
        "path": ["text"],
    }
    [vector] = sent["vectorConfig"].values()
    assert vector["vectorizer"] == {
        "multi2vec-clip": {
            "imageFields": ["image"],
            "textFields": ["name"],
            "weights": {"imageFields": [0.3], "textFields": [0.7]},
        }
    }
    assert vector["vectorIndexType"] == "hnsw"
    assert vector["vectorIndexConfig"]["distance"] == "cosine"


def test_a_collection_is_replaced_only_if_asked(standin: Standin, user: User) -> None:
    user.run("create_collection.py")
    assert "--recreate" in user.fail("create_collection.py")
    user.run("create_collection.py", "--recreate", "--text-weight", "1", "--image-weight", "0")
    assert standin.settings == ClassSettings(text_fields=("name",), text_weights=(1,))
    assert [request[0] for request in standin.requests if "schema" in request[1]].count("DELETE") == 1


def test_a_collection_that_stores_hashes(standin: Standin, user: User, shapes: Path) -> None:
    standin.version = "1.36.9"
    assert "--blob-hash needs Weaviate 1.37 or newer, and this is 1.36.9" in user.fail(
        "create_collection.py", "--blob-hash"
    )
    standin.version = "1.39.0"
    assert user.try_("create_collection.py", "--blob-hash", "--text-weight", "0.5").returncode == 2
    user.run("create_collection.py", "--blob-hash")
    assert standin.settings == ClassSettings(image_fields=("image",), image_weights=(1,))
    user.run("import_images.py", shapes / "pictures.csv")
    assert {len(each.properties["image"]) for each in standin.objects.values()} == {64}

    search = "search.py", "--image", shapes / "queries/like-0003.png", "--limit", "1"
    assert "--pictures FOLDER shows those" in (output := user.run(*search, "--sheet", "empty.png"))
    assert "stores no pictures" not in user.run(*search, "--pictures", shapes, "--sheet", "full.png")
    assert hits(output)[0][2] == "0003.png"
    assert colours(user.folder / "empty.png") < colours(user.folder / "full.png")


def colours(sheet: Path) -> int:
    with Image.open(sheet) as image:
        return len(image.getcolors(image.width * image.height) or [])


def test_a_collection_with_a_container_of_its_own(standin: Standin, user: User, shapes: Path, container: str) -> None:
    standin.store.connect_container(f"http://127.0.0.1:{free_port()}")
    assert "does not answer" in user.fail("create_collection.py")
    user.run("create_collection.py", "--inference-url", f"{container}/")
    assert standin.settings.inference_url == container
    assert f"imported {len(pictures_of(shapes))}" in user.run("import_images.py", shapes / "pictures.csv")
    assert hits(user.run("search.py", "--image", shapes / "0007.png"))[0][2] == "0007.png"


def test_objects_as_they_are_sent(standin: Standin, importer: User, shapes: Path) -> None:
    (importer.folder / "some.csv").write_text(
        f"id,path,name\nkey 1,{shapes / '0001.png'},a red ring\nkey 2,{shapes / '0002.png'},\n"
    )
    importer.run("import_images.py", "some.csv")
    [batch] = standin.batches
    first, second = (dict(each.properties.non_ref_properties) for each in batch.objects)
    assert first.keys() == {"image", "name", "path"}
    assert second.keys() == {"image", "path"}, "an empty text would be vectorized"
    assert base64.b64decode(first["image"]) == (shapes / "0001.png").read_bytes()
    assert batch.objects[0].uuid == str(uuid.uuid5(uuid.NAMESPACE_URL, "ClipExample/key 1"))
    importer.run("import_images.py", "some.csv", "--overwrite")
    assert [each.uuid for each in standin.batches[1].objects] == [each.uuid for each in batch.objects]
    assert len(standin.objects) == 2


def test_pictures_without_texts_where_texts_do_not_count(standin: Standin, user: User, shapes: Path) -> None:
    """Weaviate would give such a picture the weight of the text."""
    user.run("create_collection.py", "--text-weight", "0", "--image-weight", "1")
    user.run("import_images.py", shapes / "queries")
    assert len(standin.objects) == 5
    assert all(np.linalg.norm(vector) > 1 for each in standin.objects.values() for vector in each.vectors.values())


def test_names_of_files_as_texts(standin: Standin, importer: User, shapes: Path) -> None:
    (importer.folder / "photos" / "deep").mkdir(parents=True)
    (importer.folder / "photos" / "deep" / "green_star-left.PNG").write_bytes((shapes / "0001.png").read_bytes())
    (importer.folder / "photos" / "notes.txt").write_text("no picture")
    importer.run("import_images.py", "photos", "--names-as-text")
    [stored] = standin.objects.values()
    assert stored.properties["name"] == "green star left"
    assert stored.properties["path"] == "deep/green_star-left.PNG"


def test_batches_keep_to_their_size_and_to_weaviates_message_size(
    container: str, tmp_path: Path, shapes: Path, documented_class: dict[str, Any]
) -> None:
    with closing(Standin(container, message_bytes=20_000)) as standin:
        standin.store.create(copy.deepcopy(documented_class))
        User(tmp_path, standin.env).run("import_images.py", shapes / "pictures.csv", "--batch-size", "50")
        assert len(standin.objects) == len(pictures_of(shapes))
        assert max(len(batch.objects) for batch in standin.batches) <= 50
        assert max(batch.ByteSize() for batch in standin.batches) < 20_000
        assert len(standin.batches) > 3


def test_a_batch_that_fails_as_a_whole_is_sent_in_halves(standin: Standin, importer: User, shapes: Path) -> None:

    def too_slow() -> grpc.StatusCode | None:
        return grpc.StatusCode.DEADLINE_EXCEEDED if len(standin.batches[-1].objects) > 40 else None

    standin.before_batch = too_slow
    importer.run("import_images.py", shapes / "pictures.csv")
    assert len(standin.objects) == len(pictures_of(shapes))


def test_each_of_a_batch_that_fails_wholly_has_its_own_reason(importer: User) -> None:
    (importer.folder / "photos").mkdir()
    (importer.folder / "photos" / "a.png").write_text("<html>")
    (importer.folder / "photos" / "b.png").write_text("%PDF-1.7")
    (importer.folder / "photos" / "c.png").write_text("<svg/>")
    assert importer.try_("import_images.py", "photos").returncode == 1
    reasons = importer.failures().values()
    assert [reason.split("it looks like ")[1] for reason in reasons] == ["an HTML page", "a PDF", "an SVG"]


def test_files_that_cannot_be_read_are_listed(standin: Standin, importer: User, shapes: Path) -> None:
    (importer.folder / "some.csv").write_text(f"path,name\n{shapes / '0001.png'},one\nnowhere.png,two\n")
    assert importer.try_("import_images.py", "some.csv").returncode == 1
    assert "cannot read the file: No such file" in importer.failures()["nowhere.png"]
    assert len(standin.objects) == 1
