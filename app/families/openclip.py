"""The OpenCLIP family: MODELS_DIR/openclip.

    config.json             model_name, pretrained, model_config, cache_dir; as the old download.py wrote it
    open_clip_config.json   model_cfg and preprocess_cfg, as open_clip describes a model in a folder
    *.safetensors, *.bin    the weights; in the old layout in a hub cache, or as the library downloads them
    text/                   config and tokenizer of a text tower that comes from the hub

Vectors are those of encode_text() and encode_image() of open_clip, scaled to length 1.
"""

import copy
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from app.families.family import Family, ModelFolder, Variable, require_libraries
from app.families.folders import loading, read_config
from app.families.openclip_files import (
    check_pair,
    describe,
    describe_pretrained,
    download_repository,
    download_weights,
    weights_in,
)
from app.families.tokenizer import as_its_files_say, from_simple_tokenizer
from app.processors.image import ImageProcessor
from app.processors.text import TextProcessor
from app.towers import Inputs, Padding, Processor, TorchModel

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

_HUB = "hf-hub:"
_INTERPOLATION = {"bicubic": 3, "bilinear": 2}


class OpenCLIP(Family):
    name = "OpenCLIP"
    folders = (ModelFolder("openclip"),)
    variables = (
        Variable("OPEN_CLIP_MODEL_NAME", "OpenCLIP model that download.py bakes; also hf-hub:OWNER/MODEL"),
        Variable("OPEN_CLIP_PRETRAINED", "its weights, by open_clip's name"),
    )
    libraries = ("torch", "open_clip")
    requirements = "requirements/openclip.txt"

    def bake(self, names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
        require_libraries(self)
        from app.families.hub import TOKENIZER, download, wanted_files

        folder = target / "openclip"
        folder.mkdir()
        name, pretrained = names["OPEN_CLIP_MODEL_NAME"], names.get("OPEN_CLIP_PRETRAINED", "")
        if name.startswith(_HUB):
            pretrained = ""
            description, weights = download_repository(name.removeprefix(_HUB), downloads)
        else:
            import open_clip

            check_pair(name, pretrained)
            description = describe_pretrained(name, pretrained, open_clip.get_model_config(name))
            weights = download_weights(open_clip.get_pretrained_cfg(name, pretrained), downloads)
        text = description["model_cfg"]["text_cfg"]
        tower, tokenizer = text.get("hf_model_name"), text.get("hf_tokenizer_name")
        if tower or tokenizer:
            (folder / "text").mkdir()
            source = download(tokenizer or tower, downloads, TOKENIZER)
            for file in wanted_files((path.name for path in source.iterdir() if path.is_file()), TOKENIZER):
                shutil.copy(source / file, folder / "text")
        if tower and tokenizer and tower != tokenizer:
            shutil.copy(download(tower, downloads, ("config.json",)) / "config.json", folder / "text")
        shutil.copy(weights, folder / f"open_clip_model{weights.suffix}")
        (folder / "open_clip_config.json").write_text(json.dumps(description), encoding="utf-8")
        config = {
            "model_name": name,
            "pretrained": pretrained,
            "model_config": description["model_cfg"],
            "cache_dir": "./models/openclip",
        }
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    def load(self, models_dir: Path, trust_remote_code: bool) -> TorchModel:
        require_libraries(self)
        from app.families.torch_towers import Embeds, Normalized, image_tower, locked, stay_offline, text_tower

        stay_offline()
        import open_clip

        folder = models_dir / "openclip"
        description = describe(folder)
        with loading(folder), _as_open_clip_lays_it(folder, description) as place:
            model = _model(place, folder)
            tokenizer = _tokenizer(place, folder, description["model_cfg"])
            text = locked(lambda text: {"input_ids": tokenizer([text])})
            pad_id = int(getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", None) or 0)
            full = Embeds(model, lambda model, input_ids: model.encode_text(input_ids))
            shortened = _shortened(text, pad_id)
            any_length = (full, Embeds(model, _embed_text_of_any_length))
            takes_any_length = next((each for each in any_length if _same(full, text, each, shortened)), None)
            preprocess = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
            transform = open_clip.transform.image_transform_v2(preprocess, is_train=False)
            return TorchModel(
                text=text_tower(
                    Normalized(takes_any_length or full),
                    _text_processor(tokenizer, None if takes_any_length else pad_id),
                    shortened if takes_any_length else text,
                    Padding({"input_ids": pad_id}, tokenizer.context_length if takes_any_length else None),
                ),
                image=image_tower(
                    Normalized(Embeds(model, lambda model, pixel_values: model.encode_image(pixel_values))),
                    ImageProcessor.from_processor(_processor_config(preprocess)),
                    lambda image: {"pixel_values": transform(image).numpy()},
                ),
                meta=read_config(folder),
            )


def _embed_text_of_any_length(model: Any, input_ids: "torch.Tensor") -> "torch.Tensor":
    """CLIP.encode_text for texts that are not padded to the full length: it uses only the first positions."""
    import torch
    from open_clip.transformer import text_global_pool

    length = input_ids.shape[1]
    mask = None if model.attn_mask is None else model.attn_mask[:length, :length]
    hidden = model.token_embedding(input_ids) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=mask))
    eos = getattr(model, "text_eos_id", None)
    pooled: torch.Tensor = text_global_pool(hidden, input_ids, model.text_pool_type, eos_token_id=eos)
    projection = model.text_projection
    if projection is None:
        return pooled
    projected: torch.Tensor
    projected = projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection
    return projected


@contextmanager
def _as_open_clip_lays_it(folder: Path, description: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder for open_clip's "local-dir:", without weights and without references to the hub."""
    description = copy.deepcopy(description)
    text = (folder / "text").resolve()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if text.is_dir():
            if "hf_model_name" in description["model_cfg"]["text_cfg"]:
                description["model_cfg"]["text_cfg"]["hf_model_name"] = str(text)
            for path in text.iterdir():
                (place / path.name).symlink_to(path)
        (place / "open_clip_config.json").write_text(json.dumps(description), encoding="utf-8")
        yield place


def _model(place: Path, folder: Path) -> Any:
    """The model that `place` describes, with the weights of `folder`."""
    import open_clip
    from safetensors.torch import save_file

    from app.families.weights import prefixes_to_try, report_tensors

    logging.disable(logging.WARNING)  # it warns that the weights, which follow, are random
    try:
        model = open_clip.create_model(f"local-dir:{place}", load_weights=False, pretrained_text=False)
    finally:
        logging.disable(logging.NOTSET)
    weights = weights_in(folder)
    report = open_clip.load_checkpoint(model, str(weights), strict=False)
    for prefix in prefixes_to_try(model, report.missing_keys, report.unexpected_keys):
        tensors = open_clip.factory.load_state_dict(str(weights))
        renamed = place / "renamed.safetensors"
        save_file({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, renamed)
        again = open_clip.load_checkpoint(model, str(renamed), strict=False)
        if not again.missing_keys:
            _log.warning("the names of all tensors in %s begin with %r, which is left out", weights, prefix)
            report = again
            break
    report_tensors(folder, model, report.missing_keys, report.unexpected_keys)
    return model.eval()  # open_clip leaves text towers of transformers in training mode


def _tokenizer(place: Path, folder: Path, model_config: dict[str, Any]) -> Any:
    import open_clip

    text = model_config["text_cfg"]
    name = text.get("hf_tokenizer_name")
    if name and not (folder / "text").is_dir():  # the old layout: only a hub cache may have it
        length = text.get("context_length", 77)
        options = {"tokenizer_mode": text.get("tokenizer_mode"), **text.get("tokenizer_kwargs", {})}
        return open_clip.tokenizer.HFTokenizer(name, context_length=length, **options)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{place}")
    if isinstance(tokenizer, open_clip.tokenizer.HFTokenizer):
        tokenizer.tokenizer = as_its_files_say(tokenizer.tokenizer, folder / "text")
    return tokenizer


def _shortened(reference: Processor, pad_id: int) -> Processor:
    """The token ids of `reference` without the padding that open_clip adds up to the full length."""

    def prepare(text: str) -> Inputs:
        ids = reference(text)["input_ids"]
        used = np.flatnonzero(ids != pad_id)
        return {"input_ids": ids[: used[-1] + 1 if used.size else 1]}

    return prepare


def _same(full: Any, reference: Processor, short: Any, shortened: Processor) -> bool:
    """Whether the module `short` embeds shortened texts as `full` embeds padded ones."""
    import torch

    def embed(module: Any, prepare: Processor, text: str) -> torch.Tensor:
        ids = torch.from_numpy(prepare(text)["input_ids"])[None]
        with torch.inference_mode():
            return torch.nn.functional.normalize(module(input_ids=ids), dim=-1)

    try:
        return all(
            torch.allclose(embed(full, reference, text), embed(short, shortened, text), atol=1e-5)
            for text in ("", "a", "a photo of a dog that sleeps in the snow")
        )
    except Exception:  # a tower that needs the full length says so in many ways
        return False


def _text_processor(tokenizer: Any, pad_id: int | None) -> TextProcessor | None:
    import open_clip

    backend = getattr(getattr(tokenizer, "tokenizer", None), "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        text = backend.to_str()
    elif type(tokenizer) is open_clip.SimpleTokenizer and tokenizer.reduction_fn is None:
        text = from_simple_tokenizer(tokenizer)
    else:
        return None
    clean = f"open_clip.{tokenizer.clean_fn.__name__.removeprefix('_clean_')}"
    return TextProcessor(text, tokenizer.context_length, ["input_ids"], clean=clean, pad_id=pad_id)


def _processor_config(preprocess: Any) -> dict[str, Any]:
    """open_clip's preprocessing as the config of an image processor of transformers."""
    size = preprocess.size
    height, width = (size, size) if isinstance(size, int) else size
    shortest = preprocess.resize_mode == "shortest" and height == width
    return {
        "do_resize": preprocess.resize_mode == "squash" or shortest,
        "size": {"shortest_edge": height} if shortest else {"height": height, "width": width},
        "do_center_crop": shortest,
        "crop_size": {"height": height, "width": width},
        "crop_to_even": True,
        "resample": _INTERPOLATION[preprocess.interpolation],
        "image_mean": preprocess.mean,
        "image_std": preprocess.std,
    }
