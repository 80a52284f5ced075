"""What open_clip's models are made of, on the hub and on disk: a description and one file of weights."""

import difflib
import json
import logging
from pathlib import Path
from typing import Any

from app.errors import ConfigurationError
from app.families.folders import WEIGHTS, read_config
from app.families.hub import download

_log = logging.getLogger(__name__)

# As open_clip looks for them in a repository (its constants and download_pretrained_from_hf).
_WEIGHTS_IN_ORDER = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def download_model(name: str, pretrained: str, downloads: Path) -> tuple[dict[str, Any], Path]:
    """Description and weights of hf-hub:OWNER/MODEL, or of a pair of names that open_clip knows."""
    import open_clip

    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
        folder = download(repository, downloads, ("open_clip_config.json",))
        if not (folder / "open_clip_config.json").is_file():
            raise ConfigurationError(
                f"{repository} has no open_clip_config.json, so it is not an open_clip model; choose another"
            )
        return describe(folder), _download_weights(repository, _WEIGHTS_IN_ORDER, downloads)
    _check_pair(name, pretrained)
    repository, _, file = open_clip.get_pretrained_cfg(name, pretrained)["hf_hub"].rpartition("/")
    description = _describe_pretrained(name, pretrained, open_clip.get_model_config(name))
    names = (f"{Path(file).stem}.safetensors", file) if file else _WEIGHTS_IN_ORDER
    return description, _download_weights(repository, names, downloads)


def _download_weights(repository: str, names: tuple[str, str], downloads: Path) -> Path:
    """The first of these files that the repository has."""
    for name in names:
        if (weights := download(repository, downloads, (name,)) / name).is_file():
            return weights
    raise ConfigurationError(
        f"{repository} has no {' or '.join(names)}, so it holds no open_clip weights; choose another"
    )


def _check_pair(name: str, pretrained: str) -> None:
    """Raises ConfigurationError, with the nearest pairs, unless open_clip knows weights by these names."""
    import open_clip

    pairs = open_clip.list_pretrained()
    if (name, pretrained) in pairs:
        return
    own = [tag for model, tag in pairs if model == name]
    if own:
        raise ConfigurationError(
            f"OPEN_CLIP_PRETRAINED={pretrained}: {name} has {', '.join(own)}; choose one of them"
        )
    models = sorted({model for model, _ in pairs})
    near = difflib.get_close_matches(name, models, n=5, cutoff=0.4) or models
    raise ConfigurationError(f"OPEN_CLIP_MODEL_NAME={name}: there is no such model; similar names: {', '.join(near)}")


def describe(folder: Path) -> dict[str, Any]:
    """open_clip's description of the model in a folder: {"model_cfg": …, "preprocess_cfg": …}."""
    own = folder / "open_clip_config.json"
    if own.is_file():
        description: dict[str, Any] = json.loads(own.read_text(encoding="utf-8"))
        return description
    config = read_config(folder)
    return _describe_pretrained(config["model_name"], config["pretrained"], config["model_config"])


def _describe_pretrained(name: str, pretrained: str, model_config: dict[str, Any]) -> dict[str, Any]:
    """The description of a pair of open_clip, with the activation that its weights were trained with."""
    import open_clip

    preprocess = open_clip.get_pretrained_cfg(name, pretrained)
    if preprocess.get("quick_gelu") and not model_config.get("quick_gelu"):
        _log.info("%s was trained with QuickGELU, so %s uses it too", pretrained, name)
        model_config["quick_gelu"] = True
    keys = ("mean", "std", "interpolation", "resize_mode", "fill_color")
    return {"model_cfg": model_config, "preprocess_cfg": {k: preprocess[k] for k in keys if k in preprocess}}


def weights_in(folder: Path) -> Path:
    """The one file of weights, safetensors first; raises ConfigurationError if there is more than one."""
    found = [path for path in folder.rglob("*") if path.suffix in WEIGHTS and path.is_file()]
    best = [path for path in found if path.suffix == ".safetensors"] or found
    if len(best) != 1:
        names = ", ".join(sorted(path.name for path in best))
        raise ConfigurationError(f"{folder} must hold one file of weights, not {len(best)} ({names})")
    return best[0]
