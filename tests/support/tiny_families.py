"""Tiny models of the other families with random weights, built through the real libraries."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    ChineseCLIPProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    GemmaTokenizer,
    MetaClip2Config,
    MetaClip2Model,
    Siglip2Config,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
    SiglipTokenizer,
)
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from tests.support.tiny import clip_tokenizer

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def openai_clip(
    hub: Path, model_class: Any = CLIPModel, config_class: Any = CLIPConfig, text: dict[str, Any] | None = None
) -> Path:
    """A CLIP, or with other classes a MetaCLIP 2, as it lies on the hub; `text` adds to the text tower's config."""
    torch.manual_seed(3)
    tokenizer = clip_tokenizer(hub.parent / f"{hub.name}-tokenizer")
    config = config_class(
        text_config={**SHAPE, "vocab_size": len(tokenizer), "bos_token_id": 512, "eos_token_id": 513, **(text or {})},
        vision_config={**SHAPE, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model_class(config).eval().save_pretrained(hub)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(hub)
    return hub


def metaclip2(hub: Path) -> Path:
    return openai_clip(hub, MetaClip2Model, MetaClip2Config)


def chinese_clip(hub: Path) -> Path:
    """A Chinese-CLIP, whose text tower is a BERT that takes token types too."""
    torch.manual_seed(6)
    hub.mkdir(parents=True)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    (hub / "vocab.txt").write_text("\n".join(tokens))
    tokenizer = BertTokenizer(str(hub / "vocab.txt"), model_max_length=52)
    config = ChineseCLIPConfig(
        text_config={**SHAPE, "vocab_size": len(tokens), "max_position_embeddings": 52},
        vision_config={**SHAPE, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    ChineseCLIPModel(config).eval().save_pretrained(hub)
    images = ChineseCLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    ChineseCLIPProcessor(images, tokenizer).save_pretrained(hub)
    return hub


def siglip(hub: Path) -> Path:
    """A SigLIP, whose tokenizer is a sentencepiece model."""
    import sentencepiece

    torch.manual_seed(4)
    hub.mkdir(parents=True)
    lines = (f"a {colour} {thing} beside the {other}" for colour in ("red", "green", "blue") for thing in WORDS
             for other in WORDS)  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(hub / "spiece"),
        vocab_size=38,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    tokenizer = SiglipTokenizer(str(hub / "spiece.model"), model_max_length=64, model_input_names=["input_ids"])
    config = SiglipConfig(
        text_config={**SHAPE, "vocab_size": len(tokenizer), "max_position_embeddings": 64},
        vision_config={**SHAPE, "image_size": 32, "patch_size": 8},
    )
    SiglipModel(config).eval().save_pretrained(hub)
    SiglipProcessor(SiglipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(hub)
    return hub


WORDS = ("dog", "cat", "house", "river", "bicycle", "mountain", "flower", "bridge", "window", "guitar")


def gemma_tokenizer(tokenizer_class: Any) -> Any:
    """A token for each letter; made by the class that a repository of SigLIP 2 names."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    options = {"model_max_length": 64, "padding_side": "right", "model_input_names": ["input_ids"]}
    return tokenizer_class(vocab=vocab, merges=[], **options)


def siglip2(hub: Path) -> Path:
    """A SigLIP 2 of fixed resolution: the model of SigLIP with Gemma's tokenizer, which does not lower texts."""
    torch.manual_seed(5)
    tokenizer = gemma_tokenizer(GemmaTokenizer)
    config = SiglipConfig(
        text_config={**SHAPE, "vocab_size": len(tokenizer), "max_position_embeddings": 64},
        vision_config={**SHAPE, "image_size": 32, "patch_size": 8},
    )
    SiglipModel(config).eval().save_pretrained(hub)
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    SiglipProcessor(images, tokenizer).save_pretrained(hub)
    return hub


def naflex(hub: Path) -> Path:
    """A SigLIP 2 that takes pictures in their own shape."""
    torch.manual_seed(6)
    tokenizer = gemma_tokenizer(Siglip2Tokenizer)
    config = Siglip2Config(
        text_config={**SHAPE, "vocab_size": len(tokenizer), "max_position_embeddings": 64},
        vision_config={**SHAPE, "num_patches": 16, "patch_size": 16},
    )
    Siglip2Model(config).eval().save_pretrained(hub)
    images = Siglip2ImageProcessorPil()
    Siglip2Processor(images, tokenizer).save_pretrained(hub)
    return hub


OPEN_CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def open_clip_with_xlm_roberta(tokenizer_name: str) -> dict[str, Any]:
    text = {"hf_model_name": tokenizer_name, "hf_tokenizer_name": tokenizer_name, "hf_pooler_type": "mean_pooler"}
    return {**OPEN_CLIP_CONFIG, "text_cfg": {**text, "context_length": 64}}


XLM_PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", *LETTERS]


def xlm_roberta(hub: Path) -> Path:
    """Config and tokenizer of a text tower, as they lie on the hub; small, of the kind of XLM-RoBERTa."""
    from transformers import XLMRobertaConfig

    hub.mkdir(parents=True)
    _xlm_tokenizer(model_max_length=64).save_pretrained(hub)
    config = XLMRobertaConfig(vocab_size=len(XLM_PIECES), max_position_embeddings=80, pad_token_id=1, **SHAPE)
    config.save_pretrained(hub)
    return hub


def roberta_pipeline(out: Path, kind: str) -> Path:
    """A sentence-transformers text model of kind "XLMRoberta" or "Roberta" with the 514 positions of the real ones.

    As in some of them, what it says of its own length is 514 too, though 512 can be used.
    """
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    torch.manual_seed(9)
    hub = out.parent / f"{out.name}-hub"
    hub.mkdir(parents=True)
    _xlm_tokenizer(model_max_length=514).save_pretrained(hub)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(XLM_PIECES), max_position_embeddings=514, pad_token_id=1, **SHAPE
    )
    getattr(transformers, f"{kind}Model")(config).eval().save_pretrained(hub)
    transformer = modules.Transformer(str(hub), max_seq_length=514)
    dense = modules.Dense(SHAPE["hidden_size"], 16, bias=False, activation_function=torch.nn.Identity())
    SentenceTransformer(modules=[transformer, modules.Pooling(SHAPE["hidden_size"]), dense], device="cpu").save(
        str(out)
    )
    return out


def _xlm_tokenizer(model_max_length: int) -> Any:
    """A token for each letter, and one before each word."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = XLM_PIECES
    backend = Tokenizer(models.Unigram([(piece, -float(n)) for n, piece in enumerate(pieces)], unk_id=3))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=model_max_length, **special)


def open_clip(hub: Path, model_config: dict[str, Any] = OPEN_CLIP_CONFIG, text: Path | None = None) -> Path:
    """An OpenCLIP as it lies on the hub: description and weights."""
    import open_clip as library
    from safetensors.torch import save_file

    torch.manual_seed(7)
    hub.mkdir(parents=True)
    local = json.loads(json.dumps(model_config))
    if text is not None:
        local["text_cfg"]["hf_model_name"] = str(text)
    name = f"tiny-{hub.name}"
    configs = hub.parent / f"{hub.name}-configs"
    configs.mkdir()
    (configs / f"{name}.json").write_text(json.dumps(local))
    library.add_model_config(configs)
    model = library.create_model(name, pretrained_text=False)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, hub / "open_clip_model.safetensors")
    (hub / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_config, "preprocess_cfg": {}}))
    return hub


def modern_vbert(hub: Path) -> Path:
    """A ModernVBERT as it lies on the hub; pictures are cut into tiles of 64 pixels, with 64 tokens for each."""
    from colpali_engine.models import BiModernVBert, BiModernVBertProcessor
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import ModernVBertConfig, PreTrainedTokenizerFast
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    torch.manual_seed(8)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<image>", "<fake_token_around_image>", "<global-img>",
               "<end_of_utterance>", "<|begin_of_text|>"]  # fmt: skip
    special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    vocab = {token: n for n, token in enumerate([*special, *LETTERS, *LETTERS.upper(), *"\n:.,!?0123456789"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    steps = [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("", "isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=512,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        additional_special_tokens=special[4:],
    )
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 128}, max_image_size={"longest_edge": 64}, do_image_splitting=True
    )
    BiModernVBertProcessor(images, tokenizer, image_seq_len=64).save_pretrained(hub)
    config = ModernVBertConfig(
        text_config={
            "model_type": "modernbert",
            **SHAPE,
            "vocab_size": len(vocab),
            "max_position_embeddings": 512,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "cls_token_id": 2,
            "sep_token_id": 3,
        },
        vision_config={"model_type": "siglip_vision_model", **SHAPE, "image_size": 64, "patch_size": 4},
        image_token_id=4,
        pixel_shuffle_factor=2,
    )
    BiModernVBert(config).eval().save_pretrained(hub)
    return hub
