"""Downloading a model from the hub, for baking only."""

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from app.errors import ConfigurationError, first_line

# Weights of other libraries, which would be downloaded for nothing.
_NOT_NEEDED = tuple("*.h5 *.msgpack *.ot *.onnx *.tflite *.pb *.gguf onnx/* openvino/* coreml/*".split())
_OLDER_WEIGHTS = (".bin", ".pt", ".pth")
TOKENIZER = (
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
_ADDRESS = re.compile(r"https?://[^/]+/(?P<name>[^/]+/[^/?#]+)(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+))?")


def download(name: str, downloads: Path, only: Sequence[str] | None = None) -> Path:
    """The files of a model on the hub, in a folder below `downloads`; only those that match `only`, if given.

    `name` is OWNER/MODEL or OWNER/MODEL@REVISION, the address of the model's page, or a local folder, which is
    used as it is. Every revision has a folder of its own; a second call downloads only what is missing. Where
    weights are there as safetensors, older formats beside them are left out. With HF_HUB_OFFLINE the hub's cache
    is used. Raises ConfigurationError that says what to do.
    """
    if name.startswith(("/", "./", "../", "~")) or Path(name).is_dir():
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ConfigurationError(f"{name} is no folder; give a name of the hub, or a folder that is there")
        return folder
    repository, revision = _parse(name)
    with _errors_explained(repository, revision):
        # Not at the top: once it is imported, it can no longer be told to stay offline.
        from huggingface_hub import HfApi, constants, snapshot_download

        if constants.HF_HUB_OFFLINE:
            return Path(snapshot_download(repository, revision=revision, local_files_only=True))
        print(f"downloading {repository}")
        info = HfApi().model_info(repository, revision=revision)
        files = [sibling.rfilename for sibling in info.siblings or []]
        folder = downloads / f"{repository.replace('/', '--')}@{info.sha}"
        wanted = [glob.escape(file) for file in wanted_files(files, only)]
        snapshot_download(repository, revision=info.sha, local_dir=folder, allow_patterns=wanted or ["nothing"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def wanted_files(files: Iterable[str], only: Sequence[str] | None = None) -> list[str]:
    """Those of a repository's files that are downloaded: each weight once, and none of other libraries."""
    files = [file for file in files if not any(fnmatch(file, pattern) for pattern in _NOT_NEEDED)]
    if only is not None:
        return [file for file in files if any(fnmatch(file, pattern) for pattern in only)]
    safe = {PurePosixPath(file).parent for file in files if file.endswith(".safetensors")}
    return [file for file in files if not (file.endswith(_OLDER_WEIGHTS) and PurePosixPath(file).parent in safe)]


def _parse(name: str) -> tuple[str, str | None]:
    if address := _ADDRESS.match(name):
        return address["name"], address["revision"]
    repository, _, revision = name.partition("@")
    return repository, revision or None


@contextmanager
def _errors_explained(repository: str, revision: str | None) -> Iterator[None]:
    """Errors of the hub's client as a ConfigurationError that names the cause and the cure."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ConfigurationError(
            f"{repository} is gated: accept its terms on the hub, and set HF_TOKEN to a token of that account"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigurationError(
            f"there is no model {repository} on the hub, or it is private: check the name, or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigurationError(f"{repository} has no revision {revision}; leave out @{revision}") from error
    except errors.HFValidationError as error:
        raise ConfigurationError(f"{repository} is no name of a model: {first_line(error)}") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise ConfigurationError(_unreachable(repository, error)) from error
    except ImportError as error:
        if "socks" not in str(error).lower():
            raise
        raise ConfigurationError(
            "the proxy is a SOCKS proxy (ALL_PROXY or HTTPS_PROXY), for which a package is missing: "
            "pip install socksio, or use an HTTP proxy"
        ) from error
    except (httpx2.TransportError, ConnectionError) as error:
        raise ConfigurationError(_unreachable(repository, error)) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ConfigurationError(f"{repository} cannot be downloaded: {first_line(error)}") from error


def _unreachable(repository: str, error: BaseException) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return (
            f"HF_HUB_OFFLINE is set, and the hub's cache ({constants.HF_HUB_CACHE}) does not hold {repository}; "
            "unset it, or fill the cache first"
        )
    cause: BaseException | None = error
    while cause is not None:
        if "CERTIFICATE_VERIFY_FAILED" in str(cause):
            return (
                "the hub's certificate is not trusted here, as behind a proxy with a certificate of its own: set "
                "SSL_CERT_FILE to a file with your authority's certificate"
            )
        cause = cause.__cause__ or cause.__context__
    return f"the hub does not answer, so {repository} cannot be downloaded: check network and HF_ENDPOINT"
