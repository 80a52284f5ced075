"""Running download.py against a hub on loopback."""

import subprocess
from pathlib import Path

from tests.support.hub import hub_environment
from tests.support.server import ROOT
from tests.support.warm_python import warm_python


def download(hub_url: str, models: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = hub_environment(hub_url, models.parent / "hub-home", MODELS_DIR=str(models), **env)
    command = [warm_python(), str(ROOT / "download.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
