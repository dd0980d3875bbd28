"""Cross-entropy plus a term: an entropy bonus, or a divergence from the base model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import jax
import jax.numpy as jnp

from curiojax.losses.tokens import Metrics, Tokens, divergence, label_log_probs, top_share

if TYPE_CHECKING:
    from curiojax.objectives import Entropy, Kl

# verl clamps log-ratios to this, which keeps exp() finite on a token that the base finds far more
# likely. There the term is constant and cross-entropy alone moves the token.
MAX_LOG_RATIO = 20.0


def entropy_loss(objective: Entropy, tokens: Tokens) -> tuple[jax.Array, Metrics]:
    """-lp - coef * H (arXiv 2602.02244, Eq. 2), H on the selected tokens only."""
    if not objective.selects_tokens:
        return -tokens.log_prob - objective.coef * tokens.entropy, {}
    selected = tokens.selected
    if selected is None:
        found = jax.lax.stop_gradient(tokens.entropy)
        selected = top_share(found, tokens.valid, objective.top_fraction)
    selected = selected.astype(jnp.float32)
    loss = -tokens.log_prob - objective.coef * selected * tokens.entropy
    return loss, {"selected": selected}


def kl_targets(objective: Kl, logits: jax.Array, labels: jax.Array) -> Metrics:
    log_probs, found = label_log_probs(logits, labels)
    return {"teacher_log_prob": log_probs, "teacher_entropy": found}


def kl_loss(objective: Kl, tokens: Tokens) -> tuple[jax.Array, Metrics]:
    """-lp + coef * estimate, the estimate on tokens that are neither exempt nor new to the base.

    The one-token estimators are those of Schulman's note on approximating KL, used as losses: their
    gradients are d lp times 1 (k1), d (k2) and 1 - exp(-d) (k3), d = lp - lp_base.
    """
    if objective.coef == 0:
        return -tokens.log_prob, {}
    metrics: Metrics = {}
    base_logits = tokens.teacher_logits
    if base_logits is not None:
        metrics = kl_targets(objective, base_logits, tokens.labels)
        base = metrics["teacher_log_prob"]
    elif tokens.teacher_log_probs is not None and not objective.needs_teacher_logits:
        base = jax.lax.stop_gradient(tokens.teacher_log_probs)
    else:
        also = "" if objective.needs_teacher_logits else " or teacher_log_probs"
        raise ValueError(
            f"kl: estimator={objective.estimator!r} needs the base model's teacher_logits{also}"
        )
    gap = tokens.log_prob - base
    bounded = jnp.clip(gap, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    k3 = jnp.exp(-bounded) - 1 + bounded
    slope = None  # of the estimate in lp
    if objective.estimator == "k1":
        kl, slope = gap, jnp.ones_like(gap)
    elif objective.estimator == "k2":
        kl, slope = jnp.square(gap) / 2, gap
    elif objective.estimator == "k3":
        kl, slope = k3, jnp.where(bounded == gap, 1 - jnp.exp(-bounded), 0)
    elif objective.estimator == "reverse_full":
        kl = divergence(tokens.logits, cast(jax.Array, base_logits))
    else:
        kl = divergence(cast(jax.Array, base_logits), tokens.logits)

    held = _held(objective, base, tokens.labels).astype(jnp.float32)
    kl = held * kl
    metrics |= {"kl": kl, "kl_held": held, "kl_k1": gap, "kl_k3": k3, "reference_nll": -base}
    if slope is not None:
        metrics["weight"] = 1 - objective.coef * held * slope
    return -tokens.log_prob + objective.coef * kl, metrics


def _held(objective: Kl, base_log_probs: jax.Array, labels: jax.Array) -> jax.Array:
    held = jnp.ones(labels.shape, bool)
    if objective.min_base_prob > 0:
        held &= base_log_probs >= math.log(objective.min_base_prob)
    for token in objective.exempt_tokens:
        held &= labels != token
    return held
