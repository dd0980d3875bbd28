"""The embedded rollout engine: our own decoder with a cache, refilled as rows finish.

A fixed number of rows generates side by side (`curiojax.rollout.slots`). Whenever enough of them
are finished, the host collects these and gives their rows to the next completions, so that no row
waits for the longest one. Every draw is keyed by (seed, prompt index, sample index, step): a
completion depends neither on its neighbours nor on the number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from curiojax.errors import ConfigError
from curiojax.models import ModelConfig, check_context, param_axes
from curiojax.rollout.base import Completion, OnGroup, Orders, Sampling, SyncReport, orders_of
from curiojax.rollout.schedule import Schedule
from curiojax.sharding import constrain

Progress = Callable[[int, int], None]


class JaxSampler:
    """A `Rollout` in the trainer's own process, on the trainer's own devices.

    It holds a copy of the weights in the dtype in which they are used; the cache exists only while
    `generate` runs.
    """

    def __init__(
        self,
        params: Any,
        config: ModelConfig,
        *,
        num_slots: int = 256,
        version: int = 0,
        mesh: Mesh | None = None,
    ):
        """Copies the weights.

        Args:
          params: as the trainer has them, on its mesh.
          num_slots: completions computed at a time, at most; bounds the memory of the cache.
          mesh: entered by every method; None: the caller's `jax.set_mesh`, if any, counts.
        """
        self._config = config
        self._num_slots = num_slots
        self._mesh = mesh
        self._shapes = jax.tree.map(lambda x: (x.shape, x.dtype), params)
        self._policy: tuple[Any, int] | None = None
        self.sync(params, version)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seed: int,
        *,
        on_group: OnGroup | None = None,
        keys: Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
        limits: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """As `curiojax.rollout.base.Rollout.generate`; completion (i, j) depends on `seed`,
        `keys[i]`, j, the prompt and the settings only, up to rounding of the logits."""
        params, version = self._in_use()
        with self._on_mesh():
            return _generate(
                params,
                self._config,
                prompts,
                sampling,
                seed,
                version=version,
                num_slots=self._num_slots,
                on_group=on_group,
                keys=keys,
                counts=counts,
                limits=limits,
            )

    def sync(self, params: Any, version: int) -> SyncReport:
        """As `curiojax.rollout.base.Rollout.sync`: a copy, each matrix in the compute dtype."""
        start = time.perf_counter()
        if jax.tree.map(lambda x: (x.shape, x.dtype), params) != self._shapes:
            raise ValueError("sync: the parameters differ from the first ones in shape or dtype")
        with self._on_mesh():
            copy = jax.block_until_ready(own(params, config=self._config))
        self._policy = copy, version
        size = sum(x.nbytes for x in jax.tree.leaves(copy))
        return SyncReport(version, time.perf_counter() - start, size)

    def sleep(self) -> None:
        """Nothing: the copy of the weights stays, and the cache is gone already."""

    def close(self) -> None:
        """Lets go of the weights."""
        self._policy = None

    def _in_use(self) -> tuple[Any, int]:
        if self._policy is None:
            raise RuntimeError("the sampler is closed")
        return self._policy

    def _on_mesh(self):
        return nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)


def sample(
    params: Any,
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
    progress: Progress | None = None,
) -> list[list[Completion]]:
    """Samples completions with given weights, without a `JaxSampler` and its copy of them.

    Args:
      prompts: token ids, at least one each.
      max_new_tokens, temperature, top_p, stop_ids, samples_per_prompt: as in `Sampling`.
      batch_size: completions computed at a time, at most.
      progress: called with (completions done, completions in all) from time to time.

    Returns:
      As `JaxSampler.generate`.

    Raises:
      ConfigError: for an empty prompt, or one that does not fit the model's positions.
    """
    sampling = Sampling(
        max_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        stop_ids=tuple(stop_ids),
        n=samples_per_prompt,
    )
    return _generate(
        params, config, prompts, sampling, seed, num_slots=batch_size, progress=progress
    )


def _generate(
    params: Any,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seed: int,
    *,
    num_slots: int,
    version: int = 0,
    on_group: OnGroup | None = None,
    keys: Sequence[int] | None = None,
    counts: Sequence[int] | None = None,
    limits: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> list[list[Completion]]:
    orders = orders_of(prompts, sampling, counts, limits)
    _check(config, prompts, orders, num_slots)
    if not prompts:
        return []
    stop_ids = set(sampling.stop_ids)
    groups: list[list[Any]] = [[None] * count for count in orders.counts]
    missing = list(orders.counts)
    done, total = 0, sum(missing)
    plan = Schedule(params, config, prompts, sampling, seed, num_slots, keys, orders)
    for finished in plan.run():
        for task, drawn in finished:
            tokens, log_probs, entropies = (values.tolist() for values in drawn)
            reason = "stop" if tokens[-1] in stop_ids else "length"
            completion = Completion(tokens, log_probs, reason, version, entropies)
            groups[task.prompt][task.sample] = completion
            missing[task.prompt] -= 1
            if on_group is not None and not missing[task.prompt]:
                on_group(task.prompt, groups[task.prompt])
        done += len(finished)
        if progress is not None:
            progress(done, total)
    return groups


@partial(jax.jit, static_argnames="config")
def own(params: Any, *, config: ModelConfig) -> Any:
    """A copy, laid out as the parameters are, with the matrices in the compute dtype.

    Norms and biases stay as they are: the decoder uses them in float32.
    """

    def copy(path, x, axes):
        matrix = path[-1].key in ("kernel", "embedding")
        dtype = config.compute_dtype if matrix and config.compute_dtype else x.dtype
        # Without a copy, jit would hand back the trainer's own buffer.
        return constrain(jnp.copy(x).astype(dtype), *axes)

    return jax.tree_util.tree_map_with_path(copy, params, param_axes(config))


def _check(
    config: ModelConfig, prompts: Sequence[Sequence[int]], orders: Orders, num_slots: int
) -> None:
    if num_slots < 1:
        raise ConfigError(f"num_slots: {num_slots} is below 1; give at least one")
    for prompt, limit in zip(prompts, orders.limits, strict=True):
        check_context(config, len(prompt) + limit, "max_tokens")
