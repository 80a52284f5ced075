"""What the example's scripts say when something is missing or wrong."""

import re
from functools import partial
from pathlib import Path

import weaviate
from PIL import Image

from tests.support.example import SCRIPTS, User, at_once, run_script
from tests.support.server import ROOT, free_port
from tests.support.weaviate_standin import Standin


def test_who_is_not_there_is_named(standin: Standin, tmp_path: Path, container: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    user = User(tmp_path, standin.env)
    calls = {
        f"no Weaviate at {nobody}; start it with": partial(
            User(tmp_path, {"WEAVIATE_URL": nobody}).fail, "create_collection.py"
        ),
        "is no Weaviate": partial(User(tmp_path, {"WEAVIATE_URL": container}).fail, "create_collection.py"),
        "not for gRPC": partial(
            User(tmp_path, standin.env | {"WEAVIATE_GRPC_PORT": str(free_port())}).fail, "create_collection.py"
        ),
        "run create_collection.py first": partial(user.fail, "import_images.py", tmp_path),
        "there is no collection ClipExample": partial(user.fail, "search.py", "--text", "a"),
    }
    for message, line in zip(calls, at_once(calls.values()), strict=True):
        assert message in line
    standin.store.connect_container(nobody)
    assert "container does not answer Weaviate" in user.fail("create_collection.py")
    standin.modules = []
    assert "ENABLE_MODULES" in user.fail("create_collection.py")


def test_a_source_that_cannot_be_used(tmp_path: Path) -> None:
    tables = {
        "file,name\na.png,one\n": "has no column `path`, only file, name",
        "path,name\n": "has no rows",
        "path,name\na.png,one\n,two\n": "row 3: `path` is empty",
        "path,name\na.png,one\na.png,two\n": "row 3: a.png is in row 2 already",
    }
    sources = {"nothing": "neither a folder nor a CSV", "nothing.csv": "cannot read", ".": "no pictures in"}
    for number, (content, message) in enumerate(tables.items()):
        (tmp_path / f"{number}.csv").write_text(content)
        sources[f"{number}.csv"] = message
    lines = at_once(partial(User(tmp_path, {}).fail, "import_images.py", source) for source in sources)
    for line, message in zip(lines, sources.values(), strict=True):
        assert message in line


def test_a_search_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        result = run_script("search.py", *arguments, env={}, cwd=tmp_path)
        assert result.returncode == 2, arguments
        return result.stderr

    for line in at_once(
        partial(refused, *arguments)
        for arguments in (
            (),
            ("--text", "a", "--image", "b.png"),
            ("--image", "b.png", "--move-to", "a"),
            ("--text", "a", "--distance", "1", "--certainty", "1"),
            ("--text", "a", "--move-to", "b", "--move-to-force", "2"),
            ("--text", "a", "--limit", "0"),
        )
    ):
        assert "usage: search.py" in line


def test_the_same_packages_as_the_service() -> None:
    """One environment serves both, and the tests run what the example pins."""

    def pins(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(), re.M))

    ours = pins(ROOT / "requirements.txt") | pins(ROOT / "requirements/dev.txt")
    example = pins(SCRIPTS / "requirements.txt")
    assert example.keys() == {"numpy", "pillow", "tqdm", "weaviate-client"}
    assert example == {name: ours[name] for name in example}
    assert weaviate.__version__ == example["weaviate-client"]
