"""Downloading a model from the hub."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.errors import ConfigurationError, first_line

# Weights of other libraries, which would be downloaded for nothing.
_NOT_NEEDED = ("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.tflite", "onnx/*", "openvino/*", "coreml/*", "*.pb")
TOKENIZER = (
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
)


@contextmanager
def discarded_if_unusable(source: Path) -> Iterator[None]:
    """Around the use of what was downloaded: if it cannot be used, the next call downloads it afresh."""
    try:
        yield
    except ConfigurationError:
        shutil.rmtree(source)
        raise


def download(name: str, downloads: Path, only: Sequence[str] | None = None) -> Path:
    """The files of a model on the hub, in a folder below `downloads`; only those that match `only`, if given.

    `name` is OWNER/MODEL or OWNER/MODEL@REVISION. A second call downloads only what is missing. Raises
    ConfigurationError that says what to do.
    """
    # Not at the top: once it is imported, it can no longer be told to stay offline.
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

    repository, _, revision = name.partition("@")
    folder = downloads / repository.replace("/", "--")
    print(f"downloading {repository}")
    try:
        snapshot_download(
            repository,
            revision=revision or None,
            local_dir=folder,
            allow_patterns=list(only) if only else None,
            ignore_patterns=list(_NOT_NEEDED),
        )
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
        raise ConfigurationError(f"{name} is no name of a model: {first_line(error)}") from error
    except (LocalEntryNotFoundError, httpx2.TransportError, ConnectionError) as error:
        raise ConfigurationError(
            f"the hub does not answer, so {repository} cannot be downloaded: check network and HF_ENDPOINT"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ConfigurationError(f"{repository} cannot be downloaded: {first_line(error)}") from error
    return folder
