"""Create the collection: a picture and a text, combined by weight into one vector."""

from argparse import ArgumentParser

from clip_example import Failed, add_collection_option, check_container, connect, run
from weaviate import WeaviateClient
from weaviate.classes.config import Configure, DataType, Multi2VecField, Property, VectorDistances

_BLOB_HASH_SINCE = 1, 37


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    add_collection_option(parser)
    parser.add_argument("--text-weight", type=float, help="weight of the text's vector (0.7); 0 leaves it out")
    parser.add_argument("--image-weight", type=float, help="weight of the picture's vector (0.3); 0 leaves it out")
    parser.add_argument(
        "--blob-hash",
        action="store_true",
        help="store a hash of each picture instead of the picture; the picture alone makes the vector then",
    )
    parser.add_argument("--inference-url", help="container for this collection alone, as Weaviate reaches it")
    parser.add_argument("--recreate", action="store_true", help="delete the collection and its objects first")
    options = parser.parse_args()
    if options.blob_hash and (options.text_weight or options.image_weight == 0):
        parser.error("with --blob-hash the picture alone makes the vector: leave the weights out")
    text_weight, image_weight = (0.0, 1.0) if options.blob_hash else (options.text_weight, options.image_weight)
    text_weight = 0.7 if text_weight is None else text_weight
    image_weight = 0.3 if image_weight is None else image_weight
    if text_weight < 0 or image_weight < 0 or text_weight + image_weight == 0:
        parser.error("weights must be 0 or more, and one of them more than 0")

    with connect() as client:
        check_container(client, options.inference_url)
        if options.blob_hash:
            check_version(client, _BLOB_HASH_SINCE, "--blob-hash")
        if client.collections.exists(options.collection):
            if not options.recreate:
                raise Failed(
                    f"there is a collection {options.collection} already; "
                    "--recreate deletes it and all its objects first"
                )
            client.collections.delete(options.collection)
        client.collections.create(
            options.collection,
            description="Pictures with their texts",
            properties=[
                Property(name="name", data_type=DataType.TEXT),
                Property(name="image", data_type=DataType.BLOB_HASH if options.blob_hash else DataType.BLOB),
                Property(name="path", data_type=DataType.TEXT, description="where the picture came from"),
            ],
            # Only fields named here are vectorized: `path` is not.
            vector_config=Configure.Vectors.multi2vec_clip(
                text_fields=fields("name", text_weight),
                image_fields=fields("image", image_weight),
                # Weaviate appends /vectorize to it.
                inference_url=options.inference_url.rstrip("/") if options.inference_url else None,
                vector_index_config=Configure.VectorIndex.hnsw(distance_metric=VectorDistances.COSINE),
            ),
        )
    stored = "; pictures are stored as hashes" if options.blob_hash else ""
    print(f"created {options.collection}: text {text_weight:g}, image {image_weight:g}{stored}")
    return 0


def check_version(client: WeaviateClient, since: tuple[int, int], option: str) -> None:
    version = client.get_meta()["version"]
    if tuple(int(part) for part in version.split(".")[:2]) < since:
        raise Failed(f"{option} needs Weaviate {since[0]}.{since[1]} or newer, and this is {version}")


def fields(name: str, weight: float) -> list[Multi2VecField] | None:
    # Weaviate gives the picture of an object without a text the text's weight; were that 0, so were its vector.
    return [Multi2VecField(name=name, weight=weight)] if weight else None


if __name__ == "__main__":
    run(main)
