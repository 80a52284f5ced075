"""What download.py is told to bake."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """What to bake, by the names of the old container's environment variables; the first one set decides."""

    colpali_engine_model_name: str | None = None
    siglip_model_name: str | None = None
    open_clip_model_name: str | None = None
    open_clip_pretrained: str | None = None
    clip_model_name: str | None = None
    text_model_name: str | None = None
    clip_model_type: str | None = None
    trust_remote_code: bool = False
