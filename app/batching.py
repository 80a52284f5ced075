"""Requests to vectors: pictures are decoded in a thread pool, one worker thread owns the device."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from app.contract import InvalidRequest, VectorizeRequest, Vectors
from app.images import decode_image
from app.models import Model, Tower
from app.settings import Settings

T = TypeVar("T")
_CHUNK = 16
_DECODERS = 2


class Batcher:
    """Owns the threads through which every request passes."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._device = ThreadPoolExecutor(1, "device")
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")

    async def vectorize(self, request: VectorizeRequest) -> tuple[Vectors, Vectors]:
        """Text vectors and image vectors, float32, each of shape (items, width), in order.

        Raises InvalidRequest that names the first item at fault.
        """
        texts, images = request.texts or [], request.images or []
        image_vectors = await self._embed(self._model.image, images, self._decode)
        text_vectors = await self._embed(self._model.text, texts, _same)
        return text_vectors, image_vectors

    async def _embed(self, tower: Tower, items: list[str], prepare: Callable[[int, str], Any]) -> Vectors:
        loop = asyncio.get_running_loop()
        rows: dict[str, int] = {}
        for item in items:
            rows.setdefault(item, len(rows))
        first = {item: items.index(item) for item in rows}
        unique = list(rows)
        parts: list[Vectors] = [np.empty((0, self._model.width), np.float32)]
        for start in range(0, len(unique), _CHUNK):
            prepared = await asyncio.gather(
                *(
                    loop.run_in_executor(self._decoders, prepare, first[item], item)
                    for item in unique[start : start + _CHUNK]
                )
            )
            parts.append(await loop.run_in_executor(self._device, tower, list(prepared)))
        return np.ascontiguousarray(np.concatenate(parts)[[rows[item] for item in items]])

    def _decode(self, index: int, text: str) -> Any:
        try:
            return decode_image(text, self._settings.max_pixels, self._settings.legacy_images)
        except InvalidRequest as error:
            raise InvalidRequest(f"images[{index}]: {error}") from error

    def close(self) -> None:
        """Wait for what runs, then end the threads."""
        self._decoders.shutdown()
        self._device.shutdown()


def _same(index: int, text: str) -> str:
    return text
