"""Causal attention within segments, in three implementations that give the same numbers.

Shapes: B rows, T tokens (queries), S keys, H query heads, K key-value heads, h head dimension.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from curiojax.errors import ConfigError

# Up to this length the [T, T] scores of a row are cheaper to hold than to recompute.
DENSE_LENGTH = 1024
QUERY_BLOCK = 512


def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, implementation: str = "auto"
) -> jax.Array:
    """Softmax attention; a token sees the tokens up to itself that have its segment id.

    Order is the order in the row. Padding (segment 0) sees padding only, so that its rows are
    finite and no other token depends on them.

    Args:
      q: [B, T, H, h]. k, v: [B, T, K, h], K dividing H.
      segment_ids: [B, T] int32, 0 for padding.
      implementation: `xla` holds the scores of all pairs; `blocked` scans over blocks of queries
        and recomputes their scores in the backward pass; `auto` is `xla` up to 1024 tokens, then
        `blocked`. `cudnn` is the fused kernel (GPU, bfloat16 or float16). It takes lengths instead
        of segment ids and is only right for ONE record per row, padded on the right: packed rows
        need `blocked`, because the kernel would let a record see the ones before it.

    Returns:
      [B, T, H, h] in the dtype of v; scores and softmax are in float32.

    Raises:
      ConfigError: for `cudnn` with a dtype or head dimension that the kernel does not take.
    """
    if implementation == "auto":
        implementation = "xla" if q.shape[1] <= DENSE_LENGTH else "blocked"
    if implementation == "cudnn":
        return _cudnn(q, k, v, segment_ids)
    if implementation == "blocked":
        return _blocked(q, k, v, segment_ids)
    index = jnp.arange(q.shape[1], dtype=jnp.int32)
    return attend(q, k, v, _visible(segment_ids, index, segment_ids))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Attention under an explicit mask.

    Args:
      q: [B, T, H, h]. k, v: [B, S, K, h].
      mask: [B, T, S] bool, True where the query sees the key. A query that sees nothing gets the
        mean of all values.
    """
    rows, length, heads, dim = q.shape
    kv_heads = k.shape[2]
    q = q.reshape(rows, length, kv_heads, heads // kv_heads, dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", q, k, preferred_element_type=jnp.float32)
    scores = scores * (1.0 / np.sqrt(dim).item())
    # A finite value instead of -inf: a fully masked row stays finite, also in its gradient.
    scores = jnp.where(mask[:, None, None, :, :], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(rows, length, heads, dim)


def attend_cache(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """`attend` over a cache, whose heads come before its entries: k, v: [B, K, S, h].

    That order makes both products plain ones per row and head; with a single query, as in every
    step of decoding, the other order costs several times as much.
    """
    rows, length, heads, dim = q.shape
    kv_heads = k.shape[1]
    q = q.reshape(rows, length, kv_heads, heads // kv_heads, dim)
    scores = jnp.einsum("btkgh,bksh->bkgts", q, k, preferred_element_type=jnp.float32)
    scores = scores * (1.0 / np.sqrt(dim).item())
    scores = jnp.where(mask[:, None, None, :, :], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bksh->btkgh", weights, v).reshape(rows, length, heads, dim)


def _visible(query_ids: jax.Array, query_index: jax.Array, key_ids: jax.Array) -> jax.Array:
    """[B, T, S] mask: same segment, and not later in the row."""
    key_index = jnp.arange(key_ids.shape[1], dtype=jnp.int32)
    causal = query_index[:, None] >= key_index[None, :]
    return (query_ids[:, :, None] == key_ids[:, None, :]) & causal[None, :, :]


def _blocked(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    rows, length, heads, dim = q.shape
    block = min(QUERY_BLOCK, length)
    count = -(-length // block)
    pad = count * block - length

    def split(x: jax.Array, fill: int) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
        return jnp.moveaxis(x.reshape(rows, count, block, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def one_block(carry, inputs):
        q_block, ids, start = inputs
        index = start + jnp.arange(block, dtype=jnp.int32)
        return carry, attend(q_block, k, v, _visible(ids, index, segment_ids))

    starts = jnp.arange(count, dtype=jnp.int32) * block
    _, out = jax.lax.scan(one_block, None, (split(q, 0), split(segment_ids, -1), starts))
    return jnp.moveaxis(out, 0, 1).reshape(rows, count * block, heads, dim)[:, :length]


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    dim = q.shape[-1]
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise ConfigError(
            f"model.attention: cudnn does not take {q.dtype}; "
            "set model.compute_dtype: bfloat16 or model.attention: auto"
        )
    if dim % 8 or dim > 256:
        raise ConfigError(
            f"model.attention: cudnn does not take a head dimension of {dim} "
            "(a multiple of 8 up to 256); set model.attention: auto"
        )
    valid = segment_ids != 0
    # The kernel has nothing to normalise over in an empty row; one token keeps it finite.
    lengths = jnp.maximum(jnp.sum(valid, axis=1, dtype=jnp.int32), 1)
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        is_causal=True,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return jnp.where(valid[:, :, None, None], out, 0)
