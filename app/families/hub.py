"""Downloading a model from the hub, for baking only."""

import glob
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from app.errors import ConfigurationError, first_line
from app.families.folders import require_weights

# Weights of other libraries.
_NOT_NEEDED = "*.h5 *.msgpack *.ot *.onnx *.tflite *.pb *.gguf onnx/* openvino/* coreml/* open_clip_*".split()
_OLDER_WEIGHTS = (".bin", ".pt", ".pth")
TOKENIZER = "config.json tokenizer* vocab* merges.txt *.model special_tokens_map.json added_tokens.json".split()
# hf_xet tries again for minutes where its storage is not reached; without it the ordinary way goes on at once.
_XET = {"CONNECT_TIMEOUT": "5s", "READ_TIMEOUT": "8s", "RETRY_MAX_ATTEMPTS": "1", "RETRY_MAX_DURATION": "10s"}
MAX_WAIT = 120
"""Seconds to wait in all, when the hub is asked too often."""
_ADDRESS = re.compile(r"https?://[^/]+/(?P<name>[^/]+/[^/?#]+)(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+))?")


def download(name: str, downloads: Path, only: Sequence[str] | None = None) -> Path:
    """The files of a model on the hub, in a folder below `downloads`; only those that match `only`, if given.

    `name` is OWNER/MODEL or OWNER/MODEL@REVISION, the address of the model's page, or a local folder, which is
    used as it is. Every revision has a folder of its own; a second call downloads only what is missing. Where
    weights are there as safetensors, older formats beside them are left out. With HF_HUB_OFFLINE the hub's cache
    is used. Raises ConfigurationError that says what to do, also for a whole model without weights that are read.
    """
    if name.startswith(("/", "./", "../", "~")) or Path(name).is_dir():
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ConfigurationError(f"there is no folder {name}; give a name of the hub, or an existing folder")
        files = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    else:
        if address := _ADDRESS.match(name):
            repository, revision = address.group("name", "revision")
        else:
            repository, _, revision = name.partition("@")
        with _errors_explained(repository, revision):
            folder, files = _patiently(lambda: _fetch(repository, revision or None, downloads, only))
    if only is None:
        require_weights(name, folder, files)
    return folder


def _fetch(
    repository: str, revision: str | None, downloads: Path, only: Sequence[str] | None
) -> tuple[Path, list[str]]:
    """The folder with the files that are wanted, and the names of all that the repository has."""
    for name, value in _XET.items():
        os.environ.setdefault(f"HF_XET_CLIENT_{name}", value)
    # Not at the top: once it is imported, it can no longer be told to stay offline.
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        return folder, [str(path.relative_to(folder)) for path in folder.rglob("*")]
    info = HfApi().model_info(repository, revision=revision)
    files = [sibling.rfilename for sibling in info.siblings or []]
    folder = downloads / f"{repository.replace('/', '--')}@{info.sha}"
    folder.mkdir(parents=True, exist_ok=True)
    if wanted := [glob.escape(file) for file in wanted_files(files, only)]:
        snapshot_download(repository, revision=info.sha, local_dir=folder, allow_patterns=wanted)
    return folder, files


def _patiently(fetch: Callable[[], tuple[Path, list[str]]]) -> tuple[Path, list[str]]:
    """What `fetch` gives, after as long as the hub asks to wait, and without Xet where that fails."""
    from huggingface_hub import constants, errors

    waited = 0
    while True:
        try:
            return fetch()
        except errors.HfHubHTTPError as error:
            wait = _asked_to_wait(error)
            if wait is None or waited + wait > MAX_WAIT:
                raise
            print(f"the hub refuses so many requests; trying again in {wait} s", flush=True)
            time.sleep(wait)
            waited += wait
        except RuntimeError:
            if constants.HF_HUB_DISABLE_XET:
                raise
            print("the storage of Xet cannot be reached; downloading in the ordinary way", flush=True)
            constants.HF_HUB_DISABLE_XET = True


def _asked_to_wait(error: Any) -> int | None:
    """Seconds, if the hub says that it is asked too often."""
    response = getattr(error, "response", None)
    if response is None or response.status_code != 429:
        return None
    after = response.headers.get("Retry-After", "")
    return max(1, int(after)) if after.isdecimal() else 10


def wanted_files(files: Iterable[str], only: Sequence[str] | None = None) -> list[str]:
    """Those of a repository's files that match `only`; without it all, but each weight once, and none of others."""
    if only is not None:
        return [file for file in files if any(fnmatch(file, pattern) for pattern in only)]
    files = [file for file in files if not any(fnmatch(file, pattern) for pattern in _NOT_NEEDED)]
    safe = {PurePosixPath(file).parent for file in files if file.endswith(".safetensors")}
    return [file for file in files if not (file.endswith(_OLDER_WEIGHTS) and PurePosixPath(file).parent in safe)]


@contextmanager
def _errors_explained(repository: str, revision: str | None) -> Iterator[None]:
    """Turns errors of the hub's client into a ConfigurationError that names the cause and what to do."""
    import httpx2

    print(f"downloading {repository}", flush=True)
    try:
        yield
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError, ImportError) as error:
        raise ConfigurationError(_explain(error, repository, revision)) from error


def _explain(error: Exception, repository: str, revision: str | None) -> str:
    import httpx2
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return f"{repository} is gated: accept its terms on the hub, and set HF_TOKEN to a token of that account"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no model {repository} on the hub, or it is private: check the name, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision}; leave out @{revision}"
    if isinstance(error, json.JSONDecodeError):
        return (
            f"{constants.ENDPOINT} answers with a page, not with JSON as the hub does; perhaps your network wants "
            f"you to log in. Open it in a browser, or check HF_ENDPOINT and the proxy; nothing was downloaded"
        )
    if (wait := _asked_to_wait(error)) is not None:
        return (
            f"the hub refuses so many requests (429) for another {wait} s: run this again then, or set HF_TOKEN, "
            "which allows more"
        )
    if not isinstance(error, errors.LocalEntryNotFoundError | httpx2.TransportError | ConnectionError):
        return f"{repository} cannot be downloaded: {first_line(error)}"
    if constants.HF_HUB_OFFLINE:
        return (
            f"HF_HUB_OFFLINE is set, and the hub's cache ({constants.HF_HUB_CACHE}) does not hold {repository}; "
            "unset it, or fill the cache first"
        )
    chain: list[BaseException] = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    if any("CERTIFICATE_VERIFY_FAILED" in str(each) for each in chain):
        return (
            "the hub's certificate is not trusted here, perhaps because a proxy replaces it: set SSL_CERT_FILE to a "
            "file with your authority's certificate"
        )
    if any(isinstance(each, errors.FileMetadataError) for each in chain):
        return (
            f"{constants.ENDPOINT} does not say which commit a file is from (X-Repo-Commit), as a mirror must: "
            f"set another HF_ENDPOINT, or download {repository} by other means and give the folder's path"
        )
    return f"the hub does not answer, so {repository} cannot be downloaded: check network and HF_ENDPOINT"
