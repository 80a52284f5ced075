"""A balancer of connections, as a cluster's Service is one."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator

from tests.support.server import free_port


class Balancer:
    """New connections go round the ports in service. Those made stay where they are."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._turn = itertools.count()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to a port whose turn it is; closed at once if nobody listens there."""
        port = self.ports[next(self._turn) % len(self.ports)]
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        with contextlib.suppress(asyncio.CancelledError):  # the balancer ends
            await asyncio.gather(_pump(reader, back_writer), _pump(back_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@contextlib.contextmanager
def balancer(*ports: int) -> Iterator[Balancer]:
    """A balancer that runs in a thread of its own; set its `ports` to change what is in service."""
    balancer, over = Balancer([*ports]), asyncio.Event()
    listening = threading.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with await asyncio.start_server(balancer.connect, "127.0.0.1", balancer.port):
            listening.set()
            await over.wait()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        thread = threading.Thread(target=runner.run, args=(run(),))
        thread.start()
        try:
            assert listening.wait(60)
            yield balancer
        finally:
            loop.call_soon_threadsafe(over.set)
            thread.join()
