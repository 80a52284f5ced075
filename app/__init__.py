"""CLIP inference service for Weaviate's multi2vec-clip module."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`uvicorn app:app` makes the application when it asks for it, not on import."""
    if name == "app":
        from app.settings import load_settings

        settings = load_settings()
        # What this imports fails on wrong variables, with a message that helps nobody.
        from app.main import create_app

        return create_app(settings)
    raise AttributeError(name)
