"""Models and processors as transformers saves them, from a folder or from the hub."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from app.errors import ConfigurationError
from app.families.folders import loading, read_config, without_damaged_files
from app.families.tokenizer import as_its_files_say, require_tokenizer
from app.families.torch_towers import stay_offline
from app.families.weights import lacks_weights, load_with_transformers
from app.towers import TorchModel

# The repository in "OWNER/NAME--module.Class", as an auto_map names code in another repository.
_CODE_ELSEWHERE = re.compile(r'"([\w.-]+/[\w.-]+?)--(?=[\w.]+")')
# What bakes a model of this type.
VARIABLES = {
    "clip": "CLIP_MODEL_NAME and TEXT_MODEL_NAME, with CLIP_MODEL_TYPE=openai",
    "metaclip_2": "CLIP_MODEL_NAME and TEXT_MODEL_NAME, with CLIP_MODEL_TYPE=openai",
    "chinese_clip": "CLIP_MODEL_NAME and TEXT_MODEL_NAME, with CLIP_MODEL_TYPE=openai",
    "siglip": "SIGLIP_MODEL_NAME",
    "siglip2": "SIGLIP_MODEL_NAME",
    "modernvbert": "COLPALI_ENGINE_MODEL_NAME",
}


def text_embeddings(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """Whatever the tokenizer gives, int64 (items, tokens), to embeddings, float32 (items, width)."""
    return _embeddings(model.get_text_features(**inputs))


def image_embeddings(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """Pixel values, and what else the processor gives, to embeddings, float32 (items, width)."""
    return _embeddings(model.get_image_features(**inputs))


def _embeddings(features: Any) -> torch.Tensor:
    """Code from a model folder may give the embeddings themselves, as transformers did before version 5."""
    embeddings: torch.Tensor = features if torch.is_tensor(features) else features.pooler_output
    return embeddings


def load_model(folder: Path, trust_remote_code: bool, kind: Any = None) -> Any:
    """The model in a folder, on the CPU, in float32, in evaluation mode; raises ConfigurationError.

    `kind` is a class with from_pretrained(), AutoModel if None.
    """
    stay_offline()
    from transformers import AutoModel

    kind = kind or AutoModel
    options = {"dtype": torch.float32, "local_files_only": True, "trust_remote_code": trust_remote_code}
    with loading(folder):
        return load_with_transformers(
            folder, lambda more: kind.from_pretrained(folder.resolve(), **options, **more).eval()
        )


def load_processor(folder: Path, trust_remote_code: bool, lower_case: bool = False) -> Any:
    """The processor in a folder, which prepares pictures with Pillow and pads on the right.

    With torchvision installed transformers would prepare pictures otherwise: vectors must not depend
    on what is installed. With `lower_case` the tokenizer gets no other texts. Raises ConfigurationError.
    """
    stay_offline()
    from transformers import AutoProcessor

    require_tokenizer(folder)
    with loading(folder):
        processor = AutoProcessor.from_pretrained(
            folder.resolve(), backend="pil", local_files_only=True, trust_remote_code=trust_remote_code
        )
        processor.tokenizer = as_its_files_say(processor.tokenizer, folder, lower_case)
        processor.tokenizer.padding_side = processor.tokenizer.truncation_side = "right"
    return processor


def load_saved(
    model_folder: Path,
    processor_folder: Path,
    trust_remote_code: bool,
    make_towers: Callable[[Any, Any, dict[str, Any]], TorchModel],
    lower_case: bool = False,
) -> TorchModel:
    """What `make_towers` makes of model, processor and config.json; raises ConfigurationError."""
    model = load_model(model_folder, trust_remote_code)
    processor = load_processor(processor_folder, trust_remote_code, lower_case)
    with loading(model_folder):
        return make_towers(model, processor, read_config(model_folder))


def download_model(name: str, downloads: Path, trust_remote_code: bool, model_types: Sequence[str]) -> Path:
    """The folder of a model from the hub that embeds texts and pictures, of one of `model_types`.

    A model with code of its own may be of any type. Raises ConfigurationError that names the setting to use.
    """
    from app.families.hub import download

    source = download(name, downloads)
    check_remote_code(name, source, trust_remote_code)
    if not (trust_remote_code and has_code(source)):
        require_model_type(name, source, model_types)
    return source


def require_model_type(name: str, source: Path, model_types: Sequence[str]) -> None:
    """Raises ConfigurationError that names the setting to use, unless the model is of one of these types."""
    kind = read_config(source).get("model_type", "")
    if kind in model_types:
        return
    if kind in VARIABLES:
        raise ConfigurationError(f"{name} is a {kind} model; bake it with {VARIABLES[kind]} instead")
    raise ConfigurationError(
        f"{name} is not a CLIP of this family: its config.json says model_type {kind!r}, not "
        f"{' or '.join(model_types)}; choose another"
    )


def save_model(
    source: Path,
    trust_remote_code: bool,
    model_folder: Path,
    processor_folder: Path,
    make_towers: Callable[[Any, Any, dict[str, Any]], object],
    lower_case: bool = False,
) -> None:
    """Load what was downloaded to `source`, and save model and processor where the server reads them.

    `make_towers` takes model, processor and config.json, and raises if weights are lacking: what is saved lacks none.
    Raises ConfigurationError if that is no model for texts and pictures.
    """
    with without_damaged_files(source):
        if trust_remote_code and has_code(source):
            for folder in {model_folder, processor_folder}:
                copy_with_code(source, folder, source.parent)
        model = load_model(model_folder if model_folder.is_dir() else source, trust_remote_code)
        if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
            raise ConfigurationError(
                f"the model in {source} is not a CLIP: it does not embed both texts and pictures; choose another"
            )
        folder = processor_folder if processor_folder.is_dir() else source
        processor = load_processor(folder, trust_remote_code, lower_case)
        if lacks_weights(model):
            make_towers(model, processor, read_config(source))
        if not model_folder.is_dir():
            model.save_pretrained(model_folder)
            processor.save_pretrained(processor_folder)


def has_code(source: Path) -> bool:
    """Whether a model names Python code of its own, here or in another repository."""
    return bool(_files_that_name_code(source))


def check_remote_code(name: str, source: Path, trust_remote_code: bool) -> None:
    """Raises ConfigurationError if the model needs code of its own and may not execute it."""
    config = read_config(source)
    if "auto_map" in config and not trust_remote_code and config.get("model_type") not in VARIABLES:
        raise ConfigurationError(
            f"{name} brings Python code of its own; set TRUST_REMOTE_CODE=1 if you trust its author, or choose "
            "another"
        )


def copy_with_code(source: Path, target: Path, downloads: Path) -> None:
    """Copy a model as it was downloaded, with the code that it names in other repositories.

    The code stays as it is now, since it is kept with the model: references to it become local ones.
    """
    from app.families.hub import download

    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
    for path in _files_that_name_code(target):
        config = path.read_text(encoding="utf-8")
        for repository in set(_CODE_ELSEWHERE.findall(config)):
            code = download(repository, downloads, ("*.py",))
            for file in code.rglob("*.py"):
                place = path.parent / file.relative_to(code)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)
        path.write_text(_CODE_ELSEWHERE.sub('"', config), encoding="utf-8")


def _files_that_name_code(folder: Path) -> list[Path]:
    """The JSON files of a model folder with an auto_map, which names classes: "module.Class", or "OWNER/NAME--…"."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        if path.stat().st_size < 2**20:
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict) and isinstance(content.get("auto_map"), dict):
                found.append(path)
    return found
