"""Losses: pure functions from logits or log-probabilities to one value per token, not reduced."""

from curiojax.losses.advantages import group_advantages, groups_with_signal, handle_overlong
from curiojax.losses.aggregation import aggregate, aggregation_weights
from curiojax.losses.curio import largest_safe_alpha
from curiojax.losses.divergences import effective_sample_share
from curiojax.losses.policy import policy_loss
from curiojax.losses.supervised import per_token_loss, teacher_targets
from curiojax.losses.temperature import entropy_guided_temperature

__all__ = [
    "aggregate",
    "aggregation_weights",
    "effective_sample_share",
    "entropy_guided_temperature",
    "group_advantages",
    "groups_with_signal",
    "handle_overlong",
    "largest_safe_alpha",
    "per_token_loss",
    "policy_loss",
    "teacher_targets",
]
