"""The commands `check`, `embed` and `compile` of `python -m app`."""

import argparse
import asyncio
import base64
import io
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from app.cli.bake import busy
from app.errors import CompilingFailed, ConfigurationError, ServiceError
from app.serving.item import Caller
from app.settings import Settings, load_settings
from app.towers import Vectors

_TEXT = "a red circle"


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit status: 0, or 1 after printing the reason."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # A failure is printed once, below.
    logging.getLogger("app.serving.service").setLevel(logging.CRITICAL + 1)
    try:
        settings = load_settings(arguments.settings)
        if arguments.command == "compile":
            from app.models.compile import compile_model

            with busy("compiling the model"):
                print(compile_model(settings, arguments.output or settings.models_dir / "compiled"))
        elif arguments.command == "check":
            asyncio.run(_check(settings, arguments.settings, show_all=arguments.show_all))
        else:
            asyncio.run(_print_embedded(settings, arguments.texts, arguments.images, arguments.as_json))
    except (ConfigurationError, CompilingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


@dataclass(frozen=True)
class _Embedded:
    """Vectors of texts and pictures, float32 (items, width), how long they took, and what computed them."""

    texts: Vectors
    images: Vectors
    seconds: float
    model: str

    def similarities(self) -> Vectors:
        """Cosine similarity of each picture to each text, float32 (pictures, texts)."""
        images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (self.images, self.texts))
        table: Vectors = images @ texts.T
        return table


async def _embed(settings: Settings, texts: Sequence[str], images: Sequence[bytes]) -> _Embedded:
    """Raises ConfigurationError that names the item at fault, or says why the model does not load."""
    from app.main import create_app
    from app.serving.service import Service

    app = create_app(settings.model_copy(update={"client_timeout": 3600.0}), on_failure=lambda: None)
    service: Service = app.state.service
    encoded = [base64.b64encode(image) for image in images]
    async with app.router.lifespan_context(app):
        try:
            running = await service.running()
            started = time.perf_counter()
            rows = await running.preparing.vectorize([text.encode() for text in texts], encoded, Caller())
        except ServiceError as error:
            raise ConfigurationError(str(error)) from error
        return _Embedded(*rows, time.perf_counter() - started, running.model.title)


async def _print_embedded(settings: Settings, texts: Sequence[str], images: Sequence[Path], as_json: bool) -> None:
    """Print vectors as JSON, or the table of similarities where there are texts and pictures."""
    from app.api.vectorize import dump_response

    if not texts and not images:
        raise ConfigurationError("there is nothing to embed; give --text or --image")
    try:
        files = [path.read_bytes() for path in images]
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read: {error.strerror}") from error
    embedded = await _embed(settings, texts, files)
    if as_json or not texts or not images:
        print(b"".join(dump_response(embedded.texts, embedded.images)).decode())
        return
    table = Table(title=f"cosine similarity ({embedded.model}, {embedded.seconds * 1000:.0f} ms)")
    table.add_column("picture")
    for text in texts:
        table.add_column(text, justify="right")
    for path, row in zip(images, embedded.similarities(), strict=True):
        best = int(row.argmax())
        cells = [f"[bold]{value:.3f}[/bold]" if at == best else f"{value:.3f}" for at, value in enumerate(row)]
        table.add_row(path.name, *cells)
    Console().print(table)


async def _check(settings: Settings, options: Mapping[str, str], *, show_all: bool) -> None:
    """Embed a text and a picture of it. `options` are the settings that the command line named."""
    console = Console(soft_wrap=True)
    table = Table("setting", "value", "from", title="settings")
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if show_all or value != field.default:
            table.add_row(name.upper(), "" if value is None else str(value), _origin(name, options))
    console.print(table if table.row_count else "every setting is at its default (--all shows them)")
    embedded = await _embed(settings, [_TEXT], [_picture()])
    lengths = (float(np.linalg.norm(rows[0])) for rows in (embedded.texts, embedded.images))
    console.print(
        f"{embedded.model}: vectors of width {embedded.texts.shape[1]}, {embedded.seconds * 1000:.0f} ms for a text "
        "and a picture\n"
        "length of the text's vector {:.4f}, of the picture's {:.4f}\n".format(*lengths)
        + f'similarity of "{_TEXT}" to a picture of one: {embedded.similarities()[0, 0]:.4f}'
    )


def _origin(name: str, options: Mapping[str, str]) -> str:
    if name in options:
        return f"--{name.replace('_', '-')}"
    return "environment" if os.environ.get(name.upper()) else "default"


def _picture() -> bytes:
    image = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(image).ellipse((52, 52, 172, 172), fill="red")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
