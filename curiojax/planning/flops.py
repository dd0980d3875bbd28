"""The arithmetic that a model has to do, by formula."""

from __future__ import annotations

from curiojax.config import RunConfig
from curiojax.models import ModelConfig


def matmul_parameters(model: ModelConfig) -> int:
    """Weights that multiply every token: all matrices, the head among them, not the embedding."""
    d, head_dim = model.hidden_size, model.head_dim
    attention = d * head_dim * (2 * model.num_heads + 2 * model.num_kv_heads)
    mlp = 3 * d * model.intermediate_size
    return model.num_layers * (attention + mlp) + model.vocab_size * d


def forward_flops(model: ModelConfig, length: int) -> float:
    """FLOPs of one token's forward pass in a row of `length` tokens that is one record.

    Two for each weight, and four for each pair of query and key dimension that is attended to: a
    token sees half the row on average.
    """
    attention = 4 * (length / 2) * model.num_heads * model.head_dim * model.num_layers
    return 2 * matmul_parameters(model) + attention


def passes(config: RunConfig) -> int:
    """How many forward passes' worth of FLOPs a token needs: three to learn, one per extra look.

    Rematerialisation is left out, as is usual: utilisation by this count says how much of the chip
    does work that the method asks for.
    """
    objective = config.objective
    if config.stage == "grpo":
        # The old policy is asked where a step has more than one update.
        return 3 + int(config.updates_per_step > 1) + int(objective.needs_teacher)
    selects = getattr(objective, "selects_tokens", False)
    batch_wide = selects and getattr(objective, "scope", "") == "batch"
    return 3 + int(objective.needs_teacher or batch_wide)


def model_flops(config: RunConfig, model: ModelConfig) -> float:
    """Model FLOPs of one micro-batch, over all devices."""
    tokens = config.rows_per_microbatch * config.row_length
    return tokens * passes(config) * forward_flops(model, config.row_length)
