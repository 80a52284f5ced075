"""What Weaviate's multi2vec-clip module makes of the vectors, as its Go source says it (1.39)."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.support.weaviate_client import GoClient, ModuleError, Vector


@dataclass(frozen=True)
class ClassSettings:
    """The module's part of a class."""

    text_fields: tuple[str, ...] = ()
    image_fields: tuple[str, ...] = ()
    text_weights: tuple[float, ...] = ()
    image_weights: tuple[float, ...] = ()
    inference_url: str = ""

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> "ClassSettings":
        weights = config.get("weights", {})
        return cls(
            tuple(config.get("textFields", ())),
            tuple(config.get("imageFields", ())),
            tuple(weights.get("textFields", ())),
            tuple(weights.get("imageFields", ())),
            config.get("inferenceUrl", ""),
        )

    @property
    def weights(self) -> list[float] | None:
        """Normalised to a sum of 1; None without weights."""
        weights = [*self.text_weights, *self.image_weights]
        return [weight / sum(weights) for weight in weights] or None


@dataclass(frozen=True)
class Move:
    """moveTo or moveAwayFrom: texts, vectors of objects, or both."""

    force: float
    concepts: tuple[str, ...] = ()
    objects: tuple[Vector, ...] = ()


class Module:
    """Objects and queries to vectors."""

    def __init__(self, client: GoClient, at_once: int) -> None:
        self._client = client
        self._at_once = at_once

    def vectorize_object(self, properties: Mapping[str, Any], settings: ClassSettings) -> Vector:
        texts: list[str] = []
        images: list[str] = []
        for name, value in sorted(properties.items()):
            if isinstance(value, str):
                images += [value] * (name in settings.image_fields)
                texts += [value] * (name in settings.text_fields)
            elif isinstance(value, list) and name in settings.text_fields:
                texts += value
        if not texts and not images:
            return combine([], None)
        text_vectors, image_vectors = self._client.vectorize(texts, images, settings.inference_url)
        return combine([*text_vectors, *image_vectors], settings.weights)

    def vectorize_batch(
        self, objects: list[Mapping[str, Any]], settings: ClassSettings
    ) -> list[Vector | ModuleError]:
        """One request an object, so many at once; what failed is in its place as the error."""

        def one(properties: Mapping[str, Any]) -> Vector | ModuleError | IndexError:
            try:
                return self.vectorize_object(properties, settings)
            except (ModuleError, IndexError) as error:
                return error

        with ThreadPoolExecutor(self._at_once) as pool:
            results = list(pool.map(one, objects))
        for result in results:
            if isinstance(result, IndexError):  # a panic ends the whole batch
                return [ModuleError(f"panic occurred: runtime error: {result}")] * len(objects)
        return results

    def near_text(
        self,
        concepts: list[str],
        settings: ClassSettings,
        move_to: Move | None = None,
        move_away: Move | None = None,
    ) -> Vector:
        vector = self._texts(concepts, settings)
        if move_to and move_to.force > 0:
            half = np.float32(move_to.force * 0.5)
            vector = vector * (1 - half) + self._target(move_to, settings) * half
        if move_away and move_away.force > 0:
            half = np.float32(move_away.force * 0.5)
            vector = vector + half * (vector - self._target(move_away, settings))
        return vector

    def near_image(self, image: str, settings: ClassSettings) -> Vector:
        _, vectors = self._client.vectorize([], [image], settings.inference_url)
        if len(vectors) != 1:
            raise ModuleError("empty vector")
        return vectors[0]

    def _texts(self, texts: list[str], settings: ClassSettings) -> Vector:
        vectors, _ = self._client.vectorize(texts, [], settings.inference_url)
        if len(vectors) != len(texts):
            raise ModuleError("inputs are not equal to vectors returned")
        return combine(vectors, None)

    def _target(self, move: Move, settings: ClassSettings) -> Vector:
        words = [self._texts(list(move.concepts), settings)] if move.concepts else []
        return combine([*words, *move.objects], None)


def combine(vectors: list[Vector], weights: list[float] | None) -> Vector:
    """The weighted sum divided by the number of vectors, which are not normalised first.

    Raises IndexError, where Weaviate panics, if there are fewer weights than vectors.
    """
    if not vectors:
        return np.zeros(0, np.float32)
    if weights is None:
        return np.sum(vectors, axis=0, dtype=np.float32) / np.float32(len(vectors))
    if len(weights) < len(vectors):
        raise IndexError(f"index out of range [{len(weights)}] with length {len(weights)}")
    weighted = [vector * np.float32(weight) for vector, weight in zip(vectors, weights, strict=False)]
    return np.sum(weighted, axis=0, dtype=np.float32) / np.float32(len(vectors))


def cosine_distances(vector: Vector, others: Vector) -> Vector:
    """Of one vector to each row."""
    lengths = np.linalg.norm(vector) * np.linalg.norm(others, axis=-1)
    return 1 - others @ vector / lengths
