"""The same app on several GPUs or machines: replicas behind the proxies of Ray Serve.

    python deploy/ray/serve_app.py --min-replicas 2 --max-replicas 8            # 2 CPUs each
    python deploy/ray/serve_app.py --gpus 1                                     # ENABLE_CUDA=1: a GPU each

Joins the Ray cluster of this machine (RAY_ADDRESS), or starts Ray here. Settings are those of the server, read
from the environment where this starts. MODELS_DIR and this repository must be at the same path on every machine.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use over the network, else

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, ProxyLocation
from ray.serve.schema import LoggingConfig

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from app.errors import ConfigurationError, Unavailable  # noqa: E402
from app.main import create_app  # noqa: E402
from app.server import KEEP_ALIVE_SECONDS  # noqa: E402
from app.settings import Settings, load_settings  # noqa: E402

# The app refuses what is too much, as JSON that Weaviate can read; Serve would answer in plain text.
_NO_LIMIT = 1_000_000


@serve.deployment
@serve.ingress()
class Replica:
    """One server without its port."""

    def __init__(self, settings: Settings) -> None:
        self._app = create_app(settings, on_failure=lambda: None)  # Serve ends it: see check_health
        self._service = self._app.state.service

    def __serve_build_asgi_app__(self) -> FastAPI:
        start = self._app.router.lifespan_context

        @contextlib.asynccontextmanager
        async def start_and_load(app: FastAPI) -> AsyncIterator[None]:
            async with start(app):
                await self._wait_until_ready()
                yield

        self._app.router.lifespan_context = start_and_load
        return self._app

    async def check_health(self) -> None:
        """Serve replaces a replica for which this raises."""
        if self._service.failure is not None:
            raise RuntimeError(self._service.failure)

    async def _wait_until_ready(self) -> None:
        while True:
            await self.check_health()
            try:
                self._service.check_ready()
                return
            except Unavailable:
                await asyncio.sleep(0.05)


def deployment(
    settings: Settings, *, min_replicas: int, max_replicas: int, cpus: float, gpus: float, ongoing: float
) -> serve.Application:
    """`ongoing` is how many requests a replica is meant to have: more start another, fewer end one."""
    if not settings.threads and not settings.enable_cuda:
        settings = settings.model_copy(update={"threads": max(1, round(cpus))})
    scaled = Replica.options(
        name="multi2vec-clip",
        ray_actor_options={
            "num_cpus": cpus,
            "num_gpus": gpus,
            "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}},
        },
        autoscaling_config=AutoscalingConfig(
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            target_ongoing_requests=ongoing,
            upscale_delay_s=5,
            downscale_delay_s=300,
        ),
        max_ongoing_requests=_NO_LIMIT,
        health_check_period_s=2,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.grace_period,
        logging_config=LoggingConfig(enable_access_log=False),
    )
    return scaled.bind(settings)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--min-replicas", type=int, default=1)
    parser.add_argument("--max-replicas", type=int, default=4)
    parser.add_argument("--cpus", type=float, default=2, help="CPUs of a replica, and its compute threads")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a replica; 0.5 puts two on one")
    parser.add_argument("--ongoing", type=float, default=32, help="requests that a replica is meant to have at once")
    options = parser.parse_args()
    try:
        settings = load_settings()
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if settings.enable_cuda != (options.gpus > 0):
        print("error: ENABLE_CUDA=1 and --gpus belong together", file=sys.stderr)
        return 1
    settings = settings.model_copy(update={"models_dir": settings.models_dir.resolve()})
    ray.init()
    serve.start(
        proxy_location=ProxyLocation.EveryNode,
        http_options={
            "host": settings.host,
            "port": settings.port,
            "keep_alive_timeout_s": KEEP_ALIVE_SECONDS,
        },
    )
    application = deployment(
        settings,
        min_replicas=options.min_replicas,
        max_replicas=options.max_replicas,
        cpus=options.cpus,
        gpus=options.gpus,
        ongoing=options.ongoing,
    )
    serve.run(application, name="multi2vec-clip", route_prefix="/")
    print(f"serving on {settings.host}:{settings.port}", flush=True)
    stop = signal.sigwait({signal.SIGTERM, signal.SIGINT})
    print(f"stopping on {signal.Signals(stop).name}", flush=True)
    serve.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
