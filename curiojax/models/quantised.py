"""Matrix products in eight bits, for weights that are only looked at: a teacher's.

A layer's kernels are turned into eight-bit numbers with one scale per output channel, once; the
activations that they meet are scaled per token as they come. Both scales are taken out of the
product afterwards, so the product itself is one of plain eight-bit numbers, which GPUs have units
for. Norms, biases, the embedding and the LM head stay as they are. There is no gradient.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from curiojax.models.config import ModelConfig
from curiojax.models.layout import Parameter, nest, parameters
from curiojax.models.weights import Axes, gathered

Params = dict[str, Any]

# Numbers of a format, and the largest of them.
FORMATS: dict[str, tuple[Any, float]] = {
    "fp8": (jnp.float8_e4m3fn, 448.0),
    "int8": (jnp.int8, 127.0),
}


def quantise_params(params: Params, config: ModelConfig, precision: str) -> Params:
    """The eight-bit twin of every projection of the layers.

    Args:
      params: as `init_params` gives them; float32, or the scales would be rounded.
      precision: `fp8` (e4m3: 3 bits of mantissa) or `int8`.

    Returns:
      A tree with the projections only: in the place of each `kernel [L, *in, *out]`, `quantised`
      with `values` `[L, *out, *in]` and `scale` `[L, *out]` float32. The values' inputs come last:
      cuBLAS multiplies eight-bit numbers in no other order, and each product would have to turn
      the weights round.
    """
    dtype, largest = FORMATS[precision]
    flat = {}
    for path, entry in _projections(config).items():
        kernel: Any = params
        for key in path:
            kernel = kernel[key]
        inputs = len(_inputs(entry))
        first = kernel.ndim - inputs
        outputs_first = jnp.transpose(
            kernel.astype(jnp.float32), (0, *range(1 + inputs, kernel.ndim), *range(1, 1 + inputs))
        )
        values, scale = _quantise(outputs_first, tuple(range(first, kernel.ndim)), dtype, largest)
        scale = scale.reshape(scale.shape[:first])
        flat[*path[:-1], "quantised"] = {"values": values, "scale": scale}
    return nest(flat)


def quantised_axes(config: ModelConfig) -> dict[str, Any]:
    """The tree of `quantise_params` with every array replaced by the tuple of its logical axes."""
    flat = {}
    for path, entry in _projections(config).items():
        outputs = ("layers", *entry.axes[1 + len(_inputs(entry)) :])
        flat[*path[:-1], "quantised"] = {"values": (*outputs, *_inputs(entry)), "scale": outputs}
    return nest(flat)


def with_quantised(params: Params, quantised: Params) -> Params:
    """What `forward` takes: `params` with its projections replaced by those of `quantised`."""
    merged = {}
    for name, value in params.items():
        if name == "kernel" and "quantised" in quantised:
            continue
        inside = isinstance(value, dict) and name in quantised
        merged[name] = with_quantised(value, quantised[name]) if inside else value
    if "quantised" in quantised:
        merged["quantised"] = quantised["quantised"]
    return merged


def quantised_product(
    x: jax.Array, weights: dict[str, jax.Array], axes: Axes, contract: int
) -> jax.Array:
    """The product over the last `contract` axes of `x` with one layer's eight-bit weights.

    Args:
      x: `[..., *in]`; each index of the other axes, a token, has a scale of its own.
      weights: `values` `[*out, *in]` and `scale` `[*out]`.
      axes: logical axes of the kernel `[*in, *out]`.

    Returns:
      `[..., *out]` in the dtype of `x`. Sums are float32 in the hardware (int32 for `int8`).
    """
    values: Any = weights["values"]
    dtype, largest = next(f for f in FORMATS.values() if f[0] == values.dtype)
    inputs, outputs = axes[:contract], axes[contract:]
    values = gathered(values, (*outputs, *inputs), values.dtype)
    scale: Any = gathered(weights["scale"], outputs, jnp.dtype(jnp.float32))
    last = tuple(range(x.ndim - contract, x.ndim))
    rounded, x_scale = _quantise(x.astype(jnp.float32), last, dtype, largest)
    # Half the bytes to write and read again, for a rounding far below that of the factors.
    sums = jnp.int32 if dtype == jnp.int8 else x.dtype
    contracted = (last, tuple(range(values.ndim - contract, values.ndim)))
    out = jax.lax.dot_general(
        rounded, values, (contracted, ((), ())), preferred_element_type=sums
    ).astype(jnp.float32)
    x_scale = x_scale.reshape(*x_scale.shape[: x.ndim - contract], *(1,) * scale.ndim)
    scale = scale.reshape((1,) * (out.ndim - scale.ndim) + scale.shape)
    return (out * (x_scale * scale)).astype(x.dtype)


def _quantise(
    x: jax.Array, axes: tuple[int, ...], dtype: Any, largest: float
) -> tuple[jax.Array, jax.Array]:
    """Eight-bit numbers and scales of `x`, the largest of `axes` becoming the format's largest."""
    peak = jnp.max(jnp.abs(x), axis=axes, keepdims=True)
    scale = jnp.where(peak > 0, peak / largest, 1.0)
    # What overflows the format by rounding would become NaN.
    scaled = jnp.clip(x / scale, -largest, largest)
    return (jnp.round(scaled) if dtype == jnp.int8 else scaled).astype(dtype), scale


def _projections(config: ModelConfig) -> dict[tuple[str, ...], Parameter]:
    return {
        path: entry
        for path, entry in parameters(config).items()
        if entry.stacked and entry.kind in ("input", "output")
    }


def _inputs(entry: Parameter) -> Axes:
    """Logical axes of a projection's inputs: one, or all but the last."""
    axes = entry.axes[1:]
    return axes[:1] if entry.kind == "input" else axes[:-1]
