#!/usr/bin/env python3
"""Bake a model into MODELS_DIR: download it, check it, compile it for the CPU.

    CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 ./download.py
    ./download.py --clip-model clip-ViT-B-32 --text-model clip-ViT-B-32-multilingual-v1@main

A name may pin a revision (NAME@REVISION). Private models: set HF_TOKEN. Run twice, it changes nothing.
"""

import argparse
import sys
from dataclasses import fields

from app.errors import ConfigurationError
from app.families.names import Names
from app.models.bake import bake
from app.settings import Settings, load_settings


def main() -> int:
    try:
        settings = load_settings()
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        for field in fields(Names):
            default = getattr(settings, field.name)
            option = f"--{field.name.removesuffix('_name').replace('_', '-')}"
            action = argparse.BooleanOptionalAction if isinstance(default, bool) else "store"
            meaning = Settings.model_fields[field.name].description
            parser.add_argument(
                option, dest=field.name, action=action, default=default, help=f"{field.name.upper()}: {meaning}"
            )
        parser.add_argument("--models-dir", type=type(settings.models_dir), default=settings.models_dir)
        parser.add_argument(
            "--compile",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="compile the model for the CPU (--no-compile for an image that serves on a GPU)",
        )
        options = parser.parse_args()
        names = Names(**{field.name: getattr(options, field.name) for field in fields(Names)})
        bake(options.models_dir, names, compile_towers=options.compile)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
