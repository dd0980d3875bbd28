"""CurioSFT (arXiv 2602.02244, Eq. 5-6, with the distillation term as released).

To the cross-entropy of the expert token y it adds half the squared distance between the student's
log-probability lp and the tempered teacher's lpT, a constant:

    loss = -lp + alpha / 2 * (lp - lpT)^2,    lpT = log_softmax(teacher_logits / tau)[y]

Its gradient is (-1 + alpha * (lp - lpT)) d lp, that of cross-entropy with the constant weight

    w = 1 + alpha * (lpT - lp).

So it trains harder (w > 1) on expert tokens that surprise the student, since tempering raises their
teacher probability, and softer (w < 1) on those the student already expects more than the teacher
does. Nothing but the expert token is targeted, and w < 0 needs lp - lpT > 1 / alpha.

`divergence: forward_kl` and `reverse_kl` put a Kullback-Leibler divergence over the whole
vocabulary in place of the squared distance: other methods, with the same tempered teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from curiojax.losses.temperature import choose_temperature
from curiojax.losses.tokens import Metrics, Tokens, divergence, label_log_probs

if TYPE_CHECKING:
    from curiojax.objectives import Curio


def curio_targets(objective: Curio, logits: jax.Array, labels: jax.Array) -> Metrics:
    found = choose_temperature(logits, objective)
    # The softmax is over the whole vocabulary; the top k serve the search only.
    log_probs, _ = label_log_probs(logits / found.tau[:, None], labels)
    return {
        "teacher_log_prob": log_probs,
        "tau": found.tau,
        "teacher_entropy": found.entropy,
        "entropy_increment": found.increment,
        "gated": found.gated,
        "at_floor": found.at_floor,
        "at_cap": found.at_cap,
    }


def curio_loss(objective: Curio, tokens: Tokens) -> tuple[jax.Array, Metrics]:
    if objective.divergence != "expert_k2":
        return _whole_distribution(objective, tokens)
    metrics: Metrics = {}
    logits = _teacher_logits(objective, tokens)
    if tokens.teacher_log_probs is not None and objective.teacher == "ema":
        teacher = tokens.teacher_log_probs
    elif logits is not None:
        metrics = curio_targets(objective, logits, tokens.labels)
        teacher = metrics["teacher_log_prob"]
    elif objective.alpha == 0:
        teacher = tokens.log_prob
    else:
        raise ValueError(
            "curio: teacher='ema' needs teacher_logits or teacher_log_probs; pass one of them, or "
            "use teacher='self'"
        )
    gap = tokens.log_prob - jax.lax.stop_gradient(teacher)
    k2 = jnp.square(gap) / 2
    metrics |= {"weight": 1 - objective.alpha * gap, "sed_k2": k2}
    return -tokens.log_prob + objective.alpha * k2, metrics


def _whole_distribution(objective: Curio, tokens: Tokens) -> tuple[jax.Array, Metrics]:
    logits = _teacher_logits(objective, tokens)
    if logits is None:
        if objective.alpha == 0:
            return -tokens.log_prob, {}
        raise ValueError(
            f"curio: divergence={objective.divergence!r} with teacher='ema' needs teacher_logits; "
            "log-probabilities of the labels are not enough"
        )
    metrics = jax.lax.stop_gradient(curio_targets(objective, logits, tokens.labels))
    tempered = logits / metrics["tau"][:, None]
    if objective.divergence == "forward_kl":
        kl = divergence(tempered, tokens.logits)
    else:
        kl = divergence(tokens.logits, tempered)
    return -tokens.log_prob + objective.alpha * kl, {**metrics, "sed_kl": kl}


def _teacher_logits(objective: Curio, tokens: Tokens) -> jax.Array | None:
    if objective.teacher == "self":
        return jax.lax.stop_gradient(tokens.logits)
    return tokens.teacher_logits


def largest_safe_alpha(tau: float, width: float) -> float:
    """The alpha up to which no weight is negative at a fork `width` alternatives wide.

    For a teacher that does not lag, with p on the expert token and the rest spread evenly over
    `width` others, w = 1 + alpha (log p_tau - log p) is positive at every p if and only if alpha is
    below 1 / max_p (log p - log p_tau). Beyond, the token is pushed down in between, the teacher
    follows, and entropy runs away.

    Args:
      tau: the temperature, above 1.
      width: effective number of alternatives, at least 1; not the size of the vocabulary.
    """
    log_odds = np.linspace(-15.0, 25.0, 4001)  # of the expert token against all others together
    scaled = log_odds / tau - (1 - 1 / tau) * np.log(width)
    gap = np.logaddexp(0, -scaled) - np.logaddexp(0, -log_odds)
    return float(1 / max(gap.max(), 1e-12))
