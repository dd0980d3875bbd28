from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoints import write
from transformers.utils import logging

from curiojax.models import forward, load_pretrained, logits

logging.disable_progress_bar()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Gives (directory, transformers model, our config, our parameters) by name, in float32."""

    @functools.cache
    def get(name):
        directory = tmp_path_factory.mktemp(name)
        model = write(name, directory)
        return directory, model, *load_pretrained(directory, dtype="float32")

    return get


@functools.partial(jax.jit, static_argnums=1)
def run(params, config, tokens, positions, segment_ids):
    """Logits [B, T, V]."""
    return logits(params, config, forward(params, config, tokens, positions, segment_ids))


@pytest.fixture(scope="session")
def score():
    """Logits of whole rows [B, T], each one record."""

    def call(params, config, tokens):
        tokens = jnp.asarray(tokens, jnp.int32)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        return np.asarray(run(params, config, tokens, positions, jnp.ones_like(tokens)))

    return call
