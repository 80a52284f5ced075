"""A Python that has loaded torch and other large libraries already, for programs that need as long for nothing else.

warm_python() is a program to be started in place of sys.executable. What it is asked to run gets a process that was
forked from one that has imported LIBRARIES and has one thread: with its own environment, arguments, folder and
standard streams, and with its exit status. Signals reach it through the program that was started, whose number is
not its own; what looks at a process from outside takes sys.executable. None of LIBRARIES reads variables that the
tests set: those of the hub's client and of this service are imported by each process anew.

This file is three programs: the tests import it, the process from which others are forked runs it, and what
warm_python() names imports it in a Python of its own, which must start at once; so there are few imports at the top.
"""

import json
import os
import signal
import socket
import sys

LIBRARIES = (
    "numpy",
    "PIL.Image",
    "scipy.stats",
    "sklearn.metrics",
    "torch",
    "torch._dynamo",
    "torch._export",
    "torch._inductor.lowering",
    "torch.distributed.tensor",
    "torch.export",
    "torchvision",
    "fastapi",
    "pydantic_settings",
    "uvicorn",
    "prometheus_client",
    "httpx",
    "tqdm",
)
# Below `app`, the modules that run in a forked process. Others, the decoders among them, which bound their own
# memory, get one that has loaded nothing.
_FORKED_MODULES = ("app.models.", "app.cli.")
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_LENGTH = 8  # bytes of the length before what is to be run


# In the tests' process


def warm_python() -> str:
    """The path of the program, which works until this process ends."""
    if "program" not in _started:
        _started["program"] = _start()
    return _started["program"]


_started: dict[str, str] = {}


def _start() -> str:
    import atexit
    import shutil
    import subprocess
    import tempfile
    from pathlib import Path

    folder = Path(tempfile.mkdtemp(prefix="warm-python-"))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "socket"))
    listening.listen(64)
    program = folder / "python"
    program.write_text(
        f"#!{sys.executable} -IS\n"
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from warm_python import run\nrun({sys.executable!r}, {str(folder / 'socket')!r})\n"
    )
    program.chmod(0o755)
    descriptor = str(listening.fileno())
    # It ends when its standard input does.
    process = subprocess.Popen(
        [sys.executable, __file__, descriptor, str(program)],
        stdin=subprocess.PIPE,
        pass_fds=[listening.fileno()],
        env={**os.environ, "PYTHONPATH": "", "OPENBLAS_NUM_THREADS": "1"},  # with threads it could not be forked
    )
    listening.close()

    def end() -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return str(program)


# The program that was started


def run(python: str, address: str) -> None:
    """Have the arguments run in a forked process, pass signals on to it, and end as it ended."""
    if not _is_forked(sys.argv[1:]):
        os.execv(python, [python, *sys.argv[1:]])
    job = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd(), "parent": os.getppid()}
    message = json.dumps(job).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    socket.send_fds(connection, [len(message).to_bytes(_LENGTH, "big")], [0, 1, 2])
    connection.sendall(message)
    for number in _FORWARDED:
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    # Who waits for the end of a stream waits for the forked process alone.
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    answer = connection.recv(64)
    status = int(answer) if answer else 1
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _is_forked(arguments: list[str]) -> bool:
    while arguments and arguments[0] == "-W":
        arguments = arguments[2:]
    if arguments[:1] == ["-m"]:
        return arguments[1] == "app" or arguments[1].startswith(_FORKED_MODULES)
    return bool(arguments) and not arguments[0].startswith("-")


# The process from which others are forked


class _Job:
    """What is to be run: arguments, environment, folder, parent, and the three standard streams."""

    def __init__(self, connection: socket.socket) -> None:
        head, streams, _, _ = socket.recv_fds(connection, _LENGTH, 3)
        self.streams = streams
        left, message = int.from_bytes(head, "big"), b""
        while len(message) < left:
            message += connection.recv(left - len(message))
        job = json.loads(message)
        self.arguments: list[str] = job["arguments"]
        self.environment: dict[str, str] = job["environment"]
        self.folder: str = job["folder"]
        self.parent: int = job["parent"]


def fork_on_demand(listening: socket.socket) -> _Job:
    """Returns in each forked process, with what it is to run; where standard input ends, the process ends."""
    import contextlib
    import select

    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[socket.socket, int] = {}
    while True:
        readable, _, _ = select.select([0, listening, woken, *running], [], [])
        if 0 in readable:
            for process in running.values():
                os.kill(process, signal.SIGKILL)
            os._exit(0)
        if listening in readable:
            connection, _ = listening.accept()
            job = _Job(connection)
            process = os.fork()
            if not process:
                signal.set_wakeup_fd(-1)
                for each in (listening, woken, wake, connection, *running):
                    each.close()
                return job
            for stream in job.streams:
                os.close(stream)
            running[connection] = process
        if woken in readable:
            woken.recv(4096)
        for connection, process in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                del running[connection]
                with contextlib.suppress(OSError):  # the program was killed meanwhile
                    connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
                connection.close()
            elif connection in readable:
                for number in connection.recv(64) or bytes([signal.SIGKILL]):
                    os.kill(process, number)


def become(job: _Job, program: str, base_path: list[str]) -> list[str]:
    """Take over what a process starts with; returns "-m" and a module, or a script, and the arguments."""
    import builtins
    import importlib
    import warnings

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(job.streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    for name, mode, number, errors in (
        ("stdin", "r", 0, "strict"),
        ("stdout", "w", 1, "strict"),
        ("stderr", "w", 2, "backslashreplace"),
    ):
        buffering = 1 if number == 2 or os.isatty(number) else -1
        stream = open(number, mode, buffering, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.environ.clear()
    os.environ.update(job.environment)
    os.chdir(job.folder)
    forked, parent_of_this = os.getpid(), os.getppid
    # The program that was started stands for this process, and not for those that this one forks.
    os.getppid = lambda: job.parent if os.getpid() == forked else parent_of_this()
    sys.executable = program
    arguments = job.arguments
    while arguments[0] == "-W":
        action, _, category = arguments[1].partition("::")
        warnings.simplefilter(action, getattr(builtins, category or "Warning"))
        arguments = arguments[2:]
    paths = job.environment.get("PYTHONPATH", "").split(os.pathsep)
    start = job.folder if arguments[0] == "-m" else os.path.dirname(os.path.abspath(arguments[0]))
    sys.path[:] = [start, *filter(None, paths), *base_path]
    importlib.invalidate_caches()
    if any(os.path.exists(os.path.join(path, "sitecustomize.py")) for path in paths if path):
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")
    return arguments


if __name__ == "__main__":
    import contextlib
    import gc
    import importlib
    import runpy

    del sys.path[0]
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # with so many objects each collection takes long
    base = list(sys.path)
    task = fork_on_demand(socket.socket(fileno=int(sys.argv[1])))
    what = become(task, sys.argv[2], base)
    if what[0] == "-m":
        sys.argv = what[1:]
        runpy.run_module(what[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = what
        runpy.run_path(what[0], run_name="__main__")
