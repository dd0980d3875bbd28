"""From logits to a token: temperature, top-k, top-p, forbidden ids, and the draw.

The cuts need no sort of the vocabulary. The kept tokens are those at least as likely as some
threshold, and the threshold is found by bisection over the bit patterns of float32, which is exact
and reads the probabilities some ten to thirty times. A row's result depends on that row alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Knobs(NamedTuple):
    """The numbers of a `Sampling`, as arrays: changing them compiles nothing.

    Attributes:
      temperature, top_p: float32. top_k, min_tokens: int32. All scalars.
      stop_ids: [N] int32, filled up with -1.
    """

    temperature: jax.Array
    top_p: jax.Array
    top_k: jax.Array
    min_tokens: jax.Array
    stop_ids: jax.Array


class Cuts(NamedTuple):
    """Which parts of the draw are compiled in at all."""

    greedy: bool
    top_p: bool
    top_k: bool
    min_tokens: bool


class Draw(NamedTuple):
    """One token per row: ids int32, its raw log-probability and the entropy, each [B]."""

    tokens: jax.Array
    log_probs: jax.Array
    entropies: jax.Array


def draw(scores: jax.Array, keys: jax.Array, steps: jax.Array, knobs: Knobs, cuts: Cuts) -> Draw:
    """Draws the next token of every row.

    Args:
      scores: [B, V] float32, the logits.
      keys: [B] random keys, one per completion.
      steps: [B] int32, the number of tokens the completion has; with `keys`, it fixes the draw.

    Returns:
      Tokens; log-probs at the temperature (1 when greedy) before any cut; entropies at temperature
      1. As `curiojax.rollout.base.Completion` describes them.
    """
    normaliser = jax.nn.logsumexp(scores, axis=-1)
    probs = jnp.exp(scores - normaliser[:, None])
    entropies = normaliser - jnp.sum(probs * scores, axis=-1)
    if not cuts.greedy:
        scores = scores / knobs.temperature
        normaliser = jax.nn.logsumexp(scores, axis=-1)
    allowed = scores
    if cuts.min_tokens:
        allowed = _forbid(allowed, knobs.stop_ids, steps < knobs.min_tokens)
    if cuts.greedy:
        tokens = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    else:
        allowed = cut(allowed, knobs.top_p, knobs.top_k, cuts)
        step_keys = jax.vmap(jax.random.fold_in)(keys, steps)
        tokens = jax.vmap(jax.random.categorical)(step_keys, allowed).astype(jnp.int32)
    chosen = jnp.take_along_axis(scores, tokens[:, None], axis=-1)[:, 0]
    return Draw(tokens, chosen - normaliser, entropies)


def cut(scores: jax.Array, top_p: jax.Array, top_k: jax.Array, cuts: Cuts) -> jax.Array:
    """Scores [B, V] with the tokens outside top-k, and then outside top-p, at -inf.

    Top-p counts probability among the tokens that top-k left, as vLLM and transformers do. Tokens
    as likely as the last one that is kept are kept as well; the most likely token always is.
    """
    if not (cuts.top_p or cuts.top_k):
        return scores
    probs = jax.nn.softmax(scores, axis=-1)
    if cuts.top_k:
        floor = _threshold(probs, lambda kept: jnp.sum(kept, axis=-1, dtype=jnp.int32) >= top_k)
        probs = jnp.where(probs >= floor, probs, 0.0)
    if cuts.top_p:
        enough = top_p * jnp.sum(probs, axis=-1)
        floor = _threshold(
            probs, lambda kept: jnp.sum(jnp.where(kept, probs, 0.0), axis=-1) >= enough
        )
        probs = jnp.where(probs >= floor, probs, 0.0)
    return jnp.where(probs > 0, scores, -jnp.inf)


def _threshold(probs: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The largest t [B, 1] for which the tokens with probability >= t are `enough`; at least 0.

    Args:
      probs: [B, V] float32, not negative.
      enough: takes a [B, V] mask to a [B] bool, and is monotone in the mask.
    """
    # Floats that are not negative are ordered as their bit patterns are, read as integers.
    bits = jax.lax.bitcast_convert_type(probs, jnp.int32)

    def above(threshold):
        return bits >= threshold[:, None]

    def open_rows(low, high):
        # With one token left between the two, it is the last one kept, wherever exactly t lies.
        between = jnp.sum(above(low) & ~above(high), axis=-1, dtype=jnp.int32)
        return (high - low > 1) & (between > 1)

    def bisect(state):
        low, high, _ = state
        middle = low + (high - low) // 2
        fits = enough(above(middle))
        low, high = jnp.where(fits, middle, low), jnp.where(fits, high, middle)
        return low, high, jnp.any(open_rows(low, high))

    high = jnp.max(bits, axis=-1) + 1
    # `enough` may be a sum that rounding keeps below its target: 0, then, keeps everything.
    low = jnp.zeros_like(high)
    low, _, _ = jax.lax.while_loop(lambda state: state[2], bisect, (low, high, jnp.bool_(True)))
    return jax.lax.bitcast_convert_type(low, jnp.float32)[:, None]


def _forbid(scores: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """Scores with `ids` at -inf in the given rows."""
    vocabulary = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    forbidden = jnp.any(vocabulary[:, None] == ids[None, :], axis=-1)
    return jnp.where(rows[:, None] & forbidden[None, :], -jnp.inf, scores)
