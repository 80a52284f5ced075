"""Installs requirement files into the environment of the interpreter that runs it.

    .venv/bin/python requirements/install.py requirements/dev.txt
    .venv/bin/python requirements/install.py requirements/openclip.txt requirements/colpali.txt

The torch that the Python Package Index serves for Linux brings 5 GB of CUDA libraries, which nobody needs here. So
torch, and torchvision where a family needs it, come from, in this order: the index that TORCH_INDEX names (empty:
your ordinary package index); the wheels that pip finds on this machine (find-links); PyTorch's own index of CPU
builds; your ordinary package index.

Exit status 2: there is no torchvision that fits this torch, for which both must come from one index; nothing else
was installed.
"""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

PYTORCH_CPU = "https://download.pytorch.org/whl/cpu"
WITH_TORCHVISION = {"openclip.txt", "colpali.txt"}
PIP = [sys.executable, "-m", "pip"]
PINS = ["-c", str(Path(__file__).with_name("constraints.txt"))]


def is_at_hand(package: str) -> bool:
    """Whether pip needs no index for it: it is installed, or lies in a folder that pip's settings name."""
    command = [*PIP, "install", "--dry-run", "--no-index", "--no-deps", *PINS, package]
    return subprocess.run(command, capture_output=True).returncode == 0


def is_reachable(index: str) -> bool:
    """Whether the index answers within ten seconds."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=10):
            return True
    except OSError:
        return False


def index_for(package: str) -> str:
    """The index that torch or torchvision is to come from; empty for the one that pip is set to."""
    chosen = os.environ.get("TORCH_INDEX")
    if chosen is not None:
        return chosen
    if sys.platform != "linux" or is_at_hand(package):
        return ""
    if is_reachable(PYTORCH_CPU):
        return PYTORCH_CPU
    print(f"{PYTORCH_CPU} is not reached, so {package} comes from the package index", file=sys.stderr)
    return ""


def install_built(package: str) -> None:
    """Install torch or torchvision, and nothing else from that index."""
    index = index_for(package)
    where = ["--index-url", index] if index else []
    subprocess.run([*PIP, "install", "--quiet", "--no-deps", *PINS, *where, package], check=True)


def fits_torch() -> bool:
    """Whether the torchvision that is installed works with the torch that is installed."""
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0


def main() -> int:
    paths = sys.argv[1:]
    if not paths:
        print(__doc__)
        return 1
    install_built("torch")
    if WITH_TORCHVISION & {Path(path).name for path in paths}:
        install_built("torchvision")
        if not fits_torch():
            subprocess.run([*PIP, "uninstall", "--quiet", "--yes", "torchvision"], check=True)
            return 2
    subprocess.run([*PIP, "install", "--quiet", *(f"-r{path}" for path in paths)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
