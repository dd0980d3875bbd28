"""Policy losses of tokens that were given, not drawn: expert demonstrations beside the rollouts.

They have no log-probability under the policy that wrote them. p = exp(log_probs).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from curiojax.losses.own_tokens import PolicyTokens, clipped_loss
from curiojax.losses.tokens import Metrics

if TYPE_CHECKING:
    from curiojax.objectives import Luffy, PrefixRft, RlPlus, Srft


def luffy_loss(log_probs: jax.Array, advantages: jax.Array, gamma: float = 0.1) -> jax.Array:
    """LUFFY (arXiv 2504.14945): -A p / (p + gamma), the expert's probability taken as 1.

    The shaping weighs the gradient of a token by gamma p / (p + gamma)^2, the most where p = gamma.

    Args:
      log_probs: `[B, T]`; advantages: `[B, 1]` or `[B, T]`.

    Returns:
      float32 `[B, T]`, not reduced.
    """
    prob = jnp.exp(log_probs.astype(jnp.float32))
    return -jax.lax.stop_gradient(advantages) * prob / (prob + gamma)


def rl_plus_loss(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, gamma: float = 0.5
) -> jax.Array:
    """RL-PLUS (arXiv 2508.00222): -A sg[(1 - p)^gamma] 2 p / (1.5 p_old + 0.5).

    The denominator is p_old plus an estimate (p_old + 1) / 2 of the expert's probability; the
    factor in front prefers tokens that the policy finds unlikely.

    Args:
      log_probs, old_log_probs: `[B, T]`; advantages: `[B, 1]` or `[B, T]`.

    Returns:
      float32 `[B, T]`, not reduced.
    """
    prob = jnp.exp(log_probs.astype(jnp.float32))
    old = jax.lax.stop_gradient(jnp.exp(old_log_probs.astype(jnp.float32)))
    explore = jax.lax.stop_gradient(jnp.maximum(1 - prob, 0) ** gamma)
    return -jax.lax.stop_gradient(advantages) * explore * 2 * prob / (1.5 * old + 0.5)


def _luffy(objective: Luffy, tokens: PolicyTokens) -> tuple[jax.Array, Metrics]:
    return luffy_loss(tokens.log_probs, tokens.advantages, objective.gamma), {}


def _rl_plus(objective: RlPlus, tokens: PolicyTokens) -> tuple[jax.Array, Metrics]:
    old = tokens.old_log_probs
    return rl_plus_loss(tokens.log_probs, old, tokens.advantages, objective.gamma), {}


def _srft(objective: Srft, tokens: PolicyTokens) -> tuple[jax.Array, Metrics]:
    assert tokens.sequence_entropy is not None
    weight = objective.sft_coef * jnp.exp(-tokens.sequence_entropy)
    shaped = luffy_loss(tokens.log_probs, tokens.advantages, objective.gamma)
    return shaped - weight * tokens.log_probs, {"sft_weight": weight}


def _cross_entropy(objective, tokens: PolicyTokens) -> tuple[jax.Array, Metrics]:
    return -tokens.log_probs, {}


def _prefix_rft(objective: PrefixRft, tokens: PolicyTokens) -> tuple[jax.Array, Metrics]:
    """As the policy's own tokens, where they are selected."""
    loss, flags = clipped_loss(objective, tokens)
    chosen = jnp.ones(loss.shape, bool) if tokens.selected is None else tokens.selected != 0
    clipped = flags["clipped_high"] + flags["clipped_low"] + flags["dual_clipped"]
    metrics = {"given_kept": chosen.astype(jnp.float32), "given_advantage": tokens.advantages}
    return jnp.where(chosen, loss, 0), metrics | {"given_clipped": jnp.where(chosen, clipped, 0)}


GIVEN_LOSSES: dict[str, Callable[..., tuple[jax.Array, Metrics]]] = {
    "luffy": _luffy,
    "rl_plus": _rl_plus,
    "srft": _srft,
    "hpt": _cross_entropy,
    "sft_rl": _cross_entropy,
    "prefix_rft": _prefix_rft,
}
