"""Small random checkpoints, written by transformers itself."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# Odd sizes, so that no dimension is mistaken for another; positions run past the 32 above.
CASES = {
    "qwen2_tied": (
        Qwen2ForCausalLM,
        Qwen2Config(
            vocab_size=131,
            hidden_size=60,
            intermediate_size=93,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            max_position_embeddings=256,
        ),
    ),
    "qwen2_untied": (
        Qwen2ForCausalLM,
        Qwen2Config(
            vocab_size=97,
            hidden_size=40,
            intermediate_size=51,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            max_position_embeddings=256,
            rms_norm_eps=1e-5,
            eos_token_id=[95, 96],
        ),
    ),
    "qwen3": (
        Qwen3ForCausalLM,
        Qwen3Config(
            vocab_size=113,
            hidden_size=44,
            intermediate_size=75,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=18,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            max_position_embeddings=256,
            eos_token_id=7,
        ),
    ),
    "llama3": (
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=101,
            hidden_size=48,
            intermediate_size=67,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=14,
            tie_word_embeddings=True,
            rope_parameters=LLAMA3_ROPE,
            max_position_embeddings=256,
            rms_norm_eps=1e-5,
            eos_token_id=None,
            bos_token_id=None,
        ),
    ),
    # Even sizes, for meshes.
    "even": (
        Qwen3ForCausalLM,
        Qwen3Config(
            vocab_size=96,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            max_position_embeddings=256,
        ),
    ),
}
FAMILIES = ["qwen2_tied", "qwen2_untied", "qwen3", "llama3"]


def build(name: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A random model whose parameters are all away from their initial values (biases, norms)."""
    cls, config = CASES[name]
    torch.manual_seed(len(name))
    model = cls(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            scale = 0.5 if value.ndim == 1 else 2.0 / value.shape[-1] ** 0.5
            value.copy_(torch.randn_like(value) * scale + (1.0 if "norm" in key else 0.0))
    return model.to(dtype)


def write(name: str, path: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    model = build(name, dtype)
    model.save_pretrained(path)
    return model
