"""What a step's programs are built from: the run, the architecture, the devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from curiojax import models
from curiojax.config import RunConfig
from curiojax.models import ModelConfig
from curiojax.models.weights import gathered
from curiojax.objectives import Entropy
from curiojax.sharding import named_sharding, num_batch_shards
from curiojax.training.optimizer import make_optimizer
from curiojax.training.state import TrainState, abstract_state
from curiojax.training.teacher import Follower, follower_of

PyTree = Any
Batch = dict[str, jax.Array]

BATCH_DTYPES = {
    "tokens": jnp.int32,
    "labels": jnp.int32,
    "positions": jnp.int32,
    "segment_ids": jnp.int32,
    "loss_mask": jnp.float32,
}


@dataclass(frozen=True)
class Recipe:
    """What the three programs are built from.

    Attributes:
      config: the run.
      model: the architecture, with compute dtype and rematerialisation set.
      mesh: the devices.
      total_steps: length of the run, for the learning-rate schedule.
    """

    config: RunConfig
    model: ModelConfig
    mesh: Mesh
    total_steps: int

    @property
    def teacher(self) -> Follower | None:
        """The update rule of the second set of weights, where the objective needs one."""
        return follower_of(self.config, self.model)

    @property
    def selection(self) -> Entropy | None:
        """The objective, if it treats the tokens of highest entropy unlike the others."""
        objective = self.config.objective
        return objective if isinstance(objective, Entropy) and objective.selects_tokens else None

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.config.optimizer)

    def abstract_state(self) -> TrainState:
        return abstract_state(self.model, self.optimizer, self.teacher, self.mesh)

    @property
    def batch_dtypes(self) -> dict[str, Any]:
        """The arrays of a micro-batch."""
        if not self.config.objective.needs_suppressed:
            return BATCH_DTYPES
        return {**BATCH_DTYPES, "suppressed": jnp.float32}

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (self.config.rows_per_microbatch, self.config.row_length)
        sharding = named_sharding(self.mesh, ("batch", "length"))
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
            for name, dtype in self.batch_dtypes.items()
        }


def head_of(params: PyTree, model: ModelConfig) -> jax.Array:
    """The LM head [V, D] in the compute dtype, cast and then gathered over fsdp, once per pass."""
    head = models.head_weight(params, model)
    return gathered(head, ("vocab", "embed"), jnp.dtype(model.compute_dtype or head.dtype))


def chunks_of(recipe: Recipe) -> dict[str, Any]:
    """How the LM head is cut into chunks of tokens."""
    return {
        "chunk_tokens": recipe.config.loss.chunk_tokens,
        "num_shards": num_batch_shards(recipe.mesh),
    }


def place(arrays: dict[str, np.ndarray], mesh: Mesh) -> Iterator[Batch]:
    """The micro-batches of a step, laid out over the mesh.

    Args:
      arrays: [M, R, T] each, the same on every process; each takes what its devices need.
      mesh: the devices.
    """
    sharding = named_sharding(mesh, ("batch", "length"))
    count = len(next(iter(arrays.values())))
    for index in range(count):
        yield {
            name: jax.make_array_from_callback(
                array.shape[1:], sharding, lambda part, rows=array[index]: rows[part]
            )
            for name, array in arrays.items()
        }
