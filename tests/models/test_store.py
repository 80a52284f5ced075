"""Compiled forms on disk: several models and servers on one folder, without locks, without a home."""

import errno
import fcntl
import pwd
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import Stopped
from app.models import store
from app.models.load import load_model
from app.models.store import (
    Form,
    being_written,
    one_at_a_time,
    remove_stale,
    store_folders,
    write_manifest,
)
from app.settings import Settings
from tests.support.compiled import compiled
from tests.support.tiny import clip_pair
from tests.support.vectors import embed

ONE = Form("one", "float32", "2")
BEFORE = Form("one", "float32", "1")
OTHER = Form("other", "float32", "2")


def write(place: Path, form: Form) -> Path:
    with being_written(place, form) as folder:
        write_manifest(folder, form, "a family", {}, {})
    return place / form.name


def left(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS without its lock daemon."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_each_model_of_a_shared_folder_keeps_its_own(tmp_path: Path) -> None:
    for form in (BEFORE, OTHER, Form("one", "int8", "1"), ONE):
        write(tmp_path, form)
    remove_stale(tmp_path, ONE, shared=True)
    kept = {ONE.name, OTHER.name, Form("one", "int8", "1").name}
    assert left(tmp_path) == kept, "what it replaces is the same of the same model, by another version"


def test_beside_one_model_nothing_is_kept_of_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "of the user").mkdir()
    for form in (OTHER, ONE):
        write(tmp_path, form)
    remove_stale(tmp_path, ONE, shared=False)
    assert left(tmp_path) == {ONE.name, "of the user"}


def test_what_interrupted_processes_left_is_removed(tmp_path: Path) -> None:
    for name in (".making-left", ".removing-left"):
        (tmp_path / name).mkdir()
    remove_stale(tmp_path, ONE, shared=True)
    assert not left(tmp_path)


def test_of_two_that_write_the_first_counts(tmp_path: Path) -> None:
    with being_written(tmp_path, ONE) as late:
        write_manifest(late, ONE, "late", {}, {})
        with being_written(tmp_path, ONE) as first:
            write_manifest(first, ONE, "first", {}, {})
    assert store.read_manifest(tmp_path / ONE.name)["family"] == "first" and left(tmp_path) == {ONE.name}


def test_one_at_a_time_writes_into_a_folder_and_who_waits_can_be_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    with one_at_a_time(tmp_path, stop):
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(Stopped), one_at_a_time(tmp_path, stop):
            pass
    with one_at_a_time(tmp_path, threading.Event()) as locked:
        assert locked
    assert not left(tmp_path)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_nobody_waits(tmp_path: Path) -> None:
    with one_at_a_time(tmp_path, threading.Event()) as one, one_at_a_time(tmp_path, threading.Event()) as other:
        assert not one and not other


@pytest.fixture
def read_only(tiny_models: Path, tmp_path: Path) -> Path:
    """A model folder in which nothing can be kept, not even by root."""
    models = tmp_path / "models"
    for name in ("clip", "text"):
        shutil.copytree(tiny_models / name, models / name)
    (models / "compiled").write_text("a file")
    return models


def compilings(load: Callable[[], object], caplog: pytest.LogCaptureFixture) -> int:
    caplog.clear()
    with caplog.at_level("INFO"):
        load()
    return sum("compiling the model" in record.message for record in caplog.records)


@pytest.mark.usefixtures("no_locks", "compile_warm")
def test_models_that_share_a_cache_without_locks_are_compiled_once_each(
    read_only: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = clip_pair(tmp_path / "other", seed=5)
    (other / "compiled").write_text("a file")
    cache = tmp_path / "cache"
    one, another = (Settings(models_dir=each, cache_dir=cache, engine="openvino") for each in (read_only, other))
    assert compilings(lambda: load_model(one), caplog) == 1
    assert compilings(lambda: load_model(another), caplog) == 1
    assert compilings(lambda: (load_model(one), load_model(another)), caplog) == 0
    assert len(compiled(cache / "compiled")) == 2


@pytest.mark.usefixtures("compile_warm")
def test_a_user_without_a_home(
    read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As `docker run --user 1002700000` without HOME: `~` means nothing, which only matters where it is needed."""

    def unknown(_: int) -> pwd.struct_passwd:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    settings = Settings(models_dir=read_only, cache_dir=Path("~/x"), engine="openvino")
    with caplog.at_level("INFO"):
        places = store_folders(settings)
        assert next(places) == read_only / "compiled" and not caplog.records
        assert not list(places)
        assert "CACHE_DIR=~/x cannot be used" in caplog.text
        model = load_model(settings)
    assert "set CACHE_DIR to a writable folder" in caplog.text
    assert embed(model.text, ["a"]).shape == (1, model.width)
    assert not Path("~").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(store_folders(settings))[1] == tmp_path / "x" / "compiled"
