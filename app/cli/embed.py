"""Embedding from the command line, on the way that a request takes."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from app.api.schemas import dump_response
from app.errors import ConfigurationError, ServiceError
from app.main import create_app
from app.serving.service import Running, Service
from app.serving.timeline import Timeline
from app.settings import Settings
from app.towers import Vectors

T = TypeVar("T")


@dataclass(frozen=True)
class Embedded:
    """Vectors of texts and pictures, float32 (items, width), how long they took, and what computed them."""

    texts: Vectors
    images: Vectors
    seconds: float
    model: str


class _CommandLine:
    """Who waits here: somebody who does not leave."""

    timeline: Timeline | None = None

    def __init__(self) -> None:
        self.arrived = time.monotonic()

    async def wait(self, future: asyncio.Future[T]) -> T:
        return await future


@asynccontextmanager
async def running_model(settings: Settings) -> AsyncIterator[Running]:
    """The loaded model with all that serves it; raises ConfigurationError with the reason if it does not load."""
    patient = settings.model_copy(update={"client_timeout": 3600.0})
    app = create_app(patient, on_failure=lambda: None)
    service: Service = app.state.service
    async with app.router.lifespan_context(app):
        try:
            yield await service.running()
        except ServiceError as error:
            raise ConfigurationError(str(error)) from error


async def embed(settings: Settings, texts: Sequence[str], images: Sequence[bytes]) -> Embedded:
    """The vectors of texts and of the files of pictures; raises ConfigurationError that names the item at fault."""
    async with running_model(settings) as running:
        encoded = [base64.b64encode(image) for image in images]
        started = time.perf_counter()
        rows = await running.preparing.vectorize([text.encode() for text in texts], encoded, _CommandLine())
        return Embedded(*rows, time.perf_counter() - started, running.model.title)


async def print_embedded(settings: Settings, texts: Sequence[str], images: Sequence[Path], as_json: bool) -> None:
    """Print vectors as JSON, or the table of similarities where there are texts and pictures.

    Raises ConfigurationError if there is nothing to embed, a file cannot be read or an item is at fault.
    """
    if not texts and not images:
        raise ConfigurationError("there is nothing to embed; give --text or --image")
    try:
        files = [path.read_bytes() for path in images]
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read: {error.strerror}") from error
    embedded = await embed(settings, texts, files)
    if as_json or not texts or not images:
        print(b"".join(dump_response(embedded.texts, embedded.images)).decode())
        return
    table = Table(title=f"cosine similarity ({embedded.model}, {embedded.seconds * 1000:.0f} ms)")
    table.add_column("picture")
    for text in texts:
        table.add_column(text, justify="right")
    for path, row in zip(images, similarities(embedded.images, embedded.texts), strict=True):
        best = int(row.argmax())
        cells = [f"[bold]{value:.3f}[/bold]" if at == best else f"{value:.3f}" for at, value in enumerate(row)]
        table.add_row(path.name, *cells)
    Console().print(table)


def similarities(images: Vectors, texts: Vectors) -> Vectors:
    """Cosine similarity of each picture to each text, float32 (pictures, texts)."""
    scaled = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts)]
    table: Vectors = scaled[0] @ scaled[1].T
    return table
