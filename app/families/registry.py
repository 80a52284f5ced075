"""The model families, in the order in which download.py asks them."""

from collections.abc import Mapping
from pathlib import Path

from app.errors import ConfigurationError
from app.families.family import Family
from app.families.modern_vbert import ModernVBERT
from app.families.openai_clip import OpenAICLIP
from app.families.openclip import OpenCLIP
from app.families.sentence_transformer_pair import SentenceTransformerPair
from app.families.siglip import SigLIP

FAMILIES: tuple[Family, ...] = (ModernVBERT(), SigLIP(), OpenCLIP(), OpenAICLIP(), SentenceTransformerPair())


def find_family(models_dir: Path) -> Family:
    """The family whose folders are all there, with their marker files.

    If none is complete, the family of which most is there, so that an error can name what is missing. Raises
    ConfigurationError if two are complete.
    """
    complete = [family for family in FAMILIES if all(folder.is_in(models_dir) for folder in family.folders)]
    if len(complete) > 1:
        first, second = (
            f"{family.name} ({', '.join(folder.name for folder in family.folders)})" for family in complete[:2]
        )
        raise ConfigurationError(
            f"{models_dir} holds two models, {first} and {second}; remove the folders of one of them"
        )
    if complete:
        return complete[0]

    def present(family: Family) -> tuple[int, int]:
        marked = sum(folder.is_in(models_dir) for folder in family.folders)
        return marked, sum(any((models_dir / folder.name).glob("*")) for folder in family.folders)

    return max(reversed(FAMILIES), key=present)


def variables() -> dict[str, str]:
    """The variables of baking of all families, with their meaning."""
    return {name: meaning for family in FAMILIES for name, meaning in family.variables.items()}


def named_family(names: Mapping[str, str]) -> Family:
    """The family that the variables ask for; raises ConfigurationError if they ask for none."""
    for family in FAMILIES:
        if family.is_named(names):
            return family
    raise ConfigurationError(
        "no model is named; set CLIP_MODEL_NAME and TEXT_MODEL_NAME, for example both to clip-ViT-B-32, or see --help"
    )
