"""The OpenCLIP family: MODELS_DIR/openclip.

    config.json             model_name, pretrained, model_config, cache_dir; as the old download.py wrote it
    open_clip_config.json   model_cfg and preprocess_cfg, as open_clip describes a model in a folder
    *.safetensors, *.bin    the weights; in the old layout in a hub cache, or as the library downloads them
    text/                   config and tokenizer of a text tower that comes from the hub

Vectors are those of encode_text() and encode_image() of open_clip, scaled to length 1.
"""

import copy
import difflib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from app.errors import ConfigurationError, first_line
from app.families.folders import HOW_TO_GET_A_MODEL, WEIGHTS, read_config
from app.families.pretrained import cannot_load
from app.families.torch_towers import Normalized, image_tower, locked, stay_offline, text_tower
from app.hub.download import TOKENIZER, download
from app.processors.image import ImageProcessor
from app.processors.text import TextProcessor
from app.towers import Inputs, Padding, Processor, TorchModel

if TYPE_CHECKING:
    from app.families.names import Names

_log = logging.getLogger(__name__)

_HUB = "hf-hub:"
_INTERPOLATION = {"bicubic": 3, "bilinear": 2}


class _TextModule(torch.nn.Module):
    """Token ids, int64 (items, tokens), to embeddings."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self.model.encode_text(input_ids)
        return embeddings


class _AnyLength(torch.nn.Module):
    """CLIP.encode_text for texts that are not padded to the full length: the same, with fewer positions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        from open_clip.transformer import text_global_pool

        model, length = self.model, input_ids.shape[1]
        mask = None if model.attn_mask is None else model.attn_mask[:length, :length]
        hidden = model.token_embedding(input_ids) + model.positional_embedding[:length]
        hidden = model.ln_final(model.transformer(hidden, attn_mask=mask))
        eos = getattr(model, "text_eos_id", None)
        pooled: torch.Tensor = text_global_pool(hidden, input_ids, model.text_pool_type, eos_token_id=eos)
        projection = model.text_projection
        if projection is None:
            return pooled
        projected: torch.Tensor
        projected = projection(pooled) if isinstance(projection, torch.nn.Linear) else pooled @ projection
        return projected


class _ImageModule(torch.nn.Module):
    """Pixel values, float32 (items, 3, height, width), to embeddings."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self.model.encode_image(pixel_values)
        return embeddings


def load(models_dir: Path, trust_remote_code: bool) -> TorchModel:
    """Load the model on the CPU in float32; raises ConfigurationError that names the folder."""
    stay_offline()
    import open_clip

    folder = models_dir / "openclip"
    description = describe(folder)
    try:
        with _as_open_clip_lays_it(folder, description) as place:
            # It leaves text towers of transformers in training mode.
            model = open_clip.create_model(f"local-dir:{place}", require_pretrained=True).eval()
            tokenizer = _tokenizer(place, description["model_cfg"])
    except Exception as error:
        raise cannot_load(folder, error) from error
    text, pad_id = _text_reference(tokenizer), _pad_id(tokenizer)
    module = _TextModule(model)
    shortened = _shortened(text, pad_id)
    takes_any_length = next(
        (each for each in (module, _AnyLength(model)) if _same_embeddings(module, text, each, shortened)), None
    )
    preprocess = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
    return TorchModel(
        text=text_tower(
            Normalized(takes_any_length or module),
            _text_processor(tokenizer, None if takes_any_length else pad_id),
            shortened if takes_any_length else text,
            Padding({"input_ids": pad_id}, tokenizer.context_length if takes_any_length else None),
        ),
        image=image_tower(
            Normalized(_ImageModule(model)),
            ImageProcessor.from_processor(_processor_config(preprocess)),
            _image_reference(preprocess),
        ),
        meta=read_config(folder),
    )


def library_processor(models_dir: Path, tower: str, trust_remote_code: bool) -> Processor:
    """The library's own preparation of one tower, "image" or "text", without the weights."""
    stay_offline()
    import open_clip

    folder = models_dir / "openclip"
    description = describe(folder)
    try:
        if tower == "text":
            with _as_open_clip_lays_it(folder, description) as place:
                return _text_reference(_tokenizer(place, description["model_cfg"]))
        size = {"size": description["model_cfg"]["vision_cfg"]["image_size"]}
        default = open_clip.transform.PreprocessCfg()
        merged = open_clip.transform.merge_preprocess_dict(default, {**description["preprocess_cfg"], **size})
        return _image_reference(open_clip.transform.PreprocessCfg(**merged))
    except Exception as error:
        raise cannot_load(folder, error) from error


def bake(names: "Names", downloads: Path, made: Path) -> None:
    """Write openclip/ into `made`: weights, descriptions, and what a text tower from the hub needs."""
    import open_clip

    folder = made / "openclip"
    folder.mkdir()
    name, pretrained = names.open_clip_model_name or "", names.open_clip_pretrained or ""
    if name.startswith(_HUB):
        pretrained = ""
        source = download(name.removeprefix(_HUB), downloads)
        description = describe(source)
        weights = _weights(source)
    else:
        check_pair(name, pretrained)
        description = describe_pretrained(name, pretrained, open_clip.get_model_config(name))
        weights = _download_weights(open_clip.get_pretrained_cfg(name, pretrained), downloads)
    text = description["model_cfg"]["text_cfg"]
    text_name = text.get("hf_model_name") or text.get("hf_tokenizer_name")
    if text_name:
        shutil.copytree(download(text_name, downloads, TOKENIZER), folder / "text", ignore=_hidden)
    shutil.copy(weights, folder / f"open_clip_model{weights.suffix}")
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    config = {"model_name": name, "pretrained": pretrained, "model_config": description["model_cfg"]}
    (folder / "config.json").write_text(json.dumps({**config, "cache_dir": "./models/openclip"}))


def check_pair(name: str, pretrained: str) -> None:
    """Raises ConfigurationError, with the nearest pairs, unless open_clip knows weights by these names."""
    import open_clip

    pairs = open_clip.list_pretrained()
    if (name, pretrained) in pairs:
        return
    own = [tag for model, tag in pairs if model == name]
    if own:
        raise ConfigurationError(
            f"OPEN_CLIP_PRETRAINED={pretrained}: {name} has {', '.join(own)}; choose one of them"
        )
    models = sorted({model for model, _ in pairs})
    near = difflib.get_close_matches(name, models, n=5, cutoff=0.4) or models
    raise ConfigurationError(f"OPEN_CLIP_MODEL_NAME={name}: there is no such model; near ones: {', '.join(near)}")


def _download_weights(pretrained: dict[str, Any], downloads: Path) -> Path:
    """From the hub where it has them, else from where open_clip says, with its checksum."""
    import open_clip

    repository, _, filename = pretrained.get("hf_hub", "").rpartition("/")
    if repository:
        stem = Path(filename or "open_clip_pytorch_model.bin").stem
        only = ("open_clip_model.safetensors", f"{stem}.safetensors")
        folder = download(repository, downloads, only)
        if not any(folder.glob("*.safetensors")):
            folder = download(repository, downloads, (filename or "open_clip_pytorch_model.bin",))
        return _weights(folder)
    try:
        return Path(open_clip.download_pretrained(pretrained, cache_dir=str(downloads)))
    except (OSError, RuntimeError) as error:
        raise ConfigurationError(f"{pretrained.get('url')} cannot be downloaded: {first_line(error)}") from error


def _hidden(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".")]


def describe(folder: Path) -> dict[str, Any]:
    """open_clip's description of the model in a folder: {"model_cfg": …, "preprocess_cfg": …}.

    Raises ConfigurationError if there is none.
    """
    own = folder / "open_clip_config.json"
    if own.is_file():
        description: dict[str, Any] = json.loads(own.read_text())
        return description
    config = read_config(folder)
    missing = [key for key in ("model_name", "pretrained", "model_config") if not config.get(key)]
    if missing:
        raise ConfigurationError(f"{folder}/config.json has no {', '.join(missing)}; {HOW_TO_GET_A_MODEL}")
    return describe_pretrained(config["model_name"], config["pretrained"], config["model_config"])


def describe_pretrained(name: str, pretrained: str, model_config: dict[str, Any]) -> dict[str, Any]:
    """The description of a pair of open_clip, with the activation that its weights were trained with."""
    import open_clip

    preprocess = open_clip.get_pretrained_cfg(name, pretrained)
    model_config = copy.deepcopy(model_config)
    if preprocess.get("quick_gelu") and not model_config.get("quick_gelu"):
        _log.info("%s was trained with QuickGELU, so %s uses it too", pretrained, name)
        model_config["quick_gelu"] = True
    keys = ("mean", "std", "interpolation", "resize_mode", "fill_color")
    return {"model_cfg": model_config, "preprocess_cfg": {k: preprocess[k] for k in keys if k in preprocess}}


def _weights(folder: Path) -> Path:
    """The one file of weights, safetensors first; raises ConfigurationError if there is more than one."""
    found = [path for path in folder.rglob("*") if path.suffix in WEIGHTS and path.is_file()]
    best = [path for path in found if path.suffix == ".safetensors"] or found
    if len(best) != 1:
        names = ", ".join(sorted(path.name for path in best))
        raise ConfigurationError(f"{folder} must hold one file of weights, not {len(best)} ({names})")
    return best[0]


@contextmanager
def _as_open_clip_lays_it(folder: Path, description: dict[str, Any]) -> Iterator[Path]:
    """A temporary folder that open_clip's "local-dir:" takes, with nothing in it to look up."""
    description = copy.deepcopy(description)
    text = (folder / "text").resolve()
    weights = _weights(folder)  # in a hub cache a link, whose target has no suffix
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / f"open_clip_model{'.pth' if weights.suffix == '.pt' else weights.suffix}").symlink_to(
            weights.resolve()
        )
        if text.is_dir():
            if "hf_model_name" in description["model_cfg"]["text_cfg"]:
                description["model_cfg"]["text_cfg"]["hf_model_name"] = str(text)
            for path in text.iterdir():
                (place / path.name).symlink_to(path)
        (place / "open_clip_config.json").write_text(json.dumps(description))
        yield place


def _tokenizer(place: Path, model_config: dict[str, Any]) -> Any:
    import open_clip

    text = model_config["text_cfg"]
    name = text.get("hf_tokenizer_name")
    if name and not (place / "tokenizer_config.json").is_file():  # the old layout: only a hub cache may have it
        length = text.get("context_length", 77)
        options = {"tokenizer_mode": text.get("tokenizer_mode"), **text.get("tokenizer_kwargs", {})}
        return open_clip.tokenizer.HFTokenizer(name, context_length=length, **options)
    return open_clip.get_tokenizer(f"local-dir:{place}")


def _pad_id(tokenizer: Any) -> int:
    inner = getattr(tokenizer, "tokenizer", None)
    return 0 if inner is None else int(inner.pad_token_id)


def _text_reference(tokenizer: Any) -> Processor:
    return locked(lambda text: {"input_ids": tokenizer([text])})


def _shortened(reference: Processor, pad_id: int) -> Processor:
    """Without the padding that open_clip adds up to the full length."""

    def prepare(text: str) -> Inputs:
        ids = reference(text)["input_ids"]
        used = np.flatnonzero(ids != pad_id)
        return {"input_ids": ids[: used[-1] + 1 if used.size else 1]}

    return prepare


def _same_embeddings(full: Any, reference: Processor, short: Any, shortened: Processor) -> bool:
    def embed(module: Any, prepare: Processor, text: str) -> torch.Tensor:
        ids = torch.from_numpy(prepare(text)["input_ids"])[None]
        with torch.inference_mode():
            return torch.nn.functional.normalize(module(ids), dim=-1)

    try:
        return all(
            torch.allclose(embed(full, reference, text), embed(short, shortened, text), atol=1e-5)
            for text in ("", "a", "a photo of a dog that sleeps in the snow")
        )
    except Exception:  # a tower that needs the full length says so in many ways
        return False


def _text_processor(tokenizer: Any, pad_id: int | None) -> TextProcessor | None:
    import open_clip

    if isinstance(tokenizer, open_clip.tokenizer.HFTokenizer):
        clean = f"open_clip.{tokenizer.clean_fn.__name__.removeprefix('_clean_')}"
        backend = getattr(tokenizer.tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if isinstance(backend, Tokenizer) else None
    elif type(tokenizer) is open_clip.SimpleTokenizer and tokenizer.reduction_fn is None:
        clean = f"open_clip.{tokenizer.clean_fn.__name__.removeprefix('_clean_')}"
        text = _as_tokenizer_json(tokenizer)
    else:
        return None
    if text is None:
        return None
    return TextProcessor(text, tokenizer.context_length, ["input_ids"], clean=clean, pad_id=pad_id)


def _as_tokenizer_json(simple: Any) -> str:
    """open_clip's own byte-level BPE as one of the `tokenizers` library."""
    model = models.BPE(vocab=simple.encoder, merges=list(simple.bpe_ranks), end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    pattern = Regex(r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = simple.decoder[simple.sot_token_id], simple.decoder[simple.eot_token_id]
    tokenizer.add_special_tokens([start, end])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, simple.sot_token_id), (end, simple.eot_token_id)]
    )
    json_text: str = tokenizer.to_str()
    return json_text


def _processor_config(preprocess: Any) -> dict[str, Any]:
    """The same as the config of an image processor of transformers."""
    size = preprocess.size if isinstance(preprocess.size, int) else tuple(preprocess.size)
    height, width = (size, size) if isinstance(size, int) else size
    shortest = preprocess.resize_mode == "shortest" and height == width
    return {
        "do_resize": preprocess.resize_mode == "squash" or shortest,
        "size": {"shortest_edge": height} if shortest else {"height": height, "width": width},
        "do_center_crop": shortest,
        "crop_size": {"height": height, "width": width},
        "crop_to_even": True,
        "resample": _INTERPOLATION[preprocess.interpolation],
        "image_mean": preprocess.mean,
        "image_std": preprocess.std,
    }


def _image_reference(preprocess: Any) -> Processor:
    import open_clip

    transform = open_clip.transform.image_transform_v2(preprocess, is_train=False)
    return lambda image: {"pixel_values": transform(image).numpy()}
