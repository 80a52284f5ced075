"""The sentence-transformers family: MODELS_DIR/clip for pictures, MODELS_DIR/text for texts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from app.errors import ConfigurationError, first_line
from app.families.folders import fingerprint, loading, read_config
from app.families.hub import download
from app.families.pretrained import VARIABLES, check_remote_code, copy_model, wrong_type
from app.families.tokenizer import use_tokenizer_json
from app.families.torch_towers import Embeds, first_item, image_tower, locked, text_tower
from app.families.weights import load_with_transformers
from app.processors.image import ImageProcessor
from app.processors.text import TextProcessor
from app.towers import Padding, TorchModel, TorchTower

# Models of transformers for texts and pictures that sentence-transformers does not load as it should.
_OTHER_TYPES = ("siglip", "siglip2", "modernvbert", "vision-text-dual-encoder")


def bake(names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
    for folder, variable in (("clip", "CLIP_MODEL_NAME"), ("text", "TEXT_MODEL_NAME")):
        name = names[variable]
        # A short name is one of sentence-transformers.
        full_name = name if "/" in name or Path(name).exists() else f"sentence-transformers/{name}"
        source = download(full_name, downloads)
        has_modules = (source / "modules.json").is_file()
        kind = read_config(source).get("model_type", "")
        if not has_modules and kind in _OTHER_TYPES:
            raise wrong_type(name, kind)
        check_remote_code(name, source, trust_remote_code)
        if has_modules:
            copy_model(source, target / folder, trust_remote_code, downloads)
        else:  # a model of transformers, of which sentence-transformers makes modules
            model = _load(source, trust_remote_code)
            _tower(folder, model, source)  # raises where weights are missing, which are saved as random ones
            model.save(str(target / folder), create_model_card=False)


def load(models_dir: Path, trust_remote_code: bool) -> TorchModel:
    clip, text = models_dir / "clip", models_dir / "text"
    image_model = _load(clip, trust_remote_code)
    is_one_model = fingerprint(clip, below=clip) == fingerprint(text, below=text)
    text_model = image_model if is_one_model else _load(text, trust_remote_code)
    return TorchModel(
        text=_tower("text", text_model, text),
        image=_tower("clip", image_model, clip),
        meta={"clip_model": read_config(clip), "text_model": read_config(text)},
    )


def _load(folder: Path, trust_remote_code: bool) -> Any:
    """The SentenceTransformer in a folder, on the CPU, in float32; raises ConfigurationError."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    def load(options: dict[str, Any]) -> Any:
        return SentenceTransformer(
            str(folder.resolve()),
            device="cpu",
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs={"dtype": torch.float32, **options},
            processor_kwargs={"backend": "pil"},
        ).eval()

    with loading(folder):
        model = load_with_transformers(folder, load)
        if isinstance(model[0], Transformer) and model[0].tokenizer is not None:
            _mend_tokenizer(model[0], folder)
    return model


def _mend_tokenizer(module: Any, folder: Path) -> None:
    """The first module of `folder` reads tokens as its files say, and as many as a CLIP has positions for.

    A limit of sentence-transformers is kept.
    """
    modules = folder / "modules.json"
    if modules.is_file():
        folder /= json.loads(modules.read_text(encoding="utf-8"))[0]["path"]
    use_tokenizer_json(module.tokenizer, folder, module.do_lower_case)
    if module.config.model_type in VARIABLES and "max_seq_length" not in module.load_config(str(folder)):
        module.max_seq_length = module.config.text_config.max_position_embeddings


def usable_positions(model: torch.nn.Module) -> int | None:
    """The most tokens for which a text model has positions; None if it has no table of them.

    RoBERTa and its kind (XLM-R, MPNet, CamemBERT) number positions from the padding index on, and mark that
    row of the table as padding: transformers' create_position_ids_from_input_ids.
    """
    tables = [
        module
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    ]
    counts = [table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables]
    return min(counts, default=None)


def _image_tower(model: Any) -> TorchTower:
    processor = model[0].processor
    config = getattr(processor, "image_processor", processor).to_dict()

    def embed(pixel_values: torch.Tensor) -> Any:
        return model({"pixel_values": pixel_values, "modality": "image"})["sentence_embedding"]

    return image_tower(
        Embeds(model, embed),
        ImageProcessor.from_processor(config),
        lambda image: {"pixel_values": first_item(model.preprocess([image]))["pixel_values"]},
    )


def _text_tower(model: Any) -> TorchTower:
    tokenizer, prompt = model.tokenizer, model.prompts.get(model.default_prompt_name) or ""
    lengths = (model.max_seq_length, tokenizer.model_max_length, usable_positions(model))
    length = model.max_seq_length = int(min(filter(None, lengths)))

    def features(text: str) -> dict[str, Any]:
        return dict(model.preprocess([text], prompt=prompt or None))

    constant = {name: value for name, value in features("a").items() if not torch.is_tensor(value)}

    def embed(**inputs: torch.Tensor) -> Any:
        return model({**inputs, **constant})["sentence_embedding"]

    reference = locked(features)
    return text_tower(
        Embeds(model, embed),
        TextProcessor.from_tokenizer(tokenizer, length, list(reference("a")), prompt),
        reference,
        Padding({"input_ids": tokenizer.pad_token_id or 0}, length),
    )


def _tower(name: str, model: Any, folder: Path) -> TorchTower:
    """The tower of "clip" or "text"; raises ConfigurationError."""
    make, kind = {"clip": (_image_tower, "pictures"), "text": (_text_tower, "texts")}[name]
    try:
        return make(model)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"the model in {folder} does not take {kind} ({first_line(error)}); choose one that does"
        ) from error
