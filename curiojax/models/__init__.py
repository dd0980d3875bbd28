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
from curiojax.models.files import check_target
from curiojax.models.hf import (
    check_mesh,
    inspect_pretrained,
    load_pretrained,
    read_config,
    save_pretrained,
)
from curiojax.models.layout import param_axes
from curiojax.models.quantised import quantise_params, quantised_axes, with_quantised

__all__ = [
    "ModelConfig",
    "abstract_params",
    "check_context",
    "check_mesh",
    "check_target",
    "decode",
    "forward",
    "head_weight",
    "init_cache",
    "init_params",
    "inspect_pretrained",
    "load_pretrained",
    "logits",
    "param_axes",
    "quantise_params",
    "quantised_axes",
    "read_config",
    "save_pretrained",
    "with_quantised",
]
