"""Weights that follow the student: the EMA teacher, as an optax-style state tree.

A follower is a pair of pure functions, `init(params) -> state` and `update(params, state) ->
state`. The paper's teacher, a snapshot every n steps and a frozen reference are the same mechanism
with other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any


class TeacherState(NamedTuple):
    """Attributes:
    params: the teacher's weights, float32.
    count: int32 [], updates seen since `init`; the teacher moved when it was last a multiple of
      `every`.
    """

    params: PyTree
    count: jax.Array


class Follower(NamedTuple):
    """`init(params) -> TeacherState` and `update(params, state) -> TeacherState`."""

    init: Callable[[PyTree], TeacherState]
    update: Callable[[PyTree, TeacherState], TeacherState]


def ema_teacher(step_size: float = 0.99, every: int = 5) -> Follower:
    """teacher <- (1 - step_size) teacher + step_size student, after every `every`-th update.

    Paper, Algorithm 1, line 17, literally and as released. Note the direction: with 0.99 the
    teacher is nearly a copy of the student that lags by up to `every` updates, not a slow average.
    The weights are float32, since a move of a bfloat16 weight by a fraction of a
    learning-rate-sized step would round to nothing.

    Args:
      step_size: weight of the student, in [0, 1]; 1 is a snapshot.
      every: updates between two moves.

    Raises:
      ValueError: for a step size outside [0, 1] or a period below 1.
    """
    if not 0.0 <= step_size <= 1.0:
        raise ValueError(f"step_size must be in [0, 1], not {step_size}")
    if every < 1:
        raise ValueError(f"every must be at least 1, not {every}")

    def init(params: PyTree) -> TeacherState:
        # A copy, not an alias: the student's buffers are donated to its own update.
        copy = jax.tree.map(lambda p: jnp.array(p, dtype=jnp.float32, copy=True), params)
        return TeacherState(copy, jnp.zeros((), jnp.int32))

    def update(params: PyTree, state: TeacherState) -> TeacherState:
        count = state.count + 1

        def move(teacher: PyTree) -> PyTree:
            student = jax.tree.map(lambda p: p.astype(jnp.float32), params)
            return optax.incremental_update(student, teacher, step_size)

        moved = jax.lax.cond(count % every == 0, move, lambda teacher: teacher, state.params)
        return TeacherState(moved, count)

    return Follower(init, update)


def relative_distance(params: PyTree, teacher: PyTree) -> jax.Array:
    """||student - teacher|| / ||student||, float32 []."""
    difference = jax.tree.map(lambda p, t: p.astype(jnp.float32) - t, params, teacher)
    return optax.tree.norm(difference) / jnp.maximum(optax.tree.norm(params), 1e-30)
