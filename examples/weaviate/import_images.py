"""Import the pictures of a folder, or those that a CSV names; run it again to go on or to retry.

A CSV has the columns path (from the CSV's folder), name (the text; may be missing or empty) and id
(a key that stays the same; the path if missing). While Weaviate or its container is away, the import
waits and then sends again what failed meanwhile. What is wrong with a picture is listed in a file.
"""

import base64
import csv
import time
import uuid
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clip_example import (
    Failed,
    add_collection_option,
    connect,
    object_id,
    require_collection,
    run,
)
from sender import Sender
from tqdm import tqdm
from weaviate.classes.data import DataObject

_SUFFIXES = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

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
    parser.add_argument(
        "--wait",
        type=float,
        default=10,
        metavar="MINUTES",
        help="how long to wait for Weaviate and its container if they are away (10)",
    )
    options = parser.parse_args()
    if options.batch_size < 1:
        parser.error("--batch-size must be 1 or more")
    if options.wait < 0:
        parser.error("--wait must be 0 or more")

    if options.source.suffix.lower() == ".csv":
        pictures = read_csv(options.source, options.collection)
    else:
        pictures = read_folder(options.source, options.collection, options.names_as_text)
    failures = FailureFile(options.failures)
    with connect() as client:
        inference_url = require_collection(client, options.collection)
        with tqdm(total=len(pictures), unit=" pictures", smoothing=0.1) as bar:
            sender = Sender(client, options.collection, inference_url, options.wait * 60, bar.set_postfix_str)
            sender.wait_for_container()
            # Leaves room for what is in a message besides the pictures.
            most_bytes = int(client.get_meta().get("grpcMaxMessageSize", _MESSAGE_BYTES)) * 9 // 10
            start, sent, present = time.monotonic(), 0, 0
            for first in range(0, len(pictures), options.batch_size):
                batch = pictures[first : first + options.batch_size]
                there = set() if options.overwrite else sender.existing([picture.id for picture in batch])
                present += len(there)
                bar.update(len(there))
                missing = [picture for picture in batch if picture.id not in there]
                for group, objects in load(missing, most_bytes, failures):
                    for index, reason in sender.send(objects).items():
                        failures.add(group[index], reason)
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


if __name__ == "__main__":
    run(main)
