"""A text to token ids, without torch.

A tokenizer reads a text of any length to its end, at a megabyte a second. So it gets only the beginning, where the
tokens that count do not depend on what follows. Tokenizers split each word by itself, so two words beyond the cut are
enough. BPE merges neighbours, so as many tokens again are enough, too. Unigram may split a longer word differently
from its first letter on, so it gets more of an endless word.

The cleaning before an open_clip tokenizer follows `basic_clean` and its neighbours in open_clip/tokenizer.py.
"""

import html
import os
import string
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, replace
from typing import Any, Self

import numpy as np
from tokenizers import Encoding, Tokenizer, models, normalizers

from app.towers import CutInputs, Inputs, Processor

# One text at a time needs no pool of threads, one for each core of the host.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))
# Up to this length, or this many characters a token, a text is read as a whole; else this length, then longer ones.
MIN_LENGTH = 1024
CHARACTERS_A_TOKEN = 8
LONGER = 8
# Letters of one word up to which its end has a say in its first tokens: of a longer one nobody knows the right ones.
LONGEST_WORD = 2**18
# Bytes of a text that are read at most, beside blanks before it; characters that are mended, at a megabyte a second;
# and bytes for a tokenizer of another library, which reads all that it is given.
MAX_BYTES = 8 * 2**20
MAX_MENDED = 64 * 1024
MAX_FOREIGN_BYTES = 2**20
_QUICK_BYTES = 512
# Where an Encoding has what the model takes.
_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def mended(text: str) -> str:
    """The text with wrong encodings mended, as far as MAX_MENDED: what is wrong shows only in a line as a whole."""
    import ftfy

    beginning: str = ftfy.fix_text(text[:MAX_MENDED])
    return beginning + text[MAX_MENDED:]


def tidied(text: str, name: str) -> str:
    """The cleaning `name`, after mending: "" (leaves the text alone) or "open_clip." and one of lower, whitespace,
    canonicalize."""
    if not name:
        return text
    text = " ".join(html.unescape(html.unescape(text)).split())
    if name == "open_clip.canonicalize":
        text = " ".join(text.translate(_PUNCTUATION).split())
    return text if name == "open_clip.whitespace" else text.lower()


def normalizers_of(tokenizer: Tokenizer) -> list[Any]:
    """What a tokenizer does to a text, in order, before it looks for words."""
    steps: Any = tokenizer.normalizer
    is_many = isinstance(steps, normalizers.Sequence)
    return list(steps) if is_many else [steps] if steps is not None else []


@dataclass
class TextProcessor:
    """Tokenize with the `tokenizers` library, cut at `max_length` tokens with the end token kept.

    `names` are the arrays that the model takes. With `pad_id` each text is padded on the right to
    `max_length`. `clean` names what comes first (see tidied). With `has_legacy` LEGACY_TEXTS has a say (see
    legacy). Safe to call from several threads: nothing is changed after construction.
    """

    tokenizer_json: InitVar[str]
    max_length: int
    names: list[str]
    prompt: str = ""
    pad_id: int | None = None
    clean: str = ""
    has_legacy: bool = False

    def __post_init__(self, tokenizer_json: str) -> None:
        self.tokenizer = Tokenizer.from_str(tokenizer_json)
        self.tokenizer.enable_truncation(self.max_length)
        if self.pad_id is None:
            self.tokenizer.no_padding()
        else:
            self.tokenizer.enable_padding(direction="right", pad_id=self.pad_id, length=self.max_length)
        self._is_bpe = isinstance(self.tokenizer.model, models.BPE)
        self.short = max(MIN_LENGTH, CHARACTERS_A_TOKEN * self.max_length)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, max_length: int, names: list[str], prompt: str = "") -> Self | None:
        """From a tokenizer of transformers; None if that is not made with the `tokenizers` library."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        return cls(backend.to_str(), max_length, names, prompt) if isinstance(backend, Tokenizer) else None

    def legacy(self) -> Self:
        """As the old container tokenized: without padding, and without the Lowercase that comes first."""
        tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        steps = normalizers_of(tokenizer)
        if steps and isinstance(steps[0], normalizers.Lowercase):
            tokenizer.normalizer = normalizers.Sequence(steps[1:])
        return replace(self, tokenizer_json=tokenizer.to_str(), pad_id=None, has_legacy=False)

    def __call__(self, text: str | bytes) -> Inputs:
        """Text, bytes of it as UTF-8, to int64 arrays of shape (tokens,), those that the model takes.

        They are CutInputs if the text goes on beyond them. The interpreter's lock is free meanwhile.
        """
        return self.many([text])[0]

    def many(self, texts: Sequence[str | bytes]) -> list[Inputs]:
        """The same for each of several texts, in one call of the tokenizer: it waits for the interpreter once."""
        encodings = self.tokenizer.encode_batch_fast([self._beginning(text) for text in texts])
        return [self._inputs(encoding) for encoding in encodings]

    def _inputs(self, encoding: Encoding) -> Inputs:
        inputs = {name: np.array(getattr(encoding, _FIELDS[name]), np.int64) for name in self.names}
        is_full = len(encoding) >= self.max_length and encoding.attention_mask[-1]
        return CutInputs(inputs) if is_full and encoding.overflowing else inputs

    def count_tokens(self, text: str | bytes) -> int:
        """The tokens of a text as the model reads it: cut, with its start and end, without padding."""
        (encoding,) = self.tokenizer.encode_batch_fast([self._beginning(text)])
        return sum(encoding.attention_mask)

    def _beginning(self, text: str | bytes) -> str:
        """As much of a text as gives the tokens that the model takes, cleaned."""
        data = text.encode() if isinstance(text, str) else text
        if len(data) > MAX_BYTES:
            data = data.lstrip()[:MAX_BYTES]
        text = self.prompt + data.decode(errors="ignore")
        if self.clean:
            text = mended(text)
        length = self.short
        while length < len(text):
            head = tidied(text[:length], self.clean)
            if self._is_enough(head):
                return head
            length *= LONGER
        return tidied(text, self.clean)

    def _is_enough(self, beginning: str) -> bool:
        """Whether the tokens that count are the same whatever follows."""
        (encoding,) = self.tokenizer.encode_batch([beginning])  # which numbers the words, as the fast one does not
        beyond = encoding.overflowing
        if not beyond:
            return False
        within_a_word = len(beyond) > 1 and (self._is_bpe or len(beginning) > LONGEST_WORD)
        return within_a_word or _last_word(encoding) + 2 <= _last_word(beyond[-1])


def _last_word(encoding: Encoding) -> int:
    return max((word for word in encoding.word_ids if word is not None), default=0)


class TextPreparer:
    """Makes the arrays of texts of UTF-8 by the `processor` of any text tower. Safe on any thread."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def is_quick(self, content: bytes) -> bool:
        """Whether tokenizing it takes less time than waking a thread."""
        return len(content) <= _QUICK_BYTES and isinstance(self._processor, TextProcessor)

    def __call__(self, content: bytes) -> Inputs:
        """int64 arrays of shape (tokens,)."""
        return self.many([content])[0]

    def many(self, contents: list[bytes]) -> list[Inputs]:
        """The same for several texts."""
        if isinstance(self._processor, TextProcessor):
            return self._processor.many(contents)
        return [self._processor(content[:MAX_FOREIGN_BYTES].decode(errors="ignore")) for content in contents]

    def count_tokens(self, content: bytes) -> int:
        """The tokens of a text as the model reads it."""
        if isinstance(self._processor, TextProcessor):
            return self._processor.count_tokens(content)
        inputs = self(content)
        mask = inputs.get("attention_mask")
        return len(inputs["input_ids"]) if mask is None else int(mask.sum())
