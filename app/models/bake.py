"""Baking: a model from the hub into the folders that the server reads."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from app.errors import ConfigurationError
from app.families import registry
from app.families.names import Names
from app.families.registry import Family, find_family
from app.models.load import load_model
from app.settings import Settings


def chosen_family(names: Names) -> Family:
    """The family that the names choose; raises ConfigurationError if a name is missing."""
    if names.colpali_engine_model_name:
        return registry.MODERN_VBERT
    if names.siglip_model_name:
        return registry.SIGLIP
    if names.open_clip_model_name:
        return registry.OPEN_CLIP
    if not names.clip_model_name or not names.text_model_name:
        missing = "TEXT_MODEL_NAME" if names.clip_model_name else "CLIP_MODEL_NAME"
        raise ConfigurationError(
            f"{missing} is not set; set CLIP_MODEL_NAME and TEXT_MODEL_NAME, for example both to "
            "clip-ViT-B-32, or see --help"
        )
    as_openai = names.clip_model_name.startswith(("openai/", "facebook/metaclip"))
    if not as_openai and (names.clip_model_type or "").lower() != "openai":
        return registry.SENTENCE_TRANSFORMERS
    if names.clip_model_name != names.text_model_name:
        raise ConfigurationError(
            f"an OpenAI CLIP embeds texts and pictures: set TEXT_MODEL_NAME to {names.clip_model_name} too"
        )
    return registry.OPENAI_CLIP


def bake(models_dir: Path, names: Names, *, compile_towers: bool) -> None:
    """Fill `models_dir` with the model named, then load it once to see that it works.

    Folders appear whole or not at all; what was interrupted goes on at the next call. Raises
    ConfigurationError that names the way out.
    """
    family = chosen_family(names)
    record, wanted = models_dir / "baked.json", asdict(names)
    models_dir.mkdir(parents=True, exist_ok=True)
    baked = json.loads(record.read_text()) if record.is_file() else None
    if baked == wanted:
        print(f"{models_dir} holds this {family.name} model already")
        _verify(models_dir, family, compile_towers)
        return
    if baked is not None:  # ours to replace
        for folder in find_family(models_dir).folders:
            shutil.rmtree(models_dir / folder, ignore_errors=True)
        record.unlink()
    downloads = models_dir / ".downloading"
    made = downloads / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    family.bake(names, downloads, made)
    (made / "trust_remote_code").write_text(str(names.trust_remote_code).lower())
    for path in made.rglob("*"):
        path.chmod(path.stat().st_mode | 0o444)  # weights are saved for their owner alone
    for path in made.iterdir():
        target = models_dir / path.name
        shutil.rmtree(target, ignore_errors=True)
        path.replace(target)
    if find_family(models_dir) is not family:
        raise ConfigurationError(
            f"{models_dir}/{find_family(models_dir).folders[0]} would be served instead of what was baked; "
            "remove it, or bake into another MODELS_DIR"
        )
    _verify(models_dir, family, compile_towers)
    record.write_text(json.dumps(wanted))
    shutil.rmtree(downloads, ignore_errors=True)


def _verify(models_dir: Path, family: Family, compile_towers: bool) -> None:
    """Load what was written as the server does, which embeds one text and one picture."""
    settings = Settings(models_dir=models_dir, engine="auto" if compile_towers else "torch", enable_cuda=False)
    precision = models_dir / "precision"
    if settings.precision is None:
        precision.unlink(missing_ok=True)
    else:
        precision.write_text(settings.precision, encoding="utf-8")
    model = load_model(settings)
    print(f"{models_dir}: {model.engine}, vectors of width {model.width}")
