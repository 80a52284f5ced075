"""Checks tokenizers against their files, and converts others to JSON of the `tokenizers` library."""

import logging
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from app.errors import ConfigurationError
from app.processors.text import normalizers_of

_log = logging.getLogger(__name__)

# Three texts of one meaning each, by script.
_SCRIPTS = (
    ("a photo of a dog", "Two red houses!", "the river in winter, 1987"),
    ("一只狗的照片", "两座红房子", "冬天的河流"),
    ("犬の写真", "赤い家が二軒", "冬の川"),
    ("фотография собаки", "Два красных дома", "река зимой"),
    ("صورة كلب", "منزلان أحمران", "النهر في الشتاء"),
    ("कुत्ते की तस्वीर", "दो लाल घर", "सर्दियों में नदी"),
    ("개 사진", "빨간 집 두 채", "겨울의 강"),
)
_ODD_TEXTS = ("", " Ünïcode  Straße\n½ ﬁne", "it's (really) 50% off... snake_case <b>&amp;</b> #1", "🙂é")


def as_its_files_say(tokenizer: Any, folder: Path, lower_case: bool = False) -> Any:
    """The tokenizer that transformers made from `folder` if it agrees with tokenizer.json, else one that does.

    transformers 5 rebuilds some tokenizers from their vocabulary, by the rules of the class that a repository names;
    where there is no vocabulary, it makes an empty one. With `lower_case` only texts in lower case are compared.
    Raises ConfigurationError that names the missing or wrong file.
    """
    file = folder / "tokenizer.json"
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer) or not file.is_file():
        _require_vocabulary(tokenizer, folder)
    elif not _agrees(tokenizer, file, lower_case):
        from transformers import PreTrainedTokenizerFast

        _log.warning(
            "%s gives other tokens than %s, which the repository names: using the file",
            file,
            type(tokenizer).__name__,
        )
        named = tokenizer.special_tokens_map
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder.resolve(), local_files_only=True)
        for name, token in named.items():  # which the repository may have left to the class
            if getattr(tokenizer, name, None) is None and token in tokenizer.get_vocab():
                setattr(tokenizer, name, token)
        if not _agrees(tokenizer, file, lower_case):
            raise ConfigurationError(
                f"{file} gives other tokens than the tokenizer that transformers makes of it and of "
                "tokenizer_config.json; choose a repository in which both agree"
            )
    if not any(_tells_apart(tokenizer, texts) for texts in _SCRIPTS):
        raise ConfigurationError(
            f"the tokenizer in {folder} knows no words, so that all texts would have one vector: its tokenizer.json "
            "or vocabulary file is empty or of another model; copy the model again, or choose another"
        )
    return tokenizer


def require_tokenizer(folder: Path) -> None:
    """Raises ConfigurationError if nothing in `folder` can be the vocabulary of a tokenizer."""
    if not any(any(folder.glob(pattern)) for pattern in ("tokenizer.json", "vocab*", "*.model")):
        raise _no_vocabulary(folder, ["vocab.json", "vocab.txt", "spiece.model"])


def put_lower_case_first(tokenizer: Any) -> None:
    """Make a tokenizer that is backed by the `tokenizers` library lower-case its texts first."""
    backend = tokenizer.backend_tokenizer
    steps = normalizers_of(backend)
    if not (steps and isinstance(steps[0], normalizers.Lowercase)):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def _require_vocabulary(tokenizer: Any, folder: Path) -> None:
    files = [name for kind, name in tokenizer.vocab_files_names.items() if kind in ("vocab_file", "merges_file")]
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise _no_vocabulary(folder, missing)


def _no_vocabulary(folder: Path, missing: list[str]) -> ConfigurationError:
    return ConfigurationError(
        f"{folder} has no {' and no '.join(missing)}, nor a tokenizer.json, which tells the tokens of a text; take "
        "it from the model that this one was made from, or choose another"
    )


def _agrees(tokenizer: Any, file: Path, lower_case: bool) -> bool:
    truth = Tokenizer.from_file(str(file))
    truth.no_truncation()
    truth.no_padding()
    texts = [text for script in (*_SCRIPTS, _ODD_TEXTS) for text in script]
    if lower_case:
        texts = [text.lower() for text in texts]
    return all(tokenizer(text, verbose=False)["input_ids"] == truth.encode(text).ids for text in texts)


def _tells_apart(tokenizer: Any, texts: tuple[str, ...]) -> bool:
    """Whether each text has ids of its own, not of unknown words alone."""
    ids = [tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in texts]
    nothing = {*tokenizer.all_special_ids, None}
    return len(set(ids)) == len(texts) and all(set(each) - nothing for each in ids)


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
    json_text: str = converted.to_str()
    return json_text


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
    json_text: str = tokenizer.to_str()
    return json_text
