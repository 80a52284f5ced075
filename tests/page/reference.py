"""What the page should show, computed from the server's own answers."""

import base64
from pathlib import Path

import httpx
import numpy as np


def vectors(url: str, texts: list[str], pictures: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Text vectors and picture vectors, float64 (items, width), each item asked for by itself."""

    def ask(body: dict[str, list[str]], key: str) -> list[float]:
        response = httpx.post(f"{url}/vectorize", json=body, timeout=60)
        assert response.status_code == 200, response.text
        row: list[float] = response.json()[key][0]
        return row

    images = [base64.b64encode(path.read_bytes()).decode() for path in pictures]
    return (
        np.array([ask({"texts": [text]}, "textVectors") for text in texts]),
        np.array([ask({"images": [image]}, "imageVectors") for image in images]),
    )


def similarities(url: str, texts: list[str], pictures: list[Path]) -> np.ndarray:
    """Cosines, (texts, pictures)."""
    rows, columns = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in vectors(url, texts, pictures))
    return np.asarray(rows @ columns.T)
