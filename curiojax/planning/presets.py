"""Architectures that are known without a download, and where else one may come from.

The values are those of the models' own `config.json` files on the Hugging Face hub.
"""

from __future__ import annotations

from pathlib import Path

from curiojax import models
from curiojax.config import RunConfig
from curiojax.errors import ConfigError
from curiojax.models import ModelConfig
from curiojax.models.config import Llama3RopeScaling, apply_overrides
from curiojax.models.files import find_checkpoint
from curiojax.training.setup import model_overrides

PRESETS = {
    "Qwen2.5-Math-1.5B": ModelConfig(
        model_type="qwen2",
        vocab_size=151_936,
        hidden_size=1536,
        num_layers=28,
        num_heads=12,
        num_kv_heads=2,
        head_dim=128,
        intermediate_size=8960,
        rope_theta=10_000.0,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        attention_bias=True,
    ),
    "Qwen2.5-Math-7B": ModelConfig(
        model_type="qwen2",
        vocab_size=152_064,
        hidden_size=3584,
        num_layers=28,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        intermediate_size=18_944,
        rope_theta=10_000.0,
        max_position_embeddings=4096,
        attention_bias=True,
    ),
    "Qwen3-4B": ModelConfig(
        model_type="qwen3",
        vocab_size=151_936,
        hidden_size=2560,
        num_layers=36,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=9728,
        rope_theta=1_000_000.0,
        max_position_embeddings=32_768,  # of the base model; the chat model has 40960
        tie_word_embeddings=True,
        qk_norm=True,
    ),
    "Llama-3.1-8B": ModelConfig(
        model_type="llama",
        vocab_size=128_256,
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=14_336,
        rope_theta=500_000.0,
        rope_scaling=Llama3RopeScaling(8.0, 1.0, 4.0, 8192),
        max_position_embeddings=131_072,
        rms_norm_eps=1e-5,
    ),
}


def find_architecture(config: RunConfig) -> tuple[ModelConfig, str]:
    """The architecture of `model.path` with the run's overrides, and where it was found.

    A folder is read; a name that ends like a preset needs no network; anything else is asked for on
    the hub, and only its small files.

    Raises:
      ConfigError: none of the three, or an architecture that cannot be trained.
    """
    path = config.model.path
    if path is None:
        raise ConfigError(
            "model.path: missing; give a folder with config.json, a hub id, or one of "
            f"{', '.join(PRESETS)}"
        )
    overrides = model_overrides(config)
    preset = _preset(path)
    if preset is not None and not Path(path).expanduser().exists():
        return apply_overrides(PRESETS[preset], overrides), f"preset {preset}"
    try:
        folder = find_checkpoint(path, weights=False)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; the architectures known without either are {', '.join(PRESETS)}"
        ) from None
    return models.read_config(folder, overrides=overrides), str(folder / "config.json")


def _preset(path: str) -> str | None:
    name = path.rsplit("/", 1)[-1]
    for suffix in ("-Base", "-Instruct"):
        name = name.removesuffix(suffix)
    return name if name in PRESETS else None
