"""Every environment variable: name, type, default, meaning."""

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.contract import ConfigurationError


class Settings(BaseSettings):
    """The settings of one server. An empty variable counts as unset."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    models_dir: Path = Field(default=Path("models"), description="folder that holds the model folders")
    host: str = Field(default="0.0.0.0", description="address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="port to listen on")
    enable_cuda: bool = Field(default=False, description="compute on a GPU")
    cuda_core: str = Field(default="cuda:0", pattern=r"^cuda(:\d+)?$", description="which GPU")
    trust_remote_code: bool = Field(default=False, description="execute code from the model folder")
    max_pixels: int = Field(default=64_000_000, gt=0, description="largest picture, width x height")
    max_body_bytes: int = Field(default=128 * 1024 * 1024, gt=0, description="largest request body")
    legacy_images: bool = Field(
        default=False,
        description="the old container's image handling: no rotation, alpha dropped, 16 bit clipped",
    )


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises ConfigurationError that names the variable and its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = (
            f"{str(e['loc'][0]).upper()}={e['input']!r}: {e['msg']}" for e in error.errors(include_url=False)
        )
        raise ConfigurationError("; ".join(problems)) from error
