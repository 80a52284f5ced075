"""Refuses models whose weights are incomplete: libraries fill what is missing with random numbers."""

import itertools
import logging
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from app.errors import ConfigurationError

_log = logging.getLogger(__name__)


def load_with_transformers(folder: Path, load: Callable[[dict[str, Any]], Any]) -> Any:
    """Call `load` with options for from_pretrained() of transformers, and check what that reports.

    Where the names of all tensors share a prefix and fit without it, the model is loaded again without the prefix.
    Missing parameters are marked for require_trained(). Raises ConfigurationError for tensors of another shape, and
    for missing buffers.
    """
    with _reports() as reports:
        model = load({})
        whole = list(reports)
        prefixes = [_prefixes_to_try(own, info.missing_keys, info.unexpected_keys) for own, info in whole]
        for prefix in itertools.chain(*prefixes):
            reports.clear()
            renamed = load({"key_mapping": {f"^{re.escape(prefix)}": ""}})
            if not any(info.missing_keys for _, info in reports):
                _log.warning("the names of all tensors in %s begin with %r, which is left out", folder, prefix)
                model, whole = renamed, reports
                break
    for loaded, info in whole:
        if info.mismatched_keys:
            shapes = (f"{name} {tuple(stored)} instead of {tuple(own)}" for name, stored, own in info.mismatched_keys)
            raise _wrong_weights(folder, f"tensors of another shape than config.json says: {_some(shapes)}")
        report_tensors(folder, loaded, info.missing_keys, info.unexpected_keys)
    return model


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


def _prefixes_to_try(model: torch.nn.Module, missing: Collection[str], unexpected: Collection[str]) -> list[str]:
    """The prefixes, ending in a dot, that all unexpected names share, shortest first; none if half the model fits."""
    if 2 * len(missing) < len(list(model.parameters())):
        return []
    first = next(iter(unexpected), "")
    prefixes = (first[: dot.end()] for dot in re.finditer(r"\.", first))
    return [prefix for prefix in prefixes if all(name.startswith(prefix) for name in unexpected)]


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


@contextmanager
def _reports() -> Iterator[list[tuple[Any, Any]]]:
    """Collects each model that transformers loads in the block, with its LoadStateDictInfo.

    transformers only logs that, and libraries on top of it do not pass it on.
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
        yield reports
    finally:
        modeling_utils.log_state_dict_report = log
