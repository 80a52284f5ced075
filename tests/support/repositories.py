"""Model repositories in folders, changed as people's are, baked and loaded in this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from app.families.registry import named_family
from app.processors.padding import collate
from app.towers import TorchModel, TorchTower

Tensors = dict[str, torch.Tensor]


def bake_and_load(names: dict[str, str], models: Path) -> TorchModel:
    """What download.py writes into `models`, loaded as the server loads it. `names` may hold paths of folders."""
    family = named_family(names)
    models.mkdir(parents=True)
    family.bake(names, False, models.parent / f"{models.name}-downloads", models)
    return family.load(models, False)


def with_weights(source: Path, target: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a repository with its one file of safetensors changed."""
    shutil.copytree(source, target)
    (path,) = target.rglob("*.safetensors")
    save_file(change(load_file(path)), path, {"format": "pt"})
    return target


def without(word: str) -> Callable[[Tensors], Tensors]:
    """The tensors without those whose names hold `word`."""
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if word not in name}


def renamed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def reshaped(word: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: torch.zeros(3, 5) if word in name else tensor for name, tensor in tensors.items()}


def change_json(path: Path, **values: Any) -> None:
    """Set `values` in a JSON file; None removes a key."""
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def embed(tower: TorchTower, items: list[Any]) -> np.ndarray:
    """Vectors of single items, float32 (items, width)."""
    rows = []
    with torch.inference_mode():
        for item in items:
            batch = collate([tower.processor(item)], tower.padding)
            rows.append(tower.module(**{name: torch.from_numpy(array) for name, array in batch.items()}).numpy())
    return np.concatenate(rows)


def ids_of(tower: TorchTower, text: str) -> list[int]:
    ids: list[int] = tower.processor(text)["input_ids"].tolist()
    return ids
