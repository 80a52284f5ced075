"""Tiny models with random weights, built through the real libraries.

Of one layer, for each takes its time to compile; those of tests.support.tiny_families have two.
"""

import json
import shutil
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from transformers import (
    BertTokenizerFast,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
)


def clip_tokenizer(folder: Path) -> CLIPTokenizerFast:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    vocab = chars + [c + "</w>" for c in chars] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    end = "<|endoftext|>"
    config = {
        "bos_token": "<|startoftext|>",
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "model_max_length": 77,
        "tokenizer_class": "CLIPTokenizer",
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizerFast.from_pretrained(folder)


def clip_pair(out: Path, seed: int = 0, width: int = 16) -> Path:
    """Write out/clip and out/text as sentence-transformers saves a CLIP; returns `out`."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(out / "work" / "tokenizer")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**shape, "vocab_size": len(tokenizer), "bos_token_id": 512, "eos_token_id": 513},
        vision_config={**shape, "image_size": 32, "patch_size": 8},
        projection_dim=width,
    )
    hub = out / "work" / "hub"
    CLIPModel(config).eval().save_pretrained(hub)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(processor, tokenizer).save_pretrained(hub)
    for name in ("clip", "text"):
        SentenceTransformer(str(hub), device="cpu").save(str(out / name))
    return out


def as_saved_by_old_versions(new: Path, out: Path, module_folder: str) -> Path:
    """Rewrite a folder as sentence-transformers 2.x and 3.x laid out a CLIP model."""
    inner = out / module_folder
    inner.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(new / name, inner / name)
    processor = json.loads((new / "processor_config.json").read_text())["image_processor"]
    (inner / "preprocessor_config.json").write_text(
        json.dumps({**processor, "feature_extractor_type": "CLIPFeatureExtractor"})
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(new / name, inner / name)
    module = {"idx": 0, "name": "0", "path": module_folder, "type": "sentence_transformers.models.CLIPModel"}
    (out / "modules.json").write_text(json.dumps([module]))
    (out / "config_sentence_transformers.json").write_text(
        json.dumps({"__version__": {"sentence_transformers": "2.0.0", "transformers": "4.7.0", "pytorch": "1.9.0"}})
    )
    return out


def text_pipeline(out: Path, width: int = 16) -> Path:
    """A text model of transformer, mean pooling and dense layer, as the multilingual CLIP text models are."""
    torch.manual_seed(2)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    tokens += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"]
    hub = out.parent / f"{out.name}-hub"
    hub.mkdir(parents=True)
    (hub / "vocab.txt").write_text("\n".join(tokens))
    BertTokenizerFast(str(hub / "vocab.txt"), model_max_length=64).save_pretrained(hub)
    config = DistilBertConfig(
        vocab_size=len(tokens), dim=24, hidden_dim=48, n_layers=1, n_heads=2, max_position_embeddings=64
    )
    DistilBertModel(config).eval().save_pretrained(hub)
    transformer = modules.Transformer(str(hub), max_seq_length=64)
    dense = modules.Dense(24, width, bias=False, activation_function=torch.nn.Identity())
    SentenceTransformer(modules=[transformer, modules.Pooling(24), dense], device="cpu").save(str(out))
    return out
