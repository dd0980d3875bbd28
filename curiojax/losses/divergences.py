"""Estimates of how far two policies are apart, from the tokens that one of them drew."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from curiojax.losses.regularized import MAX_LOG_RATIO
from curiojax.losses.tokens import Metrics


def bounded(log_ratio: jax.Array) -> jax.Array:
    """Clamped to +-20, so that its `exp` is finite."""
    return jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def estimate(estimator: str, gap: jax.Array) -> jax.Array:
    """Of KL(p || q) from the gap log p - log q at a token that was drawn from p."""
    if estimator == "k1":
        return gap
    if estimator == "k2":
        return jnp.square(gap) / 2
    gap = bounded(gap)
    return jnp.exp(-gap) - 1 + gap


def mismatch(old: jax.Array, sampler: jax.Array, cap: float | None) -> Metrics:
    """How the sampler's log-probabilities differ from the trainer's; see `policy_loss`."""
    gap = sampler - old
    weight = jnp.exp(bounded(-gap))
    capped = jnp.zeros_like(weight, bool) if cap is None else weight > cap
    if cap is not None:
        weight = jnp.minimum(weight, cap)
    return {
        "mismatch_abs": jnp.abs(gap),
        "mismatch_k1": gap,
        "mismatch_k3": estimate("k3", gap),
        "tis_weight": weight,
        "tis_weight_squared": jnp.square(weight),
        "tis_capped": capped.astype(jnp.float32),
    }


def effective_sample_share(weight_sum: float, square_sum: float, count: float) -> float:
    """Effective sample size (ESS) over sample size: (sum w)^2 / (n sum w^2), in (0, 1].

    Args:
      weight_sum, square_sum: sums over tokens of `tis_weight` and `tis_weight_squared`.
      count: how many tokens these are.

    Returns:
      1 when all weights are equal, and also when there are no tokens.
    """
    if not square_sum:
        return 1.0
    return weight_sum**2 / (count * square_sum)
