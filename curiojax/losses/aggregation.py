"""How the losses of tokens become one number, as sums that are divided once.

Every mode is a quotient of two sums over tokens, so the sums of micro-batches, packed rows and
devices add up, and the quotient does not depend on how the work was split.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Aggregation = Literal[
    "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"
]
Array = TypeVar("Array", np.ndarray, jax.Array)


def aggregate(
    loss: jax.Array, mask: jax.Array, mode: Aggregation, *, max_length: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """The two sums whose quotient is the mode's value.

    With l the losses of sequence i, of length n_i > 0, and N sequences:

        token_mean               sum_i sum_t l / sum_i n_i
        seq_mean_token_mean      sum_i (sum_t l / n_i) / N
        seq_mean_token_sum       sum_i sum_t l / N
        seq_mean_token_sum_norm  sum_i (sum_t l / max_length) / N

    Args:
      loss: `[B, T]`, one sequence per row; may hold anything where the mask is 0.
      mask: `[B, T]`, the tokens of the sequence. A row without any is no sequence.
      mode: see above.
      max_length: tokens of the longest response allowed, for `seq_mean_token_sum_norm`.

    Returns:
      `(loss_sum, weight_sum)`, float32 `[]` each; the gradient flows through the first.

    Raises:
      ValueError: unknown mode, or no `max_length` where it is needed.
    """
    valid = mask.astype(bool)
    lengths = valid.sum(axis=1, keepdims=True, dtype=jnp.int32)
    factor, _ = aggregation_weights(lengths, mode, max_length=max_length)
    loss_sum = (factor * jnp.where(valid, loss.astype(jnp.float32), 0)).sum()
    # Counted rather than summed from shares, so that it is exact.
    counted = valid if mode == "token_mean" else lengths > 0
    return loss_sum, counted.sum(dtype=jnp.float32)


def aggregation_weights(
    lengths: Array, mode: Aggregation, *, max_length: int | None = None
) -> tuple[Array, Array]:
    """The same for sequences that are packed or split: what one token adds to each sum.

    A token adds `factor * loss` to `loss_sum` and `share` to `weight_sum` of `aggregate`. The
    factors are what the trainer's loss mask holds.

    Args:
      lengths: int, any shape: of each token (or sequence) the number of trained tokens of its
        sequence, all of them, also those in other micro-batches; 0 for padding. numpy or JAX.
      mode, max_length: as in `aggregate`.

    Returns:
      `(factor, share)`, float32, of the shape and kind of `lengths`; 0 where the length is 0.

    Raises:
      ValueError: as `aggregate`.
    """
    xp: Any = jnp if isinstance(lengths, jax.Array) else np
    counted = lengths > 0
    one = counted.astype(np.float32)
    per_length = one / xp.where(counted, lengths, 1).astype(np.float32)
    if mode == "token_mean":
        return one, one
    if mode == "seq_mean_token_mean":
        return per_length, per_length
    if mode == "seq_mean_token_sum":
        return one, per_length
    if mode == "seq_mean_token_sum_norm":
        if max_length is None or max_length < 1:
            raise ValueError(f"{mode} needs max_length, the longest response allowed in tokens")
        return one / np.float32(max_length), per_length
    raise ValueError(f"unknown aggregation {mode!r}")
