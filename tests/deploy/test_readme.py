"""What README.md and docs/settings.md say is so, and their links lead somewhere."""

import re
from pathlib import Path

from app.families.registry import FAMILIES, variables
from app.settings import _REPLACED, Settings
from tests.support.server import ROOT

README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs/settings.md").read_text()


def section(heading: str) -> str:
    """What docs/settings.md says below a heading, up to the next one."""
    return SETTINGS.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row of a table of settings, by name: default, meaning, and when to change it."""
    lines = re.findall(r"^\| `([A-Z_]+)` \|(.*)\|$", text, re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def test_every_setting_is_documented_with_its_default_and_when_to_change_it() -> None:
    groups = ["What you will want to change", "Limits", "For an index made with the old container"]
    documented = [rows(section(group)) for group in groups]
    assert sorted(name for group in documented for name in group) == sorted(map(str.upper, Settings.model_fields))
    for name, (default, meaning, when) in ((name, cells) for group in documented for name, cells in group.items()):
        field = Settings.model_fields[name.lower()]
        expected = "" if field.default is None else str(field.default).replace(str(Path.home()), "~")
        assert default.strip("`") == expected and meaning and when, name


def test_every_variable_of_baking_is_documented() -> None:
    documented = rows(section("Baking"))
    assert documented.keys() == variables().keys() | {"HF_TOKEN", "HF_ENDPOINT"}
    assert all(default == "" and meaning and when for default, meaning, when in documented.values())


def test_every_setting_that_another_replaces_is_named_under_upgrading() -> None:
    table = re.findall(r"^\| (`[A-Z_]+`.*) \| `?([A-Z_]+|nothing)\b", section("Upgrading"), re.M)
    assert {name: new for names, new in table for name in re.findall(r"`(\w+)`", names)} == _REPLACED


def test_the_pages_name_no_setting_that_is_gone() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    for page in pages:
        text = page.read_text().replace(section("Upgrading"), "")
        assert not re.findall(rf"\b(?:{'|'.join(_REPLACED)})\b", text), page.name


def test_the_links_of_the_pages_lead_somewhere() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    for page in pages:
        for address in re.findall(r"(?:\]\(|(?:href|src|srcset)=\")([^)\"\s]+)", page.read_text()):
            path, _, anchor = address.partition("#")
            target = (page.parent / path) if path else page
            if ":" in path:
                continue
            assert target.exists(), f"{page.name}: {address}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {address}"


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_commands_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    pages = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    for page in pages:
        text = page.read_text()
        for module in re.findall(r"python -m\s+((?:app|benchmarks|deploy|tests)[a-z_.]*[a-z])", text):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page.name}: {module}"
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M):
            assert target in targets, f"{page.name}: make {target}"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_family_is_documented_with_its_folders_and_variables() -> None:
    table = README[README.index("| family | folders") :].split("\n\n")[0]
    for family in FAMILIES:
        row = next(line for line in table.splitlines() if f"`{family.folders[0].name}`" in line)
        assert all(f"`{folder.name}`" in row for folder in family.folders), family.name
        own = {variable.name for variable in family.variables} - {"CLIP_MODEL_NAME", "TEXT_MODEL_NAME"}
        assert all(name in row for name in own), family.name


def test_both_images_take_every_variable_of_baking_as_a_build_argument() -> None:
    arguments = set(re.findall(r"^ARG ([A-Z_]+)", (ROOT / "Dockerfile").read_text(), re.M))
    assert variables().keys() <= arguments


def test_both_images_take_the_precision_as_a_build_argument() -> None:
    for name in ("Dockerfile", "custom.Dockerfile"):
        assert "ARG PRECISION" in (ROOT / name).read_text().splitlines(), name
    assert "PRECISION=$PRECISION" in (ROOT / "custom.Dockerfile").read_text()
