"""Runs the commands of the command line but `serve` and `bake`."""

import asyncio
import logging
import sys

from app.cli.arguments import Arguments
from app.cli.busy import busy
from app.errors import CompilingFailed, ConfigurationError
from app.settings import load_settings


def run(arguments: Arguments) -> int:
    """Exit status: 0, or 1 when the reason was printed."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # What fails is printed once, below.
    logging.getLogger("app.serving.service").setLevel(logging.CRITICAL + 1)
    try:
        settings = load_settings(arguments.settings)
        if arguments.command == "compile":
            from app.models.compile import compile_model

            with busy("compiling the model"):
                print(compile_model(settings, arguments.output or settings.models_dir / "compiled"))
        elif arguments.command == "check":
            from app.cli.check import print_check

            asyncio.run(print_check(settings, arguments.settings))
        else:
            from app.cli.embed import print_embedded

            asyncio.run(print_embedded(settings, arguments.texts, arguments.images, arguments.as_json))
    except (ConfigurationError, CompilingFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
