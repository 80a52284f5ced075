"""Models and processors as transformers saves them, from a folder or from the hub."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from app.errors import ConfigurationError
from app.families.folders import WEIGHTS, content_files, loading, read_config, with_hub_cache
from app.families.hub import download, wanted_files
from app.families.registry import Family
from app.families.tokenizer import require_vocabulary, use_tokenizer_json
from app.families.weights import load_with_transformers
from app.towers import TorchModel

# The repository in "OWNER/NAME--module.Class", as an auto_map names code in another repository.
_CODE_ELSEWHERE = re.compile(r'"([\w.-]+/[\w.-]+?)--(?=[\w.]+")')
# What bakes a model of this type.
VARIABLES = {
    **dict.fromkeys(
        ("clip", "metaclip_2", "chinese_clip"),
        "CLIP_MODEL_NAME and TEXT_MODEL_NAME, with CLIP_MODEL_TYPE=openai",
    ),
    **dict.fromkeys(("siglip", "siglip2"), "SIGLIP_MODEL_NAME"),
    "modernvbert": "COLPALI_ENGINE_MODEL_NAME",
}


def load_saved(
    family: Family,
    models_dir: Path,
    trust_remote_code: bool,
    make_towers: Callable[[Any, Any, dict[str, Any]], TorchModel],
    classes: tuple[Any, Any] | None = None,
) -> TorchModel:
    """What `make_towers` makes of model, processor and config.json; raises ConfigurationError.

    The `classes` of both are AutoModel and AutoProcessor if none are given. The model is on the CPU, in float32. The
    processor prepares pictures with Pillow, also where torchvision is installed: vectors must not depend on that.
    """
    from transformers import AutoModel, AutoProcessor

    # The old download.py left some in hub caches below these folders.
    model_folder = with_hub_cache(models_dir / family.folders[0].name, "*.safetensors")
    processor_folder = with_hub_cache(models_dir / family.folders[-1].name, "tokenizer*")
    model_class, processor_class = classes or (AutoModel, AutoProcessor)
    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}

    def load(more: dict[str, Any]) -> Any:
        return model_class.from_pretrained(model_folder.resolve(), dtype=torch.float32, **options, **more).eval()

    with loading(model_folder):
        model = load_with_transformers(model_folder, load)
    require_vocabulary(processor_folder)
    with loading(processor_folder):
        processor = processor_class.from_pretrained(processor_folder.resolve(), backend="pil", **options)
        use_tokenizer_json(processor.tokenizer, processor_folder)
        processor.tokenizer.padding_side = processor.tokenizer.truncation_side = "right"
    with loading(model_folder):
        return make_towers(model, processor, read_config(model_folder))


def bake_model(
    family: Family,
    name: str,
    model_types: Sequence[str],
    trust_remote_code: bool,
    downloads: Path,
    target: Path,
) -> None:
    """Copy a model of one of `model_types` from the hub to the folders of its family in `target`.

    A model with code of its own may be of any type. Raises ConfigurationError that names the setting to use.
    """
    source = download(name, downloads)
    check_remote_code(name, source, trust_remote_code)
    config = read_config(source)
    kind = config.get("model_type", "")
    if kind not in model_types and not (trust_remote_code and "auto_map" in config):
        raise wrong_type(name, kind)
    for folder in family.folders:
        copy_model(source, target / folder.name, trust_remote_code, downloads, with_weights=folder.has_weights)
    (target / "model_name").write_text(name, encoding="utf-8")


def wrong_type(name: str, kind: str) -> ConfigurationError:
    """The error for a model of a type that another family takes, or none."""
    if kind in VARIABLES:
        return ConfigurationError(f"{name} is a {kind} model; bake it with {VARIABLES[kind]} instead")
    return ConfigurationError(
        f"{name} is not a CLIP of this family: its config.json says model_type {kind!r}; choose another"
    )


def check_remote_code(name: str, source: Path, trust_remote_code: bool) -> None:
    """Raises ConfigurationError if the model needs code of its own and may not execute it."""
    config = read_config(source)
    if "auto_map" in config and not trust_remote_code and config.get("model_type") not in VARIABLES:
        raise ConfigurationError(
            f"{name} brings Python code of its own; set TRUST_REMOTE_CODE=1 if you trust its author, or choose "
            "another"
        )


def copy_model(
    source: Path, target: Path, trust_remote_code: bool, downloads: Path, *, with_weights: bool = True
) -> None:
    """Copy what is read of a model, and the code in other repositories that its configs name, if that is trusted.

    The code stays as it is now, since it is kept with the model: references to it become local ones.
    """
    for file in wanted_files(str(path.relative_to(source)) for path in content_files(source)):
        if with_weights or not file.endswith(WEIGHTS):
            _copy_file(source / file, target / file)
    for path in target.rglob("*config.json") if trust_remote_code else ():
        config = path.read_text(encoding="utf-8")
        for repository in set(_CODE_ELSEWHERE.findall(config)):
            code = download(repository, downloads, ("*.py",))
            for module in code.rglob("*.py"):
                _copy_file(module, path.parent / module.relative_to(code))
        path.write_text(_CODE_ELSEWHERE.sub('"', config), encoding="utf-8")


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
