#!/usr/bin/env python3
"""Write a full-size ViT-B/32 CLIP with random weights and the real CLIP vocabulary.

    python make_model.py OUT_DIR          # writes OUT_DIR/clip and OUT_DIR/text

Speed, memory and start-up depend on a model's shape, not on what it has
learned, so this stands in for clip-ViT-B-32 where no hub can be reached. The
byte-pair merges come out of the open_clip_torch wheel, which the package index
serves; the weights are seeded, so two runs write the same model (605 MB each).
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast


def clip_tokenizer(work: Path) -> CLIPTokenizerFast:
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(work), "open_clip_torch"],
        check=True,
    )
    wheel = next(work.glob("open_clip_torch-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith("bpe_simple_vocab_16e6.txt.gz"))
        merges = gzip.decompress(archive.read(name)).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    chars = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    vocab = chars + [c + "</w>" for c in chars] + ["".join(m.split()) for m in merges]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    folder = work / "tokenizer"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocab)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
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
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return CLIPTokenizerFast.from_pretrained(folder)


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as tmp:
        tokenizer = clip_tokenizer(Path(tmp))
        assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig()).eval()
        hub = Path(tmp) / "hub"
        model.save_pretrained(hub)
        CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(hub)
        SentenceTransformer(str(hub), device="cpu").save(str(out / "clip"))
    shutil.copytree(out / "clip", out / "text", dirs_exist_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
