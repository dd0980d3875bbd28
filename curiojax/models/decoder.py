"""The decoder: one Linen model for Qwen2, Qwen3 and Llama 3, behind pure functions.

Parameters are a nested plain dict with the layers stacked on axis 0, so the layers are one scanned
block, compiled once. Norms, rotary tables, softmax and logits are computed in float32, everything
else in the compute dtype. Nothing outside this folder sees a Linen module.

Shapes: B rows, T tokens, D hidden, H query heads, K key-value heads, h head dimension, F MLP,
V vocabulary, L layers, S cache slots.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from curiojax.models.attention import attend_cache, attention
from curiojax.models.config import ModelConfig
from curiojax.models.quantised import quantised_product
from curiojax.models.rope import rope_table, rotate
from curiojax.models.weights import Axes, gathered, lookup
from curiojax.sharding import constrain

Params = dict[str, Any]
Cache = dict[str, jax.Array]

INIT_STDDEV = 0.02
# Position of a cache slot that holds nothing: later than every query, so never seen.
EMPTY_SLOT = 2**30


class Norm(nn.Module):
    """RMS norm over the last axis, in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        scale = scale.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + scale.shape)
        return (wide * scale).astype(x.dtype)


class Projection(nn.Module):
    """A matrix product over the last `contract` axes of the input, and perhaps a bias.

    Weights of `with_quantised` make it one of eight-bit numbers.
    """

    features: tuple[int, ...]
    axes: Axes
    contract: int = 1
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        quantised = self.get_variable("params", "quantised")
        if quantised is not None:
            out = quantised_product(x, quantised, self.axes, self.contract)
        else:
            inputs = x.shape[x.ndim - self.contract :]
            kernel = self.param(
                "kernel", nn.initializers.normal(INIT_STDDEV), (*inputs, *self.features)
            )
            out = jnp.tensordot(x, gathered(kernel, self.axes, x.dtype), axes=self.contract)
        if self.bias:
            # In float32, so that the bias's gradient, a sum over all tokens, is too.
            bias = self.param("bias", nn.initializers.zeros, self.features).astype(jnp.float32)
            bias = bias.reshape((1,) * (out.ndim - bias.ndim) + bias.shape)
            out = (out.astype(jnp.float32) + bias).astype(x.dtype)
        return out


class Attention(nn.Module):
    """Self-attention of one layer; with a cache, over the cache."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x, rope, segment_ids, cache, layer, mask):
        c = self.config
        heads = partial(Projection, bias=c.attention_bias)
        q = heads((c.num_heads, c.head_dim), ("embed", "heads", "head_dim"), name="q")(x)
        k = heads((c.num_kv_heads, c.head_dim), ("embed", "kv_heads", "head_dim"), name="k")(x)
        v = heads((c.num_kv_heads, c.head_dim), ("embed", "kv_heads", "head_dim"), name="v")(x)
        if c.qk_norm:
            q = Norm(c.rms_norm_eps, name="q_norm")(q)
            k = Norm(c.rms_norm_eps, name="k_norm")(k)
        q = constrain(rotate(q, rope), "batch", "length", "heads", "head_dim")
        k = constrain(rotate(k, rope), "batch", "length", "kv_heads", "head_dim")
        v = constrain(v, "batch", "length", "kv_heads", "head_dim")
        if cache is None:
            out = attention(q, k, v, segment_ids, c.attention)
        else:
            cache = _store(cache, layer, k, v)
            keys, values = (
                jax.lax.dynamic_index_in_dim(cache[name], layer, keepdims=False) for name in "kv"
            )
            out = attend_cache(q, keys.astype(q.dtype), values.astype(q.dtype), mask)
        out = constrain(out, "batch", "length", "heads", "head_dim")
        out = Projection((x.shape[-1],), ("heads", "head_dim", "embed"), contract=2, name="o")(out)
        return out, cache


class Mlp(nn.Module):
    """The gated MLP (SwiGLU)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x):
        width = (self.config.intermediate_size,)
        gate = Projection(width, ("embed", "mlp"), name="gate")(x)
        up = Projection(width, ("embed", "mlp"), name="up")(x)
        hidden = constrain(nn.silu(gate) * up, "batch", "length", "mlp")
        return Projection((x.shape[-1],), ("mlp", "embed"), name="down")(hidden)


class Layer(nn.Module):
    """One decoder layer, in the carry form that `nn.scan` wants."""

    config: ModelConfig

    @nn.compact
    def __call__(self, carry, rope, segment_ids, mask):
        x, cache, layer = carry
        norm = partial(Norm, self.config.rms_norm_eps)
        update, cache = Attention(self.config, name="attention")(
            norm(name="input_norm")(x), rope, segment_ids, cache, layer, mask
        )
        x = constrain(x + update, "batch", "length", None)
        x = x + Mlp(self.config, name="mlp")(norm(name="post_attention_norm")(x))
        return (constrain(x, "batch", "length", None), cache, layer + 1), None


class Embed(nn.Module):
    """The token embedding."""

    config: ModelConfig
    dtype: Any

    @nn.compact
    def __call__(self, tokens):
        shape = (self.config.vocab_size, self.config.hidden_size)
        table = self.param("embedding", nn.initializers.normal(INIT_STDDEV), shape)
        return lookup(table, tokens, ("vocab", "embed"), self.dtype)


class Head(nn.Module):
    """Holds the weights of an untied head; they are used by `logits` and by the losses."""

    config: ModelConfig

    @nn.compact
    def __call__(self):
        shape = (self.config.vocab_size, self.config.hidden_size)
        return self.param("kernel", nn.initializers.normal(INIT_STDDEV), shape)


class Decoder(nn.Module):
    """Tokens to hidden states after the final norm."""

    config: ModelConfig
    dtype: Any

    @nn.compact
    def __call__(self, tokens, positions, segment_ids, cache=None, mask=None):
        c = self.config
        if self.is_initializing() and not c.tie_word_embeddings:
            Head(c, name="lm_head")()
        x: Any = Embed(c, self.dtype, name="embed")(tokens)
        x = constrain(x, "batch", "length", None)
        every_layer: Any = nn.broadcast  # rotary table, segments and mask are not split by layer
        layers = nn.scan(
            _remat(c.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=every_layer,
            length=c.num_layers,
        )(c, name="layers")
        carry = (x, cache, jnp.zeros((), jnp.int32))
        (x, cache, _), _ = layers(carry, rope_table(c, positions), segment_ids, mask)
        return Norm(c.rms_norm_eps, name="final_norm")(x), cache


def _remat(policy: str) -> type[nn.Module]:
    if policy == "none":
        return Layer
    saved = {
        "full": jax.checkpoint_policies.nothing_saveable,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }
    # Inside a scan the recomputation cannot be merged with the forward pass anyway.
    return nn.remat(Layer, policy=saved[policy], prevent_cse=False)


def _store(cache: Cache, layer: jax.Array, k: jax.Array, v: jax.Array) -> Cache:
    zero = jnp.zeros((), jnp.int32)
    start = (layer, zero, zero, cache["index"], zero)
    stored = {}
    for name, x in (("k", k), ("v", v)):
        x = jnp.swapaxes(x, 1, 2).astype(cache[name].dtype)[None]
        stored[name] = jax.lax.dynamic_update_slice(cache[name], x, start)
    return cache | stored


def _decoder(params: Params, config: ModelConfig) -> Decoder:
    return Decoder(config, jnp.dtype(config.compute_dtype or params["embed"]["embedding"].dtype))


def forward(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
) -> jax.Array:
    """Hidden states after the final norm.

    Args:
      params: as `init_params` or `load_pretrained` give them.
      config: static under jit.
      tokens, positions, segment_ids: [B, T] int32. Positions restart at 0 in every record of a row;
        segment 0 is padding, on which no other token depends.

    Returns:
      [B, T, D] in the compute dtype.
    """
    hidden, _ = _decoder(params, config).apply({"params": params}, tokens, positions, segment_ids)
    return hidden


def head_weight(params: Params, config: ModelConfig) -> jax.Array:
    """The output projection [V, D], as stored; the embedding where the two are tied."""
    if config.tie_word_embeddings:
        return params["embed"]["embedding"]
    return params["lm_head"]["kernel"]


def logits(params: Params, config: ModelConfig, hidden: jax.Array) -> jax.Array:
    """Scores [..., V] float32 of hidden states [..., D]; products are accumulated in float32."""
    head = gathered(head_weight(params, config), ("vocab", "embed"), hidden.dtype)
    return jnp.einsum("...d,vd->...v", hidden, head, preferred_element_type=jnp.float32)


def init_params(key: jax.Array, config: ModelConfig, dtype: Any = jnp.float32) -> Params:
    """Random parameters: matrices normal with standard deviation 0.02, biases 0, norms 1."""
    # The run-time choices have no say in the parameters, and may not suit the one token below.
    plain = dataclasses.replace(config, compute_dtype=None, remat="none", attention="xla")
    return _init(key, plain, jnp.dtype(dtype))


@partial(jax.jit, static_argnums=(1, 2))
def _init(key, config, dtype):
    one = jnp.zeros((1, 1), jnp.int32)
    params = Decoder(config, jnp.float32).init(key, one, one, one)["params"]
    return jax.tree.map(lambda x: x.astype(dtype), params)


def abstract_params(config: ModelConfig, dtype: Any = jnp.float32) -> Params:
    """Shapes and dtypes of the parameters, as a tree of `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(lambda: init_params(jax.random.key(0), config, dtype))


def init_cache(config: ModelConfig, batch: int, length: int, dtype: Any) -> Cache:
    """An empty cache of keys and values for `batch` rows of up to `length` tokens.

    Returns:
      `k`, `v`: [L, B, K, length, h]; `positions`: [B, length] int32, what each slot holds;
      `index`: int32, the next slot to write.
    """
    shape = (config.num_layers, batch, config.num_kv_heads, length, config.head_dim)
    return {
        "k": jnp.zeros(shape, dtype),
        "v": jnp.zeros(shape, dtype),
        "positions": jnp.full((batch, length), EMPTY_SLOT, jnp.int32),
        "index": jnp.zeros((), jnp.int32),
    }


def decode(
    params: Params, config: ModelConfig, tokens: jax.Array, positions: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """Continues every row by T tokens; the prompt is one call, each new token another.

    All rows write the same T slots of the cache, and a query sees the slots whose position is not
    after its own. Rows of different lengths are padded anywhere with position -1: such a slot is
    never seen. The caller keeps the total within the cache's length.

    Args:
      tokens, positions: [B, T] int32; position -1 marks padding.
      cache: from `init_cache` or an earlier call.

    Returns:
      Hidden states [B, T, D] after the final norm, and the extended cache.
    """
    held = jnp.where(positions < 0, EMPTY_SLOT, positions)
    start = (jnp.zeros((), jnp.int32), cache["index"])
    held = jax.lax.dynamic_update_slice(cache["positions"], held, start)
    cache = cache | {"positions": held}
    mask = held[:, None, :] <= positions[:, :, None]
    apply: Any = _decoder(params, config).apply
    hidden, cache = apply({"params": params}, tokens, positions, None, cache, mask)
    return hidden, cache | {"index": cache["index"] + tokens.shape[1]}
