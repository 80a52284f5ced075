"""What the README says is so."""

import re
from pathlib import Path

from app.settings import Settings

README = Path("README.md").read_text()


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]*)`? \|", README, re.M))
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else str(field.default).replace(str(Path.home()), "~")
        assert rows[name.upper()].strip() == default, name
    assert len(rows) == len(Settings.model_fields)
