"""Processes that this program starts, from the side of either."""

import ctypes
import os
import signal
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PR_SET_PDEATHSIG = 1


def python_environment(**more: str) -> dict[str, str]:
    """The environment in which `python -m` finds this package, wherever that is started, with `more` variables."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **more}


def end_with(parent: int) -> None:
    """Let the kernel kill this process once `parent`, the process that started it, has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it had ended before the line above
            os._exit(1)
