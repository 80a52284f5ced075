"""Asking a server on whose engine a test decides, and waiting for what must happen."""

import time
from collections.abc import Callable
from typing import Any

import httpx

BATCH = {"max_batch": 8}


def ask(url: str, texts: list[str] | None = None, images: list[str] | None = None) -> httpx.Response:
    payload: dict[str, Any] = {"texts": texts} if texts is not None else {}
    if images is not None:
        payload["images"] = images
    return httpx.post(f"{url}/vectorize", json=payload, timeout=60)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
