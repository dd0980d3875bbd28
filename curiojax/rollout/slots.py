"""The sampler's device programs: rows that generate side by side, each at its own place.

B rows ("slots") share one cache, used as a ring: at every step all rows write the same index of it,
and a table of positions says which of its entries belong to what a row now holds. A row that is
finished is given to the next completion by writing that one's prompt just before the index, so rows
of any age run in one program whose shapes do not depend on any length.

The last token of a prompt is left out of the prefill: it is the first input of the decode loop.

Shapes: B rows, P prompts, W their padded width, S entries of the ring, N steps, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from curiojax.models import ModelConfig, decode, init_cache, logits
from curiojax.models.decoder import EMPTY_SLOT, Cache, Params
from curiojax.rollout.sampling import Cuts, Draw, Knobs, draw
from curiojax.sharding import constrain

# Longer prompts are run in pieces of this many tokens, which bounds the attention scores.
PREFILL_PIECE = 512

# How a cache is split over the mesh: rows as a batch's, heads as the model's.
_KEYS = ("layers", "batch", "kv_heads", "length", "head_dim")
CACHE_AXES = {"k": _KEYS, "v": _KEYS, "positions": ("batch", "length"), "index": ()}


def new_cache(params: Params, config: ModelConfig, rows: int, length: int) -> Cache:
    """An empty ring for `rows` rows of up to `length` tokens."""
    dtype = config.compute_dtype or params["embed"]["embedding"].dtype
    return _new_cache(config, rows, length, jnp.dtype(dtype))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _new_cache(config: ModelConfig, rows: int, length: int, dtype: jnp.dtype) -> Cache:
    return _laid_out(init_cache(config, rows, length, dtype))


@partial(jax.jit, static_argnames=("config",))
def prefill(params: Params, tokens: jax.Array, lengths: jax.Array, *, config: ModelConfig) -> Cache:
    """Keys and values of P prompts, without the last token of each.

    Args:
      tokens: [P, W] int32, padded on the right. lengths: [P] int32.

    Returns:
      A cache of length W, entry j holding position j of the prompt.
    """
    prompts, width = tokens.shape
    dtype = jnp.dtype(config.compute_dtype or params["embed"]["embedding"].dtype)
    index = jnp.arange(width, dtype=jnp.int32)[None, :]
    positions = jnp.where(index < lengths[:, None] - 1, index, -1)
    cache = _laid_out(init_cache(config, prompts, width, dtype))
    if width <= PREFILL_PIECE:
        _, cache = decode(params, config, tokens, positions, cache)
        return cache

    def piece(cache, inputs):
        tokens, positions = inputs
        _, cache = decode(params, config, tokens, positions, cache)
        return cache, None

    split = (prompts, width // PREFILL_PIECE, PREFILL_PIECE)
    pieces = tuple(jnp.moveaxis(x.reshape(split), 1, 0) for x in (tokens, positions))
    cache, _ = jax.lax.scan(piece, cache, pieces)
    return cache


@partial(jax.jit, donate_argnums=0)
def insert(cache: Cache, prompts: Cache, sources: jax.Array) -> Cache:
    """Gives rows to new completions.

    Args:
      cache: of B rows; donated.
      prompts: from `prefill`.
      sources: [B] int32, which prompt a row now continues; -1: the row goes on as it is.
    """
    length, width = cache["positions"].shape[1], prompts["positions"].shape[1]
    taken = sources >= 0
    sources = jnp.maximum(sources, 0)
    entries = (cache["index"] - width + jnp.arange(width, dtype=jnp.int32)) % length
    held = jnp.full_like(cache["positions"], EMPTY_SLOT)
    held = held.at[:, entries].set(prompts["positions"][sources])
    new = {"positions": jnp.where(taken[:, None], held, cache["positions"])}
    for name in "kv":
        old = cache[name][:, :, :, entries]
        values = jnp.where(taken[None, :, None, None, None], prompts[name][:, sources], old)
        new[name] = cache[name].at[:, :, :, entries].set(values)
    return _laid_out(cache | new)


@partial(jax.jit, static_argnames="length")
def grow(cache: Cache, length: int) -> Cache:
    """Copies the ring into a longer one."""
    rows, old = cache["positions"].shape
    order = (cache["index"] + jnp.arange(old, dtype=jnp.int32)) % old
    positions = jnp.full((rows, length), EMPTY_SLOT, jnp.int32)
    new = {"positions": positions.at[:, :old].set(cache["positions"][:, order])}
    for name in "kv":
        layers, _, heads, _, dim = cache[name].shape
        longer = jnp.zeros((layers, rows, heads, length, dim), cache[name].dtype)
        new[name] = longer.at[:, :, :, :old].set(cache[name][:, :, :, order])
    return _laid_out(cache | new | {"index": jnp.full((), old, jnp.int32)})


@jax.jit
def select(cache: Cache, rows: jax.Array) -> Cache:
    """The cache of some of its rows; rows: [B'] int32."""
    new = {name: cache[name][:, rows] for name in "kv"}
    return _laid_out(cache | new | {"positions": cache["positions"][rows]})


@partial(jax.jit, static_argnames=("config", "cuts", "steps"), donate_argnames="cache")
def advance(
    params: Params,
    cache: Cache,
    rows: jax.Array,
    seed: jax.Array,
    knobs: Knobs,
    until: jax.Array,
    *,
    config: ModelConfig,
    cuts: Cuts,
    steps: int,
) -> tuple[Cache, Draw, jax.Array, jax.Array]:
    """Draws tokens for all rows until enough of them are finished, or `steps` are done.

    Args:
      cache: donated.
      rows: [7, B] int32: the prompt's index and the sample's, which key the draws; the next input
        token and its position; how many tokens the completion has; 1 for a row in use, else 0; how
        many tokens the completion may have.
      until: int32; stops as soon as at most this many rows are unfinished.

    Returns:
      The cache; what was drawn, each [N, B]; for every row how many of them are its own, [B], and
      whether it is unfinished, [B] bool.
    """
    prompt_ids, sample_ids, token, position, count, used, limit = rows
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    keys = jax.vmap(jax.random.fold_in)(fold(jax.random.key(seed), prompt_ids), sample_ids)
    length = cache["positions"].shape[1]
    batch = rows.shape[1]
    out = Draw(
        jnp.zeros((steps, batch), jnp.int32),
        jnp.zeros((steps, batch), jnp.float32),
        jnp.zeros((steps, batch), jnp.float32),
    )
    before = count

    def busy(state):
        step, _, _, _, _, live, _ = state
        return (step < steps) & (jnp.sum(live, dtype=jnp.int32) > until)

    def one(state):
        step, cache, token, position, count, live, out = state
        place = jnp.where(live, position, -1)[:, None]
        hidden, cache = decode(params, config, token[:, None], place, cache)
        cache = cache | {"index": cache["index"] % length}
        drawn = draw(logits(params, config, hidden[:, 0]), keys, count, knobs, cuts)
        out = jax.tree.map(
            lambda old, new: jax.lax.dynamic_update_index_in_dim(old, new, step, 0), out, drawn
        )
        count = count + live.astype(jnp.int32)
        stopped = jnp.any(drawn.tokens[:, None] == knobs.stop_ids[None, :], axis=-1)
        live = live & ~stopped & (count < limit)
        return step + 1, cache, drawn.tokens, position + 1, count, live, out

    state = (jnp.int32(0), cache, token, position, count, used > 0, out)
    _, cache, _, _, count, live, out = jax.lax.while_loop(busy, one, state)
    # Whole on every device, so that every process of a cluster can read all of it.
    out = jax.tree.map(lambda x: constrain(x, None, None), out)
    return _laid_out(cache), out, constrain(count - before, None), constrain(live, None)


def _laid_out(cache: Cache) -> Cache:
    return {name: constrain(cache[name], *axes) for name, axes in CACHE_AXES.items()}
