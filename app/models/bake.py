"""Baking: a model from the hub into the folders that the server reads."""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from app.errors import ConfigurationError
from app.families.family import Family
from app.families.folders import BEING_REPLACED
from app.families.registry import FAMILIES, find_family, named_family
from app.models.load import load_model
from app.settings import Settings

_RECORD = "baked.json"


def bake(
    models_dir: Path,
    names: Mapping[str, str],
    trust_remote_code: bool,
    *,
    compile_towers: bool,
    busy: Callable[[str], AbstractContextManager[None]],
) -> None:
    """Fill `models_dir` with the model that `names` ask for, by the names of the environment variables.

    The model is loaded once, as the server does it, before anything is replaced; then its folders replace what
    was baked before. What was interrupted goes on at the next call. `busy` shows what goes on, where that says
    nothing itself. Raises ConfigurationError that names the way out.
    """
    family = named_family(names)
    own = {variable.name: names[variable.name] for variable in family.variables if variable.name in names}
    wanted = {"family": family.name, "names": own, "trust_remote_code": trust_remote_code}
    before = _read_record(models_dir)
    being_replaced = models_dir / BEING_REPLACED
    if before is not None and before["wanted"] == wanted and not being_replaced.exists():
        print(f"{models_dir} holds this {family.name} model already")
        _verify(models_dir, compile_towers, busy)
        return
    replaced = set(before["folders"]) if before is not None else set()
    _refuse_a_second_model(models_dir, family, replaced)
    downloads = models_dir / ".downloading"
    baked = downloads / "baked"
    shutil.rmtree(baked, ignore_errors=True)
    baked.mkdir(parents=True)
    family.bake(own, trust_remote_code, downloads, baked)
    (baked / "trust_remote_code").write_text(str(trust_remote_code).lower(), encoding="utf-8")
    for path in baked.rglob("*"):
        path.chmod(path.stat().st_mode | 0o444)  # weights are saved for their owner alone
    _verify(baked, compile_towers, busy)
    # From here on only renames: should they be interrupted, the server says so, and this runs again.
    being_replaced.touch()
    for name in replaced:
        shutil.rmtree(models_dir / name, ignore_errors=True)
    shutil.rmtree(models_dir / "compiled", ignore_errors=True)
    for path in baked.iterdir():
        target = models_dir / path.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        path.replace(target)
    record = {"wanted": wanted, "folders": [folder.name for folder in family.folders]}
    (models_dir / _RECORD).write_text(json.dumps(record), encoding="utf-8")
    being_replaced.unlink()
    shutil.rmtree(downloads, ignore_errors=True)


def _read_record(models_dir: Path) -> dict[str, Any] | None:
    """What was baked here before; None if nothing, or by the container that came before this one."""
    try:
        record = json.loads((models_dir / _RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if "wanted" in record else None


def _refuse_a_second_model(models_dir: Path, family: Family, replaced: set[str]) -> None:
    """Raises ConfigurationError if the folders of another family are there, which are not ours to replace."""
    for other in FAMILIES:
        names = [folder.name for folder in other.folders]
        complete = all(folder.is_in(models_dir) for folder in other.folders)
        if other is not family and complete and not set(names) <= replaced:
            raise ConfigurationError(
                f"{models_dir} holds a {other.name} model already ({', '.join(names)}); remove it, or bake into "
                "another MODELS_DIR"
            )


def _verify(models_dir: Path, compile_towers: bool, busy: Callable[[str], AbstractContextManager[None]]) -> None:
    """Load what was written as the server does, which embeds one text and one picture."""
    find_family(models_dir)
    settings = Settings(models_dir=models_dir, engine="auto" if compile_towers else "torch", enable_cuda=False)
    precision = models_dir / "precision"
    if settings.precision is None:
        precision.unlink(missing_ok=True)
    else:
        precision.write_text(settings.precision, encoding="utf-8")
    with busy("compiling and trying the model" if compile_towers else "trying the model"):
        model = load_model(settings, served_elsewhere=True)
    compiled = any(models_dir.glob("compiled/*/manifest.json"))
    form = ", compiled" if compiled else ""
    print(f"{model.title}, vectors of width {model.width}{form}")
