"""The beginning of a text that gives the same tokens as the whole text, for models that take only so many.

A tokenizer reads a text of any length to its end: a second for a megabyte. Here it reads a beginning, and what it
makes of it counts if it does not depend on where the beginning ends: if two more words follow, since tokenizers
split words one by one, or, inside of one endless word, if several ends in a row give the same tokens. With Unigram
that is a proof, if the ends are as many as the longest piece of the vocabulary has characters: the tokens of the
whole word end at one of them, and the best way to there is the same whatever follows. With BPE it is a margin, which
the tests compare with the tokens of whole texts. Everything else is read further, to the end if need be.
"""

import json
import unicodedata

from tokenizers import Encoding, Tokenizer

MIN_ENDS = 4
MAX_ENDS = 64
# Of BPE, whose longest pieces are rows of blanks and marks, and whose ends agree at once.
MAX_ENDS_OF_BPE = 16
# Up to this length, or this many characters a token, a text is read as a whole.
SHORT = 1024
CHARACTERS_A_TOKEN = 8
LONGER = 8
MARGIN = 64
LONGEST_RUN = 65_536
"""Characters of one line, or of marks on one letter, up to which its end has a say in its beginning."""


class TextCutter:
    """Cuts texts for a tokenizer that truncates to `max_tokens`. Safe on any thread."""

    def __init__(self, tokenizer: Tokenizer, tokenizer_json: str, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._ends = _ends_to_compare(json.loads(tokenizer_json)["model"])
        self.short = max(SHORT, CHARACTERS_A_TOKEN * max_tokens)

    def beginning(self, text: str, is_within_a_word: bool = True) -> str | None:
        """A beginning with the same tokens; None if there are too few to tell without what follows the text.

        Without `is_within_a_word` None as well if the text ends in a word that holds the last of the tokens.
        """
        (encoding,) = self._tokenizer.encode_batch([text])  # which numbers the words, as the fast one does not
        beyond = encoding.overflowing
        if not beyond:
            return None
        if _last_word(encoding) + 2 <= _last_word(beyond[-1]):
            return text
        if not is_within_a_word:
            return None
        # `beyond` holds so many times the tokens that count.
        stop = min(len(text), 2 * len(text) // len(beyond) + MARGIN)
        ends = self._tokenizer.encode_batch_fast([text[: stop - shorter] for shorter in range(self._ends)])
        agree = ends[0].overflowing and all(each.ids == encoding.ids for each in ends)
        return text[:stop] if agree else None


def past_marks(text: str, length: int) -> str:
    """The first characters, and all marks on the last of them: a normalizer sorts them."""
    limit = min(len(text), length + LONGEST_RUN)
    while length < limit and unicodedata.combining(text[length]):
        length += 1
    return text[:length]


def _ends_to_compare(model: dict[str, object]) -> int:
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):  # Unigram
        return min(MAX_ENDS, max(MIN_ENDS, *(len(piece) for piece, _ in vocabulary)))
    if "merges" in model and isinstance(vocabulary, dict):
        return min(MAX_ENDS_OF_BPE, max(MIN_ENDS, *map(len, vocabulary)))
    return MIN_ENDS


def _last_word(encoding: Encoding) -> int:
    return max((word for word in encoding.word_ids if word is not None), default=0)
