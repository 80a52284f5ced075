"""The command line: its commands, and every setting as an option."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from app.settings import Settings

# What each command does, and an example.
_COMMANDS = {
    "serve": (
        "serve the model until SIGTERM; this is the default",
        "python -m app serve --models-dir demo/models --port 9090",
    ),
    "check": (
        "load the model, embed a text and a picture, and print the settings that are not at their default",
        "python -m app check --models-dir demo/models",
    ),
    "embed": (
        "print the vectors of texts or pictures as JSON, or the table of similarities if both are given",
        'python -m app embed --models-dir demo/models --text "a red circle" --text "a blue star" --image *.png\n'
        '  python -m app embed --text "a red circle" > vector.json',
    ),
    "compile": (
        "compile the model for the CPU ahead of the first start",
        "python -m app compile --models-dir models\n"
        "  python -m app compile --precision int8 --output /cache/compiled",
    ),
    "bake": (
        "download a model into MODELS_DIR, as download.py does",
        "python -m app bake --clip-model clip-ViT-B-32 --text-model clip-ViT-B-32",
    ),
}


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments after `python -m app`; prints help or usage and exits, as argparse does.

    Gives the `command`, the `settings` that options name (a dictionary), and the command's own options. `bake` has a
    parser of its own, since download.py takes the same options.
    """
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="CLIP inference for Weaviate's multi2vec-clip module. Without a command it serves.",
        epilog="COMMAND --help shows the options of a command, with an example.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (meaning, example) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=meaning,
            description=f"{meaning[0].upper()}{meaning[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == "embed":
            command.add_argument("--text", dest="texts", action="append", default=[], help="a text; may be repeated")
            command.add_argument(
                "--image", dest="images", nargs="+", action="extend", type=Path, default=[], metavar="FILE",
                help="picture files",
            )  # fmt: skip
            command.add_argument("--json", dest="as_json", action="store_true", help="print vectors in any case")
        if name == "check":
            command.add_argument("--all", dest="show_all", action="store_true", help="print all settings")
        if name == "compile":
            command.add_argument("--output", type=Path, help="folder to write; default: MODELS_DIR/compiled")
        _add_settings(command)
    options = parser.parse_args(arguments)
    named = {name: getattr(options, name) for name in Settings.model_fields}
    options.settings = {name: value for name, value in named.items() if value is not None}
    return options


def _add_settings(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("settings", "each is also an environment variable; the option wins")
    for name, setting in Settings.model_fields.items():
        flag = {"nargs": "?", "const": "true"} if setting.annotation is bool else {}
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            metavar="VALUE",
            help=f"{(setting.description or '').replace('%', '%%')} ({name.upper()})",
            **flag,  # type: ignore[arg-type]
        )
