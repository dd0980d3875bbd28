"""What the loss of an objective may look at, and what most of them compute from it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from curiojax.losses.temperature import entropy, log_softmax_parts

Metrics = dict[str, jax.Array]


class Tokens(NamedTuple):
    """The tokens of one call; float32 `[N, V]` or `[N]`, labels int `[N]`, `valid` bool `[N]`.

    What belongs to the teacher (or base model, or earlier student) is a constant and None where it
    was not given.
    """

    logits: jax.Array
    labels: jax.Array
    log_prob: jax.Array  # of the label under the student; the gradient flows through it
    entropy: jax.Array  # of the student; the gradient flows through it
    valid: jax.Array
    teacher_logits: jax.Array | None = None
    teacher_log_probs: jax.Array | None = None
    old_log_probs: jax.Array | None = None
    suppressed: jax.Array | None = None
    selected: jax.Array | None = None


def columns_of(labels: jax.Array, values: jax.Array) -> jax.Array:
    """Bool `[N, V]`: which entry of each row of `values` is the label's."""
    columns = jax.lax.broadcasted_iota(labels.dtype, values.shape, values.ndim - 1)
    return columns == labels[:, None]


def at_labels(values: jax.Array, labels: jax.Array) -> jax.Array:
    """`values[i, labels[i]]`, as a masked sum.

    It fuses with the other passes over the vocabulary and stays local when the vocabulary is split
    over devices, in both directions; a gather and its scatter do neither.
    """
    return jnp.where(columns_of(labels, values), values, 0).sum(axis=-1)


def label_log_probs(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probability of the labels and entropy, both `[N]`, of softmax(logits)."""
    shifted, log_z = log_softmax_parts(logits)
    # A label outside the vocabulary matches no column; unmasked, it must not pass for a number.
    known = (labels >= 0) & (labels < logits.shape[-1])
    log_prob = jnp.where(known, at_labels(shifted, labels) - log_z, jnp.nan)
    return log_prob, entropy(shifted, log_z)


def divergence(p_logits: jax.Array, q_logits: jax.Array) -> jax.Array:
    """KL(p || q) in nats, `[N]`, over the whole vocabulary; differentiable in both.

    Columns without probability under p count as 0, so columns of -inf in both are no part of it.
    """
    p_shifted, p_log_z = log_softmax_parts(p_logits)
    q_shifted, q_log_z = log_softmax_parts(q_logits)
    p_log_probs, q_log_probs = p_shifted - p_log_z[:, None], q_shifted - q_log_z[:, None]
    probs = jnp.exp(p_log_probs)
    some = probs > 0
    # Both branches are made finite first: a NaN that is only thrown away reaches the gradient.
    gap = jnp.where(some, p_log_probs, 0) - jnp.where(some, q_log_probs, 0)
    return (probs * gap).sum(axis=-1)


def top_share(values: jax.Array, valid: jax.Array, share: float) -> jax.Array:
    """Which entries of `values` are at or above its (1 - share) quantile among the valid ones.

    The quantile is interpolated linearly between the two entries it falls between.

    Args:
      values: float32, any shape.
      valid: bool, the same shape.
      share: in (0, 1]; static.

    Returns:
      Bool, the same shape; False where not valid.
    """
    flat = jnp.where(valid, values, jnp.inf).reshape(-1)
    ordered = jnp.sort(flat)
    last = jnp.maximum(valid.sum(dtype=jnp.int32) - 1, 0)
    # last * (1 - share) in 12-bit pieces: a float32 product loses the fraction beyond 1e5 tokens.
    high, low = last // 4096, last % 4096
    per_piece = 4096 * (1.0 - share)
    whole = int(per_piece)
    rest = high.astype(jnp.float32) * (per_piece - whole) + low.astype(jnp.float32) * (1.0 - share)
    # What rounding left of a whole number must not move the quantile past the entry it falls on.
    rest = jnp.where(jnp.abs(rest - jnp.round(rest)) < 1e-3, jnp.round(rest), rest)
    below = jnp.floor(rest)
    index = high * whole + below.astype(jnp.int32)
    lower, upper = ordered[index], ordered[jnp.minimum(index + 1, last)]
    threshold = lower + (rest - below) * (upper - lower)
    return valid & (values >= threshold)
