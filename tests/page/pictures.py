"""Pictures that the demo model knows, and some that nobody can read."""

import random
from pathlib import Path

from demo.world import Scene


def draw(path: Path, shape: str, colour: str, background: str, seed: int = 0) -> Path:
    """Write a picture of one large shape in the middle."""
    Scene(shape, colour, background, "large", 1, "centre").draw(random.Random(seed)).save(path)
    return path


def broken(path: Path) -> Path:
    """Write a JPEG that ends in the middle."""
    draw(path, "circle", "red", "white")
    path.write_bytes(path.read_bytes()[:1500])
    return path
