"""One form for every line of the log, the libraries' included: plain for a terminal, JSON for machines."""

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Literal

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The X-Request-ID of the current request; every log line about it carries the id."""


class PlainFormatter(logging.Formatter):
    """One line per record: time, level, logger, message. A traceback follows on further lines."""

    def format(self, record: logging.LogRecord) -> str:
        request = f" [{identifier}]" if (identifier := request_id.get()) else ""
        line = f"{_when(record)} {record.levelname} {record.name}{request}: {_printable(record.getMessage())}"
        return "\n".join([line, *(_printable(part) for part in self._traceback(record).splitlines())])

    def _traceback(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class JSONFormatter(PlainFormatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
            "traceback": self._traceback(record),
            **getattr(record, "fields", {}),
        }
        return json.dumps({name: value for name, value in fields.items() if value not in ("", None)}, default=str)


class Throttle(logging.Filter):
    """At most `most` lines in so many `seconds`; the next line says how many were left out."""

    def __init__(self, most: int = 20, seconds: int = 1) -> None:
        super().__init__()
        self._most, self._seconds = most, seconds
        self._period, self._count = 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        period, left_out = int(record.created) // self._seconds, self._count - self._most
        if period != self._period:
            self._period, self._count = period, 0
            if left_out > 0:
                record.msg, record.args = f"{record.getMessage()} ({left_out} lines like this were left out)", ()
        self._count += 1
        return self._count <= self._most


def configure(form: Literal["plain", "json"], level: str) -> None:
    """Send the logs of this program, uvicorn and the libraries to stderr in one form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if form == "json" else PlainFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("app", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    # Its lines about the start repeat ours.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    logging.captureWarnings(True)


def _when(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _printable(text: str) -> str:
    """The text without characters that would move a terminal's cursor or forge a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
