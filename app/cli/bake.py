"""Baking a model from the command line: what download.py and `python -m app bake` do."""

import argparse
import os
import sys
from collections.abc import Sequence

from app.errors import ConfigurationError
from app.families.registry import variables
from app.models.bake import bake
from app.settings import load_settings

DESCRIPTION = """Bake a model into MODELS_DIR: download it, check it, compile it for the CPU.

    CLIP_MODEL_NAME=clip-ViT-B-32 TEXT_MODEL_NAME=clip-ViT-B-32 ./download.py
    ./download.py --clip-model clip-ViT-B-32 --text-model clip-ViT-B-32-multilingual-v1@main

A name may pin a revision (NAME@REVISION), or be a local folder. Private models: set HF_TOKEN.
A second run changes nothing.
"""


def main(arguments: Sequence[str], program: str | None = None) -> int:
    """Returns the exit status: 0, or 1 after printing the reason."""
    parser = argparse.ArgumentParser(
        prog=program, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    switch = argparse.BooleanOptionalAction
    for name, meaning in variables().items():
        option = f"--{name.removesuffix('_NAME').lower().replace('_', '-')}"
        parser.add_argument(option, dest=name, default=os.environ.get(name), help=f"{name}: {meaning}")
    parser.add_argument("--trust-remote-code", action=switch, help="execute code that comes with the model")
    parser.add_argument("--models-dir", help="the folder to bake into")
    parser.add_argument("--compile", action=switch, default=True, help="compile for the CPU; a GPU needs none")
    options = parser.parse_args(arguments)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    given = {name: getattr(options, name) for name in ("models_dir", "trust_remote_code")}
    settings = {name: str(value) for name, value in given.items() if value is not None}
    names = {name: value for name in variables() if (value := getattr(options, name))}
    try:
        bake(load_settings(settings), names, compile_towers=options.compile)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
