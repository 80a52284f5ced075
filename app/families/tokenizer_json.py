"""Tokenizers of other libraries as JSON of the `tokenizers` library, with which texts are tokenized without torch."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors


def from_sentencepiece(tokenizer: Any) -> str:
    """The sentencepiece model of SigLIP, and the cleaning before it, as one of the `tokenizers` library.

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
    """open_clip's own byte-level BPE as one of the `tokenizers` library."""
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
