"""The sampler's host side: which completion runs in which row, and when rows are refilled."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from curiojax.models import ModelConfig
from curiojax.rollout import slots
from curiojax.rollout.base import Orders, Sampling, orders_of
from curiojax.rollout.rows import Finished, Rows, Task
from curiojax.rollout.sampling import Cuts, Knobs
from curiojax.sharding import RULES

# Decode steps of one call of the device program, at most.
MAX_STEPS = 128
# The shortest ring that is tried before a longer one; doubled as completions outgrow it.
SHORT_RING = 256
# Prompt tokens of one prefill, at most (but at least one prompt per group of devices).
PREFILL_TOKENS = 16384
# What a refill costs, in decode steps; only the speed depends on it.
REFILL_COST = 1.0


class Schedule:
    """One call of `generate`."""

    def __init__(
        self,
        params: Any,
        config: ModelConfig,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seed: int,
        num_slots: int,
        keys: Sequence[int] | None = None,
        orders: Orders | None = None,
    ):
        self.params, self.config, self.prompts = params, config, prompts
        self.keys = range(len(prompts)) if keys is None else keys
        counts, limits = orders or orders_of(prompts, sampling, None, None)
        self.shards, total = _num_batch_shards(), sum(counts)
        rows = num_rows(total, num_slots, self.shards)
        longest = longest_ring(list(map(len, prompts)), limits)
        self.most_together = min(len(prompts), -(-rows * len(prompts) // total))
        self.batches = self._batches(limits, longest)
        self.waiting = deque(
            Task(prompt, sample, batch, place, limits[prompt])
            for batch, members in enumerate(self.batches)
            for place, prompt in enumerate(members)
            for sample in range(counts[prompt])
        )
        self.prefilled: tuple[int, slots.Cache] | None = None
        self.rows = Rows(rows, sampling.max_tokens)
        self.steps = min(MAX_STEPS, multiple(sampling.max_tokens, 8))
        self.rings = ring_lengths(longest)
        self.cache: slots.Cache | None = None
        self.num_drawn, self.num_finished = sampling.max_tokens, 2
        self.seed = np.uint32(seed % 2**32)
        self.knobs, self.cuts = compiled(sampling)

    def run(self) -> Iterator[list[Finished]]:
        """Yields what is finished, in portions; the devices go on while the caller uses one."""
        finished: list[Finished] = []
        while True:
            self._refill()
            self._narrow()
            live = int(np.sum(self.rows.used))
            if not live:
                break
            self.cache, *out = slots.advance(
                self.params,
                self.cache,
                self.rows.table.copy(),
                self.seed,
                self.knobs,
                np.int32(live - self._enough(live)),
                config=self.config,
                cuts=self.cuts,
                steps=self.steps,
            )
            if finished:
                yield finished
            drawn, new, live_rows = jax.device_get(out)
            finished = self.rows.absorb(drawn, new, live_rows)
            self.num_drawn += int(new.sum())
            self.num_finished += len(finished)
        if finished:
            yield finished

    def _narrow(self) -> None:
        """Moves the last few completions together, so that no empty rows are computed with them.

        Done in steps of four, and only where many tokens may be left: every width is a program.
        """
        live, free = np.nonzero(self.rows.used)[0], np.nonzero(~self.rows.used)[0]
        count = multiple(len(self.rows.tasks) // 4, _num_batch_shards())
        if self.waiting or not 0 < len(live) <= count < len(self.rows.tasks):
            return
        if self.rows.left[live].max() >= MAX_STEPS:
            rows = np.concatenate([live, free])[:count]
            self.cache = slots.select(self.cache, rows.astype(np.int32))
            self.rows.select(rows)

    def _enough(self, live: int) -> int:
        """How many rows have to be finished before refilling them pays.

        In k steps a share k / m of the rows finishes, m being the mean length, and idles for k / 2
        of them on average. With a refill that costs as much as c steps, k / 2m + c / k of the work
        is lost, which is least for k = sqrt(2 c m), when a share sqrt(2 c / m) is finished.
        """
        mean = self.num_drawn / self.num_finished
        share = min(math.sqrt(2 * REFILL_COST / mean), 0.5)
        return max(int(live * share), 1)

    def _refill(self) -> None:
        """Gives the free rows to waiting tasks."""
        free = np.nonzero(~self.rows.used)[0]
        sources: dict[int, np.ndarray] = {}
        for row in free[: len(self.waiting)]:
            task = self.waiting.popleft()
            goes_on = np.full(len(self.rows.tasks), -1, np.int32)
            sources.setdefault(task.batch, goes_on)[row] = task.place
            prompt, key = self.prompts[task.prompt], self.keys[task.prompt]
            self.rows.assign(int(row), task, key, prompt, self._batch_width(task.batch))
        self._lengthen_ring()
        for batch, rows in sources.items():
            # Tasks wait in the order of their batches: only the latest can be needed again.
            if self.prefilled is None or self.prefilled[0] != batch:
                self.prefilled = batch, self._prefill(batch)
            self.cache = slots.insert(self.cache, self.prefilled[1], rows)

    def _batches(self, limits: Sequence[int], longest: int) -> list[list[int]]:
        """The prompts that are prefilled together, padded to the longest, which is the last.

        Neighbours in length go together, which keeps the padding small. It takes entries of the
        ring, which must not be longer for it than `longest`.
        """
        batches: list[list[int]] = []
        reach = 0  # the largest limit in the batch
        for prompt in sorted(range(len(self.prompts)), key=lambda i: len(self.prompts[i])):
            width, limit = _width(len(self.prompts[prompt])), limits[prompt]
            is_full = not batches or len(batches[-1]) >= self._together(width)
            if is_full or width + max(reach, limit) > longest:
                batches.append([])
                reach = 0
            batches[-1].append(prompt)
            reach = max(reach, limit)
        return batches

    def _together(self, width: int) -> int:
        """How many prompts of a width are prefilled at once."""
        most = min(self.most_together, max(PREFILL_TOKENS // width, 1))
        return multiple(round_up(most, 1), self.shards)

    def _batch_width(self, batch: int) -> int:
        return _width(len(self.prompts[self.batches[batch][-1]]))

    def _prefill(self, batch: int) -> slots.Cache:
        members = [self.prompts[i] for i in self.batches[batch]]
        width = self._batch_width(batch)
        tokens = np.zeros((self._together(width), width), np.int32)
        lengths = np.zeros(len(tokens), np.int32)
        for place, prompt in enumerate(members):
            tokens[place, : len(prompt) - 1] = prompt[:-1]
            lengths[place] = len(prompt)
        return slots.prefill(self.params, tokens, lengths, config=self.config)

    def _lengthen_ring(self) -> None:
        needed = self.rows.ring_length(self.steps)
        length = next((ring for ring in self.rings if ring >= needed), self.rings[-1])
        if self.cache is None:
            rows = len(self.rows.tasks)
            self.cache = slots.new_cache(self.params, self.config, rows, length)
        elif length > self.cache["positions"].shape[1]:
            self.cache = slots.grow(self.cache, length)


def num_rows(completions: int, num_slots: int, shards: int) -> int:
    """Rows that generate side by side in a call for so many completions."""
    return multiple(min(round_up(completions, 1), num_slots), shards)


def longest_ring(prompts: Sequence[int], limits: Sequence[int]) -> int:
    """Entries of the ring for any completion, from the prompts' lengths and their limits.

    Where the limits differ, it is one of a few sizes only, each of them a program.
    """
    needed = max(_width(length) + limit for length, limit in zip(prompts, limits, strict=True))
    return multiple(needed, 8) if len(set(limits)) == 1 else multiple(_width(needed + 1), 8)


def ring_lengths(longest: int) -> list[int]:
    """The lengths that the ring may take, each at most twice the one before."""
    lengths = []
    length = SHORT_RING
    while length < longest:
        lengths.append(length)
        length *= 2
    return [*lengths, longest]


def compiled(sampling: Sampling) -> tuple[Knobs, Cuts]:
    """What a program gets as arrays, and what is compiled into it."""
    stop_ids = np.full(multiple(max(len(sampling.stop_ids), 1), 4), -1, np.int32)
    stop_ids[: len(sampling.stop_ids)] = sampling.stop_ids
    numbers: list[Any] = [
        np.float32(sampling.temperature or 1.0),
        np.float32(sampling.top_p),
        np.int32(sampling.top_k),
        np.int32(sampling.min_tokens),
        stop_ids,
    ]
    cuts = Cuts(
        greedy=sampling.temperature == 0,
        top_p=sampling.top_p < 1,
        top_k=sampling.top_k > 0,
        min_tokens=sampling.min_tokens > 0 and bool(sampling.stop_ids),
    )
    return Knobs(*numbers), cuts


def round_up(size: int, start: int) -> int:
    """The next size worth compiling for: `start`, then alternately half and a third more."""
    bucket = start
    while bucket < size:
        power_of_two = bucket & (bucket - 1) == 0
        bucket = max(bucket * 3 // 2 if power_of_two else bucket * 4 // 3, bucket + 1)
    return bucket


def multiple(size: int, of: int) -> int:
    return -(-size // of) * of


def _width(length: int) -> int:
    """The padded width of a prompt without its last token."""
    width = round_up(length - 1, 8)
    return width if width <= slots.PREFILL_PIECE else multiple(length - 1, slots.PREFILL_PIECE)


def _num_batch_shards() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    axes = RULES["batch"] or ()
    return 1 if mesh.empty else math.prod(mesh.shape[name] for name in axes)
