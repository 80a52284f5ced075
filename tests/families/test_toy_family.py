"""A new family is one file and one entry: this one lives here alone, and is baked, compiled and served.

It embeds a picture as its mean colour, and a text as the mean of the colours that it names.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.errors import ConfigurationError
from app.families.registry import Family, ModelFolder, find_family
from app.processors.image import ImageProcessor
from app.processors.text import TextProcessor
from app.towers import Padding, TorchModel, TorchTower
from tests.support.baking import download
from tests.support.server import ROOT
from tests.support.vectors import png

WORDS = ["[UNK]", "red", "green", "blue"]
IMAGES = ImageProcessor(8, 8, None, 3, 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def bake(names: Mapping[str, str], trust_remote_code: bool, downloads: Path, target: Path) -> None:
    import torch

    (target / "toy").mkdir()
    (target / "toy" / "toy.json").write_text(json.dumps({"name": names["TOY_MODEL_NAME"]}))
    torch.save(torch.tensor([[0.0] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 1]]), target / "toy" / "colours.pt")


def load(models_dir: Path, trust_remote_code: bool) -> TorchModel:
    import torch

    from app.families.torch_towers import image_tower

    table = torch.nn.Embedding.from_pretrained(torch.load(models_dir / "toy" / "colours.pt"))

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = table

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            weights = attention_mask.unsqueeze(-1).float()
            return (self.table(input_ids) * weights).sum(1) / weights.sum(1).clamp(min=1)

    class Picture(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return pixel_values.mean((2, 3))

    def reference(image: Image.Image) -> dict[str, np.ndarray]:
        pixels = np.asarray(image.resize((8, 8), 3), np.float32) / np.float32(255)
        return {"pixel_values": pixels.transpose(2, 0, 1)}

    return TorchModel(
        text=TorchTower(Text(), _text(), "red green blue", Padding(max_tokens=16)),
        image=image_tower(Picture(), IMAGES, reference),
        meta=json.loads((models_dir / "toy" / "toy.json").read_text()),
    )


def _text() -> TextProcessor:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return TextProcessor(tokenizer.to_str(), 16, ["input_ids", "attention_mask"])


TOY = Family("toy", __name__, (ModelFolder("toy", ("toy.json",)),), {"TOY_MODEL_NAME": "the toy to bake"}, ("torch",))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH under which every process knows the toy: its one entry."""
    folder = tmp_path_factory.mktemp("registered")
    (folder / "sitecustomize.py").write_text(
        "from app.families import registry\n"
        "from tests.families.test_toy_family import TOY\n"
        "registry.FAMILIES = (TOY, *registry.FAMILIES)\n"
    )
    return f"{folder}{os.pathsep}{ROOT}"


def test_a_family_of_its_own_file_is_baked_compiled_and_served(
    registered: str, tmp_path: Path, serve: Callable[..., str]
) -> None:
    models = tmp_path / "models"
    result = download("http://127.0.0.1:9", models, "--toy-model", "colours", PYTHONPATH=registered)
    assert result.returncode == 0, result.stderr
    assert "compiled" in result.stdout and len(list(models.glob("compiled/*/manifest.json"))) == 1
    url = serve(models, ENGINE="openvino", PYTHONPATH=registered)
    red, sea = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (9, 9), (0, 51, 102))
    payload = {"texts": ["red", "green blue"], "images": [png(red), png(sea)]}
    answer = httpx.post(f"{url}/vectorize", json=payload).json()
    np.testing.assert_allclose(answer["textVectors"], [[1, 0, 0], [0, 0.5, 0.5]], atol=1e-5)
    np.testing.assert_allclose(answer["imageVectors"], [[1, 0, 0], [0, 0.2, 0.4]], atol=1e-5)
    assert httpx.get(f"{url}/meta").json() == {"name": "colours"}


def test_a_folder_without_its_marker_is_no_model(tmp_path: Path) -> None:
    for folder in ("clip", "text"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "modules.json").write_text("[]")
    (tmp_path / "siglip").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".DS_Store").write_text("")
    assert find_family(tmp_path).name == "sentence-transformers"


def test_two_complete_models_are_an_error_that_names_both(tmp_path: Path) -> None:
    for path in ("clip/modules.json", "text/modules.json", "siglip/config.json"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text("{}")
    with pytest.raises(ConfigurationError) as caught:
        find_family(tmp_path)
    assert "siglip" in str(caught.value) and "clip, text" in str(caught.value)


def test_the_family_of_which_most_is_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "openai_clip").mkdir()
    (tmp_path / "openai_clip" / "config.json").write_text("{}")
    assert find_family(tmp_path).name == "OpenAI CLIP"
    assert find_family(tmp_path / "nothing").name == "sentence-transformers"
