"""Lets the tokenizers of transformers follow their files, and converts others to JSON of the `tokenizers` library."""

import logging
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from app.errors import ConfigurationError
from app.processors.text import normalizers_of

_log = logging.getLogger(__name__)

# In the usual scripts, with what tokenizers treat in different ways.
_SAMPLES = (
    "Two red houses by  the river, 1987",
    "it's (really) 50% off... snake_case <b>&amp;</b> #1 🙂é",
    " Ünïcode  Straße\n½ ﬁne",
    "一只狗的照片 犬の写真 개 사진",
    "фотография собаки صورة كلب कुत्ते की तस्वीर",
)


def require_vocabulary(folder: Path) -> None:
    """Raises ConfigurationError if `folder` lacks the vocabulary of a tokenizer: transformers makes an empty one."""
    if not any(any(folder.glob(pattern)) for pattern in ("tokenizer.json", "vocab*", "*.model")):
        raise ConfigurationError(
            f"{folder} has no vocab.json, vocab.txt or spiece.model, nor a tokenizer.json, which tells the tokens "
            "of a text; take it from the model that this one was made from, or choose another"
        )


def use_tokenizer_json(tokenizer: Any, folder: Path, lower_case: bool = False) -> None:
    """Let a tokenizer that transformers made from `folder` give the tokens of its tokenizer.json, if there is one.

    transformers 5 rebuilds some tokenizers from their vocabulary, by the rules of the class that a repository names.
    With `lower_case` texts are lower-cased first. Raises ConfigurationError if the vocabulary is missing or empty.
    """
    require_vocabulary(folder)
    file = folder / "tokenizer.json"
    if isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer) and file.is_file():
        own = Tokenizer.from_file(str(file))
        own.no_truncation()
        own.no_padding()
        if any(tokenizer(text, verbose=False)["input_ids"] != own.encode(text).ids for text in _SAMPLES):
            _log.warning("%s gives other tokens than the class that the repository names: using the file", file)
            tokenizer._tokenizer = own
            if lower_case:
                put_lower_case_first(tokenizer)
    special = {*tokenizer.all_special_tokens, *map(str, tokenizer.added_tokens_decoder.values())}
    if special.issuperset(tokenizer.get_vocab()):
        raise ConfigurationError(
            f"the tokenizer in {folder} knows no words, so that all texts would have one vector; copy the model "
            "again, or choose another"
        )


def put_lower_case_first(tokenizer: Any) -> None:
    """Make a tokenizer that is backed by the `tokenizers` library lower-case its texts first."""
    backend = tokenizer.backend_tokenizer
    steps = normalizers_of(backend)
    if not (steps and isinstance(steps[0], normalizers.Lowercase)):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def from_sentencepiece(tokenizer: Any) -> str:
    """SigLIP's sentencepiece model as JSON of the `tokenizers` library, with the cleaning that comes before it.

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
    return str(converted.to_str())


def from_simple_tokenizer(simple: Any) -> str:
    """open_clip's own byte-level BPE as JSON of the `tokenizers` library."""
    model = models.BPE(vocab=simple.encoder, merges=list(simple.bpe_ranks), end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    pattern = Regex(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = simple.decoder[simple.sot_token_id], simple.decoder[simple.eot_token_id]
    tokenizer.add_special_tokens([start, end])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, simple.sot_token_id), (end, simple.eot_token_id)]
    )
    return str(tokenizer.to_str())
