"""Parameters as a checkpoint's tensors, computed on the devices: for weights that leave often.

`save_pretrained` transposes on the host, tensor by tensor. Here one compiled function per block (a
layer, or all that is in no layer) renames, transposes and casts, so that half the bytes leave the
device. Nothing is gathered: every device sends the host its own part.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from curiojax.models.config import ModelConfig
from curiojax.models.decoder import Params, abstract_params
from curiojax.models.layout import Kind, parameters


class Block(NamedTuple):
    """Some tensors of a checkpoint.

    Attributes:
      tensors: by the checkpoint's names, in its shapes.
      finite: bool [], whether all of their values are.
    """

    tensors: dict[str, jax.Array]
    finite: jax.Array


def export_blocks(params: Params, config: ModelConfig, dtype: str) -> Iterator[Block]:
    """The tensors that `save_pretrained` writes, as arrays on the devices, block by block.

    A block is computed when it is asked for; ask for the next one before reading this one, and the
    devices work while the host copies.
    """
    flat = _flatten(params, config)
    stacked, others = _split(flat, config)
    yield _others(others, config=config, dtype=dtype)
    for layer in range(config.num_layers):
        tensors, finite = _layer(stacked, jnp.int32(layer), config=config, dtype=dtype)
        yield Block({name.format(layer): x for name, x in tensors.items()}, finite)


def export_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a model's checkpoint."""
    blocks = jax.eval_shape(
        lambda params: list(export_blocks(params, config, "float32")), abstract_params(config)
    )
    return {name: x.shape for block in blocks for name, x in block.tensors.items()}


def _flatten(params: Params, config: ModelConfig) -> dict[str, jax.Array]:
    flat = {}
    for path, entry in parameters(config).items():
        array = params
        for key in path:
            array = array[key]
        flat[entry.hf_name] = array
    return flat


def _split(flat: dict[str, jax.Array], config: ModelConfig):
    stacked = {entry.hf_name for entry in parameters(config).values() if entry.stacked}
    return (
        {name: x for name, x in flat.items() if name in stacked},
        {name: x for name, x in flat.items() if name not in stacked},
    )


@partial(jax.jit, static_argnames=("config", "dtype"))
def _others(arrays: dict[str, jax.Array], *, config: ModelConfig, dtype: str) -> Block:
    return _convert(arrays, config, dtype)


@partial(jax.jit, static_argnames=("config", "dtype"))
def _layer(arrays, layer: jax.Array, *, config: ModelConfig, dtype: str) -> Block:
    chosen = {
        name: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for name, x in arrays.items()
    }
    return _convert(chosen, config, dtype)


def _convert(arrays: dict[str, jax.Array], config: ModelConfig, dtype: str) -> Block:
    kinds: dict[str, Kind] = {entry.hf_name: entry.kind for entry in parameters(config).values()}
    tensors = {name: _stored(kinds[name], x.astype(dtype)) for name, x in arrays.items()}
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in tensors.values()]))
    return Block(tensors, finite)


def _stored(kind: Kind, x: jax.Array) -> jax.Array:
    match kind:
        case "input":
            return x.reshape(x.shape[0], -1).T
        case "output":
            return x.reshape(-1, x.shape[-1]).T
        case "flat":
            return x.reshape(-1)
        case "same":
            return x
