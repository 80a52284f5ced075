"""The hits of a search as one picture."""

import io
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

_SIDE = 180
_GAP = 16
_LINE = 18
_TEXT_LINES = 3
_COLUMNS = 5
_INK, _FAINT, _PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)
_FONT_SIZE = 13


def draw_sheet(query: str | Path, tiles: list[tuple[str, str, bytes]]) -> Image.Image:
    """A sheet with the query on top, a text or a picture file; a tile is a heading, a text and a picture file."""
    font = ImageFont.load_default(_FONT_SIZE)
    columns = min(_COLUMNS, len(tiles))
    width = max(columns, 3) * (_SIDE + _GAP) + _GAP
    tile_height = _SIDE + (_TEXT_LINES + 1) * _LINE + _GAP
    top = _GAP + (_LINE * 2 if isinstance(query, str) else _SIDE + _LINE) + _GAP
    height = top + math.ceil(len(tiles) / columns) * tile_height
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)

    if isinstance(query, str):
        for line, text in enumerate(wrap(f"Searched for: {query}", width - 2 * _GAP, font)[:2]):
            pen.text((_GAP, _GAP + line * _LINE), text, _INK, font)
    else:
        pen.text((_GAP, _GAP), "Searched with:", _INK, font)
        paste(sheet, query.read_bytes(), (_GAP, _GAP + _LINE))
    pen.line((_GAP, top - _GAP // 2, width - _GAP, top - _GAP // 2), _FAINT)
    for number, (heading, text, image) in enumerate(tiles):
        x = _GAP + number % columns * (_SIDE + _GAP)
        y = top + number // columns * tile_height
        paste(sheet, image, (x, y))
        pen.text((x, y + _SIDE + 2), heading, _INK, font)
        for line, words in enumerate(wrap(text, _SIDE, font)[:_TEXT_LINES], 1):
            pen.text((x, y + _SIDE + 2 + line * _LINE), words, _FAINT, font)
    return sheet


def paste(sheet: Image.Image, data: bytes, corner: tuple[int, int]) -> None:
    """Put a picture in the middle of a square, framed; the frame stays empty if Pillow cannot read it."""
    x, y = corner
    try:
        with Image.open(io.BytesIO(data)) as image:
            small = ImageOps.exif_transpose(image).convert("RGBA")
            small.thumbnail((_SIDE, _SIDE))
    except (UnidentifiedImageError, OSError):
        pass
    else:
        sheet.paste(small, (x + (_SIDE - small.width) // 2, y + (_SIDE - small.height) // 2), small)
    ImageDraw.Draw(sheet).rectangle((x, y, x + _SIDE, y + _SIDE), outline=_FAINT)


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines no wider than `width` pixels, as far as single words allow."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
