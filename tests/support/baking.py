"""Running download.py against a hub on loopback."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.server import ROOT


def download(hub_url: str, models: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": hub_url,
        "HF_HOME": str(models.parent / "hub-home"),
        "HF_HUB_DISABLE_XET": "1",
        "MODELS_DIR": str(models),
        **env,
    }
    command = [sys.executable, str(ROOT / "download.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
