"""The requirement files agree with one another and with what is pinned below them."""

import re
from pathlib import Path

from tests.support.requirements import CONSTRAINTS, FOLDER, pins
from tests.support.server import ROOT


def requirement_files() -> list[Path]:
    return [ROOT / "requirements.txt", *sorted(path for path in FOLDER.glob("*.txt") if path != CONSTRAINTS)]


def test_everything_asked_for_is_pinned() -> None:
    """By `make constraints`, which is to be run after a change of a requirement file."""
    pinned = pins(CONSTRAINTS)
    for path in requirement_files():
        for name, (version,) in pins(path).items():
            assert pinned.get(name) == {version}, f"{path.name}: {name}=={version}; run `make constraints`"


def test_every_requirement_file_leads_to_the_pins() -> None:
    for path in requirement_files():
        text = path.read_text()
        assert re.search(r"^-c (requirements/)?constraints\.txt$|^-r \.\./requirements\.txt$", text, re.M), path.name


def test_a_requirement_is_an_exact_version_or_one_of_requirements_txt() -> None:
    for path in requirement_files():
        for line in path.read_text().splitlines():
            exact = re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+( ; .+)?", line)
            assert exact or line[:1] in "#-" or path.name == "serve.txt", f"{path.name}: {line}"


def test_serving_without_torch_asks_for_versions_of_requirements_txt() -> None:
    named = [line.split(" ;")[0] for line in (FOLDER / "serve.txt").read_text().splitlines() if line[0] not in "#-"]
    assert {re.sub(r"[-_.]+", "-", name) for name in named} <= pins(ROOT / "requirements.txt").keys() - {"torch"}
