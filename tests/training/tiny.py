"""A model small enough to compile in seconds, with logits that are not flat, and ragged batches."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from curiojax import models
from curiojax.config import load_config
from curiojax.sharding import make_mesh
from curiojax.training.recipe import Recipe
from curiojax.training.sft import place
from curiojax.training.state import create_state, shardings_of
from curiojax.training.step import compile_step

VOCAB, LENGTH = 96, 32
MODEL = models.ModelConfig(
    model_type="qwen2",
    vocab_size=VOCAB,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=64,
    attention_bias=True,
    compute_dtype="float32",
)


def recipe(*overrides, mesh=(1, 1, 1), rows=8, model=MODEL, total_steps=20):
    named = any(override.startswith("objective={") for override in overrides)
    config = load_config(
        None,
        [
            f"rows_per_microbatch={rows}",
            f"data.row_length={LENGTH}",
            "loss.chunk_tokens=24",
            "optimizer.learning_rate=1e-3",
            "optimizer.warmup_steps=2",
            "optimizer.eps=1e-4",
            *([] if named else ["objective.entropy_pivot=3.0"]),
            "teacher.every=2",
            *overrides,
        ],
    )
    devices = jax.devices()[: math.prod(mesh)]
    return Recipe(config, model, make_mesh(*mesh, devices=devices), total_steps)


def start(recipe, seed=0):
    """A state whose model is confident about some tokens and not about others."""
    params = models.init_params(jax.random.key(seed), recipe.model)
    params = jax.tree.map(lambda p: p * 3.0 if p.ndim > 1 else p, params)
    params["lm_head"]["kernel"] *= 8.0
    shardings = shardings_of(recipe.abstract_state())
    params = jax.device_put(params, shardings.params)
    create = jax.jit(
        lambda p: create_state(p, recipe.optimizer, recipe.teacher, 0), out_shardings=shardings
    )
    with jax.set_mesh(recipe.mesh):
        return create(params)


def rows_of(step, count=16):
    """`count` packed rows with ragged records, prompts and padding; [count, LENGTH] each."""
    rng = np.random.default_rng(step)
    names = ("tokens", "labels", "positions", "segment_ids")
    batch = {name: np.zeros((count, LENGTH), np.int32) for name in names}
    batch["loss_mask"] = np.zeros((count, LENGTH), np.float32)
    for row in range(count):
        begin, segment = 0, 0
        while True:
            length = int(rng.integers(3, 20))
            if begin + length > LENGTH:
                break
            segment, end = segment + 1, begin + length
            ids = rng.integers(0, VOCAB, length + 1)
            batch["tokens"][row, begin:end], batch["labels"][row, begin:end] = ids[:-1], ids[1:]
            batch["positions"][row, begin:end] = np.arange(length)
            batch["segment_ids"][row, begin:end] = segment
            batch["loss_mask"][row, begin + int(rng.integers(1, length)) : end] = 1.0
            begin = end
    return batch


def microbatches(recipe, step, count=16):
    rows = recipe.config.rows_per_microbatch
    arrays = {k: v.reshape(count // rows, rows, LENGTH) for k, v in rows_of(step, count).items()}
    return list(place(arrays, recipe.mesh))


def train(recipe, steps=5):
    """Losses, gradient norms, the first step's gradient sums and the final state."""
    step, state = compile_step(recipe), start(recipe)
    losses, norms, first = [], [], None
    with jax.set_mesh(recipe.mesh):
        for number in range(steps):
            batches = microbatches(recipe, number)
            if first is None:
                first = gradient_sums(step, state, batches)
            state, scalars = step(state, batches)
            losses.append(float(scalars.loss))
            norms.append(float(scalars.grad_norm))
    return np.array(losses), np.array(norms), first, jax.device_get(state)


def gradient_sums(step, state, batches):
    return jax.device_get(step.gradient_sums(state, batches).grads)


def largest_difference(a, b):
    """Largest absolute difference relative to the largest value, over all leaves."""
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    scale = max(float(jnp.max(jnp.abs(x))) for x in a)
    pairs = zip(a, b, strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs) / scale
