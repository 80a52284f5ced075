"""CLIP inference service for Weaviate's multi2vec-clip module."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`uvicorn app:app` makes the application when it asks for it, not on import."""
    if name == "app":
        from app.main import create_app
        from app.settings import load_settings

        return create_app(load_settings())
    raise AttributeError(name)
