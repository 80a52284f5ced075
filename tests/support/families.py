"""What the tests of every model family share: baking from a small hub, serving offline, comparing."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from tests.support.baking import download
from tests.support.hub import serve_hub
from tests.support.vectors import TEXTS, ask, assert_same, pictures

EmbedTexts = Callable[[list[str]], np.ndarray]
EmbedImages = Callable[[list[Image.Image]], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A family: how a model of it is made for the hub, named for download.py, laid out by the old one, and used.

    `reference` gives the embeddings of single texts and pictures through the family's library.
    """

    make: Callable[[Path], dict[str, Path]]
    names: dict[str, str]
    lay_out_as_before: Callable[[dict[str, Path], Path], None]
    reference: Callable[[dict[str, Path]], tuple[EmbedTexts, EmbedImages]]


def bake(case: Case, hub: dict[str, Path], models: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(serve_hub(hub)).url
        result = download(url, models, **case.names)
    assert result.returncode == 0, result.stderr[-3000:]


def assert_like_reference(case: Case, hub: dict[str, Path], url: str) -> dict[str, Any]:
    """The server's vectors equal the reference's; returns what GET /meta says."""
    texts, images = reference_vectors(case, hub)
    got = ask(url)
    assert_same(got["textVectors"], texts)
    assert_same(got["imageVectors"], images)
    meta: dict[str, Any] = httpx.get(f"{url}/meta").json()
    return meta


def reference_vectors(case: Case, hub: dict[str, Path]) -> tuple[np.ndarray, np.ndarray]:
    """What the family's library gives for TEXTS and pictures(), in float32, each alone."""
    texts, images = case.reference(hub)
    with torch.inference_mode():
        return (
            np.concatenate([texts([text]) for text in TEXTS]),
            np.concatenate([images([picture]) for picture in pictures()]),
        )


def as_hub_cache(model: Path, cache: Path, name: str) -> Path:
    """Lay a model out as the hub's client caches it; returns the folder of the snapshot."""
    root = cache / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / "0123abcd"
    for number, path in enumerate(sorted(model.rglob("*"))):
        if not path.is_file():
            continue
        blob = root / "blobs" / f"{number:064x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
        link = snapshot / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * len(link.relative_to(root).parts[:-1])) / "blobs" / blob.name)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123abcd")
    return snapshot
