"""How a stored parameter becomes the weight a layer uses: cast first, then gathered.

Parameters rest split over the `fsdp` axis, usually in float32. A layer needs them whole (up to the
`tensor` axis) and in the compute dtype. The order matters: gathering after the cast moves half the
bytes. XLA is free to swap the two, hence the barrier.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from curiojax.sharding import constrain

Axes = tuple[str | None, ...]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gathered(param: jax.Array, axes: Axes, dtype: jnp.dtype) -> jax.Array:
    """Casts `param` to `dtype` and gathers it over fsdp; its gradient is scattered back.

    Args:
      param: one layer's array, laid out as `axes` say.
      axes: its logical axes.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return param.astype(dtype)
    cast = constrain(param.astype(dtype), *axes)
    return constrain(jax.lax.optimization_barrier(cast), *_without_fsdp(axes))


def _gathered_forward(param, axes, dtype):
    # A zero-sized array carries the parameter's dtype to the backward pass.
    return gathered(param, axes, dtype), jnp.zeros((0,), param.dtype)


def _gathered_backward(axes, dtype, witness, gradient):
    return (constrain(gradient, *axes).astype(witness.dtype),)


gathered.defvjp(_gathered_forward, _gathered_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def lookup(table: jax.Array, tokens: jax.Array, axes: Axes, dtype: jnp.dtype) -> jax.Array:
    """Rows of an embedding table, in `dtype`.

    The gradient is summed in float32 whatever `dtype` is: a frequent token adds thousands of rows
    into one, which bfloat16 would round away.

    Args:
      table: [V, D].
      tokens: int32, any shape.
    """
    return jnp.take(gathered(table, axes, dtype), tokens, axis=0, mode="clip")


def _lookup_forward(table, tokens, axes, dtype):
    shape_and_dtype = jnp.zeros((table.shape[0], 0), table.dtype)
    return lookup(table, tokens, axes, dtype), (tokens, shape_and_dtype)


def _lookup_backward(axes, dtype, residual, gradient):
    tokens, witness = residual
    total = jnp.zeros((witness.shape[0], gradient.shape[-1]), jnp.float32)
    total = total.at[tokens].add(gradient.astype(jnp.float32))
    return constrain(total, *axes).astype(witness.dtype), None


lookup.defvjp(_lookup_forward, _lookup_backward)


def _without_fsdp(axes: Axes) -> Axes:
    return tuple(None if name == "embed" else name for name in axes)
