#!/usr/bin/env python3
"""Bake a model into MODELS_DIR: download it, check it, compile it for the CPU. --help says more."""

import sys

from app.cli.bake import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
