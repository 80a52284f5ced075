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
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

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

            print("compiling the model", file=sys.stderr)
            print(compile_model(settings, arguments.output or settings.models_dir / "compiled"))
        elif arguments.command == "check":
            asyncio.run(_check(settings, arguments.settings, show_all=arguments.show_all))
        else:
            asyncio.run(_print_embedded(settings, arguments.texts, arguments.images, arguments.as_json))
    except (ConfigurationError, CompilingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


async def _embed(settings: Settings, texts: Sequence[str], images: Sequence[bytes]) -> tuple[Vectors, Vectors, str]:
    """Vectors of texts and of pictures, float32 (items, width), and what computed them in which time.

    Raises ConfigurationError that names the item at fault, or says why the model does not load.
    """
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
        return *rows, f"{running.model.title}, {(time.perf_counter() - started) * 1000:.0f} ms"


async def _print_embedded(settings: Settings, texts: Sequence[str], paths: Sequence[Path], as_json: bool) -> None:
    """Print vectors as JSON, or the similarities where there are texts and pictures."""
    from app.api.vectorize import dump_response

    if not texts and not paths:
        raise ConfigurationError("there is nothing to embed; give --text or --image")
    try:
        files = [path.read_bytes() for path in paths]
    except OSError as error:
        raise ConfigurationError(f"{error.filename} cannot be read: {error.strerror}") from error
    of_texts, of_images, how = await _embed(settings, texts, files)
    if as_json or not texts or not paths:
        print(b"".join(dump_response(of_texts, of_images)).decode())
        return
    print(f"cosine similarity ({how})")
    for path, row in zip(paths, _similarities(of_images, of_texts), strict=True):
        for text, similarity in zip(texts, row, strict=True):
            print(f"{similarity:6.3f}  {path.name}  {text}")


async def _check(settings: Settings, options: Mapping[str, str], *, show_all: bool) -> None:
    """Print the settings that are not at their default, or all, and embed a text and a picture of it.

    `options` are the settings that the command line named.
    """
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if show_all or value != field.default:
            option = f"--{name.replace('_', '-')}" if name in options else None
            origin = option or ("environment" if os.environ.get(name.upper()) else "default")
            print(f"{name.upper()}={'' if value is None else value} ({origin})")
    text, image, how = await _embed(settings, [_TEXT], [_picture()])
    lengths = (float(np.linalg.norm(rows[0])) for rows in (text, image))
    print(f"{how} for a text and a picture: vectors of width {text.shape[1]}")
    print("length of the text's vector {:.4f}, of the picture's {:.4f}".format(*lengths))
    print(f'similarity of "{_TEXT}" to a picture of one: {_similarities(image, text)[0, 0]:.4f}')


def _similarities(images: Vectors, texts: Vectors) -> Vectors:
    """Cosine similarity of each picture to each text, float32 (pictures, texts)."""
    images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts))
    table: Vectors = images @ texts.T
    return table


def _picture() -> bytes:
    image = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(image).ellipse((52, 52, 172, 172), fill="red")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
