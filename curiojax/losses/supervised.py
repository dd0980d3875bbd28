"""Supervised objectives per token: one function each, found by `objective.name`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from curiojax.losses.curio import curio_loss, curio_targets
from curiojax.losses.regularized import entropy_loss, kl_loss, kl_targets
from curiojax.losses.reweighted import dft_loss, gem_loss, oxa_loss, psft_loss, psft_targets
from curiojax.losses.tokens import Metrics, Tokens, label_log_probs

if TYPE_CHECKING:
    from curiojax.objectives import AnyObjective


def _sft_loss(objective: AnyObjective, tokens: Tokens) -> tuple[jax.Array, Metrics]:
    return -tokens.log_prob, {}


_LOSSES: dict[str, Callable[..., tuple[jax.Array, Metrics]]] = {
    "sft": _sft_loss,
    "curio": curio_loss,
    "entropy": entropy_loss,
    "kl": kl_loss,
    "gem": gem_loss,
    "dft": dft_loss,
    "psft": psft_loss,
    "oxa": oxa_loss,
}
_TEACHER_TARGETS: dict[str, Callable[..., Metrics]] = {
    "curio": curio_targets,
    "kl": kl_targets,
    "psft": psft_targets,
}


def _find(table: dict[str, Callable], objective: AnyObjective, what: str) -> Callable:
    if objective.name not in table:
        raise ValueError(f"objective {objective.name!r} has no {what}; known: {', '.join(table)}")
    return table[objective.name]


def teacher_targets(
    objective: AnyObjective, teacher_logits: jax.Array, labels: jax.Array
) -> Metrics:
    """Everything the objective needs from the teacher, as scalars per token without a gradient.

    Args:
      objective: an objective with a teacher, a base model or a snapshot.
      teacher_logits: that model's `[N, V]`, any float dtype.
      labels: int `[N]`.

    Returns:
      float32 `[N]` each. For `Curio`: `teacher_log_prob` (tempered, over the whole vocabulary),
      `tau`, `teacher_entropy` (temperature 1, whole vocabulary, nats), `entropy_increment` (nats),
      and the flags `gated`, `at_floor`, `at_cap`, at most one of which is 1. For `Kl`:
      `teacher_log_prob` and `teacher_entropy`, both at temperature 1. For `Psft`: `old_log_prob`.

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
    selected: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
    """The loss of every token, not reduced.

    Args:
      objective: a model of `curiojax.objectives`; static under `jax.jit`.
      logits: student logits `[N, V]`, any float dtype; columns of -inf are padding.
      labels: int `[N]`.
      teacher_logits: `[N, V]` of the teacher of `Curio`, the base model of `Kl` or the snapshot of
        `Psft`. Not looked at with `teacher="self"`, where the student's own detached logits take
        their place.
      teacher_log_probs: `teacher_targets(...)["teacher_log_prob"]` `[N]`, instead of the logits,
        for objectives that need no more (`objective.needs_teacher_logits` is False).
      old_log_probs: `[N]`, for `Psft`.
      suppressed: bool or 0 and 1 `[N]`, for `Oxa`: tokens to unlearn.
      selected: bool or 0 and 1 `[N]`, for `Entropy` with `top_fraction` below 1: the tokens with
        the bonus; None: the top fraction of the valid tokens of this call.
      mask: `[N]`, 0 leaves a token out: loss, gradient and metrics are 0 there, whatever its row
        holds (also NaN). Other values select, they do not scale.

    Returns:
      The loss, float32 `[N]`, and float32 `[N]` metrics without gradient: `log_prob` of the label
      and `entropy` (whole vocabulary, nats) of the student; `weight` w wherever the gradient is
      that of w times the cross-entropy; what `teacher_targets` returns, when it was computed here;
      and of `Curio` `sed_k2` or `sed_kl` (the distillation term without alpha), of `Entropy`
      `selected`, of `Kl` `kl` (the term without its coefficient, 0 where the token is not held),
      `kl_held`, `kl_k1`, `kl_k3` and `reference_nll`, of `Gem` `gem_s` (S) and `gem_q_max`, of
      `Psft` `ratio`, `clipped` and `old_kl` (log-probability before minus now), of `Oxa`
      `suppressed`, `unlikelihood` and `suppressed_prob` (both 0 on other tokens).

    Raises:
      ValueError: unknown objective, or something that it needs is missing.
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
    log_prob, entropy = label_log_probs(logits, labels)
    tokens = Tokens(
        logits=logits,
        labels=labels,
        log_prob=log_prob,
        entropy=entropy,
        valid=jnp.ones(labels.shape, bool) if valid is None else valid,
        teacher_logits=keep_given(teacher_logits),
        teacher_log_probs=keep_given(teacher_log_probs),
        old_log_probs=keep_given(old_log_probs),
        suppressed=keep_given(suppressed),
        selected=keep_given(selected),
    )
    loss, metrics = loss_of(objective, tokens)
    metrics = {"log_prob": log_prob, "entropy": entropy, **metrics}
    return keep(loss), {k: keep(jax.lax.stop_gradient(v)) for k, v in metrics.items()}
