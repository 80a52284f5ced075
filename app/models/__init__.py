"""Model families: which folders they read and how a text or a picture becomes a vector."""

from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from app.contract import Vectors
from app.settings import Settings


class Tower(Protocol):
    """One half of a model. Not safe to call from two threads at once."""

    def __call__(self, items: list[Any]) -> Vectors:
        """Vectors of shape (items, width), float32, one a text (str) or picture (RGB)."""
        ...


@dataclass(frozen=True)
class Model:
    """A loaded model. `meta` is what GET /meta reports."""

    text: Tower
    image: Tower
    width: int
    meta: dict[str, Any]

    def warm_up(self) -> None:
        """Run a first inference of each kind."""
        self.text(["warm up"])
        self.image([Image.new("RGB", (64, 64))])


def load_model(settings: Settings) -> Model:
    """Load the model below `settings.models_dir`; raises ConfigurationError."""
    from app.models import sentence_transformers

    return sentence_transformers.load(settings)
