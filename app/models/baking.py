"""Baking: a model from the hub into the folders that the server reads."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from app.contract import ConfigurationError
from app.models import compiled, files
from app.models import sentence_transformers as family
from app.models.loading import load_model
from app.settings import Settings

_log = logging.getLogger(__name__)

# Weights of other libraries, which would be downloaded for nothing.
_NOT_NEEDED = ["*.h5", "*.msgpack", "*.ot", "*.onnx", "*.tflite", "onnx/*", "openvino/*", "coreml/*", "*.pb"]


def bake(
    models_dir: Path,
    *,
    clip_model: str | None,
    text_model: str | None,
    trust_remote_code: bool,
    compile_towers: bool,
) -> None:
    """Fill `models_dir`/clip and /text with the models named, then load them once to see that they work.

    Folders appear whole or not at all; what was interrupted goes on at the next call. Raises
    ConfigurationError that names the way out.
    """
    names = {"clip": clip_model, "text": text_model}
    for folder, name in names.items():
        if not name:
            raise ConfigurationError(
                f"no {folder} model is named; set CLIP_MODEL_NAME and TEXT_MODEL_NAME, for example both to "
                "clip-ViT-B-32, or see --help"
            )
    record = models_dir / "baked.json"
    wanted: dict[str, Any] = {**names, "trust_remote_code": trust_remote_code}
    models_dir.mkdir(parents=True, exist_ok=True)
    if not (record.is_file() and json.loads(record.read_text()) == wanted):
        record.unlink(missing_ok=True)
        downloads = models_dir / ".downloading"
        for folder, name in names.items():
            assert name
            _bake_folder(name, downloads, models_dir / folder, trust_remote_code)
        (models_dir / "trust_remote_code").write_text(str(trust_remote_code).lower())
        _verify(models_dir, compile_towers)
        record.write_text(json.dumps(wanted))
        shutil.rmtree(downloads, ignore_errors=True)
    else:
        print(f"{models_dir} holds {names['clip']} and {names['text']} already")
        _verify(models_dir, compile_towers)


def _bake_folder(name: str, downloads: Path, target: Path, trust_remote_code: bool) -> None:
    source = _download(name, downloads)
    print(f"writing {name} to {target}")
    try:
        model = family.load_folder(source, trust_remote_code)
    except ConfigurationError:
        shutil.rmtree(source)  # what arrived is of no use: the next call starts afresh
        raise
    made = downloads / f"{target.name}-made"
    shutil.rmtree(made, ignore_errors=True)
    model.save(str(made), create_model_card=False)
    for path in made.rglob("*"):
        path.chmod(path.stat().st_mode | 0o444)  # weights are saved for their owner alone
    shutil.rmtree(target, ignore_errors=True)
    made.rename(target)


def _download(name: str, downloads: Path) -> Path:
    """The files of a model on the hub, in a folder; a second call downloads only what is missing."""
    repository, _, revision = name.partition("@")
    if "/" not in repository:
        repository = f"sentence-transformers/{repository}"
    folder = downloads / repository.replace("/", "--")
    print(f"downloading {repository}")
    try:
        snapshot_download(repository, revision=revision or None, local_dir=folder, ignore_patterns=_NOT_NEEDED)
    except GatedRepoError as error:
        raise ConfigurationError(
            f"{repository} is gated: accept its terms on the hub, and set HF_TOKEN to a token of that account"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigurationError(
            f"there is no model {repository} on the hub, or it is private: check the name, or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigurationError(f"{repository} has no revision {revision}; leave out @{revision}") from error
    except HFValidationError as error:
        raise ConfigurationError(f"{name} is no name of a model: {files.first_line(error)}") from error
    except (LocalEntryNotFoundError, httpx2.TransportError, ConnectionError) as error:
        raise ConfigurationError(
            f"the hub does not answer, so {repository} cannot be downloaded: check network and HF_ENDPOINT"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ConfigurationError(f"{repository} cannot be downloaded: {files.first_line(error)}") from error
    return folder


def _verify(models_dir: Path, compile_towers: bool) -> None:
    """Load what was written as the server does, which embeds one text and one picture."""
    settings = Settings(models_dir=models_dir, engine="auto" if compile_towers else "torch", enable_cuda=False)
    model = load_model(settings)
    kept = (models_dir / "compiled" / files.fingerprint(models_dir, compiled.version())).is_dir()
    print(f"{models_dir}: {model.engine}, vectors of width {model.width}{', compiled' if kept else ''}")
