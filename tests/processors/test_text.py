"""Tokens of a text, as the usage of POST /v1/embeddings reports them."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from app.processors.text import TextPreparer, TextProcessor
from app.towers import Inputs

TOKENIZER = (Path(__file__).parents[2] / "demo" / "models" / "text" / "tokenizer.json").read_text()
TEXTS = ["", "a red star", "three blue circles on a white background"]


@pytest.mark.parametrize("pad_id", [None, 0])
def test_padding_is_not_counted_and_what_is_cut_is_not(pad_id: int | None) -> None:
    processor = TextProcessor(TOKENIZER, max_length=16, names=["input_ids"], pad_id=pad_id)
    tokenizer = Tokenizer.from_str(TOKENIZER)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for text in TEXTS:
        assert TextPreparer(processor).count_tokens(text.encode()) == len(tokenizer.encode(text).ids)
    assert TextPreparer(processor).count_tokens(b"star " * 100) == 16


def test_of_another_processor_what_it_gives_is_counted() -> None:
    def masked(text: str) -> Inputs:
        return {"input_ids": np.arange(8), "attention_mask": np.array([1, 1, 1, 0, 0, 0, 0, 0])}

    assert TextPreparer(masked).count_tokens(b"any") == 3
    assert TextPreparer(lambda text: {"input_ids": np.arange(5)}).count_tokens(b"any") == 5


@pytest.mark.parametrize("pad_id", [None, 0])
def test_several_texts_at_once_give_what_each_gives(pad_id: int | None) -> None:
    processor = TextProcessor(TOKENIZER, max_length=16, names=["input_ids", "attention_mask"], pad_id=pad_id)
    texts = [*(text.encode() for text in TEXTS), b"star " * 100]
    for text, inputs in zip(texts, processor.many(texts), strict=True):
        alone = processor(text)
        assert type(inputs) is type(alone) and inputs.keys() == alone.keys()
        assert all((inputs[name] == alone[name]).all() for name in alone)
