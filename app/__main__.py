"""python -m app: serve until SIGTERM."""

import signal
import sys

import uvicorn

from app.contract import ConfigurationError
from app.main import create_app
from app.settings import load_settings

# Weaviate's client reuses idle connections for 90 s.
KEEP_ALIVE_SECONDS = 120


def main() -> int:
    """Exit status: 0 after a clean stop, 1 when the server could not start."""
    # uvicorn raises the signal again once it has shut down; a clean stop must still be status 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = load_settings()
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        access_log=False,
        server_header=False,
    )
    try:
        uvicorn.Server(config).run()
    except SystemExit as stop:
        return 1 if app.state.lifecycle.failure else int(stop.code or 0)
    return 1 if app.state.lifecycle.failure else 0


if __name__ == "__main__":
    sys.exit(main())
