"""Draw pictures of coloured shapes that the demo model knows, and a CSV that names them.

Besides, it draws pictures to search with: other drawings of the first five scenes.
"""

import csv
import random
import sys
from argparse import ArgumentParser
from pathlib import Path

from clip_example import Failed, run

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository, for demo/

from demo.world import ATTRIBUTES, Scene, random_scene, random_size

_QUERIES = 5
_MOST = 2000  # more different scenes than this take long to find


def main() -> int:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("shapes"), help="folder to write to (shapes)")
    parser.add_argument("--count", type=int, default=200, help="number of pictures (200)")
    parser.add_argument("--seed", type=int, default=2024, help="another seed draws others (2024)")
    options = parser.parse_args()
    if not 1 <= options.count <= _MOST:
        raise Failed(f"--count {options.count}: draw from 1 to {_MOST} pictures")

    rng = random.Random(options.seed)
    scenes = different_scenes(rng, options.count)
    queries = options.output / "queries"
    queries.mkdir(parents=True, exist_ok=True)
    table = options.output / "pictures.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "name"])
        for number, scene in enumerate(scenes, 1):
            name = f"{number:04}.png"
            scene.draw(rng, random_size(rng)).save(options.output / name)
            rows.writerow([name, scene.caption(rng, ATTRIBUTES)])
    for number, scene in enumerate(scenes[:_QUERIES], 1):
        scene.draw(rng, random_size(rng)).save(queries / f"like-{number:04}.png")
    print(f"drew {len(scenes)} pictures; import them with: import_images.py {table}")
    return 0


def different_scenes(rng: random.Random, count: int) -> list[Scene]:
    """Scenes that the model did not see in training, then others."""
    scenes: dict[Scene, None] = {}
    while len(scenes) < count:
        scenes[random_scene(rng, held_out=len(scenes) < 400)] = None
    return list(scenes)


if __name__ == "__main__":
    run(main)
