"""Where arrays live: the device mesh and the one table from logical to mesh axes.

Parameters and activations name their axes logically ("embed", "heads", "batch", ...). This table
says which mesh axis each of them is split over; nothing else in the package spells a mesh axis.
The mesh has `Auto` axes: XLA propagates shardings from the jitted functions' inputs, outputs and
the constraints given with `constrain`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from curiojax.errors import ConfigError

AXES = ("data", "fsdp", "tensor")

# A logical axis that is not listed is a typing error; None means "not split".
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),  # rows of a micro-batch
    "length": None,
    "layers": None,
    "embed": "fsdp",  # parameters are split here, and gathered layer by layer
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
}


def make_mesh(
    data: int = 1, fsdp: int = -1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """Lays the devices out as `[data, fsdp, tensor]`; one size may be -1, "all that is left".

    Raises:
      ConfigError: when the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(data, fsdp, tensor, count=len(devices))
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_shape(data: int, fsdp: int, tensor: int, *, count: int) -> tuple[int, ...]:
    """The sizes of the mesh on `count` devices; raises as `make_mesh`."""
    sizes: dict[str, int] = dict(zip(AXES, (data, fsdp, tensor), strict=True))
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise ConfigError(f"mesh: only one of {', '.join(free)} can be -1; give the others a size")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free and count % fixed == 0:
        sizes[free[0]] = count // fixed
    if math.prod(sizes.values()) != count:
        raise ConfigError(
            f"mesh: data={data}, fsdp={fsdp}, tensor={tensor} does not fit {count} devices; "
            "make the product equal to the number of devices, or one of them -1"
        )
    return tuple(sizes.values())


def partition_spec(logical_axes: Sequence[str | None]) -> PartitionSpec:
    """The mesh axes of an array whose dimensions are named by `logical_axes` (None: not split)."""
    return PartitionSpec(*(None if name is None else RULES[name] for name in logical_axes))


def named_sharding(mesh: Mesh, logical_axes: Sequence[str | None]) -> NamedSharding:
    """`partition_spec` on a mesh."""
    return NamedSharding(mesh, partition_spec(logical_axes))


def tree_shardings(mesh: Mesh, axes_tree):
    """Maps a tree of tuples of logical axes to the tree of shardings of the same shape."""
    return jax.tree.map(
        lambda axes: named_sharding(mesh, axes), axes_tree, is_leaf=lambda x: isinstance(x, tuple)
    )


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
    """Asks XLA to lay `x` out as the table says; does nothing outside `jax.set_mesh`."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(logical_axes))


def num_batch_shards(mesh: Mesh) -> int:
    """Over how many groups of devices the rows of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_divisible(field: str, size: int, mesh: Mesh | AbstractMesh, logical_axis: str) -> None:
    """Raises a `ConfigError` that names `field` when `size` does not divide over its mesh axes."""
    mesh_axes = RULES[logical_axis]
    names = (mesh_axes,) if isinstance(mesh_axes, str) else tuple(mesh_axes or ())
    parts = math.prod(mesh.shape[name] for name in names)
    if size % parts:
        raise ConfigError(
            f"{field}: {size} cannot be split over mesh {' x '.join(names)} = {parts}; "
            f"choose a multiple of {parts} or a smaller mesh.{names[-1]}"
        )
