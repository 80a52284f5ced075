"""A processor can be made again from what it says it is."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from app.processors.image import ImageProcessor, PatchProcessor, TileProcessor
from app.processors.registry import KINDS, describe, from_description
from app.processors.text import TextProcessor
from app.towers import Processor


def processors() -> list[tuple[Processor, object]]:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "dog": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    half = (0.5, 0.5, 0.5)
    picture = Image.linear_gradient("L").convert("RGB")
    return [
        (ImageProcessor(32, 32, 36, Image.Resampling.BICUBIC, 1 / 255, half, half, True), picture),
        (PatchProcessor(8, 16, Image.Resampling.BILINEAR, 1 / 255, half, half), picture),
        (TileProcessor(8, 16, True, Image.Resampling.LANCZOS, 1 / 255, half, half, {"2x2": [1, 2, 3]}), picture),
        (TextProcessor(tokenizer.to_str(), 5, ["input_ids"], prompt="a ", pad_id=0), "a dog"),
    ]


def test_every_kind_survives_its_description(tmp_path: Path) -> None:
    kinds = set()
    for processor, item in processors():
        description = json.loads(json.dumps(describe(processor, tmp_path)))
        kinds.add(description["kind"])
        again = from_description(description, tmp_path)
        want, got = processor(item), again(item)
        assert want.keys() == got.keys()
        assert all(np.array_equal(want[name], got[name]) for name in want)
    assert kinds == set(KINDS)


def test_a_processor_of_a_library_has_no_description(tmp_path: Path) -> None:
    assert describe(lambda item: {}, tmp_path) is None
