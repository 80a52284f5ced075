"""A repository that would give vectors of no meaning is mended, or refused with a word that helps."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import GemmaTokenizer

from app.errors import ConfigurationError
from app.families.registry import find_family
from app.processors.text import TextProcessor
from app.towers import TorchModel
from tests.support import tiny_families
from tests.support.baking import download
from tests.support.repositories import (
    Tensors,
    bake_and_load,
    change_json,
    embed,
    ids_of,
    renamed,
    reshaped,
    with_weights,
    without,
)
from tests.support.tiny import clip_pair, text_pipeline
from tests.support.vectors import TEXTS, assert_same, pictures

Names = Callable[[Path], dict[str, str]]
SHOWN = pictures()[:3]


def _openai(path: Path) -> dict[str, str]:
    return {"CLIP_MODEL_NAME": str(path), "TEXT_MODEL_NAME": str(path), "CLIP_MODEL_TYPE": "openai"}


def _siglip(path: Path) -> dict[str, str]:
    return {"SIGLIP_MODEL_NAME": str(path)}


def _pair(path: Path) -> dict[str, str]:
    return {"CLIP_MODEL_NAME": str(path), "TEXT_MODEL_NAME": str(path)}


def _plain_clip(root: Path) -> Path:
    """A CLIP of transformers, which sentence-transformers takes as it is."""
    clip_pair(root.parent / f"{root.name}-pair")
    return Path(shutil.copytree(root.parent / f"{root.name}-pair" / "work" / "hub", root))


# What names a model of a family, a tensor of a tower, and how the model is made.
FAMILIES: dict[str, tuple[Names, str, Callable[[Path], Path]]] = {
    "openai": (_openai, "visual_projection", tiny_families.openai_clip),
    "chinese": (_openai, "text_projection", tiny_families.chinese_clip),
    "siglip": (_siglip, "head.probe", tiny_families.siglip),
    "siglip2": (_siglip, "text_model.head", tiny_families.siglip2),
    "naflex": (_siglip, "head.attention", tiny_families.naflex),
    "sentence-transformers": (_pair, "text_projection", _plain_clip),
}


@pytest.fixture(scope="module", params=FAMILIES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Names, str, Path]]:
    names, tensor, make = FAMILIES[request.param]
    yield names, tensor, make(tmp_path_factory.mktemp("whole") / "hub")


def test_weights_that_lack_a_tensor_are_refused_by_bake_and_start(
    case: tuple[Names, str, Path], tmp_path: Path
) -> None:
    names, tensor, whole = case
    lacking = with_weights(whole, tmp_path / "lacking", without(tensor))
    with pytest.raises(ConfigurationError, match=f"weights in .*{tensor}.*choose a repository"):
        bake_and_load(names(lacking), tmp_path / "models")
    models = tmp_path / "whole"
    bake_and_load(names(whole), models)  # as what was baked before this was looked at
    for path in models.rglob("*.safetensors"):
        with_weights(path.parent, tmp_path / "changed" / path.parent.name, without(tensor))
        shutil.copytree(tmp_path / "changed" / path.parent.name, path.parent, dirs_exist_ok=True)
    with pytest.raises(ConfigurationError, match=tensor):
        find_family(models).load(models, False)


def test_a_tensor_of_another_shape_is_refused(case: tuple[Names, str, Path], tmp_path: Path) -> None:
    names, tensor, whole = case
    wrong = with_weights(whole, tmp_path / "wrong", reshaped(tensor))
    with pytest.raises(ConfigurationError, match=rf"{tensor}.*\(3, 5\) instead of"):
        bake_and_load(names(wrong), tmp_path / "models")


def test_tensors_that_a_trainer_renamed_are_refused(case: tuple[Names, str, Path], tmp_path: Path) -> None:
    names, _, whole = case
    changed = with_weights(whole, tmp_path / "renamed", renamed("module.model."))
    with pytest.raises(ConfigurationError, match="renamed by a trainer"):
        bake_and_load(names(changed), tmp_path / "models")


def test_tensors_that_are_in_vain_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(tensors: Tensors) -> Tensors:
        return {**tensors, **{f"extra.{n}": torch.zeros(1) for n in range(7)}}

    whole = tiny_families.siglip(tmp_path / "whole")
    with caplog.at_level(logging.WARNING):
        bake_and_load(_siglip(with_weights(whole, tmp_path / "more", change)), tmp_path / "models")
    assert "does not use: extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more" in caplog.text


def test_a_tokenizer_without_its_files_is_refused(case: tuple[Names, str, Path], tmp_path: Path) -> None:
    names, _, whole = case
    bare = Path(shutil.copytree(whole, tmp_path / "bare"))
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model"):
        (bare / name).unlink(missing_ok=True)
    with pytest.raises(ConfigurationError, match=r"has no .*tokenizer\.json"):
        bake_and_load(names(bare), tmp_path / "models")


def test_a_tokenizer_that_was_baked_empty_is_refused_at_the_start(tmp_path: Path) -> None:
    whole = tiny_families.openai_clip(tmp_path / "hub")
    bake_and_load(_openai(whole), tmp_path / "models")
    path = tmp_path / "models" / "openai_clip_processor" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"].update(vocab={"<|startoftext|>": 512, "<|endoftext|>": 513}, merges=[])
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="knows no words"):
        find_family(tmp_path / "models").load(tmp_path / "models", False)


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    whole = tiny_families.openai_clip(tmp_path / "hub")
    lacking = with_weights(whole, tmp_path / "lacking", without("visual_projection"))
    result = download("http://127.0.0.1:9", tmp_path / "models", **_openai(lacking))
    assert result.returncode == 1 and "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "visual_projection.weight" in errors[0]
    assert not (tmp_path / "models" / "openai_clip").exists()


def _text_model(root: Path, **tokenizer: str | None) -> Path:
    """A BERT with the tokenizer of an XLM-R, whose config names what `tokenizer` says."""
    made = tiny_families.roberta_pipeline(root, "XLMRoberta")
    change_json(made / "tokenizer_config.json", **tokenizer)
    return made


@pytest.mark.parametrize("named", [None, "RobertaTokenizer", "BertTokenizer", "CLIPTokenizer", "XLMRobertaTokenizer"])
def test_the_ids_are_those_of_tokenizer_json(tmp_path: Path, named: str | None) -> None:
    """transformers 5 builds a tokenizer anew by the class that is named, or that the model's type has."""
    text = _text_model(tmp_path / "text", tokenizer_class=named)
    change_json(text / "config.json", model_type="bert" if named is None else "xlm-roberta")
    if named is None:  # names of BERT's tensors are the same, but for what a pooled vector does not need
        change_json(text / "config.json", architectures=["BertModel"])
    clip = clip_pair(tmp_path / "pair") / "clip"
    model = bake_and_load({"CLIP_MODEL_NAME": str(clip), "TEXT_MODEL_NAME": str(text)}, tmp_path / "models")
    truth = Tokenizer.from_file(str(text / "tokenizer.json"))
    truth.no_padding()
    for sample in ("a photo of a dog", "Two  red houses!", "ﬁne Straße", "日本"):
        assert ids_of(model.text, sample) == truth.encode(sample).ids


def test_weights_that_no_vector_needs_may_be_missing(tmp_path: Path) -> None:
    """The usual text models average the tokens, and lack the pooler that transformers gives a BERT."""
    pair = clip_pair(tmp_path / "pair")
    whole = tiny_families.roberta_pipeline(tmp_path / "text", "XLMRoberta")
    lacking = Path(shutil.copytree(whole, tmp_path / "lacking"))
    with_weights_of_first_module(lacking, without("pooler"))
    names = {"CLIP_MODEL_NAME": str(pair / "clip"), "TEXT_MODEL_NAME": str(lacking)}
    model = bake_and_load(names, tmp_path / "models")
    want = SentenceTransformer(str(whole), device="cpu").encode(TEXTS[:4], batch_size=1)
    assert_same(embed(model.text, TEXTS[:4]).tolist(), want)
    with_weights_of_first_module(lacking, without("layer.1.output.dense"))
    with pytest.raises(ConfigurationError, match=r"layer\.1\.output\.dense"):
        bake_and_load(names, tmp_path / "again")


def with_weights_of_first_module(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def test_lower_case_that_sentence_transformers_adds_is_kept(tmp_path: Path) -> None:
    pair, text = clip_pair(tmp_path / "pair"), text_pipeline(tmp_path / "text")
    for name in ("tokenizer_config.json", "tokenizer.json"):
        path = text / name
        path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    change_json(text / "tokenizer_config.json", do_lower_case=False)
    change_json(text / "sentence_bert_config.json", do_lower_case=True)
    model = bake_and_load({"CLIP_MODEL_NAME": str(pair / "clip"), "TEXT_MODEL_NAME": str(text)}, tmp_path / "models")
    assert ids_of(model.text, "A RED Star") == ids_of(model.text, "a red star")
    reference = SentenceTransformer(str(text), device="cpu")
    assert ids_of(model.text, "A RED Star") == reference.preprocess(["A RED Star"])["input_ids"][0].tolist()


@pytest.mark.parametrize("make", [tiny_families.siglip2, tiny_families.naflex], ids=["fixed", "naflex"])
def test_siglip2_reads_lower_case(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    hub = make(tmp_path / "hub")
    model = bake_and_load(_siglip(hub), tmp_path / "models")
    upper, lower = embed(model.text, ["A Red STAR", "a red star"])
    np.testing.assert_array_equal(upper, lower)
    assert len(ids_of(model.text, "a")) == 64
    processor = model.text.processor
    assert isinstance(processor, TextProcessor)
    as_before = [processor.legacy()(text)["input_ids"].tolist() for text in ("A Red STAR", "a red star")]
    gemma = tiny_families.gemma_tokenizer(GemmaTokenizer)
    assert as_before == [gemma(text)["input_ids"] for text in ("A Red STAR", "a red star")]
    assert as_before[0] != as_before[1]


def _long_clip(root: Path) -> Path:
    """A CLIP with 248 positions, whose tokenizer still says 77."""
    return tiny_families.openai_clip(root, text={"max_position_embeddings": 248})


def test_a_long_clip_reads_248_tokens(tmp_path: Path) -> None:
    hub, text = _long_clip(tmp_path / "hub"), "word " * 60
    for number, names in enumerate((_openai, _pair)):
        model = bake_and_load(names(hub), tmp_path / f"models{number}")
        assert len(ids_of(model.text, text * 9)) == 248
        again = find_family(tmp_path / f"models{number}").load(tmp_path / f"models{number}", False)
        assert len(ids_of(again.text, text * 9)) == 248
        assert np.isfinite(embed(again.text, [text * 9])).all()


def test_a_limit_of_sentence_transformers_is_kept(tmp_path: Path) -> None:
    SentenceTransformer(str(_long_clip(tmp_path / "hub")), device="cpu").save(str(tmp_path / "saved"))
    change_json(tmp_path / "saved" / "sentence_bert_config.json", max_seq_length=100)
    bake_and_load(_pair(tmp_path / "saved"), tmp_path / "models")
    model: TorchModel = find_family(tmp_path / "models").load(tmp_path / "models", False)
    assert len(ids_of(model.text, "word " * 300)) == 100
    assert embed(model.image, [Image.new("RGB", (40, 30), "red")]).shape == (1, 16)
