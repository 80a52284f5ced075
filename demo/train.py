"""Train a small CLIP model on pictures of coloured shapes and save it for sentence-transformers.

    python -m demo.train --output demo/models

writes ``clip`` and ``text``, two copies of the same model, and prints how well it finds held-out
pictures by their captions.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

from demo.world import Scene, held_out, random_scene, random_size, top_1_accuracy

IMAGE_SIZE = 64
PATCH_SIZE = 8
MAX_TOKENS = 32
CHUNK = 500  # pictures drawn by one call of a worker process
MERGES = 400
RUN = 8  # neighbours in a batch that look alike
START, END = "<|startoftext|>", "<|endoftext|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo/models"), help="folder to write to")
    parser.add_argument("--pictures", type=int, default=50_000, help="number of training pictures")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    start = time.monotonic()
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    tokenizer = build_tokenizer([random_scene(rng).caption(rng) for _ in range(20_000)])
    model = build_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")

    scenes, pixels = draw_pictures(options.pictures, options.seed)
    print(f"{len(scenes)} pictures drawn after {time.monotonic() - start:.0f} s")
    train(model, tokenizer, scenes, pixels, options.epochs, options.batch_size, options.learning_rate, rng)
    save(model, CLIPProcessor(image_processor(), tokenizer), options.output)
    print(f"trained and saved after {time.monotonic() - start:.0f} s")
    accuracy, queries = evaluate(options.output)
    print(f"held-out text-to-image top-1 of 50: {accuracy:.4f} over {queries} queries")


def build_tokenizer(captions: list[str]) -> CLIPTokenizerFast:
    """A tokenizer in CLIP's format: byte-level BPE, so that any text has tokens."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(False)]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        captions,
        trainers.BpeTrainer(vocab_size=1000, show_progress=False, end_of_word_suffix="</w>"),
    )
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]][:MERGES]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), START, END]
    return CLIPTokenizerFast(
        vocab={token: i for i, token in enumerate(dict.fromkeys(tokens))},
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )


def build_model(tokenizer: CLIPTokenizerFast) -> CLIPModel:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": 64,
    }
    vision = {
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "projection_dim": 64,
    }
    # The name is for people: it is shown on the server's page.
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=64, model_name="coloured-shapes")
    model = CLIPModel(config)
    positions = model.vision_model.embeddings.position_embedding.weight
    with torch.no_grad():
        positions[1:] = sine_positions(IMAGE_SIZE // PATCH_SIZE, positions.shape[1])
    return model


def sine_positions(side: int, width: int) -> torch.Tensor:
    """Sines and cosines of the row and column of each patch, (side * side, width).

    The usual start, noise of 0.02, is drowned by the patches, and places are learnt late or never.
    """
    waves = torch.arange(1, width // 4 + 1) * math.pi / (2 * side)
    angles = torch.arange(side)[:, None] * waves[None] / 3
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    return 0.3 * torch.cat([rows, columns], dim=2).reshape(side * side, width)


def image_processor() -> CLIPImageProcessor:
    """CLIP's own preprocessing at a smaller size: bicubic resize, centre crop, normalisation."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)


def degrade(picture: Image.Image, rng: random.Random) -> Image.Image:
    """What pictures go through on their way: resampling, blur, noise and JPEG compression."""
    if rng.random() < 0.3:
        factor = rng.uniform(0.6, 1.4)
        width, height = (max(IMAGE_SIZE, round(side * factor)) for side in picture.size)
        picture = picture.resize((width, height), rng.choice(list(Image.Resampling)))
    if rng.random() < 0.1:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.2:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 10), (*picture.size[::-1], 3))
        picture = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    if rng.random() < 0.4:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=rng.randint(40, 95))
        picture = Image.open(buffer)
    return picture


def draw_chunk(seed: str) -> tuple[list[Scene], torch.Tensor]:
    rng = random.Random(seed)
    torch.set_num_threads(1)
    scenes = [random_scene(rng) for _ in range(CHUNK)]
    pictures = [degrade(scene.draw(rng, random_size(rng, IMAGE_SIZE, 256)), rng) for scene in scenes]
    # Normalised later, batch by batch: bytes take a quarter of the memory.
    pixels = image_processor()(pictures, do_rescale=False, do_normalize=False, return_tensors="pt").pixel_values
    return scenes, pixels.to(torch.uint8)


def draw_pictures(number: int, seed: int) -> tuple[list[Scene], torch.Tensor]:
    with ProcessPoolExecutor() as pool:
        chunks = list(pool.map(draw_chunk, [f"{seed}/{i}" for i in range(math.ceil(number / CHUNK))]))
    return [scene for scenes, _ in chunks for scene in scenes], torch.cat([pixels for _, pixels in chunks])


def train(
    model: CLIPModel,
    tokenizer: CLIPTokenizerFast,
    scenes: list[Scene],
    pixels: torch.Tensor,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    rng: random.Random,
) -> None:
    """Minimise CLIP's contrastive loss; every epoch words new captions."""
    processor = image_processor()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    steps = epochs * (len(scenes) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    start, losses = time.monotonic(), []
    for step, rows in enumerate(batches(scenes, batch_size, epochs, rng), 1):
        captions = [scenes[row].caption(rng) for row in rows]
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        images = (pixels[rows].float() / 255 - mean) / std
        loss = model(**tokens, pixel_values=images, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.item())
        if step % 100 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {np.mean(losses):.3f}  {time.monotonic() - start:.0f} s", flush=True)
            losses = []
    model.eval()


def batches(scenes: list[Scene], batch_size: int, epochs: int, rng: random.Random) -> Iterator[list[int]]:
    """Rows of each batch: runs of pictures alike in colour and background, and in shape in turns.

    Among these only shape, size, number and place tell a caption's picture from the others, which
    teaches them much sooner than random batches, where the colours nearly always suffice.
    """
    for epoch in range(epochs):
        alike = ("colour", "background", "shape") if epoch % 2 else ("colour", "background")
        rows = rng.sample(range(len(scenes)), len(scenes))
        rows.sort(key=lambda row: [getattr(scenes[row], name) for name in alike])
        runs = [rows[i : i + RUN] for i in range(0, len(rows), RUN)]
        rng.shuffle(runs)
        rows = [row for run in runs for row in run]
        for i in range(0, len(rows) - batch_size + 1, batch_size):
            yield rows[i : i + batch_size]


def save(model: CLIPModel, processor: CLIPProcessor, output: Path) -> None:
    """Write the layout of sentence-transformers to ``output/clip`` and ``output/text``."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        sentence_transformer = SentenceTransformer(folder, device="cpu")
    for name in ("clip", "text"):
        shutil.rmtree(output / name, ignore_errors=True)
        sentence_transformer.save(str(output / name), create_model_card=False)
        (output / name / "model.safetensors").chmod(0o644)


def evaluate(models_folder: Path, groups: int = 20) -> tuple[float, int]:
    """Top-1 accuracy of finding a held-out picture among 50 by its caption, and the number of queries."""
    clip, text = (SentenceTransformer(str(models_folder / name), device="cpu") for name in ("clip", "text"))
    scores = []
    for group in held_out(groups):
        pictures, captions = zip(*group, strict=True)
        scores.append(top_1_accuracy(clip.encode(list(pictures)), text.encode(list(captions))))
    return float(np.mean(scores)), groups * 50


if __name__ == "__main__":
    main()
