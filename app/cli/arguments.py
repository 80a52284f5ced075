"""The command line: its commands, and every setting as an option."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from app.settings import Settings

# What each command does, and options as an example.
_COMMANDS = {
    "serve": ("serve the model until SIGTERM; this is the default", "--models-dir demo/models --port 9090"),
    "check": ("load and try the model, and print the settings that are not at their default", "--models-dir models"),
    "embed": ("print the vectors of texts or pictures, or how similar they are", '--text "a cat" --image *.png'),
    "compile": ("compile the model for the CPU ahead of the first start", "--models-dir models --precision int8"),
    "bake": ("download a model into MODELS_DIR, as download.py does", "--clip-model clip-ViT-B-32"),
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
            epilog=f"example:\n  python -m app {name} {example}",
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
