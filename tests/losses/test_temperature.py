from __future__ import annotations

import re
from functools import partial

import float64_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.losses import entropy_guided_temperature
from curiojax.losses.temperature import choose_temperature, top_k_values
from curiojax.objectives import Curio
from curiojax.sharding import make_mesh, named_sharding

SEARCHES = {
    "bisect": Curio(),
    "newton": Curio(search="newton"),
}

temperature = jax.jit(entropy_guided_temperature, static_argnums=1)
choice = jax.jit(choose_temperature, static_argnums=1)


def tau_of(logits, objective, dtype=jnp.float32) -> np.ndarray:
    tau = temperature(jnp.asarray(logits, dtype), objective)
    assert tau.dtype == jnp.float32
    return np.asarray(tau, np.float64)


@pytest.mark.parametrize("objective", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("vocab_size", [61, 700])
def test_golden_temperatures(objective, vocab_size):
    data = oracle.golden(vocab_size)
    ungated = objective.model_copy(update={"gate_entropy": None})
    for key, variant in (("tau_released", objective), ("tau_paper", ungated)):
        np.testing.assert_allclose(tau_of(data["teacher_logits"], variant), data[key], atol=2e-5)
    found = choice(jnp.asarray(data["teacher_logits"], jnp.float32), objective)
    np.testing.assert_allclose(found.increment, data["entropy_increment"], atol=2e-6)
    np.testing.assert_allclose(found.entropy, oracle.entropy(data["teacher_logits"]), atol=5e-6)


def test_gate_is_what_tells_released_from_paper():
    data = oracle.golden(61)
    gated = oracle.entropy(data["teacher_logits"]) <= 0.03
    differs = np.abs(data["tau_released"] - data["tau_paper"]) > 1e-9
    np.testing.assert_array_equal(differs, gated)
    found = choice(jnp.asarray(data["teacher_logits"], jnp.float32), Curio())
    np.testing.assert_array_equal(np.asarray(found.gated) == 1, gated)


@pytest.mark.parametrize("objective", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("ends", [(1.1, 1.5), (1.0, 2.0), (1.05, 3.0)], ids=str)
def test_assorted_rows_agree_with_float64(objective, ends):
    tau_min, tau_max = ends
    update = {"tau_min": tau_min, "tau_max": tau_max, "gate_entropy": None}
    objective = objective.model_copy(update=update)
    logits = oracle.assorted_rows(np.random.default_rng(0), 400, 512).astype(np.float32)
    want = oracle.temperature(logits, objective)
    assert ((want > tau_min) & (want < tau_max)).sum() > 100
    # Fifteen halvings of a bracket five times as wide, and rows that are flatter up there.
    tolerance = 2e-5 if tau_max <= 2 else 1e-4
    np.testing.assert_allclose(tau_of(logits, objective), want, atol=tolerance)


def test_few_bisections_are_coarse():
    data = oracle.golden(61)
    error = np.abs(tau_of(data["teacher_logits"], Curio(search_steps=1)) - data["tau_released"])
    assert 1e-4 < error.max() < 0.2


def test_bisection_does_not_jump_between_brackets():
    """Logits that differ by rounding give temperatures that differ by rounding."""
    logits = np.array([[3, 2.8, -1, -1.5, -2, -4, -5, -6]]) + np.linspace(0, 1e-4, 200)[
        :, None
    ] * np.cos(np.arange(8))
    steps = np.abs(np.diff(tau_of(logits, Curio())))
    assert steps.max() < 0.4 / 2**16


# Teacher logits are z + 0.1 cos(k): A is interior below the pivot, B and D end at the cap, C is
# interior, E is near-deterministic.
VECTORS = {
    "A": ([8, 2, 1, 0, 0, 0, 0, 0], 0.03689251, 0.04448750, 1.14951332),
    "B": ([2, 1.5, 1, 0, -1, -1, -2, -3], 1.36830013, 0.29168223, 1.5),
    "C": ([3, 2.8, -1, -1.5, -2, -4, -5, -6], 0.78306932, 0.15141461, 1.33854665),
    "D": ([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], 2.04989225, 0.42275329, 1.5),
    "E": ([12, 0, 0, 0, 0, 0, 0, 0], 0.00051407, 0.04162557, 1.5),
}


@pytest.mark.parametrize("search", ["bisect", "newton"])
def test_worked_examples(search):
    teacher = np.array([z for z, *_ in VECTORS.values()]) + 0.1 * np.cos(np.arange(8))
    teacher = jnp.asarray(teacher, jnp.float32)
    _, entropy, increment, tau = zip(*VECTORS.values(), strict=True)
    found = choice(teacher, Curio(search=search, gate_entropy=None))
    np.testing.assert_allclose(found.entropy, entropy, atol=1e-6)
    np.testing.assert_allclose(found.increment, increment, atol=1e-6)
    np.testing.assert_allclose(found.tau, tau, atol=2e-5)
    np.testing.assert_array_equal(found.at_cap, [0, 1, 0, 1, 1])
    gated = choice(teacher, Curio(search=search))
    np.testing.assert_allclose(gated.tau, [*tau[:4], 1.1], atol=2e-5)
    np.testing.assert_array_equal(gated.gated, [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(gated.at_cap, [0, 1, 0, 1, 0])


@pytest.mark.parametrize("search", ["bisect", "newton"])
def test_interior_temperatures_reach_the_target_and_flags_exclude_each_other(search):
    logits = oracle.assorted_rows(np.random.default_rng(1), 200, 300).astype(np.float32)
    found = jax.tree.map(np.asarray, choice(jnp.asarray(logits), Curio(search=search)))
    flags = found.gated + found.at_floor + found.at_cap
    assert set(flags) == {0.0, 1.0}
    inside = flags == 0
    assert inside.sum() > 20
    reached = oracle.entropy(logits[inside] / found.tau[inside, None].astype(np.float64))
    want = oracle.entropy(logits[inside].astype(np.float64)) + found.increment[inside]
    np.testing.assert_allclose(reached, want, atol=1e-4)
    np.testing.assert_array_equal(found.tau[(found.gated + found.at_floor) == 1], np.float32(1.1))
    np.testing.assert_array_equal(found.tau[found.at_cap == 1], np.float32(1.5))


@pytest.mark.parametrize("search", ["bisect", "newton"])
def test_temperature_grows_with_the_increment(search):
    logits = oracle.assorted_rows(np.random.default_rng(2), 60, 100)
    by_increment = [
        tau_of(logits, Curio(search=search, gate_entropy=None, max_entropy_increment=most))
        for most in (0.2, 0.8)
    ]
    steps = np.diff(by_increment, axis=0)
    assert steps.min() > -3e-6
    assert steps.max() > 0.05


def test_fixed_temperature_replaces_search_and_gate():
    logits = np.stack([np.eye(8)[0] * 50, np.arange(8.0)])
    found = choice(jnp.asarray(logits, jnp.float32), Curio(fixed_tau=1.3))
    np.testing.assert_allclose(found.tau, 1.3, rtol=1e-6)
    for flag in (found.gated, found.at_floor, found.at_cap):
        np.testing.assert_array_equal(flag, 0)


@pytest.mark.parametrize("search", ["bisect", "newton"])
def test_hard_rows_stay_finite_and_right(search):
    """-inf columns, logits around 1e4, ties, one-hot rows, fewer tokens than top_k."""
    rng = np.random.default_rng(3)
    real = rng.normal(size=(6, 40)) * 3
    searched = np.concatenate(
        [real, real + 1e4, rng.permuted(np.tile([1e4, 9999, 9998, -1e4], 10))[None]]
    ).astype(np.float32)
    one_hot = np.where(np.arange(40) == 7, 1e4, -1e4)[None]
    only = np.where(np.arange(40) == 3, 0.0, -np.inf)[None]
    flat = np.zeros((1, 40))
    logits = np.concatenate([searched, one_hot, only, flat])
    logits = np.concatenate([logits, np.full((len(logits), 24), -np.inf)], axis=1)
    objective = Curio(search=search)
    got = tau_of(logits, objective)
    np.testing.assert_allclose(got[:13], oracle.temperature(searched, objective), atol=2e-5)
    np.testing.assert_array_equal(got[13:], np.array([1.1, 1.1, 1.5], np.float32))
    # Entropy 0 at every temperature: it can never rise by the increment.
    ungated = Curio(search=search, gate_entropy=None)
    np.testing.assert_array_equal(tau_of(logits, ungated)[13:15], np.float32(1.5))


def test_low_precision_logits_are_searched_in_float32():
    logits = oracle.assorted_rows(np.random.default_rng(4), 40, 64)
    rounded = np.asarray(jnp.asarray(logits, jnp.bfloat16).astype(jnp.float32))
    got = tau_of(rounded, Curio(), jnp.bfloat16)
    np.testing.assert_allclose(got, oracle.temperature(rounded, Curio()), atol=2e-5)


def test_order_of_the_vocabulary_and_of_the_tokens_does_not_matter():
    rng = np.random.default_rng(5)
    logits = oracle.assorted_rows(rng, 24, 1500)
    objective = Curio(top_k=64, gate_entropy=None)
    want = tau_of(logits, objective)
    np.testing.assert_allclose(tau_of(logits[:, rng.permutation(1500)], objective), want, atol=2e-6)
    rows = rng.permutation(24)
    np.testing.assert_allclose(tau_of(logits[rows], objective), want[rows], atol=2e-6)


def test_no_gradient_flows_through_the_temperature():
    logits = jnp.asarray(oracle.golden(61)["teacher_logits"], jnp.float32)
    gradient = jax.grad(lambda x: entropy_guided_temperature(x, Curio()).sum())(logits)
    np.testing.assert_array_equal(gradient, 0)


# Divisible by a good block, prime, barely above k, at most k.
@pytest.mark.parametrize("size", [4096, 4093, 2500, 130, 64, 40])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_top_k_is_exact_as_a_multiset(size, ties, platform, monkeypatch):
    # The branch of the other platforms gives the same answer.
    chosen = lambda x, **branches: branches[platform](x)  # noqa: E731
    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
    rng = np.random.default_rng(size)
    x = rng.normal(size=(8, size)).astype(np.float32)
    if ties:
        x = np.round(x)
    x[0] = 1.0
    x[1, size // 2 :] = -np.inf
    x[2] = np.sort(x[2])
    x[3] = -np.sort(-x[3])
    got = np.sort(jax.jit(partial(top_k_values, k=64))(jnp.asarray(x)), axis=-1)
    np.testing.assert_array_equal(got, np.sort(x, axis=-1)[:, -min(64, size) :])


@pytest.mark.parametrize("vocab_size", [152064, 151936, 128256, 32003])
def test_nothing_close_to_the_vocabulary_is_sorted(vocab_size):
    logits = jax.ShapeDtypeStruct((4, vocab_size), jnp.float32)
    longest = 0
    text = str(jax.make_jaxpr(lambda x: entropy_guided_temperature(x, Curio()))(logits))
    assert "top_k[" in text
    for line in text.splitlines():
        if " sort[" in line or "top_k[" in line:
            for shape in line.split("[")[1:]:
                sizes = [int(n) for n in shape.split("]")[0].split(",") if n.isdigit()]
                longest = max([longest, *sizes])
    assert 0 < longest <= 2.2 * (vocab_size * 512) ** 0.5


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)], ids=str)
def test_search_stays_on_its_devices(sizes, monkeypatch):
    """The sort that GPUs take does not meet the tokens of other devices, nor does the search."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda x, *, cpu, default: default(x))
    logits = np.random.default_rng(6).normal(size=(16, 4096)).astype(np.float32) * 3
    objective = Curio(top_k=64)
    mesh = make_mesh(*sizes)
    placed = jax.device_put(logits, named_sharding(mesh, ("batch", "vocab")))
    with jax.set_mesh(mesh):
        search = jax.jit(lambda x: entropy_guided_temperature(x, objective))
        program = search.lower(placed).compile()
    np.testing.assert_allclose(program(placed), oracle.temperature(logits, objective), atol=2e-5)
    collectives, computation = {}, ""
    for line in program.as_text().splitlines():
        if not line.startswith(" "):
            computation = line.split(" ")[0]
        if re.search(r" (all-\w+|reduce-scatter|collective-permute)\(", line):
            collectives.setdefault(computation, []).append(line)
    if sizes[2] == 1:
        assert not collectives
    # A vocabulary over `tensor`: its devices exchange block maxima and blocks, before the search.
    assert set(collectives) <= {"ENTRY"}
