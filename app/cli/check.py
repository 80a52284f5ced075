"""Does the model load, and does it embed? With which settings?"""

import io
import os
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from app.cli.embed import embed, similarities
from app.settings import Settings

_TEXT = "a red circle"


async def print_check(settings: Settings, options: Mapping[str, str]) -> None:
    """Print every setting with where it came from, then embed a text and a picture and print what came out.

    `options` are the settings that the command line named. Raises ConfigurationError with the reason if the
    model does not load or does not embed.
    """
    console = Console(soft_wrap=True)
    table = Table("setting", "value", "from", title="settings")
    for name in Settings.model_fields:
        value = getattr(settings, name)
        table.add_row(name.upper(), "" if value is None else str(value), _origin(name, options))
    console.print(table)
    embedded = await embed(settings, [_TEXT], [_picture()])
    lengths = (float(np.linalg.norm(rows[0])) for rows in (embedded.texts, embedded.images))
    console.print(
        f"{embedded.model}: vectors of width {embedded.texts.shape[1]}, {embedded.seconds * 1000:.0f} ms for a text "
        "and a picture\n"
        "length of the text's vector {:.4f}, of the picture's {:.4f}\n".format(*lengths)
        + f'similarity of "{_TEXT}" to a picture of one: {similarities(embedded.images, embedded.texts)[0, 0]:.4f}'
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
