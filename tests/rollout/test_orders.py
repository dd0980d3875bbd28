"""Counts and limits of a call's prompts: nothing but the number and the length of completions."""

from __future__ import annotations

import dataclasses
from itertools import chain

import numpy as np
import pytest
from test_sampler import (
    CONFIG,
    PROGRAMS,
    PROMPTS,
    SAMPLING,
    assert_same,
    many_prompts,
    params,
    small,  # noqa: F401  (a fixture)
)

from curiojax.errors import ConfigError
from curiojax.rollout import JaxSampler, schedule
from curiojax.rollout.base import orders_of

KEYS = [5, 2, 9, 77]
COUNTS = [3, 1, 5, 2]
LIMITS = [12, 1, 7, 3]


@pytest.fixture(scope="module")
def sampler():
    return JaxSampler(params(), CONFIG, num_slots=6)


def one_by_one(prompts, counts, limits, keys, seed=3, settings=SAMPLING):
    """The same from calls that know neither counts nor limits, with a row to run in."""
    sampler, found = JaxSampler(params(), CONFIG, num_slots=1), []
    for prompt, count, limit, key in zip(prompts, counts, limits, keys, strict=True):
        sampling = dataclasses.replace(settings, n=count, max_tokens=limit)
        found += sampler.generate([prompt], sampling, seed, keys=[key])
    return found


def test_as_separate_calls(sampler):
    got = sampler.generate(PROMPTS, SAMPLING, 3, keys=KEYS, counts=COUNTS, limits=LIMITS)
    assert [len(group) for group in got] == COUNTS
    assert_same(got, one_by_one(PROMPTS, COUNTS, LIMITS, KEYS))
    lengths = [max(len(c.tokens) for c in group) for group in got]
    assert lengths[1] == 1 and lengths[2] <= 7 and lengths[3] <= 3
    for group, limit in zip(got, LIMITS, strict=True):
        for c in group:
            assert c.finish_reason == ("stop" if c.tokens[-1] in SAMPLING.stop_ids else "length")
            assert c.finish_reason == "stop" or len(c.tokens) == limit


def test_unsaid_they_are_the_settings_own(sampler):
    want = sampler.generate(PROMPTS, SAMPLING, 3)
    assert_same(sampler.generate(PROMPTS, SAMPLING, 3, counts=[5] * 4, limits=[12] * 4), want)
    # Fewer of them are the first ones.
    some = sampler.generate(PROMPTS, SAMPLING, 3, counts=COUNTS)
    assert_same(some, [group[:count] for group, count in zip(want, COUNTS, strict=True)])


def test_rows_of_any_age_and_limit(sampler, small):  # noqa: F811
    """Refills, rings that wrap around and grow, several prefills: as separate calls."""
    prompts = [p[:9] for p in many_prompts(11)] + [list(range(1, 19)) * 2]
    random = np.random.default_rng(8)
    limits = [*random.choice([3, 24], 11).tolist(), 24]
    counts = random.integers(1, 4, 12).tolist()
    keys = random.integers(0, 1000, 12).tolist()
    settings = dataclasses.replace(SAMPLING, max_tokens=24, stop_ids=(0,))
    calls = []
    got = sampler.generate(
        prompts, settings, 4, keys=keys, counts=counts, limits=limits,
        on_group=lambda i, group: calls.append((i, len(group))),
    )  # fmt: skip
    assert_same(got, one_by_one(prompts, counts, limits, keys, 4, settings))
    assert sorted(calls) == list(enumerate(counts))
    assert len({len(c.tokens) for c in chain(*got)}) > 5 and small


def test_a_limit_below_min_tokens_wins(sampler):
    settings = dataclasses.replace(SAMPLING, min_tokens=6)
    group, other = sampler.generate(PROMPTS[:2], settings, 3, limits=[3, 12])
    assert {(len(c.tokens), c.finish_reason) for c in group} == {(3, "length")}
    assert min(len(c.tokens) for c in other) >= 6


def test_a_given_beginning_is_continued_greedily(sampler):
    """Continuing prompt + k tokens is the rest of the whole greedy completion, for every k."""
    settings = dataclasses.replace(SAMPLING, temperature=0.0, n=1, max_tokens=20, stop_ids=())
    wholes = [group[0].tokens for group in sampler.generate(PROMPTS, settings, 0)]
    for k in (1, 7, 19):
        prompts = [[*prompt, *whole[:k]] for prompt, whole in zip(PROMPTS, wholes, strict=True)]
        rest = sampler.generate(prompts, settings, 0, limits=[20 - k] * 4)
        assert [c.tokens for [c] in rest] == [whole[k:] for whole in wholes]


def test_other_limits_compile_nothing(sampler):
    """Neither they nor the lengths of the beginnings that they go with."""
    sampler = JaxSampler(params(), CONFIG, num_slots=24)
    random = np.random.default_rng(0)

    def generate():
        given = random.integers(1, 12, 10)
        prompts = [[1, 2, 3]] * 10 + [[1, 2, 3] + [4] * int(k) for k in given]
        limits = [12] * 10 + [12 - int(k) for k in given]
        sampler.generate(prompts, SAMPLING, 0, counts=[2] * 10 + [1] * 10, limits=limits)

    for _ in range(3):
        generate()
    before = [program._cache_size() for program in PROGRAMS]
    for _ in range(5):
        generate()
    assert [program._cache_size() for program in PROGRAMS] == before


def test_rings_of_one_size():
    """Beginnings of every length, in a context of 1024 + 8192 tokens: one size of ring."""
    random = np.random.default_rng(1)
    sizes = set()
    for _ in range(200):
        prompts, given = random.integers(50, 1024, 64), random.integers(1, 8192, 64)
        longest = schedule.longest_ring((prompts + given).tolist(), (8192 - given).tolist())
        assert longest >= (prompts + 8192).max()
        sizes.add(longest)
    assert len(sizes) == 1 and max(sizes) <= 1024 + 8192 + 512
    assert schedule.longest_ring([9, 5], [72, 72]) == 80


def test_long_beginnings_do_not_lengthen_the_ring():
    """A prompt that leaves room for few tokens is not prefilled beside one with room for many."""
    prompts = [[1] * 20] * 8 + [[1] * n for n in (40, 70, 100, 190)]
    limits = [180] * 8 + [160, 130, 100, 10]
    settings = dataclasses.replace(SAMPLING, max_tokens=180)
    orders = orders_of(prompts, settings, [7] * 8 + [1] * 4, limits)
    plan = schedule.Schedule(None, CONFIG, prompts, settings, 0, 256, orders=orders)
    # 24 + 180, 48 + 160, 96 + 130, 128 + 100 and 192 + 10 entries; the next size of ring is 256.
    assert plan.rings == [256]
    for batch in plan.batches:
        width = max(len(prompts[i]) for i in batch)
        assert width + max(limits[i] for i in batch) <= 256
    assert sorted(chain(*plan.batches)) == list(range(12))
    assert len(plan.batches) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": [1, 2, 3]}, "counts: 3 for 4 prompts"),
        ({"counts": [1, 0, 3, 1]}, "counts: 0, that of prompt 1, is below 1"),
        ({"limits": [12, 12, 0, 12]}, "limits: 0, that of prompt 2, is not from 1 to"),
        ({"limits": [12, 12, 12, 13]}, "limits: 13, that of prompt 3, .* max_tokens = 12"),
    ],
)
def test_refusals(sampler, changes, message):
    with pytest.raises(ConfigError, match=message):
        sampler.generate(PROMPTS, SAMPLING, 3, **changes)


def test_the_context_has_to_hold_the_limit_only(sampler):
    long = [1] * 60
    [group] = sampler.generate([long], SAMPLING, 0, limits=[4])
    assert max(len(c.tokens) for c in group) <= 4
    with pytest.raises(ConfigError, match="max_tokens: 65 tokens exceed"):
        sampler.generate([long], SAMPLING, 0, limits=[5])
