"""The name under which `python -m app.models.compiled PLACE` was documented first."""

import logging
import sys
from pathlib import Path

from app.errors import CompilingFailed, ConfigurationError
from app.models.compile import compile_model
from app.settings import load_settings


def main() -> int:
    """Compile the model of MODELS_DIR into the folder named; exit status 1 with the reason if that fails."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: python -m app.models.compiled PLACE", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        print(compile_model(load_settings(), Path(sys.argv[1])))
    except (ConfigurationError, CompilingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
