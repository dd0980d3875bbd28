"""Losses: pure functions from logits to one value per token, never reduced."""

from curiojax.losses.curio import largest_safe_alpha
from curiojax.losses.supervised import per_token_loss, teacher_targets
from curiojax.losses.temperature import entropy_guided_temperature

__all__ = ["entropy_guided_temperature", "largest_safe_alpha", "per_token_loss", "teacher_targets"]
