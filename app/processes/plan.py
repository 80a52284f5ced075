"""How many processes a server has, and what each device process computes on."""

import os
import subprocess
import sys

from app.cgroup import usable_cpus, usable_memory
from app.errors import ConfigurationError
from app.settings import Settings

_MAX_FRONTS = 16
# Where a CPU computes the model, it needs most cores itself.
_CPUS_A_FRONT = 8
# What a front takes beside its share of the memory for requests, and how much of the memory all fronts may take so.
_FRONT_BYTES = 70 * 2**20
_SHARE = 1 / 8
_COUNT_GPUS = "import torch; print(torch.cuda.device_count())"


def count_workers(settings: Settings) -> int:
    """How many processes take requests; 1 if one process does everything."""
    if not hasattr(os, "memfd_create") or not hasattr(os, "eventfd"):  # Linux has both
        return 1
    if settings.workers:
        return settings.workers
    cpus = usable_cpus()
    fronts = cpus - 1 if settings.enable_cuda and cpus >= 4 else cpus // _CPUS_A_FRONT
    memory = settings.max_memory or usable_memory()
    return max(1, min(fronts, _MAX_FRONTS, int(_SHARE * memory) // _FRONT_BYTES))


def device_settings(settings: Settings) -> list[Settings]:
    """The settings of each device process: one for each GPU that CUDA_CORE names. Raises ConfigurationError."""
    if not settings.enable_cuda:
        return [settings]
    names = settings.cuda_core.split(",")
    if settings.cuda_core == "all":
        counted = subprocess.run([sys.executable, "-c", _COUNT_GPUS], capture_output=True, text=True, check=False)
        names = [f"cuda:{index}" for index in range(int(counted.stdout or 0))]
    if not names:
        raise ConfigurationError(
            "CUDA_CORE=all, but no GPU is visible; give the container one (--gpus all) or unset ENABLE_CUDA"
        )
    return [settings.model_copy(update={"cuda_core": name}) for name in dict.fromkeys(names)]
