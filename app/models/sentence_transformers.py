"""The sentence-transformers family: MODELS_DIR/clip for pictures, MODELS_DIR/text for texts."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from app.contract import ConfigurationError, Vectors
from app.models import Model
from app.settings import Settings

_HOW = "set MODELS_DIR to a folder with clip/ and text/ (demo: MODELS_DIR=demo/models)"
_LFS = b"version https://git-lfs"


def load(settings: Settings) -> Model:
    """Load both folders, once where they hold the same weights.

    Raises ConfigurationError that names the folder and says how to get a model.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # a baked model must never be looked up
    device = _device(settings)
    trust = trust_remote_code(settings)
    clip, text = settings.models_dir / "clip", settings.models_dir / "text"
    clip_digest, text_digest = check_folder(clip), check_folder(text)
    image_model = _load_folder(clip, device, trust)
    text_model = image_model if clip_digest == text_digest else _load_folder(text, device, trust)
    model = Model(
        text=_Tower(text_model, text),
        image=_Tower(image_model, clip),
        width=_width(image_model, clip, Image.new("RGB", (32, 32))),
        meta={"clip_model": read_config(clip), "text_model": read_config(text)},
    )
    text_width = _width(text_model, text, "a")
    if text_width != model.width:
        raise ConfigurationError(
            f"{text} gives vectors of width {text_width}, {clip} of width {model.width}; "
            "choose a text model that was made for this CLIP model"
        )
    return model


def trust_remote_code(settings: Settings) -> bool:
    """The file MODELS_DIR/trust_remote_code wins over the environment, as baked."""
    baked = settings.models_dir / "trust_remote_code"
    if baked.is_file():
        return baked.read_text().strip().lower() == "true"
    return settings.trust_remote_code


def check_folder(folder: Path) -> str:
    """Digest of the weights in a model folder; raises ConfigurationError if it is no whole model."""
    if not folder.is_dir():
        raise ConfigurationError(f"there is no model folder {folder}; {_HOW}")
    if not (folder / "modules.json").is_file():
        raise ConfigurationError(f"{folder} is no sentence-transformers model (no modules.json); {_HOW}")
    weights = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".bin"))
    if not weights:
        raise ConfigurationError(f"{folder} holds no weights; {_HOW}")
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md"):
        _check_file(path)
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _check_file(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(len(_LFS))
    if head == _LFS:
        raise ConfigurationError(f"{path} is a Git LFS pointer, not the file itself; run git lfs pull")
    if path.suffix != ".safetensors":
        return
    # Layout: 8 bytes of header length (little endian), a JSON header with byte offsets, the data.
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if 0 < length <= size - 8 else None
        except ValueError:
            header = None
    ends = [t["data_offsets"][1] for name, t in (header or {}).items() if name != "__metadata__"]
    if header is None or size != 8 + length + max(ends, default=0):
        raise ConfigurationError(f"{path} is cut off or damaged; download or copy the model again")


def read_config(folder: Path) -> dict[str, Any]:
    """The model's own config.json, wherever the layout keeps it."""
    for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        path = place / "config.json"
        if path.is_file():
            config: dict[str, Any] = json.loads(path.read_text())
            return config
    return {}


def _device(settings: Settings) -> str:
    if not settings.enable_cuda:
        return "cpu"
    index = int(settings.cuda_core.partition(":")[2] or 0)
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise ConfigurationError(
            f"ENABLE_CUDA is set, but {settings.cuda_core} is not there "
            f"({torch.cuda.device_count()} GPUs visible); start the container with --gpus all or unset it"
        )
    return settings.cuda_core


def _load_folder(folder: Path, device: str, trust: bool) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(
            str(folder.resolve()),
            device=device,
            trust_remote_code=trust,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32},
        )
    except Exception as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigurationError(f"cannot load the model in {folder}: {cause}; {_HOW}") from error
    return model.eval()


def _width(model: Any, folder: Path, sample: Any) -> int:
    try:
        return int(_Tower(model, folder)([sample]).shape[1])
    except Exception as error:
        kind = "texts" if isinstance(sample, str) else "pictures"
        raise ConfigurationError(f"the model in {folder} does not take {kind}; {_HOW}") from error


class _Tower:
    def __init__(self, model: Any, folder: Path) -> None:
        self._model = model
        self._folder = folder

    def __call__(self, items: list[Any]) -> Vectors:
        vectors = self._model.encode(items, batch_size=32, show_progress_bar=False, convert_to_numpy=True)
        return np.ascontiguousarray(vectors, dtype=np.float32)
