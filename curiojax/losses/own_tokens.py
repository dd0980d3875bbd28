"""Policy losses of the tokens that the policy drew itself, by objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from curiojax.losses.divergences import bounded
from curiojax.losses.tokens import Metrics

if TYPE_CHECKING:
    from curiojax.objectives import GrpoReleased, PolicyObjective, Srft


class PolicyTokens(NamedTuple):
    """The tokens of one call; float32 of one shape. All but `log_probs` and what is made of it are
    constants.

    Attributes:
      log_probs, old_log_probs: under the policy being trained and at the start of the step.
      log_ratio: their difference.
      advantages: of the tokens' sequences.
      sequence_entropy: mean entropy of the tokens of each token's sequence, nats; None where the
        objective has no use for it.
      selected: of the tokens that were given, 1 where they are learnt; None: everywhere.
    """

    log_probs: jax.Array
    old_log_probs: jax.Array
    log_ratio: jax.Array
    advantages: jax.Array
    sequence_entropy: jax.Array | None = None
    selected: jax.Array | None = None


def _range(objective: PolicyObjective) -> tuple[float, float]:
    low, high = objective.clip_low, objective.clip_high
    return (-math.inf if low is None else 1 - low), (math.inf if high is None else 1 + high)


def clipped_loss(objective, tokens: PolicyTokens) -> tuple[jax.Array, Metrics]:
    ratio, advantages = jnp.exp(bounded(tokens.log_ratio)), tokens.advantages
    lowest, highest = _range(objective)
    high = (advantages > 0) & (ratio > highest)
    low = (advantages < 0) & (ratio < lowest)
    used = jnp.where(high, highest, jnp.where(low, lowest, ratio))
    dual = jnp.zeros_like(high)
    if objective.dual_clip is not None:
        dual = (advantages < 0) & (ratio > objective.dual_clip)
        used = jnp.where(dual, objective.dual_clip, used)
    return -advantages * used, _flags(ratio, high, low, dual)


def _released(objective: GrpoReleased, tokens: PolicyTokens) -> tuple[jax.Array, Metrics]:
    ratio, advantages = jnp.exp(bounded(tokens.log_ratio)), tokens.advantages
    lowest, highest = _range(objective)
    clipped = jnp.clip(ratio, lowest, highest)
    loss = jnp.minimum(-advantages * tokens.log_probs, -advantages * clipped)
    high, low = ((advantages > 0) & outside for outside in (ratio > highest, ratio < lowest))
    return loss, _flags(ratio, high, low, jnp.zeros_like(high))


def _srft(objective: Srft, tokens: PolicyTokens) -> tuple[jax.Array, Metrics]:
    """Advantages are 1 where the answer is right and -1 where it is wrong."""
    assert tokens.sequence_entropy is not None
    right = tokens.advantages > 0
    weight = objective.positive_coef * jnp.exp(tokens.sequence_entropy)
    loss = -tokens.advantages * jnp.where(right, weight, 1) * tokens.log_probs
    nothing = jnp.zeros_like(right)
    metrics = _flags(jnp.exp(bounded(tokens.log_ratio)), nothing, nothing, nothing)
    metrics["positive"] = right.astype(jnp.float32)
    metrics["negative"] = (tokens.advantages < 0).astype(jnp.float32)
    return loss, metrics | {"positive_weight": weight}


def _flags(ratio, high, low, dual) -> Metrics:
    flags = {"clipped_high": high, "clipped_low": low, "dual_clipped": dual}
    return {"ratio": ratio, **{name: x.astype(jnp.float32) for name, x in flags.items()}}


POLICY_LOSSES: dict[str, Callable[..., tuple[jax.Array, Metrics]]] = {
    "grpo": clipped_loss,
    "grpo_released": _released,
    "luffy": clipped_loss,
    "rl_plus": clipped_loss,
    "srft": _srft,
    "hpt": clipped_loss,
    "sft_rl": clipped_loss,
    "prefix_rft": clipped_loss,
}
