"""The supervisor: accepts connections and hands each to the front process with the fewest, and replaces fronts.

It imports what a front needs, once, and forks the fronts, so that a new one is there in a moment. The device
processes are programs of their own: they load the model meanwhile.
"""

import contextlib
import itertools
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.processes.channel import MAX_PACKET, Channel
from app.settings import Settings
from app.system import collect_garbage_less_often, end_with, python_environment

_log = logging.getLogger(__name__)

# So many fronts in a row that ended before they could answer end the server.
_MAX_FAILED_STARTS = 5
# What children get to end by themselves when nothing waits for an answer, and beyond GRACE_PERIOD.
_STOP_SECONDS, _SPARE_SECONDS = 1.0, 2.0
# How often the end is looked at, once it has begun.
_TICK = 0.05


@dataclass(eq=False)
class _Child:
    """A process, its channel, and what it was last seen to count.

    A front `is_up` once it takes connections, and `has_model` once it can answer, as a device once it can compute.
    `offered` are the connections that a front has not taken yet: if it ends, another one gets them.
    """

    index: int
    process: int
    channel: Channel
    connections: int = 0
    is_up: bool = False
    has_model: bool = False
    snapshot: bytes = b""
    offered: deque[socket.socket] = field(default_factory=deque)


class Supervisor:
    """Owns the listening sockets and all processes. `devices` are the settings of each device process."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket],
        fronts: int,
        devices: Sequence[Settings],
        device_module: str = "app.processes.device",
    ) -> None:
        """`device_module` is the program of a device process."""
        self._settings = settings
        self._sockets = list(sockets)
        self._count = fronts
        self._selector = selectors.DefaultSelector()
        self._fronts: list[_Child] = []
        self._devices: list[_Child] = []
        self._indices = itertools.count()
        self._failed_starts = 0
        self._model: bytes | None = None
        self._failure: str | None = None
        self._alone = False
        self._signals: list[int] = []
        self._asked_at: float | None = None
        self._port_closed = False
        self._connections: deque[socket.socket] = deque()  # that have no front yet
        self._departed: list[bytes] = []
        self._collecting: set[_Child] = set()  # those who asked for the metrics of all
        self._silent: set[_Child] = set()  # those who have not told theirs yet
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signals.append(number))
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        self._selector.register(self._wake[0], selectors.EVENT_READ)
        for each in devices:
            self._start_device(each, device_module)

    # run --------------------------------------------------------------------------------------

    def run(self) -> int | None:
        """Serve until a signal or a failure. Returns the exit status: 0 after a clean stop, 1 after a failure.

        Returns None, the sockets still open, if only the process that loaded the model can prepare its inputs.
        """
        # Only now: the device process loads the model meanwhile.
        from app.processes.front import Front
        from app.server import drain_delay
        from app.serving.metrics import Metrics

        self._make_front, self._drain_delay = Front, drain_delay
        self._metrics = Metrics()
        self._metrics.fronts.set_function(lambda: sum(each.has_model for each in self._fronts))
        collect_garbage_less_often()
        for sock in self._sockets:
            self._selector.register(sock, selectors.EVENT_READ, sock)
        if not self._signals:
            for _ in range(self._count):
                self._start_front()
        while not self._alone and (self._fronts or (self._asked_at is None and not self._signals)):
            for key, events in self._selector.select(None if self._asked_at is None else _TICK):
                self._handle(key.data, key.fd, events)
            self._step()
        for front in self._fronts:
            self._kill(front)
            os.waitpid(front.process, 0)
            self._connections.extend(front.offered)
        for connection in self._connections:  # else their clients would wait for this process's end
            connection.close()
        self._end_devices()
        signal.set_wakeup_fd(-1)
        if self._alone and not self._signals:
            return None
        return 1 if self._failure else 0

    def _handle(self, owner: Any, file: int, events: int) -> None:
        if file == self._wake[0]:
            os.read(file, 4096)
        elif isinstance(owner, socket.socket):
            self._accept(owner)
        elif isinstance(owner, _Child):
            if events & selectors.EVENT_WRITE:
                owner.channel.flush()
                self._watch(owner)
            if events & selectors.EVENT_READ:
                self._receive(owner)

    def _receive(self, child: _Child) -> None:
        if child not in self._fronts and child not in self._devices:  # lost a moment ago
            return
        try:
            for kind, *values in child.channel.told():
                self._obey(child, kind, values)
        except EOFError:
            self._lose(child)

    def _obey(self, child: _Child, kind: str, values: list[Any]) -> None:
        if kind == "up":
            child.is_up = True
            self._place_connections()
        elif kind == "taken":
            child.offered.popleft().close()
        elif kind == "connected":
            child.has_model = True
            self._failed_starts = 0
            for device in self._devices:
                self._join(child, device)
        elif kind == "closed":
            child.connections -= 1
        elif kind == "loaded":
            child.has_model = True
            first, self._model = self._model is None, values[0]
            for front in self._fronts:
                if first:
                    self._tell(front, "model", self._model)
                self._join(front, child)
        elif kind == "alone":
            self._alone = True
        elif kind in ("broken", "failed"):
            if child in self._devices and len(self._devices) > 1:
                _log.critical("device %d: %s", child.index, values[0])
                self._kill(child)
            else:
                self._fail(values[0])
        elif kind == "collect":
            self._collecting.add(child)
            if not self._silent:
                self._silent = {*self._fronts, *self._devices}
                for each in self._silent:
                    self._tell(each, "metrics")
        elif kind == "metrics":
            child.snapshot = values[0]
            self._hear_metrics(child)

    def _hear_metrics(self, child: _Child) -> None:
        """A process has told its metrics, or never will."""
        self._silent.discard(child)
        if not self._silent:
            snapshots = [each.snapshot for each in (*self._fronts, *self._devices)]
            snapshots += [*self._departed, self._metrics.snapshot()]
            for front in self._collecting:
                self._tell(front, "collected", [each for each in snapshots if each])
            self._collecting = set()

    # connections ------------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        """Hand all that connect now to the fronts that have the fewest connections. Without a front they wait."""
        while True:
            try:
                self._connections.append(listening.accept()[0])
                self._place_connections()
            except BlockingIOError:
                return
            except OSError as error:
                _log.warning("a connection could not be accepted: %s", error)
                time.sleep(_TICK)  # the port stays readable; those that the fronts have taken are closed meanwhile
                return

    def _place_connections(self) -> None:
        """Those that have the model come first: a front that was replaced gets it in a moment."""
        while self._connections and (up := [front for front in self._fronts if front.is_up]):
            connection = self._connections.popleft()
            front = min(up, key=lambda front: (not front.has_model, front.connections))
            self._tell(front, "connection", files=[connection.fileno()])
            front.connections += 1
            front.offered.append(connection)

    # processes --------------------------------------------------------------------------------

    def _start_device(self, settings: Settings, module: str) -> None:
        ours, theirs = Channel.pair()
        file = theirs.sock.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(file), str(os.getpid())],
            env=python_environment(),
            pass_fds=[file],
            stdin=subprocess.DEVNULL,
        )
        process.returncode = 0  # it is the supervisor that waits for its end
        theirs.close()
        child = _Child(len(self._devices), process.pid, ours)
        self._devices.append(child)
        self._watch(child)
        self._tell(child, "settings", settings, self._count)

    def _start_front(self) -> None:
        ours, theirs = Channel.pair()
        index = next(self._indices)
        supervisor, process = os.getpid(), os.fork()
        if process == 0:
            status = 1
            try:
                self._become_front(supervisor, ours, theirs, index)
                status = 0
            except BaseException:
                _log.critical("a front process failed", exc_info=True)
            finally:
                sys.stderr.flush()
                os._exit(status)
        theirs.close()
        front = _Child(index, process, ours)
        self._fronts.append(front)
        self._watch(front)
        if self._model is not None:
            self._tell(front, "model", self._model)

    def _become_front(self, supervisor: int, ours: Channel, theirs: Channel, index: int) -> None:
        """In the new process: let go of all that is the supervisor's."""
        end_with(supervisor)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        self._selector.close()
        for file in self._wake:
            os.close(file)
        offered = (sock for front in self._fronts for sock in front.offered)
        for sock in (*self._sockets, *self._connections, *offered):
            sock.close()
        for channel in (ours, *(child.channel for child in (*self._fronts, *self._devices))):
            channel.close()
        self._make_front(self._settings, theirs, index, self._count).run()

    def _join(self, front: _Child, device: _Child) -> None:
        """Connect them once both have the model."""
        if not (front.has_model and device.has_model):
            return
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * MAX_PACKET)
        self._tell(device, "front", front.index, files=[ends[0].fileno()])
        self._tell(front, "device", files=[ends[1].fileno()])
        for end in ends:
            end.close()

    def _lose(self, child: _Child) -> None:
        """A process has ended, or will in a moment."""
        self._selector.unregister(child.channel.sock)
        child.channel.close()
        self._kill(child)
        code = os.waitstatus_to_exitcode(os.waitpid(child.process, 0)[1])
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        self._collecting.discard(child)
        if child.snapshot:
            from app.serving.metrics import counts_of

            self._departed = [counts_of([*self._departed, child.snapshot])]
        if child in self._devices:
            self._devices.remove(child)
            if self._asked_at is None:
                self._lose_device(child, how)
        else:
            self._fronts.remove(child)
            self._connections.extend(child.offered)
            self._place_connections()
            if self._asked_at is None:
                self._replace(child, how)
        self._hear_metrics(child)

    def _lose_device(self, child: _Child, how: str) -> None:
        if self._devices:
            self._metrics.devices_lost.inc()
            _log.critical("device process %d %s; the others go on", child.index, how)
        else:
            self._fail(f"the device process {how}")

    def _replace(self, child: _Child, how: str) -> None:
        _log.error("front process %d %s, with %d connections; it is replaced", child.index, how, child.connections)
        self._failed_starts += not child.has_model
        if self._failed_starts >= _MAX_FAILED_STARTS:
            self._fail(f"{_MAX_FAILED_STARTS} front processes ended before they could answer; the last one {how}")
        else:
            self._metrics.fronts_replaced.inc()
            self._start_front()

    def _kill(self, child: _Child) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.process, signal.SIGKILL)

    def _tell(self, child: _Child, *values: Any, files: Sequence[int] = ()) -> None:
        child.channel.tell(*values, files=files)
        self._watch(child)

    def _watch(self, child: _Child) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.channel.is_blocked else 0)
        try:
            if self._selector.get_key(child.channel.sock).events != events:
                self._selector.modify(child.channel.sock, events, child)
        except KeyError:
            self._selector.register(child.channel.sock, events, child)

    # the end ----------------------------------------------------------------------------------

    def _fail(self, message: str) -> None:
        """Turn ready to 503 everywhere and end the server."""
        if self._failure is None:
            self._failure = message
            _log.critical("%s", message)
            for front in self._fronts:
                self._tell(front, "failed", message)

    def _step(self) -> None:
        """What time and signals ask for."""
        now = time.monotonic()
        number, *others = self._signals or [signal.SIGTERM]
        if self._asked_at is None and (self._signals or self._failure is not None):
            self._asked_at = now
            _log.info("shutting down on %s", "the failure" if self._failure else signal.Signals(number).name)
            for front in self._fronts:
                self._tell(front, "drain", number)
        if self._asked_at is None:
            return
        if others:
            del self._signals[1:]
            for front in self._fronts:
                self._tell(front, "drain", number)
        loaded = self._model is not None
        at_once = number == signal.SIGINT or self._failure is not None or not loaded
        if not self._port_closed and now >= self._asked_at + (0.0 if at_once else self._drain_delay(self._settings)):
            self._port_closed = True
            for sock in self._sockets:
                self._accept(sock)  # those who wait in the backlog would be reset
                self._selector.unregister(sock)
                sock.close()
            for front in self._fronts:
                self._tell(front, "port closed")
        patience = self._settings.grace_period + _SPARE_SECONDS if loaded else _STOP_SECONDS
        if now > self._asked_at + patience:
            for front in self._fronts:
                self._kill(front)

    def _end_devices(self) -> None:
        for device in self._devices:
            os.kill(device.process, signal.SIGTERM)
            device.channel.close()  # it may wait for a word
        end = time.monotonic() + _STOP_SECONDS
        for device in self._devices:
            while os.waitpid(device.process, os.WNOHANG)[0] == 0:
                if time.monotonic() > end:
                    self._kill(device)
                time.sleep(0.01)


def supervise(settings: Settings, sockets: list[socket.socket], fronts: int, devices: Sequence[Settings]) -> int:
    """Serve on `sockets`, which already listen. Returns the exit status: 0 after a clean stop, 1 after a failure."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no threads in a process that forks
    status = Supervisor(settings, sockets, fronts, devices).run()
    if status is not None:
        return status
    from app.server import serve

    _log.warning("one process serves: only the one that loads this model can prepare its inputs (WORKERS)")
    return serve(devices[0], sockets)
