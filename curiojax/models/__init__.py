"""The decoder and its checkpoints. The only folder that knows Flax (Linen)."""

from curiojax.models.config import ModelConfig, check_context
from curiojax.models.decoder import (
    abstract_params,
    decode,
    forward,
    head_weight,
    init_cache,
    init_params,
    logits,
)
from curiojax.models.hf import load_pretrained, read_config, save_pretrained
from curiojax.models.layout import param_axes

__all__ = [
    "ModelConfig",
    "abstract_params",
    "check_context",
    "decode",
    "forward",
    "head_weight",
    "init_cache",
    "init_params",
    "load_pretrained",
    "logits",
    "param_axes",
    "read_config",
    "save_pretrained",
]
