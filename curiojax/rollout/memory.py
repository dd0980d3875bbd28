"""What the embedded sampler holds on the devices, from shapes alone; and what they may hold."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from curiojax.models import ModelConfig, abstract_params, param_axes
from curiojax.rollout.sampler import own
from curiojax.rollout.schedule import longest_ring, num_rows, ring_lengths
from curiojax.rollout.slots import CACHE_AXES, new_cache
from curiojax.sharding import num_batch_shards, tree_shardings


def sampler_memory(
    model: ModelConfig,
    mesh: Mesh,
    *,
    rows: int,
    completions: int,
    longest_prompt: int,
    max_tokens: int,
    begun: bool = False,
) -> tuple[Any, Any]:
    """The sampler's copy of the weights, and its cache when it is largest.

    The cache is largest while a ring is copied into one of twice its length, the last time that
    completions outgrow it; prompts that are being prefilled come to less than that.

    Args:
      rows: completions computed at a time, at most.
      completions: of one call of `generate`.
      longest_prompt, max_tokens: in tokens.
      begun: some prompts come with a beginning of any length, which their limit makes up for.

    Returns:
      Two trees of `jax.ShapeDtypeStruct` with shardings on `mesh`.
    """
    weights = jax.eval_shape(partial(own, config=model), abstract_params(model))
    count = num_rows(completions, rows, num_batch_shards(mesh))
    given = range(max_tokens if begun else 1)
    prompts, limits = [longest_prompt + k for k in given], [max_tokens - k for k in given]
    caches = [
        jax.eval_shape(partial(new_cache, weights, model, count, length))
        for length in ring_lengths(longest_ring(prompts, limits))[-2:]
    ]
    return (
        jax.tree.map(_on, weights, tree_shardings(mesh, param_axes(model))),
        jax.tree.map(_on, caches, [tree_shardings(mesh, CACHE_AXES)] * len(caches)),
    )


def num_bytes(tree: Any) -> int:
    """Bytes of one device's shards of a tree of arrays, or of their shapes."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def device_memory() -> int | None:
    """Bytes that JAX may use of a device; None where it does not say, as on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return (stats or {}).get("bytes_limit")


def _on(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
