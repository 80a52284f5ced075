"""The one tree of errors that a caller may read. It knows no HTTP: app/api/status.py maps it."""


class ServiceError(Exception):
    """Root of the tree: the message says what is wrong, with which item, and what to do."""


class ConfigurationError(ServiceError):
    """The server cannot start as it is set up."""


class NotCompiled(ServiceError):
    """An engine does not take this tower, now or later; another engine may."""


class CompilingFailed(ServiceError):
    """Compiling came to no end for a reason that may pass; the message names it."""


class Stopped(ServiceError):
    """The server was told to stop while it loaded the model."""


class InvalidRequest(ServiceError):
    """The request is at fault."""


class BodyTimeout(InvalidRequest):
    """The body did not arrive in time."""


class TooLarge(InvalidRequest):
    """The request can never be taken, however little else there is to do."""


class BodyTooLarge(TooLarge):
    """The body can never be taken."""


class ClientGone(ServiceError):
    """The client closed the connection before its answer was there; nobody reads this."""


class Unavailable(ServiceError):
    """The server cannot answer now; the same request may succeed later."""


class Overloaded(Unavailable):
    """More waits than the server is set to hold."""


class OutOfMemory(Unavailable):
    """The batch does not fit into the device's memory; a smaller one may."""


class EngineBroken(Unavailable):
    """The device cannot compute any more; only a restart helps."""


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
