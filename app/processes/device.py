"""python -m app.processes.device FILE SUPERVISOR: loads the model and computes for all front processes.

SUPERVISOR is the id of the process that started this one, and FILE the descriptor of a channel to it:

    <-  "settings" Settings, number of fronts     ->  "loaded" pickled LoadedModel, "failed" message, or
                                                      "alone": no other process can prepare inputs
    <-  "front" index, descriptor of a socket     ->  "broken" message
    <-  "metrics"                                 ->  "metrics" snapshot
"""

import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

from app import logs
from app.cgroup import resident_memory
from app.errors import ServiceError, Stopped
from app.models.bake import load_named_model
from app.processes.channel import Channel
from app.processes.fronts import Fronts
from app.serving.computing import Computing
from app.serving.metrics import Metrics
from app.serving.vector_cache import VectorCache
from app.settings import Settings
from app.system import collect_garbage_less_often, end_with, use_one_heap
from app.towers import Elsewhere, LoadedModel

_log = logging.getLogger(__name__)

_STOP_SECONDS = 1.0

Load = Callable[[Settings, threading.Event], LoadedModel]


def main(file: int, supervisor: int, load: Load = load_named_model) -> int:
    """Serve until the supervisor ends. `load` loads another model."""
    end_with(supervisor)
    stopping = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the supervisor decides
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    use_one_heap()
    channel = Channel(socket.socket(fileno=file))
    channel.sock.setblocking(True)
    try:
        _, settings, fronts = next(channel.told())
        logs.configure(settings.log_format, settings.log_level)
        work = threading.Thread(target=_work, args=(channel, settings, fronts, stopping, load), daemon=True)
        work.start()
        stopping.wait()
        work.join(_STOP_SECONDS)
    except EOFError:
        stopping.set()
    return 0


def _work(channel: Channel, settings: Settings, fronts: int, stopping: threading.Event, load: Load) -> None:
    try:
        model = load(settings, stopping)
    except Stopped:
        return
    except ServiceError as error:
        channel.tell("failed", str(error))
        return
    except BaseException as error:  # a native library's panic is no Exception
        _log.error("cannot load the model", exc_info=error)
        channel.tell("failed", f"cannot load the model: {error}")
        return
    metrics = Metrics()
    cache = VectorCache(settings.vector_cache_bytes // (fronts + 1))
    arrivals = Fronts(model.width, cache)
    towers = {"texts": model.text, "images": model.image}
    collect_garbage_less_often()
    Computing(
        towers,
        model.width,
        arrivals,
        arrivals.deliver,
        lambda message: channel.tell("broken", message),
        metrics,
        overlap=settings.enable_cuda,
    )
    text, image = (replace(tower, session=Elsewhere()) for tower in (model.text, model.image))
    served = replace(model, text=text, image=image, device_bytes=resident_memory())
    try:
        channel.tell("loaded", pickle.dumps(served))
    except (pickle.PicklingError, AttributeError, TypeError):  # a library's own processor
        channel.tell("alone")
        return
    try:
        for kind, *values in channel.told():
            if kind == "front":
                index, sock = values
                arrivals.add_front(index, socket.socket(fileno=sock))
            elif kind == "metrics":
                channel.tell("metrics", metrics.snapshot())
    except EOFError:
        stopping.set()


if __name__ == "__main__":
    status = main(int(sys.argv[1]), int(sys.argv[2]))
    sys.stderr.flush()
    os._exit(status)
