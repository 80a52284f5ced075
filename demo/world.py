"""Pictures of coloured shapes, their captions, and the part of them held out from training.

Everything is random but repeatable: pass a seeded ``random.Random`` and the same pictures and
captions come back.

    >>> rng = random.Random(7)
    >>> scene = Scene("star", "yellow", "blue", "large", 1, "top left")
    >>> picture = scene.draw(rng, 224)
    >>> scene.caption(rng, ["colour", "shape", "background"])
    'yellow star against blue'
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS: dict[str, Colour] = {
    "red": (215, 30, 35),
    "orange": (245, 140, 20),
    "yellow": (245, 220, 45),
    "green": (40, 160, 60),
    "blue": (35, 80, 215),
    "purple": (130, 50, 170),
    "pink": (245, 145, 190),
    "black": (16, 16, 16),
    "white": (240, 240, 240),
}
BACKGROUNDS: dict[str, Colour] = {
    "white": (240, 240, 240),
    "black": (16, 16, 16),
    "grey": (135, 135, 135),
    "blue": (35, 80, 215),
    "green": (40, 160, 60),
    "yellow": (245, 220, 45),
}
SIZES = ("small", "large")
COUNTS = (1, 2, 3, 4)
POSITIONS: dict[str, Point] = {
    "top left": (0.25, 0.25),
    "top right": (0.75, 0.25),
    "centre": (0.5, 0.5),
    "bottom left": (0.25, 0.75),
    "bottom right": (0.75, 0.75),
}
ATTRIBUTES = ("shape", "colour", "background", "size", "count", "position")

# The first wording of each list is the plain one and is picked half of the time.
_SHAPE_WORDS = {
    "circle": ["circle", "disc", "dot"],
    "square": ["square", "box"],
    "triangle": ["triangle"],
    "star": ["star"],
    "cross": ["cross", "plus sign"],
    "ring": ["ring", "hoop"],
}
_PLURALS = {"cross": "crosses", "box": "boxes"}
_COLOUR_WORDS = {
    "red": ["red", "crimson", "scarlet"],
    "orange": ["orange"],
    "yellow": ["yellow", "golden"],
    "green": ["green", "emerald"],
    "blue": ["blue", "azure"],
    "purple": ["purple", "violet"],
    "pink": ["pink", "rose"],
    "black": ["black", "jet black"],
    "white": ["white", "snow white"],
    "grey": ["grey", "gray"],
}
_SIZE_WORDS = {"small": ["small", "little", "tiny"], "large": ["large", "big", "huge"]}
_COUNT_WORDS = {2: ["two", "2", "a pair of"], 3: ["three", "3"], 4: ["four", "4"]}
_POSITION_WORDS = {
    "top left": ["in the top left", "in the upper left", "in the top left corner"],
    "top right": ["in the top right", "in the upper right", "in the top right corner"],
    "centre": ["in the centre", "in the center", "in the middle", "at the centre"],
    "bottom left": ["in the bottom left", "in the lower left", "in the bottom left corner"],
    "bottom right": ["in the bottom right", "in the lower right", "in the bottom right corner"],
}
_OPENINGS = ["a picture of", "a photo of", "an image of", "a drawing of", "this shows"]

# Part of (shape, colour, background) combinations kept out of training: one in this many.
_HELD_OUT_ONE_IN = 6


@dataclass(frozen=True)
class Scene:
    """One kind of coloured shape, drawn ``count`` times on a plain background.

    A single shape has a ``position``, one of ``POSITIONS``; several shapes are spread over the
    picture and have none.
    """

    shape: str
    colour: str
    background: str
    size: str
    count: int
    position: str | None

    @property
    def held_out(self) -> bool:
        """Whether this combination of shape, colour and background is kept out of training."""
        combination = f"{self.shape}/{self.colour}/{self.background}"
        return zlib.crc32(combination.encode()) % _HELD_OUT_ONE_IN == 0

    def matches(self, other: Scene, attributes: Collection[str]) -> bool:
        """Whether both scenes agree in all the named attributes."""
        return all(getattr(self, name) == getattr(other, name) for name in attributes)

    def draw(self, rng: random.Random, size: int | tuple[int, int] = 224) -> Image.Image:
        """Draw the scene; placement, exact colours, sizes and rotation differ at every call.

        ``size`` is the width and height in pixels. In an oblong picture the scene fills the
        central square, the part that the centre crop of CLIP's image processor keeps.
        """
        width, height = (size, size) if isinstance(size, int) else size
        scale = 2  # drawn at twice the size, then reduced, for smooth edges
        canvas = Image.new("RGB", (width * scale, height * scale), _vary(BACKGROUNDS[self.background], rng))
        pen = ImageDraw.Draw(canvas)
        side = min(canvas.size)
        left, top = (canvas.width - side) / 2, (canvas.height - side) / 2
        colour = _vary(COLOURS[self.colour], rng)
        for (x, y), radius in self._placements(rng):
            angle = math.radians(rng.uniform(-12, 12))
            cos, sin = radius * side * math.cos(angle), radius * side * math.sin(angle)
            x, y = left + x * side, top + y * side
            outline = [(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in _OUTLINES[self.shape]]
            pen.polygon(outline, colour)
        return canvas.resize((width, height), Image.Resampling.BOX)

    def caption(self, rng: random.Random, attributes: Collection[str] | None = None) -> str:
        """Describe the scene in words; the wording differs from call to call.

        ``attributes`` are those the caption names, of ``ATTRIBUTES``; by default a random choice,
        most often nearly all. A position is named for a single shape only, and the number of
        several shapes shows at least as a plural.
        """
        named = _choose_attributes(rng) if attributes is None else attributes
        subject = self._subject(rng, named)
        place = ""
        if self.position and "position" in named:
            place = _word(rng, _POSITION_WORDS[self.position])
        ground = self._ground(rng) if "background" in named else ""
        details = [detail for detail in (place, ground) if detail]
        rng.shuffle(details)
        if details and rng.random() < 0.15:
            return f"{details[0]}{rng.choice([',', ':', ''])} {' '.join([subject, *details[1:]])}"
        if rng.random() < 0.4:
            subject = f"{rng.choice(_OPENINGS)} {subject}"
        elif rng.random() < 0.4:
            subject = subject.removeprefix("a ").removeprefix("an ")
        return rng.choice([" ", " ", ", "]).join([subject, *details])

    def _placements(self, rng: random.Random) -> list[tuple[Point, float]]:
        """Centres and radii of the shapes, as fractions of the side of the picture."""
        if self.position:
            radius = rng.uniform(0.11, 0.13) if self.size == "small" else rng.uniform(0.2, 0.235)
            x, y = POSITIONS[self.position]
            return [((x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.04, 0.04)), radius)]
        radius = rng.uniform(0.08, 0.095) if self.size == "small" else rng.uniform(0.13, 0.145)
        slack = 0.15 - radius
        cells = rng.sample([(x, y) for x in (0.18, 0.5, 0.82) for y in (0.18, 0.5, 0.82)], self.count)
        return [((x + rng.uniform(-slack, slack), y + rng.uniform(-slack, slack)), radius) for x, y in cells]

    def _subject(self, rng: random.Random, named: Collection[str]) -> str:
        shape = _word(rng, _SHAPE_WORDS[self.shape]) if "shape" in named else rng.choice(["shape", "thing"])
        colour = _word(rng, _COLOUR_WORDS[self.colour]) if "colour" in named else ""
        size = _word(rng, _SIZE_WORDS[self.size]) if "size" in named else ""
        if "shape" not in named and self.count == 1 and rng.random() < 0.5:
            return " ".join(part for part in ("something", size, colour) if part)
        if self.count > 1:
            shape = _PLURALS.get(shape, shape + "s")
        after = ""
        if colour and rng.random() < 0.1:
            colour, after = "", f"that {'is' if self.count == 1 else 'are'} {colour}"
            if rng.random() < 0.5:
                after = "in " + after.rsplit(" ", 1)[1]
        described = " ".join(part for part in (size, colour, shape, after) if part)
        if self.count > 1:
            number = _word(rng, _COUNT_WORDS[self.count]) if "count" in named else rng.choice(["", "some"])
        else:
            number = _article(described)
            if "count" in named:
                number = rng.choice([number, "one", "a single"])
        return f"{number} {described}".strip()

    def _ground(self, rng: random.Random) -> str:
        colour = _word(rng, _COLOUR_WORDS[self.background])
        background = f"{_article(colour)} {colour} background"
        return rng.choice(
            [
                f"on {background}",
                f"against {background}",
                f"with {background}",
                f"on {colour}",
                f"against {colour}",
                f"{colour} background",
            ]
        )


def random_scene(rng: random.Random, held_out: bool = False) -> Scene:
    """A scene whose combination of shape, colour and background is, or is not, held out."""
    while True:
        count = rng.choice(COUNTS) if rng.random() < 0.5 else 1
        scene = Scene(
            shape=rng.choice(SHAPES),
            colour=rng.choice(list(COLOURS)),
            background=rng.choice(list(BACKGROUNDS)),
            size=rng.choice(SIZES),
            count=count,
            position=rng.choice(list(POSITIONS)) if count == 1 else None,
        )
        if scene.colour != scene.background and scene.held_out == held_out:
            return scene


def random_size(rng: random.Random, shortest: int = 96, longest: int = 400) -> tuple[int, int]:
    """Width and height of a picture, square or up to half as long again on one side."""
    side = round(math.exp(rng.uniform(math.log(shortest), math.log(longest))))
    other = min(longest, round(side * rng.uniform(1, 1.5)))
    return rng.choice([(side, side), (side, other), (other, side)])


def held_out(groups: int = 20, candidates: int = 50, seed: int = 1) -> list[list[tuple[Image.Image, str]]]:
    """The evaluation set: groups of pictures, each with a caption that fits it alone in its group.

    All scenes are of combinations that ``random_scene`` does not give for training.
    """
    rng = random.Random(seed)
    result = []
    for _ in range(groups):
        scenes: list[Scene] = []
        while len(scenes) < candidates:
            scene = random_scene(rng, held_out=True)
            if scene not in scenes:
                scenes.append(scene)
        group = []
        for scene in scenes:
            picture = scene.draw(rng, random_size(rng))
            group.append((picture, scene.caption(rng, _telling(scene, scenes, rng))))
        result.append(group)
    return result


def top_1_accuracy(image_vectors: NDArray[np.float32], text_vectors: NDArray[np.float32]) -> float:
    """Share of texts whose own image, the one in the same row, has the highest cosine similarity."""
    images = image_vectors / np.linalg.norm(image_vectors, axis=1, keepdims=True)
    texts = text_vectors / np.linalg.norm(text_vectors, axis=1, keepdims=True)
    return float(np.mean((texts @ images.T).argmax(axis=1) == np.arange(len(texts))))


def _telling(scene: Scene, others: Sequence[Scene], rng: random.Random) -> set[str]:
    """Attributes that together tell the scene from all others, chosen at random."""
    named = _choose_attributes(rng)
    rest = [name for name in ATTRIBUTES if name not in named]
    rng.shuffle(rest)
    while sum(scene.matches(other, named) for other in others) > 1:
        named.add(rest.pop())
    return named


def _choose_attributes(rng: random.Random) -> set[str]:
    keep = rng.choice([0.4, 0.9, 1, 1, 1])
    named = {name for name in ATTRIBUTES if rng.random() < keep}
    return named or {rng.choice(("shape", "colour", "background"))}


def _word(rng: random.Random, words: Sequence[str]) -> str:
    return words[0] if rng.random() < 0.5 else rng.choice(words)


def _article(words: str) -> str:
    return "an" if words[0] in "aeio" else "a"


def _vary(colour: Colour, rng: random.Random) -> Colour:
    red, green, blue = (min(255, max(0, channel + rng.randint(-14, 14))) for channel in colour)
    return red, green, blue


def _regular(corners: int, radius: float = 1, start: float = -90) -> list[Point]:
    angles = [math.radians(start + 360 * i / corners) for i in range(corners)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _star() -> list[Point]:
    tips, notches = _regular(5, 1.25), _regular(5, 0.5, start=-54)
    return [point for pair in zip(tips, notches, strict=True) for point in pair]


def _ring() -> list[Point]:
    outer, inner = _regular(60, 1.05), _regular(60, 0.6)
    return [*outer, outer[0], inner[0], *reversed(inner)]


_OUTLINES: dict[str, list[Point]] = {
    "circle": _regular(60),
    "square": _regular(4, 1.25, start=-45),
    "triangle": [(x, y + 0.15) for x, y in _regular(3, 1.25)],
    "star": _star(),
    "cross": [
        (x * 1.1, y * 1.1)
        for x, y in [
            (-0.33, -1),
            (0.33, -1),
            (0.33, -0.33),
            (1, -0.33),
            (1, 0.33),
            (0.33, 0.33),
            (0.33, 1),
            (-0.33, 1),
            (-0.33, 0.33),
            (-1, 0.33),
            (-1, -0.33),
            (-0.33, -0.33),
        ]
    ],
    "ring": _ring(),
}
