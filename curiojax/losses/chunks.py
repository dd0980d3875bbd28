"""Slices of `T` across all rows, and the logits of one of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def chunking(shape: tuple[int, ...], chunk_tokens: int, num_shards: int):
    """How `[B, T, ...]` becomes chunks `[n, num_shards, tokens, ...]` (padded with 0), and back."""
    batch, length = shape[:2]
    if batch % num_shards:
        raise ValueError(f"batch of {batch} rows is not a multiple of num_shards={num_shards}")
    rows = batch // num_shards
    num_chunks = max(1, -(-length * rows // chunk_tokens))
    width = -(-length // min(num_chunks, length))
    num_chunks = -(-length // width)

    def split(x: jax.Array) -> jax.Array:
        padding = [(0, 0), (0, num_chunks * width - length)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding).reshape(num_shards, rows, num_chunks, width, *x.shape[2:])
        return jnp.moveaxis(x, 2, 0).reshape(num_chunks, num_shards, rows * width, *x.shape[4:])

    def join(x: jax.Array) -> jax.Array:
        x = x.reshape(num_chunks, num_shards, rows, width, *x.shape[3:])
        x = jnp.moveaxis(x, 0, 2).reshape(batch, num_chunks * width, *x.shape[4:])
        return x[:, :length]

    return split, join, num_chunks


def valid_hidden(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """Hidden states with 0 where the mask is 0: a NaN there would reach the head's gradient."""
    return jnp.where(mask[..., None] != 0, hidden, jnp.zeros_like(hidden))


def head_logits(hidden: jax.Array, head: jax.Array) -> jax.Array:
    """Float32 `[S * N, V]` from hidden `[S, N, D]`."""
    logits = jnp.einsum("snd,vd->snv", hidden, head, preferred_element_type=jnp.float32)
    return logits.reshape(-1, head.shape[0])
