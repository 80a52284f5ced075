"""What the README says is so."""

import re
from pathlib import Path

from app.families.registry import FAMILIES, variables
from app.settings import Settings
from tests.support.server import ROOT

README = (ROOT / "README.md").read_text()


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]*)`? \|", README, re.M))
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else str(field.default).replace(str(Path.home()), "~")
        assert rows[name.upper()].strip() == default, name
    assert rows.keys() == {name.upper() for name in Settings.model_fields} | variables().keys()


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
