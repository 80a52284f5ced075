"""Pictures that the demo model was not trained on."""

import base64
import io
import random
from dataclasses import dataclass

from PIL import Image

from demo.world import ATTRIBUTES, Scene, random_scene, random_size

_SEED = 77  # training's is 0, and 1 that of the model's own evaluation


@dataclass(frozen=True)
class HeldOut:
    """Pictures as base64; for each a text, another text, and another drawing."""

    images: list[str]
    names: list[str]
    questions: list[str]
    drawings: list[str]


def draw_held_out(count: int) -> HeldOut:
    rng = random.Random(_SEED)
    scenes: dict[Scene, None] = {}
    while len(scenes) < count:
        scenes[random_scene(rng, held_out=True)] = None

    def draw(scene: Scene) -> str:
        return encode(scene.draw(rng, random_size(rng)))

    def describe(scene: Scene) -> str:
        return scene.caption(rng, ATTRIBUTES)

    return HeldOut(*([make(scene) for scene in scenes] for make in (draw, describe, describe, draw)))


def encode(image: Image.Image, format: str = "PNG") -> str:
    """A picture as base64."""
    buffer = io.BytesIO()
    image.save(buffer, format)
    return base64.b64encode(buffer.getvalue()).decode()
