"""The budget that is printed before a run, against what the arrays then take."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from curiojax import models
from curiojax.config import load_config
from curiojax.errors import ConfigError
from curiojax.rollout import JaxSampler, Sampling, schedule, slots
from curiojax.rollout.base import orders_of
from curiojax.rollout.memory import sampler_memory
from curiojax.sharding import make_mesh
from curiojax.training import memory
from curiojax.training.recipe import Recipe

from . import tiny

BFLOAT16 = dataclasses.replace(tiny.MODEL, compute_dtype="bfloat16", max_position_embeddings=128)


def on_first_device(tree):
    device = jax.devices()[0]
    shards = [s for x in jax.tree.leaves(tree) for s in x.addressable_shards]
    return sum(s.data.nbytes for s in shards if s.device == device)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2)])
def test_the_samplers_part_is_what_it_holds(monkeypatch, shape):
    monkeypatch.setattr(schedule, "SHORT_RING", 32)
    mesh = make_mesh(*shape, devices=jax.devices()[: math.prod(shape)])
    weights, cache = sampler_memory(
        BFLOAT16, mesh, rows=6, completions=40, longest_prompt=9, max_tokens=72
    )
    params = models.init_params(jax.random.key(0), BFLOAT16)
    sampler = JaxSampler(params, BFLOAT16, num_slots=6, mesh=mesh)
    copy, _ = sampler._in_use()
    assert memory.num_bytes(weights) == on_first_device(copy)
    with jax.set_mesh(mesh):
        prompts = [np.arange(1, 10).tolist()] * 10
        plan = schedule.Schedule(copy, BFLOAT16, prompts, Sampling(max_tokens=72, n=4), 0, 6)
        rows = len(plan.rows.tasks)
        assert plan.rings == [32, 64, 80]
        held = []
        ring = slots.new_cache(copy, BFLOAT16, rows, plan.rings[0])
        for length in plan.rings[1:]:
            longer = slots.grow(ring, length)
            held.append(on_first_device((ring, longer)))
            ring = longer
    assert memory.num_bytes(cache) == max(held)


def test_a_ring_that_need_not_grow_counts_once():
    mesh = make_mesh(devices=jax.devices()[:1])
    _, caches = sampler_memory(
        BFLOAT16, mesh, rows=4, completions=3, longest_prompt=9, max_tokens=24
    )
    [cache] = caches
    # 2 layers, 3 rows (no more than completions), 2 heads, 8 + 24 entries of 8 numbers.
    assert cache["k"].shape == (2, 3, 2, 32, 8) and cache["k"].dtype == "bfloat16"
    assert memory.num_bytes(caches) == 2 * 2 * 3 * 2 * 32 * 8 * 2 + 3 * 32 * 4 + 4


def test_begun_prompts_need_no_longer_ring_than_is_planned():
    mesh = make_mesh(devices=jax.devices()[:1])
    sizes = {"rows": 6, "completions": 40, "longest_prompt": 9, "max_tokens": 72}
    _, caches = sampler_memory(BFLOAT16, mesh, **sizes, begun=True)
    longest = caches[-1]["k"].shape[3]
    random, settings = np.random.default_rng(0), Sampling(max_tokens=72)
    for _ in range(20):
        given = [0] * 10 + random.integers(1, 72, 10).tolist()
        prompts = [[1] * (9 + k) for k in given]
        orders = orders_of(prompts, settings, None, [72 - k for k in given])
        with jax.set_mesh(mesh):
            plan = schedule.Schedule(None, BFLOAT16, prompts, settings, 0, 6, orders=orders)
        assert plan.rings[-1] <= longest <= 1.5 * 81 + 8


class Programs:
    """Of a step: what XLA says that they need."""

    def memory(self):
        sized = dataclasses.make_dataclass("Analysis", ["temp_size_in_bytes"])
        return {"a": sized(3_000_000), "b": sized(500_000)}


def budget(*overrides):
    config = load_config(
        None,
        ["stage=grpo", "data.max_prompt_tokens=8", "rollout.max_response_tokens=24", *overrides],
    )
    recipe = Recipe(config, tiny.MODEL, make_mesh(devices=jax.devices()[:1]), total_steps=10)
    return memory.memory_budget(recipe, Programs())  # type: ignore[arg-type]


def test_updates_and_sampling_take_turns(monkeypatch):
    monkeypatch.setattr(memory, "format_bytes", int)
    few = budget("rollout.batch_size=1", "prompts_per_step=64")
    sampler = few["sampler's weights (float32)"]
    assert sampler == few["parameters (float32)"]
    kept = few["parameters (float32)"] + few["optimiser"] + sampler
    updates = few["gradient sums (float32)"] + 3_000_000
    assert few["sampler's keys and values, at most"] < updates
    assert few["at the same time"] == kept + updates
    many = budget("rollout.batch_size=100000", "prompts_per_step=640")
    cache = many["sampler's keys and values, at most"]
    assert cache > updates and many["at the same time"] == kept + cache
    vllm = budget("rollout={engine: vllm, vllm_python: x}")
    assert not any("sampler" in name for name in vllm)
    assert vllm["at the same time"] == kept - sampler + updates


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["rollout.batch_size=1"], ["rows_per_microbatch:", "XLA_PYTHON_CLIENT_MEM_FRACTION"]),
        (["rollout.batch_size=100000", "prompts_per_step=640"], ["rollout.batch_size:"]),
        (
            ["rollout={engine: vllm, vllm_python: x, layout: shared}"],
            ["rows_per_microbatch:", "a lower rollout.memory_share"],
        ),
    ],
)
def test_too_much_is_refused_with_what_to_lower(monkeypatch, overrides, words):
    monkeypatch.setattr(memory, "device_memory", lambda: 1_000_000)
    with pytest.raises(ConfigError) as caught:
        budget(*overrides)
    assert all(word in str(caught.value) for word in words)
