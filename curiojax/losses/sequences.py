"""What the tokens of a sequence have in common, where sequences share rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sequence_means(values: jax.Array, mask: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """At every token, the mean of `values` over the masked tokens of its sequence.

    Args:
      values: float32 `[B, T]`; may hold anything where the mask is 0.
      mask: `[B, T]`, not 0 at the tokens that count; other values select, they do not scale.
      segment_ids: int `[B, T]`, at most T, as in `models.forward`: equal within a sequence, 0 on
        padding.

    Returns:
      Float32 `[B, T]`; 0 where the mask is.
    """
    valid = mask != 0
    length = values.shape[1]

    def of_row(values: jax.Array, valid: jax.Array, segments: jax.Array) -> jax.Array:
        both = jnp.stack([jnp.where(valid, values, 0), valid.astype(values.dtype)], axis=-1)
        sums = jax.ops.segment_sum(both, segments, num_segments=length + 1)
        return (sums[:, 0] / jnp.maximum(sums[:, 1], 1))[segments]

    means = jax.vmap(of_row)(values.astype(jnp.float32), valid, segment_ids)
    return jnp.where(valid, means, 0)
