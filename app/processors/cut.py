"""The beginning of a text that gives the same tokens as the whole text, for models that take only so many.

A tokenizer reads a text of any length to its end: seconds for megabytes. Here it reads a beginning, and what it
makes of it counts if it does not depend on where the beginning ends: several ends in a row must give the same
tokens. For a tokenizer that weighs the whole of a word (Unigram) this is a proof, if the ends are as many as its
longest piece is long, for the best way through the word passes one of them. If the beginning holds too few tokens,
stretches that leave none (blanks, control characters, the inside of a word that is too long to be known) are left
out, for they may go on for megabytes.
"""

import json
import re
from collections.abc import Callable

Chunks = list[list[int]]
"""Token ids as far as the model takes them, then those beyond, in as many parts as it takes."""

_ENDS = 4
_MOST_ENDS = 64
# Up to this length, or this many characters a token, a text is read as a whole.
_SHORT = 16_384
_CHARACTERS_A_TOKEN = 8
_MARGIN = 256
_STRETCH = 4096
_CONTEXT = 512
LONGEST_WORD = 65_536
"""Characters of one word up to which its end has a say in how Unigram splits its beginning."""
# Of a longer one, what is left over at its end stays the same: one piece of a pattern may be at another place.
_PERIOD = 5040
_BLANK = re.compile(r"\s")
# Letters and digits of which WordPiece makes one character or more each, and no word of its own.
_LETTERS = "A-Za-z0-9\u00c0-\u024f"


class TextCutter:
    """Cuts texts for a tokenizer with a limit. Safe on any thread if `encode` is.

    `encode` gives the ids of a text with the limit, and what is beyond it.
    """

    def __init__(self, encode: Callable[[str], Chunks], tokenizer_json: str, most_tokens: int) -> None:
        self._encode = encode
        self._most_tokens = most_tokens
        model = json.loads(tokenizer_json)["model"]
        self._ends = _ENDS
        self._unknown: re.Pattern[str] | None = None
        if "scores" in model or isinstance(model.get("vocab"), list):
            self._ends = min(_MOST_ENDS, max(_ENDS, *(len(piece) for piece, _ in model["vocab"])))
        if "max_input_chars_per_word" in model:
            longest = model["max_input_chars_per_word"]
            self._unknown = re.compile(f"([{_LETTERS}]{{{longest + 1}}})[{_LETTERS}]+")
        self.short = max(_SHORT, _CHARACTERS_A_TOKEN * most_tokens)

    def __call__(self, text: str) -> str:
        """The text if it is short, else a beginning of it with the same tokens, or all that matters of it."""
        if len(text) <= self.short:
            return text
        if (beginning := self.beginning(text)) is not None:
            return beginning
        if self._unknown is not None:
            text = self._unknown.sub(r"\1", text)
        length = self.short
        while True:
            kept, whole = self._without_stretches(text, length)
            if whole or (beginning := self.beginning(kept)) is not None:
                return kept if whole or beginning is None else beginning
            length *= 4

    def beginning(self, text: str) -> str | None:
        """A beginning with the same tokens, from the first characters; None if they have too few tokens to tell."""
        head = text[: self.short]
        chunks = self._encode(head)
        if len(chunks) < 2:
            head = text[: 8 * self.short]
            chunks = self._encode(head)
            if len(chunks) < 2:
                return None
        first = chunks[0]
        end = min(len(head), 2 * len(head) // (len(chunks) - 1) + _MARGIN)
        if self._encode(head[:end])[0] != first:
            end = len(head)
        if all(self._encode(head[: end - shorter])[0] == first for shorter in range(self._ends)):
            return head[:end]
        # One word of a pattern that is split from its end: read to there.
        blank = _BLANK.search(text, end)
        word_end = blank.start() if blank else len(text)
        if word_end - end <= LONGEST_WORD:
            return text[: word_end + _MARGIN]
        return text[: end + (word_end - end) % _PERIOD]

    def _without_stretches(self, text: str, length: int) -> tuple[str, bool]:
        """So many characters, of which some stand for longer stretches without tokens; whether that is all."""
        kept, position = "", 0
        last: tuple[str, str, str] | None = None
        shortened = ""
        while len(kept) < length and position < len(text):
            stretch = text[position : position + _STRETCH]
            position += len(stretch)
            place = kept[-_CONTEXT:], stretch, text[position : position + _CONTEXT]
            if place != last:
                last, shortened = place, self._shorten(*place)
            kept += shortened
        return kept, position >= len(text)

    def _shorten(self, before: str, stretch: str, after: str) -> str:
        want = self._encode(before + stretch + after)
        for short in ("", stretch[:_CONTEXT]):
            if self._encode(before + short + after) == want:
                return short
        return stretch
