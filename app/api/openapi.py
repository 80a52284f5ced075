"""What OpenAPI says of the app as a whole, beyond its routes."""

import re
from typing import Any

from fastapi import FastAPI

_SCHEMES = {"bearer": {"type": "http", "scheme": "bearer"}, "basic": {"type": "http", "scheme": "basic"}}


def ask_for_token(app: FastAPI, open_paths: re.Pattern[str]) -> None:
    """Say that every path asks for the token but those that match `open_paths`."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        document = describe()
        document.setdefault("components", {})["securitySchemes"] = _SCHEMES
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if open_paths.fullmatch(path) else [{name: []} for name in _SCHEMES]
        return document

    app.openapi = described  # type: ignore[method-assign]
