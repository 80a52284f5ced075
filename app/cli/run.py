"""Runs the commands of the command line but `serve` and `bake`."""

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from app.cli.arguments import Arguments
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

            with _busy("compiling the model"):
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


@contextmanager
def _busy(doing: str) -> Iterator[None]:
    """A sign of life with the time that has passed, where the output is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(doing)
        yield
