"""Rotary position embeddings, plain and with Llama 3's scaling; tables and rotation in float32."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from curiojax.models.config import ModelConfig


def inverse_frequencies(config: ModelConfig) -> np.ndarray:
    """[head_dim / 2] float32, radians per position."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = (1.0 / np.float32(config.rope_theta) ** exponent).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    # Wavelengths that fit the original context many times are kept, those that do not fit it once
    # are stretched by `factor`, and the ones between are interpolated.
    periods = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    smooth = (periods - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = np.clip(smooth, 0.0, 1.0)
    return (frequencies * (smooth + (1 - smooth) / scaling.factor)).astype(np.float32)


def rope_table(config: ModelConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [B, T, head_dim / 2] float32 for `positions` [B, T] int32."""
    frequencies = jnp.asarray(inverse_frequencies(config))
    angles = positions.astype(jnp.float32)[:, :, None] * frequencies[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the heads of `x` [B, T, heads, head_dim]; the two halves of a head form the pairs."""
    cos, sin = (part[:, :, None, :] for part in table)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
