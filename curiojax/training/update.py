"""What micro-batches add up to, and the one optimiser update that is made of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from curiojax.training import statistics
from curiojax.training.optimizer import learning_rate
from curiojax.training.recipe import Recipe
from curiojax.training.state import TrainState
from curiojax.training.teacher import relative_distance

PyTree = Any


class Sums(NamedTuple):
    """What micro-batches add up to: a step divides `grads` and `loss` by `weight`, once.

    Attributes:
      grads: gradient of the summed loss, float32, shaped and sharded like the parameters.
      loss: summed loss, float32 [].
      weight: summed loss mask of the tokens that are learnt (not of those to unlearn), float32 [].
      stats: see `curiojax.training.statistics`.
    """

    grads: PyTree
    loss: jax.Array
    weight: jax.Array
    stats: statistics.Stats


class Scalars(NamedTuple):
    """A step's results on the device: float32 [] each, beside the statistics."""

    loss: jax.Array
    grad_norm: jax.Array
    learning_rate: jax.Array
    finite: jax.Array
    teacher_lag: jax.Array
    teacher_distance: jax.Array
    stats: statistics.Stats


def add_sums(a: Sums, b: Sums) -> Sums:
    grads, loss, weight = jax.tree.map(jnp.add, a[:3], b[:3])
    return Sums(grads, loss, weight, statistics.add(a.stats, b.stats))


def empty_sums(like: Sums) -> Sums:
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return zeros._replace(stats=statistics.empty(like.stats))


def apply_update(recipe: Recipe, state: TrainState, sums: Sums) -> tuple[TrainState, Scalars]:
    """Divides once, clips, takes the AdamW step and lets the teacher follow.

    A non-finite gradient leaves weights and optimiser as they were; the step still counts, for the
    learning rate and for the teacher.
    """
    weight = jnp.maximum(sums.weight, 1e-8)
    grads = jax.tree.map(lambda g: g / weight, sums.grads)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(grad_norm)
    rate = learning_rate(recipe.config.optimizer, recipe.total_steps, state.step)

    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    params, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, opt_state),
        (state.params, state.opt_state),
    )
    teacher = state.teacher
    lag, distance = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    if recipe.teacher is not None:
        teacher = recipe.teacher.update(params, teacher)
        lag = recipe.teacher.lag(teacher).astype(jnp.float32)
        distance = relative_distance(params, teacher.params)

    state = TrainState(state.step + 1, params, opt_state, teacher, state.rng)
    loss = sums.loss / weight
    scalars = Scalars(loss, grad_norm, rate, finite.astype(jnp.float32), lag, distance, sums.stats)
    return state, scalars
