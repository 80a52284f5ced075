"""Files are UTF-8 in any locale: whoever reads or writes text says so."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("app", "benchmarks", "demo", "deploy", "examples", "requirements")
FILES = sorted([ROOT / "download.py", *(path for place in PLACES for path in (ROOT / place).rglob("*.py"))])


def without_encoding(source: str) -> list[int]:
    """Lines of calls that take the locale's encoding: read_text, write_text, and open and fdopen of text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg in ("encoding", None) for keyword in node.keywords):
            continue
        name = ast.unparse(node.func)
        modes = [arg for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        has_mode = any(len(mode.value) <= 3 for mode in modes)
        opens = name == "open" or name.endswith("fdopen") or (name.endswith(".open") and has_mode)
        binary = any("b" in mode.value and len(mode.value) <= 3 for mode in modes)
        if name.endswith((".read_text", ".write_text")) or (opens and not binary):
            found.append(node.lineno)
    return found


def test_the_check_sees_what_it_should() -> None:
    source = "a.read_text()\na.write_text('b')\nopen('a')\na.open('w')\nos.fdopen(1, 'w')\n"
    assert without_encoding(source) == [1, 2, 3, 4, 5]
    assert not without_encoding("a.read_text(encoding='utf-8')\nopen('a', 'rb')\na.open('rb')\npictures.open(a)\n")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_read_and_written_as_utf_8(path: Path) -> None:
    assert not without_encoding(path.read_text(encoding="utf-8"))
