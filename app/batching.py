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
_CHUNK = 8
_DECODERS = 2
# Decoded pictures are large: at most this many chunks hold them, whatever the number of requests.
_CHUNKS_IN_MEMORY = 2


class Batcher:
    """Owns the threads through which every request passes."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._device = ThreadPoolExecutor(1, "device")
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")
        self._image_chunks = asyncio.Semaphore(_CHUNKS_IN_MEMORY)
        self._text_chunks = asyncio.Semaphore(_CHUNKS_IN_MEMORY)

    async def vectorize(self, request: VectorizeRequest) -> tuple[Vectors, Vectors]:
        """Text vectors and image vectors, float32, each of shape (items, width), in order.

        Raises InvalidRequest that names the first item at fault.
        """
        texts, images = request.texts or [], request.images or []
        image_vectors = await self._embed(self._model.image, images, self._decode, self._image_chunks)
        text_vectors = await self._embed(self._model.text, texts, _same, self._text_chunks)
        return text_vectors, image_vectors

    async def _embed(
        self, tower: Tower, items: list[str], prepare: Callable[[int, str], Any], chunks: asyncio.Semaphore
    ) -> Vectors:
        loop = asyncio.get_running_loop()
        rows: dict[str, int] = {}
        first: dict[str, int] = {}
        for index, item in enumerate(items):
            rows.setdefault(item, len(rows))
            first.setdefault(item, index)
        unique = list(rows)
        parts: list[Vectors] = [np.empty((0, self._model.width), np.float32)]
        for start in range(0, len(unique), _CHUNK):
            async with chunks:
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
