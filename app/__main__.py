"""python -m app: serve until SIGTERM."""

# From the first instruction on a signal ends the process, also as a container's first one, which the kernel protects
# from signals that it does not handle. What follows imports for a second, and then Server takes over.
import os
import signal

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
signal.signal(signal.SIGINT, lambda *_: os._exit(0))

import sys  # noqa: E402

from app.errors import ConfigurationError  # noqa: E402


def main() -> int:
    """Exit status: 0 after a clean stop, 1 when the server could not start or go on."""
    from app.settings import load_settings
    from app.sockets import listen

    try:
        settings = load_settings()
        sockets = listen(settings.host, settings.port)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # Whoever connects from now on waits. The rest is imported only now, for that takes longer.
    from app.server import serve

    return serve(settings, sockets)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a thread that hangs in a driver or still loads would keep the process, or crash it at its end.
    os._exit(status)
