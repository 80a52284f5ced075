"""The errors that a caller may read, as one tree. It knows no HTTP: app/api/status.py maps it."""

import traceback
from typing import Self


class ServiceError(Exception):
    """Root of the tree: `message` says what is wrong and what to do.

    `parameter` names the part of the request at fault, such as "texts", and `position` the item in it, from 0; str()
    puts both before the message: `texts[3]: is not base64`. `cause` is the word in the metrics.
    """

    cause = "internal"

    def __init__(self, message: str, parameter: str | None = None, position: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.parameter = parameter
        self.position = position

    def __str__(self) -> str:
        if self.parameter is None:
            return self.message
        place = "" if self.position is None else f"[{self.position}]"
        return f"{self.parameter}{place}: {self.message}"

    def again(self, parameter: str | None = None, position: int | None = None) -> Self:
        """A copy for another request or place: an error raised twice would collect the tracebacks of both."""
        copy = type(self)(self.message, parameter, position)
        copy.__cause__ = self
        return copy


class ConfigurationError(ServiceError):
    """The server cannot start with this configuration."""


class NotCompiled(ServiceError):
    """This engine never takes this tower; another engine may."""


class CompilingFailed(ServiceError):
    """Compiling failed for a reason that may pass; the message names it."""


class Stopped(ServiceError):
    """The server was told to stop while it loaded the model."""


class InvalidRequest(ServiceError):
    cause = "invalid"


class Unauthorized(InvalidRequest):
    """The token is missing or wrong."""


class UnsupportedEncoding(InvalidRequest):
    """The Content-Encoding of the body is not supported."""


class TooLarge(InvalidRequest):
    """The request can never be taken, even by an idle server."""

    cause = "too_large"


class BodyTooLarge(TooLarge):
    """The body can never be taken."""


class ClientGone(ServiceError):
    """The client closed the connection before its answer; nobody reads this."""


class NotBase64(InvalidRequest):
    cause = "not_base64"


class NoPicture(InvalidRequest):
    cause = "no_picture"


class BrokenPicture(InvalidRequest):
    cause = "broken_picture"


class UnsupportedPicture(InvalidRequest):
    cause = "unsupported"


class PictureTooLarge(InvalidRequest):
    """The picture has more pixels, or takes more work, than is allowed."""

    cause = "too_large"


ABOUT_PICTURES: dict[str, type[InvalidRequest]] = {
    kind.cause: kind for kind in (NoPicture, BrokenPicture, UnsupportedPicture, PictureTooLarge)
}


class Unavailable(ServiceError):
    """The server cannot answer now; the same request may succeed later."""

    cause = "unavailable"


class Overloaded(Unavailable):
    """More waits than the server can hold, or answer in time."""


class OutOfMemory(Unavailable):
    """The batch does not fit into the device's memory; a smaller one may."""

    cause = "out_of_memory"


class EngineBroken(Unavailable):
    """The device cannot compute any more; only a restart helps."""


def first_line(error: Exception) -> str:
    """The first line of a library's error."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def describe_unforeseen(error: BaseException) -> str:
    """Type and places of an error, for the log; a library's message may quote input, so it is left out."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return f"{type(error).__name__} at " + " < ".join(f"{frame.filename}:{frame.lineno}" for frame in frames)
