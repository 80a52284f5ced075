"""Import the pictures of a folder, or those that a CSV names; run it again to go on or to retry.

A CSV has the columns path (from the CSV's folder), name (the text; may be missing or empty) and id
(a key that stays the same; the path if missing). What fails is listed in a file with the reason.
"""

import base64
import csv
import re
import time
import uuid
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clip_example import (
    Failed,
    add_collection_option,
    check_container,
    connect,
    object_id,
    one_line,
    require_collection,
    run,
)
from tqdm import tqdm
from weaviate.classes.data import DataObject
from weaviate.classes.query import Filter
from weaviate.collections import Collection
from weaviate.exceptions import WeaviateBaseError, WeaviateInsertManyAllFailedError

_SUFFIXES = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

# What Weaviate says of an object when its container is away, or is starting or stopping.
_CONTAINER_IS_DOWN = re.compile(r"send POST request(?!.*deadline)|fail with status 503")

# Weaviate's own default, for servers that do not tell theirs.
_MESSAGE_BYTES = 10_485_760


@dataclass(frozen=True)
class Picture:
    id: uuid.UUID
    path: Path
    shown_path: str
    text: str


class FailureFile:
    """A CSV of what failed in this run; there is none if nothing failed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        path.unlink(missing_ok=True)

    def add(self, picture: Picture, reason: str) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:  # complete, whatever happens next
            rows = csv.writer(file)
            if not self.count:
                rows.writerow(["path", "id", "reason"])
            rows.writerow([picture.path, picture.id, reason])
        self.count += 1


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder of pictures, or a CSV file")
    add_collection_option(parser)
    parser.add_argument("--names-as-text", action="store_true", help="of a folder: file names are the texts")
    parser.add_argument("--batch-size", type=int, default=100, help="pictures sent at once (100)")
    parser.add_argument("--overwrite", action="store_true", help="import also what is there already")
    parser.add_argument("--failures", type=Path, default=Path("failures.csv"), help="list of what failed")
    options = parser.parse_args()
    if options.batch_size < 1:
        parser.error("--batch-size must be 1 or more")

    if options.source.suffix.lower() == ".csv":
        pictures = read_csv(options.source, options.collection)
    else:
        pictures = read_folder(options.source, options.collection, options.names_as_text)
    failures = FailureFile(options.failures)
    with connect() as client:
        check_container(client, require_collection(client, options.collection))
        # Leaves room for what is in a message besides the pictures.
        most_bytes = int(client.get_meta().get("grpcMaxMessageSize", _MESSAGE_BYTES)) * 9 // 10
        collection = client.collections.use(options.collection)
        start, sent, present = time.monotonic(), 0, 0
        with tqdm(total=len(pictures), unit=" pictures", smoothing=0.1) as bar:
            for first in range(0, len(pictures), options.batch_size):
                batch = pictures[first : first + options.batch_size]
                there = set() if options.overwrite else existing(collection, batch)
                present += len(there)
                bar.update(len(there))
                missing = [picture for picture in batch if picture.id not in there]
                for group, objects in load(missing, most_bytes, failures):
                    for picture, reason in insert(collection, group, objects):
                        failures.add(picture, reason)
                    sent += len(objects)
                bar.update(len(missing))
        seconds = time.monotonic() - start
        imported = len(pictures) - present - failures.count
        rate = f" ({sent / seconds:.1f} pictures/s)" if sent else ""
        print(f"imported {imported}, there already {present}, failed {failures.count} in {seconds:.1f} s{rate}")
        if failures.count:
            print(f"{failures.path} says what failed and why; run the same command again to retry just that")
    return 1 if failures.count else 0


def read_csv(path: Path, collection: str) -> list[Picture]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Failed(f"cannot read {path}: {error}") from error
    if not rows:
        raise Failed(f"{path} has no rows")
    if "path" not in rows[0]:
        raise Failed(f"{path} has no column `path`, only {', '.join(rows[0])}")
    pictures: list[Picture] = []
    lines: dict[str, int] = {}
    for line, row in enumerate(rows, 2):
        key = row.get("id") or row["path"]
        if not row["path"]:
            raise Failed(f"{path}, row {line}: `path` is empty")
        if key in lines:
            raise Failed(f"{path}, row {line}: {key} is in row {lines[key]} already; give each row its own id")
        lines[key] = line
        text = (row.get("name") or "").strip()
        pictures.append(Picture(object_id(collection, key), path.parent / row["path"], row["path"], text))
    return pictures


def read_folder(folder: Path, collection: str, names_as_text: bool) -> list[Picture]:
    if not folder.is_dir():
        raise Failed(f"{folder} is neither a folder nor a CSV file")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise Failed(f"no pictures in {folder}; looked for {' '.join(sorted(_SUFFIXES))}")
    pictures = []
    for path in paths:
        key = path.relative_to(folder).as_posix()
        text = " ".join(path.stem.replace("_", " ").replace("-", " ").split()) if names_as_text else ""
        pictures.append(Picture(object_id(collection, key), path, key, text))
    return pictures


def existing(collection: Collection, pictures: list[Picture]) -> set[uuid.UUID]:
    """The ids that the collection has already."""
    answer = collection.query.fetch_objects(
        filters=Filter.by_id().contains_any([picture.id for picture in pictures]),
        limit=len(pictures),
        return_properties=[],
    )
    return {each.uuid for each in answer.objects}


def load(
    pictures: list[Picture], most_bytes: int, failures: FailureFile
) -> Iterator[tuple[list[Picture], list[DataObject]]]:
    """Groups of pictures that fit one message, with their objects; files that cannot be read are listed."""
    group: list[Picture] = []
    objects: list[DataObject] = []
    size = 0
    for picture in pictures:
        try:
            image = base64.b64encode(picture.path.read_bytes()).decode()
        except OSError as error:
            failures.add(picture, f"cannot read the file: {error.strerror or error}")
            continue
        if group and size + len(image) > most_bytes:
            yield group, objects
            group, objects, size = [], [], 0
        properties = {"image": image, "path": picture.shown_path}
        if picture.text:  # an empty text would be vectorized too, and mixed in
            properties["name"] = picture.text
        group.append(picture)
        objects.append(DataObject(properties=properties, uuid=picture.id))
        size += len(image)
    if group:
        yield group, objects


def insert(collection: Collection, pictures: list[Picture], objects: list[DataObject]) -> list[tuple[Picture, str]]:
    """Send objects; what failed, with Weaviate's reason. Raises Failed if it makes no sense to go on."""
    try:
        result = collection.data.insert_many(objects)
    except WeaviateInsertManyAllFailedError as error:
        # The client does not say which reason belongs to which object.
        cause: WeaviateBaseError = error
    except WeaviateBaseError as error:
        if not collection_answers(collection):
            raise Failed(
                f"Weaviate no longer answers ({one_line(error)}); run the same command again to go on"
            ) from error
        cause = error
    else:
        return [(pictures[index], one_line(error.message)) for index, error in sorted(result.errors.items())]
    reason = one_line(cause)
    if _CONTAINER_IS_DOWN.search(reason):
        raise Failed(
            f"the container no longer answers Weaviate ({reason}); run the same command again to go on"
        ) from cause
    if len(objects) == 1:
        return [(pictures[0], reason)]
    half = len(objects) // 2
    return insert(collection, pictures[:half], objects[:half]) + insert(collection, pictures[half:], objects[half:])


def collection_answers(collection: Collection) -> bool:
    try:
        return collection.exists()
    except Exception:
        return False


if __name__ == "__main__":
    run(main)
