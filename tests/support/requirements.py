"""The versions that requirement files pin."""

import re
from pathlib import Path

from tests.support.server import ROOT

FOLDER = ROOT / "requirements"
CONSTRAINTS = FOLDER / "constraints.txt"


def pins(path: Path) -> dict[str, set[str]]:
    """Versions by name as the registry writes it; a name can have one for each Python."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)", path.read_text(encoding="utf-8"), re.M):
        found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(version)
    return found
