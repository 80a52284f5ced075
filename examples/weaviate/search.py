"""Search by words or by a picture; print the hits and draw them on a contact sheet."""

import base64
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

from clip_example import Failed, add_collection_option, connect, require_collection, run
from contact_sheet import draw_sheet
from weaviate.classes.config import DataType
from weaviate.classes.query import MetadataQuery, Move
from weaviate.collections import Collection
from weaviate.collections.classes.internal import Object


def number_between(lowest: float, highest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not lowest <= value <= highest:
            raise ArgumentTypeError(f"{text} is not between {lowest:g} and {highest:g}")
        return value

    return parse


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--text", help="words to search by")
    query.add_argument("--image", type=Path, help="picture to search by")
    force = number_between(0, 1)
    parser.add_argument("--move-to", nargs="+", metavar="TEXT", help="move the words' vector towards these texts")
    parser.add_argument("--move-to-force", type=force, default=0.5, help="0 to 1; 1 moves it half the way (0.5)")
    parser.add_argument("--move-away", nargs="+", metavar="TEXT", help="move the words' vector away from these")
    parser.add_argument("--move-away-force", type=force, default=0.5, help="0 to 1 (0.5)")
    threshold = parser.add_mutually_exclusive_group()
    threshold.add_argument("--distance", type=number_between(0, 2), help="only hits as near as this; 0 is nearest")
    threshold.add_argument("--certainty", type=number_between(0, 1), help="only hits as certain as this")
    parser.add_argument("--limit", type=int, default=10, help="most hits (10)")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="show the files of this folder, by path, not what is stored"
    )
    parser.add_argument("--sheet", type=Path, default=Path("hits.png"), help="contact sheet to write (hits.png)")
    add_collection_option(parser)
    options = parser.parse_args()
    if options.image and (options.move_to or options.move_away):
        parser.error("--move-to and --move-away work with --text only")
    if options.limit < 1:
        parser.error("--limit must be 1 or more")

    with connect() as client:
        require_collection(client, options.collection)
        collection = client.collections.use(options.collection)
        settings = {
            "distance": options.distance,
            "certainty": options.certainty,
            "limit": options.limit,
            "return_metadata": MetadataQuery(distance=True, certainty=True),
            "return_properties": ["name", "path", "image"],
        }
        fields = {each.name: each.data_type for each in collection.config.get().properties}
        only_hashes = fields.get("image") == DataType.BLOB_HASH
        if options.image:
            hits = search_by_image(collection, options.image, **settings)
        else:
            hits = collection.query.near_text(
                options.text,
                move_to=move(options.move_to, options.move_to_force),
                move_away=move(options.move_away, options.move_away_force),
                **settings,
            ).objects
    if not hits:
        print("no hits; raise --distance or lower --certainty, or import pictures first")
        return 0
    print_table(hits)
    tiles = [
        (f"{rank}   {hit.metadata.distance:.3f}", title, picture(hit, options.pictures))
        for rank, hit in enumerate(hits, 1)
        for title in [str(hit.properties.get("name") or hit.properties["path"])]
    ]
    draw_sheet(options.text or options.image, tiles).save(options.sheet)
    if only_hashes and not options.pictures:
        print("the collection stores no pictures; --pictures FOLDER shows those that were imported from there")
    print(f"the pictures are in {options.sheet}")
    return 0


def picture(hit: Object, folder: Path | None) -> bytes:
    """The stored picture, or the file in the folder; nothing if there is none."""
    if folder:
        path = folder / str(hit.properties["path"])
        return path.read_bytes() if path.is_file() else b""
    return base64.b64decode(str(hit.properties["image"]))


def move(texts: list[str] | None, force: float) -> Move | None:
    return Move(force=force, concepts=texts) if texts else None


def search_by_image(collection: Collection, path: Path, **settings: object) -> list[Object]:
    if not path.is_file():
        raise Failed(f"there is no file {path}")
    return collection.query.near_image(path, **settings).objects


def print_table(hits: list[Object]) -> None:
    names = [str(hit.properties.get("name") or "") for hit in hits]
    width = min(60, max(4, *map(len, names)))
    print(f"  # distance certainty {'name':{width}} path")
    for rank, (hit, name) in enumerate(zip(hits, names, strict=True), 1):
        metadata = hit.metadata
        print(
            f"{rank:3} {metadata.distance:8.4f} {metadata.certainty:9.4f} {shorten(name, width):{width}} "
            f"{hit.properties['path']}"
        )


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


if __name__ == "__main__":
    run(main)
