"""The ModernVBERT family of colpali-engine: MODELS_DIR/colpali_engine_model and colpali_engine_processor.

Vectors are those of BiModernVBert: the mean over the tokens, scaled to length 1. A picture is a prompt with tokens
that stand for its tiles, more of them the nearer it is to a square.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.families.family import Family, ModelFolder, Variable, require_libraries
from app.families.folders import hub_snapshot, loading, read_config, without_damaged_files
from app.families.tokenizer import as_its_files_say
from app.processors.image import TileProcessor
from app.processors.text import TextProcessor
from app.towers import Inputs, Padding, TorchModel, TorchTower

if TYPE_CHECKING:
    import torch


class ModernVBERT(Family):
    name = "ModernVBERT"
    folders = (
        ModelFolder("colpali_engine_model"),
        ModelFolder(
            "colpali_engine_processor",
            ("tokenizer_config.json", "models--*/snapshots/*/tokenizer_config.json"),
            has_weights=False,
        ),
    )
    variables = (Variable("COLPALI_ENGINE_MODEL_NAME", "ModernVBERT model that download.py bakes"),)
    libraries = ("torch", "colpali_engine")
    requirements = "requirements/colpali.txt"

    def bake(self, names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
        require_libraries(self)
        from app.families.hub import download
        from app.families.pretrained import require_model_type
        from app.families.weights import lacks_weights

        name = names["COLPALI_ENGINE_MODEL_NAME"]
        source = download(name, downloads)
        require_model_type(name, source, ("modernvbert",))
        with without_damaged_files(source):
            model, processor = _model(source), _processor(source)
            if lacks_weights(model):  # what is saved lacks none
                _towers(model, processor, read_config(source))
            model.save_pretrained(target / "colpali_engine_model")
            processor.save_pretrained(target / "colpali_engine_processor")
        (target / "model_name").write_text(name, encoding="utf-8")

    def load(self, models_dir: Path, trust_remote_code: bool) -> TorchModel:
        require_libraries(self)
        model, processor = models_dir / "colpali_engine_model", models_dir / "colpali_engine_processor"
        # The old download.py left both in hub caches below these folders.
        if not any(model.glob("*.safetensors")):
            model = hub_snapshot(model)
        if not (processor / "tokenizer_config.json").is_file():
            processor = hub_snapshot(processor)
        text, image = _towers(_model(model), _processor(processor), read_config(model))
        return TorchModel(text, image, _meta(models_dir))


def _towers(model: Any, processor: Any, config: dict[str, Any]) -> tuple[TorchTower, TorchTower]:
    """Of texts and of pictures."""
    from app.families.torch_towers import Embeds, Normalized, by_tokenizer, first_item, image_tower, text_tower

    def by_library(image: Any) -> Inputs:
        """As process_images(), without its mask of pixels: tiles have no padding."""
        inputs = first_item(processor.process_images([image]))
        return {name: inputs[name] for name in ("pixel_values", "input_ids", "attention_mask")}

    length: int = config["text_config"]["max_position_embeddings"]
    # As process_texts(), which only tokenizes, but cut at the model's length.
    text = by_tokenizer(processor.tokenizer, length, return_token_type_ids=False)
    padding = Padding({"input_ids": processor.tokenizer.pad_token_id or 0}, length)
    return text_tower(
        Normalized(Embeds(model, _embed_text)),
        TextProcessor.from_tokenizer(processor.tokenizer, length, list(text("a"))),
        text,
        padding,
    ), image_tower(
        Normalized(Embeds(model, _embed_image)),
        TileProcessor.from_processor(processor.image_processor.to_dict(), _prompt_of(processor)),
        by_library,
        padding,
    )


def _meta(models_dir: Path) -> dict[str, Any]:
    """In the shape of the file that the old download.py wrote."""
    folder = models_dir / "colpali_engine_model"
    config = read_config(folder)
    if "model_config" in config:
        return config
    return {
        "model_name": (models_dir / "model_name").read_text(encoding="utf-8").strip(),
        "cache_dir": str(folder),
        "cache_dir_processor": str(models_dir / "colpali_engine_processor"),
        "model_config": config,
    }


def _model(folder: Path) -> Any:
    from app.families.pretrained import load_model
    from app.families.torch_towers import stay_offline

    stay_offline()
    from colpali_engine.models import BiModernVBert

    return load_model(folder, trust_remote_code=False, kind=BiModernVBert)


def _processor(folder: Path) -> Any:
    from app.families.torch_towers import stay_offline

    stay_offline()
    from colpali_engine.models import BiModernVBertProcessor

    with loading(folder):
        processor = BiModernVBertProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        processor.tokenizer = as_its_files_say(processor.tokenizer, folder)
        return processor


def _embed_text(model: Any, input_ids: "torch.Tensor", attention_mask: "torch.Tensor") -> "torch.Tensor":
    return _mean_over_tokens(model.model, model.model.get_input_embeddings()(input_ids), attention_mask)


def _embed_image(
    model: Any, pixel_values: "torch.Tensor", input_ids: "torch.Tensor", attention_mask: "torch.Tensor"
) -> "torch.Tensor":
    """As ModernVBertModel, but no shape depends on a value: other engines know none that does.

    The library leaves out tiles that pad an item. Here they are computed, and no token takes what comes of them.
    """
    import torch

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


def _mean_over_tokens(inner: Any, embeddings: "torch.Tensor", attention_mask: "torch.Tensor") -> "torch.Tensor":
    """What the text model makes of token embeddings, as BiModernVBert pools it, before it is scaled."""
    import torch

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
