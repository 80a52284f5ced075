"""Models and processors as transformers saves them."""

from pathlib import Path
from typing import Any

import torch

from app.errors import ConfigurationError, first_line
from app.families.folders import HOW_TO_GET_A_MODEL
from app.families.torch_towers import stay_offline
from app.hub.download import discarded_if_unusable, download


class TextFeatures(torch.nn.Module):
    """Token ids, and their mask where the model takes one, to embeddings (items, width)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        features = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return _embeddings(features)


class ImageFeatures(torch.nn.Module):
    """Pixel values, and what else the processor gives, to embeddings (items, width)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return _embeddings(self.model.get_image_features(**inputs))


def _embeddings(features: Any) -> torch.Tensor:
    embeddings: torch.Tensor = features.pooler_output
    return embeddings


def load_model(folder: Path, trust_remote_code: bool) -> Any:
    """The model in a folder, on the CPU, in float32, for evaluation; raises ConfigurationError."""
    stay_offline()
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(
            folder.resolve(), dtype=torch.float32, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        raise cannot_load(folder, error) from error
    return model.eval()


def load_processor(folder: Path, trust_remote_code: bool) -> Any:
    """The processor in a folder, which prepares pictures with Pillow and pads on the right.

    With torchvision installed transformers would prepare pictures otherwise: vectors must not depend
    on what is installed. Raises ConfigurationError.
    """
    stay_offline()
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(
            folder.resolve(), backend="pil", local_files_only=True, trust_remote_code=trust_remote_code
        )
        processor.tokenizer.padding_side = processor.tokenizer.truncation_side = "right"
    except Exception as error:
        raise cannot_load(folder, error) from error
    return processor


def download_model(name: str, downloads: Path, trust_remote_code: bool) -> tuple[Any, Any]:
    """Model and processor from the hub; raises ConfigurationError if that is no model for texts and pictures."""
    source = download(name, downloads)
    with discarded_if_unusable(source):
        model = load_model(source, trust_remote_code)
        if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
            raise ConfigurationError(f"{name} is no CLIP: it does not embed both texts and pictures; choose another")
        return model, load_processor(source, trust_remote_code)


def cannot_load(folder: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"cannot load the model in {folder}: {first_line(error)}; {HOW_TO_GET_A_MODEL}")
