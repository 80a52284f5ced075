"""Tiny models with random weights, built through the real libraries."""

import json
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast


def _tokenizer(folder: Path) -> CLIPTokenizerFast:
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
    tokenizer = _tokenizer(out / "work" / "tokenizer")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
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
