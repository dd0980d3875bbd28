"""Everything a run carries from one step to the next, as one pytree, and where its parts live."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from curiojax.models import ModelConfig, abstract_params, param_axes, quantised_axes
from curiojax.sharding import named_sharding, tree_shardings
from curiojax.training.teacher import Follower, QuantisedTeacher, persistent

PyTree = Any


class TrainState(NamedTuple):
    """Attributes:
    step: int32 [], number of the next update; updates skipped for bad gradients count.
    params: the student's weights, float32.
    opt_state: the optimiser's state, shaped like `params`.
    teacher: a `TeacherState` (or `QuantisedTeacher`), or () where the objective needs none.
    rng: uint32 [2], the run's random key.
    """

    step: jax.Array
    params: PyTree
    opt_state: PyTree
    teacher: Any
    rng: jax.Array


def create_state(
    params: PyTree, optimizer: optax.GradientTransformation, teacher: Follower | None, seed: int
) -> TrainState:
    """The state before the first step; the teacher starts as a copy of the student."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        teacher=teacher.complete(teacher.init(params)) if teacher else (),
        rng=jax.random.key_data(jax.random.key(seed)),
    )


def abstract_state(
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    teacher: Follower | None,
    mesh: Mesh,
) -> TrainState:
    """Shapes, dtypes and shardings of the state, with nothing allocated.

    Whatever mirrors the parameters (optimiser moments, teacher) is sharded like them; the rest is
    replicated.
    """
    params = abstract_params(config, jnp.float32)
    shapes = jax.eval_shape(lambda p: create_state(p, optimizer, teacher, 0), params)
    sharded = tree_shardings(mesh, param_axes(config))
    replicated = named_sharding(mesh, ())

    def place(shape, sharding):
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    def place_all(tree):
        return jax.tree.map(lambda s: place(s, replicated), tree)

    def place_params(tree):
        return jax.tree.map(place, tree, sharded)

    moments = optax.tree_utils.tree_map_params(
        optimizer,
        place,
        shapes.opt_state,
        sharded,
        transform_non_params=lambda s: place(s, replicated),
    )
    following = shapes.teacher
    if following:
        following = following._replace(
            params=place_params(following.params), count=place_all(following.count)
        )
    if isinstance(following, QuantisedTeacher):
        axes = tree_shardings(mesh, quantised_axes(config))
        following = following._replace(quantised=jax.tree.map(place, following.quantised, axes))
    return TrainState(
        step=place_all(shapes.step),
        params=place_params(shapes.params),
        opt_state=moments,
        teacher=following,
        rng=place_all(shapes.rng),
    )


def persistent_state(state: TrainState) -> TrainState:
    """The part of a state that a checkpoint holds; `completed_state` adds the rest."""
    return state._replace(teacher=persistent(state.teacher)) if state.teacher else state


def completed_state(state: TrainState, like: TrainState, teacher: Follower | None) -> TrainState:
    """The whole of a `persistent_state`, laid out like the abstract state `like`."""
    if teacher is None or not isinstance(like.teacher, QuantisedTeacher):
        return state
    place = shardings_of(like.teacher)
    complete = jax.jit(teacher.complete, donate_argnums=0, out_shardings=place)
    return state._replace(teacher=complete(state.teacher))


def shardings_of(tree: PyTree) -> PyTree:
    """The shardings of a tree of arrays or abstract arrays."""
    return jax.tree.map(lambda x: x.sharding, tree)
