"""The ModernVBERT family of colpali-engine: MODELS_DIR/colpali_engine_model and colpali_engine_processor.

Vectors are those of BiModernVBert: the mean over the tokens, scaled to length 1. A picture is a prompt with tokens
that stand for its tiles, more of them the nearer it is to a square.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from app.families.folders import read_config
from app.families.pretrained import bake_model, load_saved
from app.families.registry import MODERN_VBERT
from app.families.torch_towers import Embeds, Normalized, by_tokenizer, first_item, image_tower, text_tower
from app.processors.image import TileProcessor
from app.processors.text import TextProcessor
from app.towers import Inputs, Padding, TorchModel


def bake(names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
    bake_model(MODERN_VBERT, names["COLPALI_ENGINE_MODEL_NAME"], ("modernvbert",), False, downloads, target)


def load(models_dir: Path, trust_remote_code: bool) -> TorchModel:
    from colpali_engine.models import BiModernVBert, BiModernVBertProcessor

    model = load_saved(MODERN_VBERT, models_dir, False, _towers, (BiModernVBert, BiModernVBertProcessor))
    return replace(model, meta=_meta(models_dir))


def _towers(model: Any, processor: Any, config: dict[str, Any]) -> TorchModel:
    def by_library(image: Any) -> Inputs:
        """As process_images(), without its mask of pixels: tiles have no padding."""
        inputs = first_item(processor.process_images([image]))
        return {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")}

    length: int = config["text_config"]["max_position_embeddings"]
    # As process_texts(), which only tokenizes, but cut at the model's length.
    text = by_tokenizer(processor.tokenizer, length, return_token_type_ids=False)
    padding = Padding({"input_ids": processor.tokenizer.pad_token_id or 0}, length)
    return TorchModel(
        text=text_tower(
            Normalized(Embeds(model, partial(_embed_text, model))),
            TextProcessor.from_tokenizer(processor.tokenizer, length, list(text("a"))),
            text,
            padding,
        ),
        image=image_tower(
            Normalized(Embeds(model, partial(_embed_image, model))),
            TileProcessor.from_processor(processor.image_processor.to_dict(), _prompt_of(processor)),
            by_library,
            padding,
        ),
        meta=config,
    )


def _meta(models_dir: Path) -> dict[str, Any]:
    """In the shape of the file that the old download.py wrote."""
    config = read_config(models_dir / "colpali_engine_model")
    if "model_config" in config:
        return config
    return {"model_name": (models_dir / "model_name").read_text(encoding="utf-8"), "model_config": config}


def _embed_text(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    return _mean_over_tokens(model.model, model.model.get_input_embeddings()(input_ids), attention_mask)


def _embed_image(
    model: Any, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """As ModernVBertModel, but no shape depends on a value: other engines know none that does.

    The library leaves out tiles that pad an item. Here they are computed, and no token takes what comes of them.
    """
    inner = model.model
    items, tiles = pixel_values.shape[:2]
    hidden = inner.vision_model(pixel_values=pixel_values.flatten(0, 1)).last_hidden_state
    features = inner.connector(hidden).unflatten(0, (items, tiles)).flatten(1, 2)
    stands_for_image = input_ids == inner.image_token_id
    # Not of booleans: those OpenVINO sums up in a byte.
    places = (stands_for_image.long().cumsum(1) - 1).clamp(min=0).unsqueeze(-1).expand(-1, -1, features.shape[-1])
    embeddings = inner.get_input_embeddings()(input_ids)
    embeddings = torch.where(stands_for_image.unsqueeze(-1), features.gather(1, places), embeddings)
    return _mean_over_tokens(inner, embeddings, attention_mask)


def _mean_over_tokens(inner: Any, embeddings: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """What the text model makes of token embeddings, as BiModernVBert pools it, before it is scaled."""
    tokens = torch.arange(embeddings.shape[1], device=embeddings.device)
    distance = (tokens - tokens.unsqueeze(1)).abs()
    there = attention_mask.bool()[:, None, None]
    # Padding sees itself: of a token that sees nothing OpenVINO makes NaN, and that of all others in later layers.
    near = there & (distance <= inner.config.text_config.sliding_window) | (distance == 0)
    masks = {"full_attention": there, "sliding_attention": near}
    hidden = inner.text_model(inputs_embeds=embeddings, attention_mask=masks).last_hidden_state
    # The sum of a long text would go beyond float16.
    weights = attention_mask / attention_mask.sum(1, keepdim=True)
    mean: torch.Tensor = (hidden * weights.unsqueeze(-1)).sum(1)
    return mean


def _prompt_of(processor: Any) -> Callable[[int, int], list[int]]:
    """The tokens of the library's prompt for a picture, by how many rows and columns of tiles it has."""

    def prompt(rows: int, columns: int) -> list[int]:
        cut = rows * columns > 1
        grid = {"rows": [[rows if cut else 0]], "cols": [[columns if cut else 0]]}
        places = processor.replace_image_token(grid, 0)
        text = processor.visual_prompt_prefix.replace(processor.image_token, places)
        tokens: list[int] = processor.tokenizer(text)["input_ids"]
        return tokens

    return prompt
