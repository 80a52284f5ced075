"""What tokenizers do to a text before they split it; by name, so that it can be kept beside a compiled model.

The open_clip ones follow `basic_clean` and what comes after it in open_clip/tokenizer.py.
"""

import html
import string

_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def clean(text: str, name: str) -> str:
    """`name` is "" (leaves the text alone) or "open_clip." and one of lower, whitespace, canonicalize."""
    if not name:
        return text
    import ftfy

    text = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())
    if name == "open_clip.canonicalize":
        text = " ".join(text.translate(_PUNCTUATION).split())
    return text if name == "open_clip.whitespace" else text.lower()
