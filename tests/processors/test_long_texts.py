"""A long text gives the tokens of the whole text, for every kind of tokenizer, and at once."""

import functools
import random

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from app.processors.text import TextProcessor, tidied
from app.towers import CutInputs
from benchmarks.load import WORDS
from tests.support.search import LONGER, times

LENGTH = 24
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def corpus() -> list[str]:
    rng = random.Random(7)
    lines = [" ".join(rng.choices(WORDS, k=12)) for _ in range(400)]
    lines += ["a" * n + " " + "ha" * n for n in range(1, 40)]
    lines += [
        "日本語のテキストです。",
        "中文句子在这里",
        "🙂 🙃 👍🏽",
        "Ünïcode ﬁne ½ Straße",
        "it's 50% off!!! --- 2024",
    ] * 9
    return lines


def framed(tokenizer: Tokenizer) -> Tokenizer:
    start, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    return tokenizer


def clip() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=SPECIAL,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return framed(tokenizer)


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=900, special_tokens=SPECIAL))
    return framed(tokenizer)


def unigram(normalizer: normalizers.Normalizer) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=700, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator(corpus(), trainer)
    return framed(tokenizer)


def siglip() -> Tokenizer:
    steps = [
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    return unigram(normalizers.Sequence(steps))


def xlm_roberta() -> Tokenizer:
    return unigram(normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]))


def byte_level(add_prefix_space: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return framed(tokenizer)


def gemma() -> Tokenizer:
    """The whole text is one word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.train_from_iterator(
        [line[:60] for line in corpus()], trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL)
    )
    return framed(tokenizer)


KINDS = {
    "CLIP": (clip, ""),
    "WordPiece": (word_piece, ""),
    "SigLIP": (siglip, ""),
    "XLM-R": (xlm_roberta, ""),
    "RoBERTa": (lambda: byte_level(True), ""),
    "ModernVBERT": (byte_level, ""),
    "Gemma": (gemma, ""),
    "open_clip lower": (clip, "open_clip.lower"),
    "open_clip canonicalize": (siglip, "open_clip.canonicalize"),
    "open_clip whitespace": (xlm_roberta, "open_clip.whitespace"),
}
NAMES = ["input_ids", "attention_mask"]


@functools.cache
def tokenizer_json(kind: str) -> str:
    text: str = KINDS[kind][0]().to_str()
    return text


@functools.cache
def processor(kind: str, short: int | None = None) -> TextProcessor:
    made = TextProcessor(tokenizer_json(kind), LENGTH, NAMES, clean=KINDS[kind][1])
    if short is not None:
        made.short = short
    return made


@functools.cache
def plain(kind: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json(kind))
    tokenizer.enable_truncation(LENGTH)
    return tokenizer


def assert_as_whole(kind: str, text: str, short: int | None = None) -> None:
    got = processor(kind, short)(text.encode())
    clean = KINDS[kind][1]
    want = plain(kind).encode(tidied(ftfy.fix_text(text), clean) if clean else text)
    assert got["input_ids"].tolist() == want.ids
    assert isinstance(got, CutInputs) == bool(want.overflowing)


LETTERS = "abcdehiotnrs"
PIECES = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=LETTERS, max_size=400),
    st.text(alphabet=" \t\n\u3000\u200b\xa0", max_size=900),
    st.text(alphabet="🙂🙃👍🏽é\u0301日本語中文한국어", max_size=300),
    st.text(alphabet="!?.,-_&;#<>", max_size=600),
    st.sampled_from(WORDS).map(lambda word: " ".join([word] * 40)),
    st.sampled_from(["a", "ha", " ", "\n", "!", "ab", "&amp;", "â€™", "é", "字", "e\u0316\u0301"]).flatmap(
        lambda part: st.integers(1, 900).map(lambda times: part * times)
    ),
    st.text(alphabet="\u0301\u0316\u0327\u0300", max_size=300),
    st.text(alphabet="abc âé€™Ã\xa0©\n", max_size=60),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=times(30))
@given(pieces=st.lists(PIECES, min_size=1, max_size=8))
def test_any_long_text(kind: str, pieces: list[str]) -> None:
    assert_as_whole(kind, "".join(pieces), short=400)


def test_what_is_wrong_with_a_text_may_show_only_at_its_end() -> None:
    """ftfy takes the first two for a cent sign in another encoding, unless something else in the line contradicts."""
    words = " ".join([*["red"] * 40, *["green"] * 400])
    for end in ("", "\x80"):
        assert_as_whole("open_clip lower", f"¬¢{words}{end}")


@pytest.mark.parametrize("times", [2990, 2993, 3001, 3006, 20_000])
@pytest.mark.parametrize("kind", ["SigLIP", "XLM-R", "Gemma", "CLIP"])
def test_words_that_are_split_from_their_end(kind: str, times: int) -> None:
    for part in ("a", "ha", "aab"):
        assert_as_whole(kind, part * times, short=400)
        assert_as_whole(kind, "a dog " + part * times + " and a cat", short=400)


@functools.cache
def endless(size: int) -> dict[str, str]:
    """Texts of about so many bytes."""
    rng = random.Random(1)
    return {
        "one letter": "a" * size,
        "letters": "".join(rng.choices(LETTERS, k=size)),
        "words": " ".join(rng.choices(WORDS, k=size // 6)),
        "blanks": " " * size + "dog",
        "blanks between": "a dog" + " \n" * (size // 2) + "a cat",
        "marks": "!" * size + " dog",
        "emoji": "🙂" * (size // 4),
        "any emoji": "".join(chr(rng.randint(0x1F600, 0x1F64F)) for _ in range(size // 4)),
        "Chinese": "".join(rng.choices("中文句子在这里日本語", k=size // 3)),
        "a word, then others": "a" * size + " dog and cat",
        "accents": "e" + "\u0316\u0301" * (size // 20) + " dog " * (size // 5),
        "code points": "".join(chr(rng.randint(33, 0xD7FF)) for _ in range(size // 3)),
    }


@pytest.mark.parametrize("name", endless(1))
@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_of_one_kind(kind: str, name: str) -> None:
    assert_as_whole(kind, endless(100_000)[name])


# Those that the tokenizer itself reads to the end at once.
QUICK = [
    ("CLIP", "blanks"),
    ("CLIP", "blanks between"),
    ("WordPiece", "one letter"),
    ("WordPiece", "blanks"),
    ("WordPiece", "emoji"),
    ("WordPiece", "a word, then others"),
    ("SigLIP", "blanks between"),
    ("SigLIP", "marks"),
    ("SigLIP", "emoji"),
    ("XLM-R", "blanks"),
    ("XLM-R", "Chinese"),
    ("RoBERTa", "emoji"),
    ("Gemma", "emoji"),
    ("Gemma", "Chinese"),
]


@pytest.mark.parametrize(("kind", "name"), QUICK)
@pytest.mark.search
def test_megabytes(kind: str, name: str) -> None:
    assert_as_whole(kind, endless(1_000_000 * min(LONGER, 5))[name])


def test_eight_megabytes_of_blanks_before_words() -> None:
    text = " " * (9 * 2**20) + "a dog"
    for kind in ("CLIP", "WordPiece", "SigLIP", "XLM-R", "open_clip lower"):
        got = processor(kind)(text.encode())["input_ids"].tolist()
        # RoBERTa and Gemma have tokens for blanks; of these one blank may be left.
        assert got in (plain(kind).encode("a dog").ids, plain(kind).encode(" a dog").ids)
