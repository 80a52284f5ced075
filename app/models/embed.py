"""One tower on the calling thread: what loading, checking and measuring need."""

from typing import Any

from app.errors import ConfigurationError
from app.processors.padding import collate
from app.towers import Tower, Vectors


def embed(tower: Tower, items: list[Any]) -> Vectors:
    """Vectors of shape (items, width), float32, computed as one batch."""
    return tower.session.start(collate([tower.processor(item) for item in items], tower.padding))()


def common_width(text: int, image: int) -> int:
    """The width of both towers; raises ConfigurationError if they differ."""
    if text != image:
        raise ConfigurationError(
            f"the text model gives vectors of width {text}, the image model of width {image}; "
            "choose a text model that was made for this image model"
        )
    return image
