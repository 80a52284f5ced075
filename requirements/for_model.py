"""Installs what the model of MODELS_DIR needs beyond serving a compiled model, if anything, and says why.

    MODELS_DIR=models .venv/bin/python requirements/for_model.py
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COST = "with torch in its CPU build some 350 MB to download and 1.7 GB on disk, once"


def missing() -> tuple[str, str]:
    """The requirement file that loading the model asks for, and its reason; two empty strings if it loads."""
    code = (
        "from app.models.load import load_model; from app.settings import load_settings; load_model(load_settings())"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if result.returncode == 0:
        return "", ""
    reason = result.stderr.strip().splitlines()[-1]
    asked = re.search(r"; pip install -r (\S+)", reason)
    if asked is None:
        sys.exit(f"error: {reason.partition('Error: ')[2] or reason}")
    return asked[1], reason.partition("Error: ")[2]


def main() -> None:
    done: set[str] = set()
    while True:
        path, reason = missing()
        if not path or path in done:
            return
        print(f"{reason.partition(';')[0]}. Installing {path}: {COST}.", flush=True)
        if subprocess.run([sys.executable, "requirements/install.py", path], cwd=ROOT).returncode:
            sys.exit(f"error: {path} could not be installed")
        done.add(path)


if __name__ == "__main__":
    main()
