"""Every kind of processor by the name that its description bears."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.processors.image import ImageProcessor, PatchProcessor, TileProcessor
from app.processors.text import TextProcessor
from app.towers import Processor

KINDS: dict[str, type[ImageProcessor | PatchProcessor | TextProcessor | TileProcessor]] = {
    "crop": ImageProcessor,
    "patches": PatchProcessor,
    "tiles": TileProcessor,
    "tokens": TextProcessor,
}

_TOKENIZER = "tokenizer.json"


def describe(processor: Processor, folder: Path) -> dict[str, Any] | None:
    """JSON for from_description(), files that belong to it in `folder`; None for a library's own processor."""
    for kind, cls in KINDS.items():
        if isinstance(processor, cls):
            if isinstance(processor, TextProcessor):
                (folder / _TOKENIZER).write_text(processor.tokenizer.to_str(), encoding="utf-8")
            return {"kind": kind, **asdict(processor)}
    return None


def from_description(description: dict[str, Any], folder: Path) -> Processor:
    """The processor that describe() described; raises KeyError for a kind that is not known here."""
    fields = dict(description)
    cls = KINDS[fields.pop("kind")]
    if cls is TextProcessor:
        return cls((folder / _TOKENIZER).read_text(encoding="utf-8"), **fields)
    return cls(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
