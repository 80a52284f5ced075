"""The settings of the server: name, type, default, meaning. Each is an environment variable and an option."""

import os
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import ConfigurationError

VERSION = "1.0.0"
"""The version of this server."""

# What other programs call their log levels.
_LOG_LEVELS = {"trace": "debug", "warn": "warning", "critical": "error", "fatal": "error"}


def _log_level(name: str) -> str:
    return _LOG_LEVELS.get(name.lower(), name.lower())


def _token(value: SecretStr) -> SecretStr:
    """Strip blanks around the token: one read from a file may end in a line break."""
    token = value.get_secret_value().strip()
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("no client can send this in a header; use ASCII letters, digits and signs, without blanks")
    return SecretStr(token)


class Settings(BaseSettings):
    """The settings of one server. An empty variable counts as unset."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    models_dir: Path = Field(default=Path("models"), description="folder that holds the model folders")
    host: str = Field(default="::", description="address to listen on; :: is every address, of IPv4 too")
    port: int = Field(default=8080, ge=0, le=65535, description="port to listen on")
    enable_page: bool = Field(default=True, description="serve a page at / to try the model on")
    log_format: Annotated[Literal["plain", "json"], BeforeValidator(str.lower)] = Field(
        default="plain", description="form of the log: plain or json"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_log_level)] = Field(
        default="info", description="how much is logged: debug, info, warning or error"
    )
    api_token: Annotated[SecretStr, AfterValidator(_token)] | None = Field(
        default=None, description="token that each call except health must carry, as bearer or password of Basic"
    )
    enable_embeddings_api: bool = Field(default=False, description="answer POST /v1/embeddings, as OpenAI's API does")
    enable_cuda: bool = Field(default=False, description="compute on a GPU")
    cuda_core: str = Field(
        default="cuda:0",
        pattern=r"^(cuda(:\d+)?(,cuda:\d+)*|all)$",
        description="which GPU; several with commas, or all",
    )
    engine: Annotated[Literal["auto", "openvino", "torch"], BeforeValidator(str.lower)] = Field(
        default="auto", description="openvino or torch; auto takes torch on a GPU and OpenVINO on a CPU"
    )
    precision: Literal["float32", "bfloat16", "float16", "int8"] | None = Field(
        default=None, description="what the model computes in; unset: as baked, else float32"
    )
    cache_dir: Path = Field(
        default=Path("~/.cache/multi2vec-clip"), description="for compiled models if MODELS_DIR is not writable"
    )
    trust_remote_code: bool = Field(default=False, description="execute Python code from the model folder")
    max_pixels: int = Field(default=0, ge=0, description="largest picture, width x height; 0 follows the memory")
    legacy_images: bool = Field(
        default=False, description="the old container's pictures: not rotated, transparency dropped, 16 bits clipped"
    )
    fast_images: bool = Field(default=False, description="decode large JPEGs smaller, and resize faster")
    decode_timeout: float = Field(default=10.0, gt=0, description="seconds of computing for one picture")
    legacy_texts: bool = Field(
        default=False,
        description="the old container's texts for SigLIP: not padded when alone, no lower case for SigLIP 2",
    )
    max_body_bytes: int = Field(default=128 * 2**20, gt=0, description="largest request body, in bytes")
    max_memory: int = Field(default=0, ge=0, description="most memory, in bytes; 0 follows the container's limit")
    client_timeout: float = Field(default=50.0, gt=0, description="seconds after which clients give up")
    vector_cache_bytes: int = Field(default=16 * 2**20, ge=0, description="bytes of vectors kept for equal inputs")
    max_batch: int = Field(default=0, ge=0, description="most items in a batch; 0 measures what pays off")
    workers: int = Field(default=0, ge=0, le=64, description="processes that take requests; 0 follows the CPUs")
    threads: int = Field(default=0, ge=0, description="compute threads; 0 follows CPU quota and affinity")
    stall_timeout: float = Field(default=60.0, gt=0, description="seconds in which a client must send its request")
    drain_delay: float | None = Field(
        default=None, ge=0, description="seconds after SIGTERM in which the port stays open"
    )
    grace_period: float = Field(default=28.0, ge=0, description="seconds after SIGTERM to answer in")

    @property
    def patience(self) -> float:
        """Seconds for which a request waits for the model or for memory; its client then still reads the error."""
        return 0.8 * self.client_timeout


def not_installed(names: str, group: str, *known: str) -> str | None:
    """The problem if OpenTelemetry cannot load one of these names (a list with commas) from the group; else None."""
    there = {*known, *entry_points(group=group).names}
    missing = [name for name in map(str.strip, names.split(",")) if name not in there and name.lower() not in known]
    if not missing:
        return None
    return f"no installed package has {' or '.join(map(repr, missing))}; choose from {', '.join(sorted(there))}"


def _installed(group: str, *known: str) -> AfterValidator:
    def check(names: str) -> str:
        if problem := not_installed(names, group, *known):
            raise ValueError(problem)
        return names

    return AfterValidator(check)


class TracingVariables(BaseSettings):
    """OpenTelemetry's variables whose wrong values would end in a traceback of its libraries.

    FastAPI reads the first two on import, traces or not.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    otel_propagators: Annotated[str, _installed("opentelemetry_propagator", "none")] | None = None
    otel_python_context: Annotated[str, _installed("opentelemetry_context")] | None = None
    otel_bsp_max_queue_size: PositiveInt = 2048
    otel_bsp_schedule_delay: PositiveInt = 5000
    otel_bsp_max_export_batch_size: PositiveInt = 512
    otel_bsp_export_timeout: PositiveInt = 30_000


_REPLACED = {
    **dict.fromkeys((f"MAX_{what}" for what in ("WAITING_BYTES", "WAITING_ITEMS", "ANSWER_BYTES")), "MAX_MEMORY"),
    "MAX_PICTURE_BYTES": "MAX_MEMORY",
    **dict.fromkeys(("ROOM_TIMEOUT", "LOADING_TIMEOUT"), "CLIENT_TIMEOUT"),
    **dict.fromkeys(("HEADER_TIMEOUT", "BODY_TIMEOUT", "WRITE_TIMEOUT"), "STALL_TIMEOUT"),
    **dict.fromkeys(("IMAGE_BATCH", "TEXT_BATCH", "TEXT_BATCH_TOKENS"), "MAX_BATCH"),
    "COMPUTE_TIMEOUT": "nothing",
}
"""Variables of earlier versions, and what replaced them."""


def load_settings(options: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment; `options`, by field name, win.

    Raises ConfigurationError that names the variable and its value.
    """
    for name, successor in _REPLACED.items():
        if os.environ.get(name):
            raise ConfigurationError(f"{name} is no longer a setting: {successor} replaces it; unset {name}")
    try:
        TracingVariables()
        return Settings(**(options or {}))  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigurationError("; ".join(_problems(error))) from error


def _problems(error: ValidationError) -> Iterator[str]:
    for each in error.errors(include_url=False):
        name = str(each["loc"][0])
        value = "" if name == "api_token" else f"={each['input']!r}"  # a secret stays out of the log
        yield f"{name.upper()}{value}: {each['msg'].removeprefix('Value error, ')}"
