"""Losses: pure functions from logits to one value per token, never reduced."""

from curiojax.losses.supervised import per_token_loss, teacher_targets
from curiojax.losses.temperature import entropy_guided_temperature

__all__ = ["entropy_guided_temperature", "per_token_loss", "teacher_targets"]
