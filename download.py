#!/usr/bin/env python3
"""Bake a model into MODELS_DIR: download it, check it, compile it for the CPU.

    CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 ./download.py
    ./download.py --clip-model clip-ViT-B-32 --text-model clip-ViT-B-32-multilingual-v1@main

A name may pin a revision (NAME@REVISION), or be a local folder. Private models: set HF_TOKEN.
Run twice, it changes nothing.
"""

import argparse
import os
import sys

from app.errors import ConfigurationError
from app.families.registry import variables
from app.models.bake import bake
from app.settings import load_settings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    try:
        settings = load_settings()
        for variable in variables().values():
            option = f"--{variable.name.removesuffix('_NAME').lower().replace('_', '-')}"
            default = os.environ.get(variable.name) or None
            parser.add_argument(
                option, dest=variable.name, default=default, help=f"{variable.name}: {variable.meaning}"
            )
        parser.add_argument(
            "--trust-remote-code",
            action=argparse.BooleanOptionalAction,
            default=settings.trust_remote_code,
            help="TRUST_REMOTE_CODE: execute code that comes with the model",
        )
        parser.add_argument("--models-dir", type=type(settings.models_dir), default=settings.models_dir)
        parser.add_argument(
            "--compile",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="compile the model for the CPU (--no-compile for an image that serves on a GPU)",
        )
        options = parser.parse_args()
        names = {name: getattr(options, name) for name in variables() if getattr(options, name)}
        bake(options.models_dir, names, options.trust_remote_code, compile_towers=options.compile)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
