#!/usr/bin/env python3
"""Bake a model into MODELS_DIR: download it, check it, compile it for the CPU.

    CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 ./download.py
    ./download.py --clip-model clip-ViT-B-32 --text-model clip-ViT-B-32-multilingual-v1@main

A name may pin a revision (NAME@REVISION). Private models: set HF_TOKEN. Run twice, it changes nothing.
"""

import argparse
import sys

from app.contract import ConfigurationError
from app.models.baking import bake
from app.settings import load_settings


def main() -> int:
    try:
        settings = load_settings()
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--clip-model", default=settings.clip_model_name, help="CLIP_MODEL_NAME")
        parser.add_argument("--text-model", default=settings.text_model_name, help="TEXT_MODEL_NAME")
        parser.add_argument(
            "--trust-remote-code",
            action=argparse.BooleanOptionalAction,
            default=settings.trust_remote_code,
            help="TRUST_REMOTE_CODE: execute code that comes with the model, here and when serving",
        )
        parser.add_argument("--models-dir", type=type(settings.models_dir), default=settings.models_dir)
        parser.add_argument(
            "--compile",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="compile the model for the CPU (--no-compile for an image that serves on a GPU)",
        )
        options = parser.parse_args()
        bake(
            options.models_dir,
            clip_model=options.clip_model,
            text_model=options.text_model,
            trust_remote_code=options.trust_remote_code,
            compile_towers=options.compile,
        )
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
