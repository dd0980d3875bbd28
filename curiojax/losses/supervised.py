"""Supervised objectives per token: cross-entropy and CurioSFT.

CurioSFT (arXiv 2602.02244, Eq. 5-6, with the distillation term as released) adds to the
cross-entropy of the expert token y half the squared distance between the student's log-probability
lp and the tempered teacher's lpT, a constant:

    loss = -lp + alpha / 2 * (lp - lpT)^2,    lpT = log_softmax(teacher_logits / tau)[y]

Its gradient is (-1 + alpha * (lp - lpT)) d lp, that of cross-entropy with the constant weight

    w = 1 + alpha * (lpT - lp).

So it trains harder (w > 1) on expert tokens that surprise the student, since tempering raises their
teacher probability, and softer (w < 1) on those the student already expects more than the teacher
does. Nothing but the expert token is targeted, and w < 0 needs lp - lpT > 1 / alpha.

An objective is one function in `_LOSSES`, found by `objective.name`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from curiojax.losses.temperature import choose_temperature, entropy, log_softmax_parts

if TYPE_CHECKING:
    from curiojax.objectives import AnyObjective, Curio

Metrics = dict[str, jax.Array]


class Tokens(NamedTuple):
    """What the loss of an objective may look at. Float32, `[N, V]` or `[N]`; labels int `[N]`."""

    logits: jax.Array
    labels: jax.Array
    log_prob: jax.Array  # of the label under the student; the gradient flows through it
    teacher_logits: jax.Array | None
    teacher_log_probs: jax.Array | None
    old_log_probs: jax.Array | None
    suppressed: jax.Array | None


def _at_labels(values: jax.Array, labels: jax.Array) -> jax.Array:
    """`values[i, labels[i]]`, as a masked sum.

    It fuses with the other passes over the vocabulary and stays local when the vocabulary is split
    over devices, in both directions; a gather and its scatter do neither.
    """
    columns = jax.lax.broadcasted_iota(labels.dtype, values.shape, values.ndim - 1)
    return jnp.where(columns == labels[:, None], values, 0).sum(axis=-1)


def _label_log_probs(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probability of the labels and entropy, both `[N]`, of softmax(logits)."""
    shifted, log_z = log_softmax_parts(logits)
    # A label outside the vocabulary matches no column; unmasked, it must not pass for a number.
    known = (labels >= 0) & (labels < logits.shape[-1])
    log_prob = jnp.where(known, _at_labels(shifted, labels) - log_z, jnp.nan)
    return log_prob, entropy(shifted, log_z)


def _curio_targets(objective: Curio, logits: jax.Array, labels: jax.Array) -> Metrics:
    found = choose_temperature(logits, objective)
    # The softmax is over the whole vocabulary; the top k serve the search only.
    log_probs, _ = _label_log_probs(logits / found.tau[:, None], labels)
    return {
        "teacher_log_prob": log_probs,
        "tau": found.tau,
        "teacher_entropy": found.entropy,
        "entropy_increment": found.increment,
        "gated": found.gated,
        "at_floor": found.at_floor,
        "at_cap": found.at_cap,
    }


def _sft(objective: AnyObjective, tokens: Tokens) -> tuple[jax.Array, Metrics]:
    return -tokens.log_prob, {}


def _curio(objective: Curio, tokens: Tokens) -> tuple[jax.Array, Metrics]:
    metrics: Metrics = {}
    if objective.teacher == "self":
        metrics = teacher_targets(objective, tokens.logits, tokens.labels)
        teacher = metrics["teacher_log_prob"]
    elif tokens.teacher_log_probs is not None:
        teacher = tokens.teacher_log_probs
    elif tokens.teacher_logits is not None:
        metrics = teacher_targets(objective, tokens.teacher_logits, tokens.labels)
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


_LOSSES: dict[str, Callable[..., tuple[jax.Array, Metrics]]] = {"sft": _sft, "curio": _curio}
_TEACHER_TARGETS: dict[str, Callable[..., Metrics]] = {"curio": _curio_targets}


def _find(table: dict[str, Callable], objective: AnyObjective, what: str) -> Callable:
    if objective.name not in table:
        raise ValueError(f"objective {objective.name!r} has no {what}; known: {', '.join(table)}")
    return table[objective.name]


def teacher_targets(
    objective: AnyObjective, teacher_logits: jax.Array, labels: jax.Array
) -> Metrics:
    """Everything the objective needs from the teacher, as scalars per token without a gradient.

    Args:
      objective: an objective with a teacher (`Curio`).
      teacher_logits: `[N, V]`, any float dtype.
      labels: int `[N]`.

    Returns:
      float32 `[N]` each: `teacher_log_prob` (tempered, over the whole vocabulary), `tau`,
      `teacher_entropy` (temperature 1, whole vocabulary, nats), `entropy_increment` (nats), and the
      flags `gated`, `at_floor`, `at_cap`, at most one of which is 1.

    Raises:
      ValueError: the objective has no teacher.
    """
    logits = jax.lax.stop_gradient(teacher_logits).astype(jnp.float32)
    return _find(_TEACHER_TARGETS, objective, "teacher")(objective, logits, labels)


def per_token_loss(
    objective: AnyObjective,
    logits: jax.Array,
    labels: jax.Array,
    *,
    teacher_logits: jax.Array | None = None,
    teacher_log_probs: jax.Array | None = None,
    old_log_probs: jax.Array | None = None,
    suppressed: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """The loss of every token, not reduced.

    Args:
      objective: a model of `curiojax.objectives`; static under `jax.jit`.
      logits: student logits `[N, V]`, any float dtype; columns of -inf are padding.
      labels: int `[N]`.
      teacher_logits: `[N, V]`; not looked at with `teacher="self"`, where the student's own
        detached logits take their place.
      teacher_log_probs: `teacher_targets(...)["teacher_log_prob"]` `[N]`, instead of the logits.
      old_log_probs: `[N]`, for objectives with a probability ratio.
      suppressed: bool `[N]`, for objectives that also unlearn tokens.
      mask: `[N]`, 0 leaves a token out: loss, gradient and metrics are 0 there, whatever its row
        holds (also NaN). Other values select, they do not scale.

    Returns:
      The loss, float32 `[N]`, and float32 `[N]` metrics without gradient: `log_prob` of the label
      and `entropy` (whole vocabulary, nats) of the student; for `Curio` also `weight` (w above) and
      `sed_k2`, and what `teacher_targets` returns when it was computed here.

    Raises:
      ValueError: unknown objective, or a teacher is missing.
    """
    loss_of = _find(_LOSSES, objective, "supervised loss")
    logits = logits.astype(jnp.float32)
    if teacher_logits is not None:
        teacher_logits = jax.lax.stop_gradient(teacher_logits).astype(jnp.float32)
    valid = None if mask is None else mask != 0

    # Before and after: a NaN that is only thrown away afterwards still reaches the gradient.
    def keep(x: jax.Array) -> jax.Array:
        if valid is None:
            return x
        return jnp.where(valid[:, None] if x.ndim == 2 else valid, x, jnp.zeros_like(x))

    def keep_given(x: jax.Array | None) -> jax.Array | None:
        return None if x is None else keep(x)

    logits, labels = keep(logits), keep(labels)
    log_prob, student_entropy = _label_log_probs(logits, labels)
    tokens = Tokens(
        logits=logits,
        labels=labels,
        log_prob=log_prob,
        teacher_logits=keep_given(teacher_logits),
        teacher_log_probs=keep_given(teacher_log_probs),
        old_log_probs=keep_given(old_log_probs),
        suppressed=keep_given(suppressed),
    )
    loss, metrics = loss_of(objective, tokens)
    metrics = {"log_prob": log_prob, "entropy": student_entropy, **metrics}
    return keep(loss), {k: keep(jax.lax.stop_gradient(v)) for k, v in metrics.items()}
