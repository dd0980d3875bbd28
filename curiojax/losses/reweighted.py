"""Cross-entropy with other weights on the tokens, or on the whole vocabulary."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from curiojax.losses.regularized import MAX_LOG_RATIO
from curiojax.losses.temperature import log_softmax_parts
from curiojax.losses.tokens import Metrics, Tokens, at_labels, columns_of, label_log_probs

if TYPE_CHECKING:
    from curiojax.objectives import Dft, Gem, Oxa, Psft

# Slope of GEM's log-sigmoid variant, as in its code.
GEM_SLOPE = 0.01
# OXA's code keeps probabilities this far from 1.
MIN_COMPLEMENT = 1e-6


def gem_loss(objective: Gem, tokens: Tokens) -> tuple[jax.Array, Metrics]:
    """GEM (arXiv 2408.16673), as its code has it.

    With the constants q = softmax(z / beta) and w_v = h'(z_v - z_y),

        loss = -sum_v q_v w_v (log p_y - log p_v),   gradient_k = q_k w_k - [k = y] S,   S = q . w

    where h' is 1 (`linear`) or sigmoid(0.01 x) (`logsigmoid`, about 1/2 everywhere). The value can
    be negative. The normaliser of p cancels, so it is never formed.
    """
    shifted, _ = log_softmax_parts(tokens.logits)
    gap = shifted - at_labels(shifted, tokens.labels)[:, None]
    scaled, log_z = log_softmax_parts(tokens.logits / objective.beta)
    pull = jnp.exp(scaled - log_z[:, None])
    sharpest = pull.max(axis=-1)
    if objective.h == "logsigmoid":
        pull = pull * jax.nn.sigmoid(GEM_SLOPE * gap)
    pull = jax.lax.stop_gradient(pull)
    # A column of -inf has no pull, but its gap is no number to multiply with.
    loss = (pull * jnp.where(pull > 0, gap, 0)).sum(axis=-1)
    return loss, {"gem_s": pull.sum(axis=-1), "gem_q_max": sharpest}


def dft_loss(objective: Dft, tokens: Tokens) -> tuple[jax.Array, Metrics]:
    """-sg(p) log p (arXiv 2508.05629); its gradient is -d p."""
    prob = jax.lax.stop_gradient(jnp.exp(tokens.log_prob))
    return -prob * tokens.log_prob, {"weight": prob}


def psft_targets(objective: Psft, logits: jax.Array, labels: jax.Array) -> Metrics:
    return {"old_log_prob": label_log_probs(logits, labels)[0]}


def psft_loss(objective: Psft, tokens: Tokens) -> tuple[jax.Array, Metrics]:
    """-min(r, clip(r)), r = p / p_old (arXiv 2508.17784): PPO with advantage 1.

    The gradient is -r d lp up to r = 1 + clip_high and exactly 0 beyond; below 1 - clip_low the
    minimum is r itself, so that end never acts.
    """
    metrics: Metrics = {}
    if tokens.old_log_probs is not None:
        old = tokens.old_log_probs
    elif tokens.teacher_logits is not None:
        metrics = psft_targets(objective, tokens.teacher_logits, tokens.labels)
        old = metrics["old_log_prob"]
    elif objective.updates_per_snapshot == 1:
        old = tokens.log_prob
    else:
        raise ValueError(
            "psft: updates_per_snapshot > 1 needs old_log_probs (or teacher_logits of the snapshot)"
        )
    gap = tokens.log_prob - jax.lax.stop_gradient(old)
    ratio = jnp.exp(jnp.clip(gap, -MAX_LOG_RATIO, MAX_LOG_RATIO))
    highest = 1 + objective.clip_high
    clipped = ratio > highest
    metrics |= {
        "weight": jnp.where(clipped, 0, ratio),
        "ratio": ratio,
        "clipped": clipped.astype(jnp.float32),
        "old_kl": -gap,
    }
    return -jnp.where(clipped, highest, ratio), metrics


def oxa_loss(objective: Oxa, tokens: Tokens) -> tuple[jax.Array, Metrics]:
    """-lp on promoted tokens, ul_weight * -log(1 - p) on suppressed ones (arXiv 2603.16206).

    1 - p is kept above 1e-6, as released: there the gradient ends.
    """
    if tokens.suppressed is None and not objective.needs_suppressed:
        return -tokens.log_prob, {}
    if tokens.suppressed is None:
        raise ValueError("oxa: needs suppressed, which says of each token whether to unlearn it")
    suppressed = tokens.suppressed.astype(bool)
    prob = jnp.exp(tokens.log_prob)
    unlikelihood = _unlikelihood(tokens, prob)
    flag = suppressed.astype(jnp.float32)
    metrics = {
        "suppressed": flag,
        "unlikelihood": flag * unlikelihood,
        "suppressed_prob": flag * prob,
    }
    return jnp.where(suppressed, objective.ul_weight * unlikelihood, -tokens.log_prob), metrics


def _unlikelihood(tokens: Tokens, prob: jax.Array) -> jax.Array:
    """-log(1 - p). Near p = 1, where 1 - p has no digits left, from the sum over other tokens."""
    likely = prob > 0.5
    small = -jnp.log1p(-jnp.where(likely, 0.5, prob))
    shifted, log_z = log_softmax_parts(tokens.logits)
    others = jnp.where(columns_of(tokens.labels, shifted), 0, jnp.exp(shifted)).sum(axis=-1)
    enough = others > MIN_COMPLEMENT * jnp.exp(log_z)
    large = log_z - jnp.log(jnp.where(enough & likely, others, 1))
    large = jnp.where(enough, large, -math.log(MIN_COMPLEMENT))
    return jnp.where(likely, large, small)
