"""The example's README, step by step: against a stand-in for Weaviate, and a real one if there is one.

With WEAVIATE_URL (and WEAVIATE_GRPC_PORT) set, the same tests run against that Weaviate too; its
container must serve the demo model.
"""

import os
import re
import shlex
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.example import SCRIPTS, User, at_once, hits, pictures_of
from tests.support.weaviate_standin import Standin


@pytest.fixture(scope="module", params=["stand-in", "real"])
def walker(
    request: pytest.FixtureRequest, container: str, shapes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[User]:
    """A user who has created the collection and imported the drawn pictures."""
    folder = tmp_path_factory.mktemp("user")
    if request.param == "real":
        if not os.environ.get("WEAVIATE_URL"):
            pytest.skip("WEAVIATE_URL is not set: the example is not tried against a real Weaviate")
        user = User(folder, {}, f"ClipExampleTest{uuid.uuid4().hex}")
        try:
            import_shapes(user, shapes)
            yield user
        finally:
            delete_collection(user.collection)
    else:
        with closing(Standin(container)) as standin:
            user = User(folder, standin.env)
            import_shapes(user, shapes)
            yield user


def import_shapes(user: User, shapes: Path) -> None:
    user.run("create_collection.py")
    result = user.try_("import_images.py", shapes / "pictures.csv")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"imported {len(pictures_of(shapes))}, there already 0, failed 0" in result.stdout
    assert "pictures/s" in result.stderr, "no progress bar"


def delete_collection(name: str) -> None:
    sys.path.insert(0, str(SCRIPTS))
    try:
        from clip_example import connect
    finally:
        sys.path.remove(str(SCRIPTS))
    with connect() as client:
        client.collections.delete(name)


def test_words_find_the_picture(walker: User, shapes: Path) -> None:
    rows = [pictures_of(shapes)[number] for number in (3, 40)]
    outputs = at_once(
        partial(walker.run, "search.py", "--text", row["name"], "--limit", "5", "--sheet", row["path"])
        for row in rows
    )
    for row, output in zip(rows, outputs, strict=True):
        assert len(hits(output)) == 5
        assert hits(output)[0][2] == row["path"]
        for distance, certainty, _ in hits(output):
            assert certainty == pytest.approx(1 - distance / 2, abs=1e-3)


def test_a_picture_finds_its_like_and_the_sheet_shows_it(walker: User, shapes: Path) -> None:
    outputs = at_once(
        partial(walker.run, "search.py", "--image", path, "--limit", "7", "--sheet", path.name)
        for path in sorted((shapes / "queries").iterdir())
    )
    found = [hits(output)[0][2] for output in outputs]
    assert sum(name == f"{number:04}.png" for number, name in enumerate(found, 1)) >= 4
    with Image.open(walker.folder / "like-0003.png") as sheet:
        assert sheet.width > 5 * 180
        assert sheet.height > 3 * 180, "the query and two rows of hits"
        assert len(sheet.getcolors(sheet.width * sheet.height) or []) > 50, "nothing is drawn"


def test_thresholds(walker: User, shapes: Path) -> None:
    name = pictures_of(shapes)[3]["name"]
    search = "search.py", "--text", name, "--limit", "30"
    all_hits = hits(walker.run(*search))
    middle = all_hits[10][0] + 1e-4
    near, certain, nothing = at_once(
        partial(walker.run, *search, *bound, "--sheet", f"{number}.png")
        for number, bound in enumerate(
            (
                ("--distance", f"{middle:.5f}"),
                ("--certainty", f"{1 - middle / 2:.5f}"),
                ("--distance", "0"),
            )
        )
    )
    assert hits(near) == hits(certain) == all_hits[:11]
    assert "no hits" in nothing


def test_moves_shift_the_hits(walker: User, shapes: Path) -> None:
    rows = pictures_of(shapes)
    name, target = rows[3]["name"], rows[40]
    options: list[tuple[str, ...]] = [
        (),
        ("--move-to", target["name"], "--move-to-force", "0.9"),
        ("--move-away", target["name"], "--move-away-force", "0.9"),
        ("--move-to", target["name"], "--move-to-force", "0"),
    ]
    outputs = at_once(
        partial(walker.run, "search.py", "--text", name, "--limit", str(len(rows)), "--sheet", f"{number}.png", *each)
        for number, each in enumerate(options)
    )
    plain, to, away, nowhere = ([path for _, _, path in hits(output)].index(target["path"]) for output in outputs)
    assert to < plain < away
    assert nowhere == plain


def test_a_second_import_imports_nothing(walker: User, shapes: Path) -> None:
    assert f"imported 0, there already {len(pictures_of(shapes))}, failed 0" in walker.run(
        "import_images.py", shapes / "pictures.csv"
    )


def test_what_fails_is_listed_with_the_reason_of_the_service(walker: User, shapes: Path) -> None:
    folder = walker.folder / "photos"
    folder.mkdir()
    good = (shapes / "0001.png").read_bytes()
    (folder / "good.png").write_bytes(good)
    (folder / "half.png").write_bytes(good[: len(good) // 2])
    (folder / "drawing.svg.png").write_text("<svg></svg>")
    result = walker.try_("import_images.py", "photos")
    assert result.returncode == 1
    assert "imported 1, there already 0, failed 2" in result.stdout
    failures = walker.failures()
    assert failures.keys() == {"half.png", "drawing.svg.png"}
    assert "images[0]: is a broken PNG picture" in failures["half.png"]
    assert "images[0]: is no picture that can be read; it looks like an SVG" in failures["drawing.svg.png"]

    (folder / "half.png").write_bytes(good)
    (folder / "drawing.svg.png").unlink()
    assert "imported 1, there already 1, failed 0" in walker.run("import_images.py", "photos")
    assert not (walker.folder / "failures.csv").exists()


def test_a_search_says_what_the_service_has_against_the_picture(walker: User) -> None:
    (walker.folder / "page.png").write_text("<html></html>")
    assert "images[0]: is no picture that can be read; it looks like an HTML page" in walker.fail(
        "search.py", "--image", "page.png"
    )


def test_the_readme_shows_what_is_printed(standin: Standin, tmp_path: Path) -> None:
    user = User(tmp_path, standin.env, patient=True)
    text = (SCRIPTS / "README.md").read_text().replace("\\\n", "")
    commands = [shlex.split(line) for line in re.findall(r"^python examples/weaviate/(.*)", text, re.M)][:6]
    for command in commands[:3]:
        user.run(*command)
    outputs = at_once(
        partial(user.run, *command, "--sheet", f"{number}.png") for number, command in enumerate(commands[3:])
    )
    tables = re.findall(r"^```\n(  # distance .*?)^```", text, re.M | re.S)
    assert len(tables) == 3
    for table, output in zip(tables, outputs, strict=True):
        np.testing.assert_allclose(*([hit[0] for hit in hits(each)] for each in (table, output)), atol=2e-3)
        assert [hit[2] for hit in hits(table)] == [hit[2] for hit in hits(output)]
