"""python -m app: serve until SIGTERM, or run a command."""

# From the first instruction on a signal ends the process, also as a container's first one, which the kernel protects
# from signals that it does not handle. What follows imports for a second, and then Server takes over.
import os
import signal

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
signal.signal(signal.SIGINT, lambda *_: os._exit(0))

import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from app.errors import ConfigurationError  # noqa: E402


def main(arguments: Sequence[str]) -> int:
    """Serve, where there is no command. Exit status: 0 after a clean stop, 1 when it could not be done."""
    if arguments and arguments[0] != "serve":
        return command(arguments)
    from app import logs
    from app.processes.plan import count_workers, device_settings
    from app.settings import load_settings
    from app.sockets import listen
    from app.system import raise_open_files, use_one_heap

    options = {}
    if arguments:
        from app.cli.arguments import parse_arguments

        options = parse_arguments(arguments).settings
    try:
        settings = load_settings(options)
        logs.configure(settings.log_format, settings.log_level)
        sockets = listen(settings.host, settings.port)
        workers, devices = count_workers(settings), device_settings(settings)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    use_one_heap()
    raise_open_files()
    # Whoever connects from now on waits. The rest is imported only now, for that takes longer.
    if workers > 1 or len(devices) > 1:
        from app.processes.supervisor import supervise

        return supervise(settings, sockets, workers, devices)
    from app.server import serve

    return serve(settings, sockets)


def command(arguments: Sequence[str]) -> int:
    """Any command but `serve`; on a signal it ends like every other program."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if arguments[0] == "bake":
        from app.cli import bake

        return bake.main(arguments[1:], "python -m app bake")
    from app.cli.arguments import parse_arguments
    from app.cli.commands import run

    return run(parse_arguments(arguments))


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except SystemExit as stop:  # of argparse, after help or usage
        status = int(stop.code or 0)
    except KeyboardInterrupt:
        status = 130
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a thread that hangs in a driver or still loads would keep the process, or crash it at its end.
    os._exit(status)
