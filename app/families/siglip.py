"""The SigLIP family, SigLIP 2 and its NaFlex variant included: MODELS_DIR/siglip.

Vectors are those of get_text_features() and get_image_features() of transformers, not scaled. Texts are
padded to the length that the model was trained with (64 tokens), whatever else is in the batch.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from app.families.folders import hub_snapshot, read_config
from app.families.pretrained import ImageFeatures, TextFeatures, download_model, load_model, load_processor
from app.families.torch_towers import SAMPLE_TEXTS, first_item, image_tower, locked, text_tower
from app.processors.image import ImageProcessor
from app.processors.patches import PatchProcessor
from app.processors.text import TextProcessor
from app.towers import Processor, TorchModel

if TYPE_CHECKING:
    from app.families.names import Names

_TRAINED_LENGTH = 64


def load(models_dir: Path, trust_remote_code: bool) -> TorchModel:
    """Load the model on the CPU in float32; raises ConfigurationError that names the folder."""
    folder = models_dir / "siglip"
    model = load_model(folder, trust_remote_code)
    processor = load_processor(_processor_folder(folder), trust_remote_code)
    config = read_config(folder)
    length = _length(config)
    text = _text_reference(processor.tokenizer, length)
    return TorchModel(
        text=text_tower(
            TextFeatures(model),
            _text_processor(processor.tokenizer, length, list(text("a"))),
            text,
            # A special token that a text spells out is read otherwise after the conversion, and means nothing.
            samples=SAMPLE_TEXTS[:-1] if _is_sentencepiece(processor.tokenizer) else SAMPLE_TEXTS,
        ),
        image=image_tower(
            ImageFeatures(model), _image_processor(processor.image_processor), _image_reference(processor)
        ),
        meta=config,
    )


def library_processor(models_dir: Path, tower: str, trust_remote_code: bool) -> Processor:
    """The library's own preparation of one tower, "image" or "text", without the weights."""
    folder = models_dir / "siglip"
    processor = load_processor(_processor_folder(folder), trust_remote_code)
    if tower == "image":
        return _image_reference(processor)
    return _text_reference(processor.tokenizer, _length(read_config(folder)))


def bake(names: "Names", downloads: Path, made: Path) -> None:
    """Write siglip/ and model_name into `made`; raises ConfigurationError."""
    assert names.siglip_model_name
    model, processor = download_model(names.siglip_model_name, downloads, names.trust_remote_code)
    model.save_pretrained(made / "siglip")
    processor.save_pretrained(made / "siglip")
    (made / "model_name").write_text(names.siglip_model_name)


def _processor_folder(folder: Path) -> Path:
    """Beside the weights; the old download.py left it in a hub cache below them."""
    return folder if (folder / "tokenizer_config.json").is_file() else hub_snapshot(folder)


def _length(config: dict[str, Any]) -> int:
    length: int = config.get("text_config", {}).get("max_position_embeddings", _TRAINED_LENGTH)
    return length


def _image_reference(processor: Any) -> Processor:
    return lambda image: first_item(processor(images=[image], return_tensors="pt"))


def _text_reference(tokenizer: Any, length: int) -> Processor:
    options = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    return locked(lambda text: tokenizer([text], **options))


def _image_processor(image_processor: Any) -> ImageProcessor | PatchProcessor | None:
    config = image_processor.to_dict()
    if "max_num_patches" in config:
        return PatchProcessor.from_processor(config)
    return ImageProcessor.from_processor(config)


def _is_sentencepiece(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "sp_model")


def _text_processor(tokenizer: Any, length: int, names: list[str]) -> TextProcessor | None:
    if not _is_sentencepiece(tokenizer):
        return TextProcessor.from_tokenizer(tokenizer, length, names, pad_to_length=True)
    return TextProcessor(_as_tokenizer_json(tokenizer), length, names, pad_id=tokenizer.pad_token_id)


def _as_tokenizer_json(tokenizer: Any) -> str:
    """The sentencepiece model of SigLIP, and the cleaning before it, as one of the `tokenizers` library.

    The cleaning is that of big_vision: lower case, no ASCII punctuation, single spaces.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(Path(tokenizer.vocab_file).read_bytes())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    trainer = proto.trainer_spec
    converted = Tokenizer(models.Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback))
    converted.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("▁", " "),
            *([normalizers.Lowercase()] if tokenizer.do_lower_case else []),
            normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(),
        ]
    )
    converted.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    special = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    converted.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    converted.post_processor = processors.TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    json_text: str = converted.to_str()
    return json_text
