"""The HTTP contract, checked from outside by a program that knows nothing of this service."""

import re
import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).with_name("contract_check.py")


def check_contract(url: str) -> None:
    """Fails unless every rule holds at the server."""
    result = subprocess.run([sys.executable, str(CHECK), url], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(re.findall(r"^ok ", result.stdout, re.M)) >= 24
