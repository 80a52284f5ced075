"""Refuses models whose weights are incomplete: libraries fill what is missing with random numbers."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from app.errors import ConfigurationError

_log = logging.getLogger(__name__)


@contextmanager
def checked_weights(folder: Path) -> Iterator[None]:
    """Checks what transformers reports of the models that it loads from `folder` in the block, and only logs.

    Missing parameters are marked for require_trained(). Raises ConfigurationError for tensors of another shape, and
    for missing buffers.
    """
    from transformers import modeling_utils

    reports: list[tuple[Any, Any]] = []
    log = modeling_utils.log_state_dict_report

    def keep(model: Any, pretrained_model_name_or_path: str, *args: Any, loading_info: Any, **kwargs: Any) -> None:
        if loading_info.error_msgs or loading_info.conversion_errors:
            log(model, pretrained_model_name_or_path, *args, loading_info=loading_info, **kwargs)
        reports.append((model, loading_info))

    modeling_utils.log_state_dict_report = keep
    try:
        yield
    finally:
        modeling_utils.log_state_dict_report = log
    for model, info in reports:
        if info.mismatched_keys:
            shapes = (f"{name} {tuple(stored)} instead of {tuple(own)}" for name, stored, own in info.mismatched_keys)
            raise _wrong_weights(folder, f"tensors of another shape than config.json says: {_some(shapes)}")
        report_tensors(folder, model, info.missing_keys, info.unexpected_keys)


def report_tensors(
    folder: Path, model: torch.nn.Module, missing: Collection[str], unexpected: Collection[str]
) -> None:
    """Mark missing parameters, warn of unused tensors, and raise ConfigurationError for missing buffers."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if lost := set(missing) - set(parameters):
        raise _wrong_weights(folder, f"no {_some(lost)}, which would be random")
    for name in missing:
        parameters[name].missing_from = folder, name  # type: ignore[attr-defined]
    if unexpected:
        _log.warning("%s has tensors that the model does not use: %s", folder, _some(unexpected))


def require_trained(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """Raises ConfigurationError if the vectors of `inputs` depend on a parameter that is missing from the files.

    Many repositories lack parameters that do not matter, such as the pooler of a BERT whose tokens are averaged.
    """
    missing = {p: p.missing_from for p in module.parameters() if hasattr(p, "missing_from")}
    if not missing:
        return
    with torch.enable_grad():
        gradients = torch.autograd.grad(module(**inputs).sum(), list(missing), allow_unused=True)
    used = [place for place, gradient in zip(missing.values(), gradients, strict=True) if gradient is not None]
    if used:
        raise _wrong_weights(used[0][0], f"no {_some([name for _, name in used])}, which would be random")


def _wrong_weights(folder: Path, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"the weights in {folder} do not fit the model: they hold {what}; they may be of another model, or renamed "
        "by a trainer: choose a repository with all weights of this model, or save it again as its library does"
    )


def _some(names: Collection[str] | Iterator[str]) -> str:
    """Five of them, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 5} more" if len(ordered) > 5 else ""
    return ", ".join(ordered[:5]) + more
