"""The name under which `python -m app.models.compiled PLACE` was documented first."""

import sys

from app.models.compile import main

if __name__ == "__main__":
    sys.exit(main())
