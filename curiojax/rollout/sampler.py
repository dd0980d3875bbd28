"""A small sampler on top of the decoder: one prefill, then a `while_loop` of single-token steps.

Every random draw is keyed by (seed, prompt index, sample index, step), so a completion does not
depend on which others share its batch. Shapes are rounded up to a few sizes, so that calls with
other prompts reuse the compiled program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from curiojax.errors import ConfigError
from curiojax.models import ModelConfig, check_context, decode, init_cache, logits
from curiojax.sharding import RULES


class Completion(NamedTuple):
    """One sampled continuation.

    Attributes:
      tokens: the new ids; the stop id, if one was drawn, is the last of them.
      log_probs: log-probability, in nats, of each token under the softmax over the whole vocabulary
        at the sampling temperature (at temperature 1 when greedy), before any top-p cut.
      entropies: entropy, in nats, of the temperature-1 distribution each token was drawn from.
      finish_reason: `stop` when a stop id ended it, `length` when `max_new_tokens` did.
    """

    tokens: list[int]
    log_probs: list[float]
    entropies: list[float]
    finish_reason: Literal["stop", "length"]


def sample(
    params,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int,
    stop_ids: Sequence[int],
    samples_per_prompt: int = 1,
    batch_size: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Completion]]:
    """Samples `samples_per_prompt` completions of every prompt.

    Args:
      prompts: token ids, at least one each.
      temperature: 0 takes the most likely token.
      top_p: draws from the smallest set of tokens whose probability at `temperature` reaches this.
      stop_ids: ids that end a completion.
      batch_size: completions computed at a time, at most; bounds the memory of cache and logits.
      progress: called with (completions done, completions in all) after every batch.

    Returns:
      For every prompt, its completions by sample index. Completion (i, j) depends on `seed`, i, j,
      the prompt and the settings only, up to rounding of the logits.

    Raises:
      ConfigError: for an empty prompt, or one that does not fit the model's positions.
    """
    _check(config, prompts, max_new_tokens, temperature, top_p)
    samples = min(samples_per_prompt, batch_size)
    shards = _num_batch_shards()
    most = min(_round_up(len(prompts), 1), max(batch_size // samples, 1))
    per_batch = -(-most // shards) * shards
    # Neighbours in length share a batch, which keeps the padding small.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    results: list[list[Completion]] = [[] for _ in prompts]
    done, total = 0, len(prompts) * samples_per_prompt
    for start in range(0, len(order), per_batch):
        chosen = order[start : start + per_batch]
        tokens, lengths = _pad([prompts[i] for i in chosen], per_batch)
        rows = np.array(chosen + [0] * (per_batch - len(chosen)), np.int32)
        for first in range(0, samples_per_prompt, samples):
            columns = np.arange(first, first + samples, dtype=np.int32)
            drawn = _generate(
                params,
                tokens,
                lengths,
                rows,
                columns,
                np.uint32(seed % 2**32),
                np.int32(max_new_tokens),
                np.float32(temperature or 1.0),
                np.float32(top_p),
                np.array([*stop_ids] or [-1], np.int32),
                config=config,
                capacity=_round_up(max_new_tokens, 16),
                greedy=temperature == 0,
                nucleus=top_p < 1,
            )
            keep = min(samples, samples_per_prompt - first)
            for i, completions in zip(chosen, _completions(drawn, set(stop_ids)), strict=False):
                results[i] += completions[:keep]
            done += len(chosen) * keep
            if progress is not None:
                progress(done, total)
    return results


@partial(jax.jit, static_argnames=("config", "capacity", "greedy", "nucleus"))
def _generate(
    params,
    tokens,
    lengths,
    prompt_ids,
    sample_ids,
    seed,
    limit,
    temperature,
    top_p,
    stop_ids,
    *,
    config: ModelConfig,
    capacity: int,
    greedy: bool,
    nucleus: bool,
):
    """Completions of P prompts, S of each.

    Args:
      tokens: [P, T] int32, padded on the right. lengths: [P] int32, 0 for a row that is not wanted.

    Returns:
      Tokens, log-probs and entropies, each [P, S, capacity], and the number of tokens [P, S].
    """
    prompts, width = tokens.shape
    samples = sample_ids.shape[0]
    dtype = config.compute_dtype or params["embed"]["embedding"].dtype
    key = jax.random.key(seed)
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    row_keys = jax.vmap(fold, (0, None))(fold(key, prompt_ids), sample_ids).reshape(-1)

    def draw(hidden, step):
        scores = logits(params, config, hidden)
        plain = jax.nn.log_softmax(scores, axis=-1)
        entropy = -jnp.sum(jnp.exp(plain) * plain, axis=-1)
        if greedy:
            token, log_probs = jnp.argmax(scores, axis=-1).astype(jnp.int32), plain
        else:
            scores = scores / temperature
            log_probs = jax.nn.log_softmax(scores, axis=-1)
            candidates = _nucleus(scores, log_probs, top_p) if nucleus else scores
            keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, step)
            token = jax.vmap(jax.random.categorical)(keys, candidates).astype(jnp.int32)
        log_prob = jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
        return token, log_prob, entropy

    def record(out, values, step):
        return tuple(
            jax.lax.dynamic_update_index_in_dim(old, new, step, axis=0)
            for old, new in zip(out, values, strict=True)
        )

    def is_stop(token):
        return jnp.any(token[:, None] == stop_ids[None, :], axis=-1)

    # The prompts run once, and their cache is then shared out to the samples.
    index = jnp.arange(width, dtype=jnp.int32)[None, :]
    positions = jnp.where(index < lengths[:, None], index, -1)
    cache = init_cache(config, prompts, width + capacity, dtype)
    hidden, cache = decode(params, config, tokens, positions, cache)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    hidden = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
    hidden = jnp.repeat(hidden, samples, axis=0)
    for name, batch_axis in (("k", 1), ("v", 1), ("positions", 0)):
        cache[name] = jnp.repeat(cache[name], samples, axis=batch_axis)
    lengths = jnp.repeat(lengths, samples)

    first = draw(hidden, 0)
    rows = prompts * samples
    out = (
        jnp.zeros((capacity, rows), jnp.int32),
        jnp.zeros((capacity, rows), jnp.float32),
        jnp.zeros((capacity, rows), jnp.float32),
    )
    state = (
        jnp.int32(1),
        first[0],
        is_stop(first[0]) | (lengths == 0),
        jnp.ones((rows,), jnp.int32),
        cache,
        record(out, first, 0),
    )

    def unfinished(state):
        step, _, done, *_ = state
        return (step < limit) & ~jnp.all(done)

    def advance(state):
        step, token, done, count, cache, out = state
        position = (lengths + step - 1)[:, None]
        hidden, cache = decode(params, config, token[:, None], position, cache)
        values = draw(hidden[:, 0], step)
        count = count + jnp.where(done, 0, 1)
        done = done | is_stop(values[0])
        return step + 1, values[0], done, count, cache, record(out, values, step)

    _, _, _, count, _, out = jax.lax.while_loop(unfinished, advance, state)
    shape = (prompts, samples)
    return (*(x.T.reshape(*shape, capacity) for x in out), count.reshape(shape))


def _nucleus(scores: jax.Array, log_probs: jax.Array, top_p: jax.Array) -> jax.Array:
    """Scores with the tokens outside the nucleus at -inf; the most likely token always stays."""
    ranked = jax.lax.sort(log_probs, dimension=-1)[..., ::-1]
    probs = jnp.exp(ranked)
    before = jnp.cumsum(probs, axis=-1) - probs
    kept = (before < top_p).at[..., 0].set(True)
    threshold = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(log_probs >= threshold, scores, -jnp.inf)


def _completions(drawn, stop_ids: set[int]) -> Iterator[list[Completion]]:
    """Turns the arrays of `_generate` into completions, prompt by prompt."""
    for prompt in zip(*(np.asarray(x).tolist() for x in drawn), strict=True):
        yield [
            Completion(t[:n], p[:n], e[:n], "stop" if t[n - 1] in stop_ids else "length")
            for t, p, e, n in zip(*prompt, strict=True)
        ]


def _pad(prompts: Sequence[Sequence[int]], rows: int) -> tuple[np.ndarray, np.ndarray]:
    width = _round_up(max(len(prompt) for prompt in prompts), 16)
    tokens = np.zeros((rows, width), np.int32)
    lengths = np.zeros((rows,), np.int32)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = prompt
        lengths[i] = len(prompt)
    return tokens, lengths


def _round_up(size: int, start: int) -> int:
    """The next size worth compiling for: `start`, then alternately half and a third more."""
    bucket = start
    while bucket < size:
        power_of_two = bucket & (bucket - 1) == 0
        bucket = max(bucket * 3 // 2 if power_of_two else bucket * 4 // 3, bucket + 1)
    return bucket


def _num_batch_shards() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    axes = RULES["batch"] or ()
    return 1 if mesh.empty else math.prod(mesh.shape[name] for name in axes)


def _check(config: ModelConfig, prompts, max_new_tokens, temperature, top_p) -> None:
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens: {max_new_tokens} is below 1; ask for at least one")
    if temperature < 0:
        raise ConfigError(f"temperature: {temperature} is negative; 0 is greedy")
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p: {top_p} is outside (0, 1]; 1 draws from all tokens")
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise ConfigError(f"prompts: prompt {i} is empty; start it with a token")
        check_context(config, len(prompt) + max_new_tokens, "max_new_tokens")
