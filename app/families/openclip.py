"""The OpenCLIP family: MODELS_DIR/openclip.

    config.json             model_name, pretrained, model_config, cache_dir; as the old download.py wrote it
    open_clip_config.json   model_cfg and preprocess_cfg, as open_clip describes a model in a folder
    *.safetensors, *.bin    the weights; in the old layout in a hub cache, or as the library downloads them
    text/                   config and tokenizer of a text tower that comes from the hub

Vectors are those of encode_text() and encode_image() of open_clip, scaled to length 1.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from app.families.folders import loading, read_config
from app.families.hub import TOKENIZER, download, wanted_files
from app.families.openclip_files import describe, download_model, weights_in
from app.families.tokenizer import from_simple_tokenizer, use_tokenizer_json
from app.families.torch_towers import Embeds, Normalized, image_tower, locked, text_tower
from app.families.weights import report_tensors
from app.processors.image import ImageProcessor
from app.processors.text import TextProcessor
from app.towers import Inputs, Padding, Processor, TorchModel, TorchTower


def bake(names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
    folder = target / "openclip"
    folder.mkdir()
    name, pretrained = names["OPEN_CLIP_MODEL_NAME"], names.get("OPEN_CLIP_PRETRAINED", "")
    description, weights = download_model(name, pretrained, downloads)
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


def load(models_dir: Path, trust_remote_code: bool) -> TorchModel:
    folder = models_dir / "openclip"
    with loading(folder):
        description = describe(folder)
        model = _model(folder, description)
        tokenizer = _tokenizer(folder, description["model_cfg"]["text_cfg"])
        return TorchModel(_text_tower(model, tokenizer), _image_tower(model), read_config(folder))


def _text_tower(model: Any, tokenizer: Any) -> TorchTower:
    """Takes texts without padding where the model gives the same vectors for them."""
    text = locked(lambda text: {"input_ids": tokenizer([text])})
    pad_id = int(getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", None) or 0)
    shortened = _shortened(text, pad_id)
    full = Embeds(model, lambda input_ids: model.encode_text(input_ids))
    for module in (full, Embeds(model, partial(_embed_text_of_any_length, model))):
        if _same(full, text, module, shortened):
            padding = Padding({"input_ids": pad_id}, tokenizer.context_length)
            return text_tower(Normalized(module), _text_processor(tokenizer, None), shortened, padding)
    return text_tower(Normalized(full), _text_processor(tokenizer, pad_id), text, Padding({"input_ids": pad_id}))


def _image_tower(model: Any) -> TorchTower:
    import open_clip

    preprocess = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
    transform = open_clip.transform.image_transform_v2(preprocess, is_train=False)
    return image_tower(
        Normalized(Embeds(model, lambda pixel_values: model.encode_image(pixel_values))),
        _image_processor(preprocess),
        lambda image: {"pixel_values": transform(image).numpy()},
    )


def _embed_text_of_any_length(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """CLIP.encode_text for texts that are not padded to the full length: it uses only the first positions."""
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


def _model(folder: Path, description: dict[str, Any]) -> Any:
    """The model of this description, with the weights of `folder`."""
    import open_clip

    text = folder / "text"
    if text.is_dir() and "hf_model_name" in description["model_cfg"]["text_cfg"]:
        description["model_cfg"]["text_cfg"]["hf_model_name"] = str(text.resolve())
    logging.disable(logging.WARNING)  # it warns that the weights, which follow, are random
    try:
        with tempfile.TemporaryDirectory() as place:
            Path(place, "open_clip_config.json").write_text(json.dumps(description), encoding="utf-8")
            model = open_clip.create_model(f"local-dir:{place}", load_weights=False, pretrained_text=False)
    finally:
        logging.disable(logging.NOTSET)
    report = open_clip.load_checkpoint(model, str(weights_in(folder)), strict=False)
    report_tensors(folder, model, report.missing_keys, report.unexpected_keys)
    return model.eval()  # open_clip leaves text towers of transformers in training mode


def _tokenizer(folder: Path, text_config: dict[str, Any]) -> Any:
    """As get_tokenizer() of open_clip makes it."""
    import open_clip

    length, options = text_config.get("context_length", 77), text_config.get("tokenizer_kwargs", {})
    name, text = text_config.get("hf_tokenizer_name"), folder / "text"
    if not name:
        return open_clip.SimpleTokenizer(context_length=length, **options)
    # What the old download.py left has it in the hub's cache alone.
    source = str(text) if text.is_dir() else name
    mode = text_config.get("tokenizer_mode")
    tokenizer = open_clip.tokenizer.HFTokenizer(source, context_length=length, tokenizer_mode=mode, **options)
    if text.is_dir():
        use_tokenizer_json(tokenizer.tokenizer, text)
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


def _image_processor(preprocess: Any) -> ImageProcessor | None:
    """What open_clip's preprocessing does; None if that is something else."""
    size = preprocess.size
    height, width = (size, size) if isinstance(size, int) else size
    if preprocess.resize_mode == "squash":
        edge = None
    elif preprocess.resize_mode == "shortest" and height == width:
        edge = height
    else:
        return None
    resample = int(Image.Resampling[preprocess.interpolation.upper()])
    mean, std = tuple(preprocess.mean), tuple(preprocess.std)
    return ImageProcessor(height, width, edge, resample, 1 / 255, mean, std, crop_to_even=True)
