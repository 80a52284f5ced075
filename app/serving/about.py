"""What serves, in words: for the log, the metrics and the page."""

from typing import Any

from app.towers import LoadedModel
from app.version import VERSION

_LONGEST_NAME = 200


def about(model: LoadedModel) -> dict[str, str]:
    """Model, family, engine, precision and version of the server."""
    return {
        "model": model_name(model.meta),
        "family": model.family,
        "engine": model.engine,
        "precision": model.precision,
        "version": VERSION,
    }


def model_name(meta: dict[str, Any]) -> str:
    """A name for the model from its own configuration, which need not have one."""
    config = meta.get("clip_model", meta)
    for key in ("model_name", "_name_or_path", "name_or_path", "model_type"):
        name = config.get(key)
        # A path of the machine on which it was saved is no name.
        if isinstance(name, str) and name and not name.startswith("/"):
            return name[:_LONGEST_NAME]
    return "multi2vec-clip"
