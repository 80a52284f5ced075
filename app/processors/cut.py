"""The beginning of a text that gives the same tokens as the whole text, for models that take only so many.

A tokenizer reads a text of any length to its end: seconds for megabytes. Here it reads a beginning, and what it
makes of it counts if it does not depend on where the beginning ends. That is so if two more words follow, for
tokenizers split words one by one. Inside of one endless word several ends in a row must give the same tokens. With
Unigram that is a proof, if the ends are as many as the longest piece of the vocabulary has characters: the tokens
of the whole word end at one of them, and the best way to there is the same whatever follows. With BPE it is a
margin, which the tests compare with the tokens of whole texts. If the beginning holds too few tokens, stretches
that leave none (blanks, control characters, the inside of a word that is too long to be known) are left out, for
they may go on for megabytes.
"""

import json
import re
import unicodedata

from tokenizers import Encoding, Tokenizer

from app.processors.utf8 import Utf8

_FEWEST_ENDS = 4
_MOST_ENDS = 64
# Of BPE, whose longest pieces are rows of blanks and marks, and whose ends agree at once.
_MOST_ENDS_OF_BPE = 16
# Up to this length, or this many characters a token, a text is read as a whole.
_SHORT = 1024
_CHARACTERS_A_TOKEN = 8
_LONGER = 8
_MARGIN = 64
_CONTEXT = 512
# In bytes; a multiple of the length of every character, so that what repeats itself repeats itself here too.
_STRETCH = 6144
LONGEST_RUN = 65_536
"""Characters of one word, of one line, or of marks on one letter, up to which its end has a say in its beginning."""
# Of a longer one, what is left over at its end stays the same: one piece of a pattern may be at another place.
_PERIOD = 5040
# Letters and digits of which WordPiece makes one character or more each, and no word of its own.
_LETTERS = "A-Za-z0-9\u00c0-\u024f"


class TextCutter:
    """Cuts texts for a tokenizer that truncates to `most_tokens`. Safe on any thread."""

    def __init__(self, tokenizer: Tokenizer, tokenizer_json: str, most_tokens: int) -> None:
        self._tokenizer = tokenizer
        model = json.loads(tokenizer_json)["model"]
        self._ends = _most_ends(model)
        self._unknown: re.Pattern[str] | None = None
        if "max_input_chars_per_word" in model:
            longest = model["max_input_chars_per_word"]
            self._unknown = re.compile(f"([{_LETTERS}]{{{longest + 1}}})[{_LETTERS}]+")
        self.short = max(_SHORT, _CHARACTERS_A_TOKEN * most_tokens)

    def __call__(self, text: Utf8) -> str:
        """The text if it is short, else a beginning of it with the same tokens, or all that matters of it."""
        if text.is_within(self.short):
            return text.head(self.short)
        if (beginning := self.beginning(text)) is not None:
            return beginning
        length = self.short
        while True:
            kept, whole = self._without_stretches(text, length)
            if whole or (beginning := self.beginning(Utf8(kept.encode()))) is not None:
                return kept if whole or beginning is None else beginning
            length *= 4

    def beginning(self, text: Utf8, patterns: bool = True) -> str | None:
        """A beginning with the same tokens, from the first characters; None if they have too few tokens to tell.

        Without `patterns` None as well for a word of a pattern that is split from its end.
        """
        for length in (self.short, _LONGER * self.short):
            head = _past_marks(text, length)
            (encoding,) = self._tokenizer.encode_batch([head])  # which numbers the words, as the fast one does not
            if beyond := encoding.overflowing:
                read, last = _last_word(encoding), _last_word(beyond[-1])
                if read + 2 <= last:
                    return head
                within = self._within_a_word(head, encoding.ids, len(beyond))
                return self._up_to_word_end(text, head) if within is None and patterns else within
            if text.is_within(length):
                return None
        return None

    def _within_a_word(self, head: str, ids: list[int], beyond: int) -> str | None:
        """`ids` are those that count of `head`, which holds `beyond` times as many more."""
        end = min(len(head), 2 * len(head) // beyond + _MARGIN)
        for stop in (end, len(head)):
            ends = self._encode([head[: stop - shorter] for shorter in range(self._ends)])
            if ends[0].overflowing and all(each.ids == ids for each in ends):
                return head[:stop]
        return None

    def _up_to_word_end(self, text: Utf8, head: str) -> str:
        length = text.find_blank(len(head))
        if length - len(head) <= LONGEST_RUN:
            return text.head(length + _MARGIN)
        return text.head(len(head) + (length - len(head)) % _PERIOD)

    def _without_stretches(self, text: Utf8, length: int) -> tuple[str, bool]:
        """So many characters, of which some stand for longer stretches without tokens; whether that is all."""
        kept = ""
        last: tuple[str, str, str] | None = None
        shortened = ""
        for stretch, after in text.stretches(_STRETCH, _CONTEXT):
            place = kept[-_CONTEXT:], stretch, after
            if place != last:
                last, shortened = place, self._shorten(*place)
            kept += shortened
            if len(kept) >= length:
                return kept, False
        return kept, True

    def _shorten(self, before: str, stretch: str, after: str) -> str:
        if self._unknown is not None:
            stretch = self._unknown.sub(r"\1", stretch)
        want, without = self._encode([before + stretch + after, before + after])
        if _same(want, without):
            return ""
        short = stretch[:_CONTEXT]
        return short if _same(want, *self._encode([before + short + after])) else stretch

    def _encode(self, texts: list[str]) -> list[Encoding]:
        encodings: list[Encoding] = self._tokenizer.encode_batch_fast(texts)
        return encodings


def _most_ends(model: dict[str, object]) -> int:
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):  # Unigram
        return min(_MOST_ENDS, max(_FEWEST_ENDS, *(len(piece) for piece, _ in vocabulary)))
    if "merges" in model and isinstance(vocabulary, dict):
        return min(_MOST_ENDS_OF_BPE, max(_FEWEST_ENDS, *map(len, vocabulary)))
    return _FEWEST_ENDS


def _past_marks(text: Utf8, length: int) -> str:
    """The first characters, and all marks on the last of them: a normalizer sorts them."""
    head = text.head(length + 1)
    if len(head) > length and unicodedata.combining(head[-1]):
        head = text.head(length + LONGEST_RUN)
        while length < len(head) and unicodedata.combining(head[length]):
            length += 1
    return head[:length]


def _last_word(encoding: Encoding) -> int:
    return max((word for word in encoding.word_ids if word is not None), default=0)


def _same(one: Encoding, other: Encoding) -> bool:
    """Whether they have the same tokens, with those beyond the limit."""
    return one.ids == other.ids and [each.ids for each in one.overflowing] == [each.ids for each in other.overflowing]
