"""Policy losses in chunks through the LM head, against all logits at once and autodiff."""

from __future__ import annotations

import math
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.losses import aggregation_weights, policy_loss
from curiojax.losses.lm_head import chunked_loss, log_prob_pass
from curiojax.objectives import Grpo, GrpoReleased, Sft
from curiojax.sharding import make_mesh, named_sharding

B, T, D, V, CHUNK = 8, 13, 16, 1200, 8
GIVEN = ("old_log_probs", "sampler_log_probs", "ref_log_probs", "advantages")
EVERYTHING = Grpo(dual_clip=1.4, tis_cap=1.1, kl_coef=0.3, kl_estimator="k2", entropy_coef=0.02)
# Objective, temperature of the rollouts, and whether the old log-probabilities are given.
CASES = {
    "grpo": (Grpo(), 1.0, True),
    "on_policy": (Grpo(tis_cap=2.0), 1.0, False),
    "everything": (EVERYTHING, 0.7, True),
    "everything_on_policy": (EVERYTHING, 1.0, False),
    "released": (GrpoReleased(), 1.3, True),
}


@pytest.fixture(scope="module")
def arrays() -> dict[str, jax.Array]:
    """Weights of two sequences per row, padding behind, and policies near one another."""
    rng = np.random.default_rng(0)
    head, hidden = rng.normal(size=(V, D)) / 8, rng.normal(size=(B, T, D))
    labels = rng.integers(0, V, size=(B, T))
    lengths = np.array([[4] * 4 + [6] * 6 + [0] * 3] * 5 + [[13] * 13, [1] + [0] * 12, [0] * 13])
    scores = hidden @ head.T
    log_probs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    log_probs = np.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    arrays = {
        "head": head,
        "hidden": hidden,
        "mask": aggregation_weights(lengths, "seq_mean_token_mean")[0],
        "advantages": rng.normal(size=(B, T)),
        **{name: log_probs + 0.3 * rng.normal(size=(B, T)) for name in GIVEN[:3]},
    }
    arrays = {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()}
    return {**arrays, "labels": jnp.asarray(labels, jnp.int32)}


def total(case, head, hidden, labels, mask, targets, **options):
    objective, temperature, _ = case
    return chunked_loss(
        objective, head, hidden, labels, mask, targets, temperature=temperature, **options
    )


def dense(case, head, hidden, labels, mask, targets):
    """With `jax.nn.log_softmax` of all logits, and `jax.grad`."""
    objective, temperature, _ = case
    logits = hidden.astype(jnp.float32) @ head.astype(jnp.float32).T / temperature
    log_probs = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    entropy = -(jnp.exp(log_probs) * log_probs).sum(axis=-1)
    given = {"old_log_probs": None, **targets}
    loss, metrics = policy_loss(
        objective, log_prob, mask=mask, entropy=entropy, **given
    )  # fmt: skip
    kept = {k: jnp.where(mask > 0, x, 0) for k, x in (("log_prob", log_prob), ("entropy", entropy))}
    return (mask * loss).sum(), {**kept, **metrics}


@cache
def jitted(function, case, **options):
    def loss(parts, rest):
        return function(case, **parts, **rest, **options)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def split(case, arrays):
    names = [name for name in GIVEN if case[2] or name != "old_log_probs"]
    rest = {name: arrays[name] for name in ("labels", "mask")}
    rest["targets"] = {name: arrays[name] for name in names}
    return {name: arrays[name] for name in ("head", "hidden")}, rest


def value_and_gradients(function, case, arrays, **options):
    return jitted(function, case, **options)(*split(case, arrays))


def assert_close(got, want, tolerance=1e-5):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert x.shape == y.shape
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.abs(x - y).max() <= tolerance * max(np.abs(y).max(), 1e-3)


@pytest.fixture(scope="module")
def expected(arrays):
    return {name: value_and_gradients(dense, case, arrays) for name, case in CASES.items()}


@pytest.mark.parametrize(
    ("name", "reference"), [*((name, False) for name in CASES), ("everything", True)]
)
def test_chunked_is_dense(arrays, expected, name, reference):
    got = value_and_gradients(total, CASES[name], arrays, chunk_tokens=CHUNK, reference=reference)
    assert_close(got, expected[name])


def test_the_arrays_reach_every_branch(arrays, expected):
    valid = np.asarray(arrays["mask"]) > 0
    metrics = expected["everything"][0][1]
    for flag in ("clipped_high", "clipped_low", "dual_clipped", "tis_capped"):
        assert 0.02 < np.asarray(metrics[flag])[valid].mean() < 0.5, flag


# Less than a row, whole rows, everything at once; T = 13 is divisible by none of them.
@pytest.mark.parametrize(("chunk_tokens", "num_shards"), [(3, 1), (40, 4), (4096, 8)])
def test_chunk_and_shard_sizes_do_not_matter(arrays, expected, chunk_tokens, num_shards):
    options = {"chunk_tokens": chunk_tokens, "num_shards": num_shards}
    got = value_and_gradients(total, CASES["everything"], arrays, **options)
    assert_close(got, expected["everything"])


def test_sharded_over_devices(arrays, expected):
    mesh = make_mesh(2, 2, 2)
    case = CASES["everything"]
    by_row = named_sharding(mesh, ("batch", "length"))
    parts, rest = split(case, arrays)
    parts = {
        "head": jax.device_put(parts["head"], named_sharding(mesh, ("vocab", "embed"))),
        "hidden": jax.device_put(parts["hidden"], by_row),
    }
    rest = jax.device_put(rest, by_row)

    def loss(parts, rest):
        return total(case, **parts, **rest, chunk_tokens=CHUNK, num_shards=4)

    with jax.set_mesh(mesh):
        shardings = (None, {name: x.sharding for name, x in parts.items()})
        step = jax.jit(jax.value_and_grad(loss, has_aux=True), out_shardings=shardings)
        got = step(parts, rest)
    assert_close(got, expected["everything"])


def test_golden_through_the_head():
    """Three columns, of which the label's has the golden log-probability."""
    with np.load(Path(__file__).parents[1] / "golden" / "rl.npz") as file:
        data = dict(file)
    rows, width = data["lp"].shape
    rest_of_it = np.log(-np.expm1(data["lp"]) / 2)
    logits = np.stack([data["lp"], rest_of_it, rest_of_it], axis=-1).reshape(-1, 3)
    as_float = partial(jnp.asarray, dtype=jnp.float32)
    lengths = data["lengths"][:, None] * (data["mask"] > 0)
    targets = {
        "old_log_probs": as_float(data["lp_old"]),
        "sampler_log_probs": as_float(data["lp_sampler"]),
        "advantages": as_float(np.repeat(data["advantages"].reshape(-1, 1), width, axis=1)),
    }
    hidden = as_float(np.eye(rows * width).reshape(rows, width, -1))
    labels = jnp.zeros((rows, width), jnp.int32)
    modes: dict[Any, float] = {
        "token_mean": data["mask"].sum(),
        "seq_mean_token_mean": rows,
        "seq_mean_token_sum": rows,
        "seq_mean_token_sum_norm": rows,
    }
    for name, objective in [("grpo_dual_clip_3", Grpo(dual_clip=3.0)),
                            ("grpo_tis_2", Grpo(tis_cap=2.0))]:  # fmt: skip

        @jax.jit
        def run(head, mask, objective=objective):
            def loss(head):
                return chunked_loss(
                    objective, head, hidden, labels, mask, targets, chunk_tokens=200
                )  # fmt: skip

            return jax.value_and_grad(loss, has_aux=True)(head)

        for mode, weight in modes.items():
            mask = as_float(aggregation_weights(lengths, mode, max_length=16)[0])
            (value, metrics), gradient = run(as_float(logits.T), mask)
            assert float(value) / weight == pytest.approx(
                float(data[f"loss/{name}/{mode}"]), rel=1e-5
            )
            slope = np.eye(3)[[0]] - np.exp(logits)
            want = data[f"grad/{name}/{mode}"].reshape(-1, 1) * slope * weight
            assert_close(gradient.T, want)
            # Metrics are of the tokens, whatever weight their loss has.
            assert_close(metrics["log_prob"], data["lp"] * data["mask"])


def test_one_advantage_per_row(arrays):
    one = arrays["advantages"][:, :1]
    spread = jnp.broadcast_to(one, (B, T))
    got, want = (
        value_and_gradients(total, CASES["grpo"], {**arrays, "advantages": x}, chunk_tokens=CHUNK)
        for x in (one, spread)
    )
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_without_old_log_probs_the_ratio_is_exactly_one(arrays):
    case = CASES["on_policy"]
    (_, metrics), gradients = value_and_gradients(total, case, arrays, chunk_tokens=CHUNK)
    mask = np.asarray(arrays["mask"] > 0)
    np.testing.assert_array_equal(metrics["ratio"], mask)
    np.testing.assert_array_equal(metrics["old_kl"], 0 * mask)
    # The same update as with the log-probabilities of a pass of its own.
    inputs = [arrays[name] for name in ("head", "hidden", "labels", "mask")]
    old = log_prob_pass(*inputs, chunk_tokens=24)["log_prob"]
    explicit = value_and_gradients(
        total, (case[0], 1.0, True), {**arrays, "old_log_probs": old}, chunk_tokens=CHUNK
    )
    assert_close(explicit[1], gradients)
    np.testing.assert_allclose(explicit[0][1]["ratio"][mask], 1, rtol=1e-5)


def test_on_policy_token_by_token(arrays):
    """One program: flagged tokens as if they had no old policy, the others with theirs."""
    case = CASES["everything"]
    (_, own), _ = value_and_gradients(dense, case, arrays)
    flag = jnp.asarray(np.tile(np.arange(T) % 3 == 0, (B, 1)))
    parts, rest = split(case, arrays)
    old = jnp.where(flag, own["log_prob"], arrays["old_log_probs"])
    want = value_and_gradients(total, case, {**arrays, "old_log_probs": old}, chunk_tokens=CHUNK)
    # What the flagged tokens' old policy is said to be does not matter.
    rest["targets"]["old_log_probs"] = jnp.where(flag, jnp.nan, arrays["old_log_probs"])
    for kind in (jnp.float32, bool):
        rest["targets"]["on_policy"] = flag.astype(kind)
        got = jitted(total, case, chunk_tokens=CHUNK)(parts, rest)
        assert_close(got, want)
        ratio = np.asarray(got[0][1]["ratio"])
        np.testing.assert_array_equal(ratio[flag & (arrays["mask"] > 0)], 1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("chunk_tokens", "num_shards"), [(8, 1), (24, 8)])
def test_log_prob_pass(arrays, temperature, chunk_tokens, num_shards):
    options = {"chunk_tokens": chunk_tokens, "num_shards": num_shards, "temperature": temperature}

    @jax.jit
    def run(head, hidden):
        def total(head, hidden):
            scores = log_prob_pass(head, hidden, arrays["labels"], arrays["mask"], **options)
            return sum(x.sum() for x in scores.values()), scores

        return jax.grad(total, argnums=(0, 1), has_aux=True)(head, hidden)

    gradients, got = run(arrays["head"], arrays["hidden"])
    case = (Grpo(), temperature, True)
    (_, metrics), _ = value_and_gradients(dense, case, arrays)
    assert set(got) == {"log_prob", "entropy"}
    assert_close(got, {name: metrics[name] for name in got})
    for gradient in gradients:
        assert not gradient.any()


@pytest.mark.parametrize("name", ["everything_on_policy", "released"])
def test_masked_positions_may_hold_anything(arrays, expected, name):
    kept = arrays["mask"] > 0
    spoilt = {k: jnp.where(kept, arrays[k], jnp.nan) for k in GIVEN}
    spoilt["hidden"] = jnp.where(kept[..., None], arrays["hidden"], jnp.inf)
    spoilt["labels"] = jnp.where(kept, arrays["labels"], -100)
    got = value_and_gradients(total, CASES[name], {**arrays, **spoilt}, chunk_tokens=CHUNK)
    assert_close(got, expected[name])
    for x in jax.tree.leaves(got[0][1]):
        assert not np.asarray(x)[~np.asarray(kept)].any()


def test_bfloat16_products(arrays, expected):
    half = {"hidden": arrays["hidden"].astype(jnp.bfloat16)}
    got = value_and_gradients(total, CASES["grpo"], {**arrays, **half}, chunk_tokens=CHUNK)
    assert got[1]["head"].dtype == jnp.float32 and got[1]["hidden"].dtype == jnp.bfloat16
    assert {x.dtype for x in got[0][1].values()} == {jnp.dtype("float32")}
    rounded = {**half, "head": arrays["head"].astype(jnp.bfloat16)}
    want = value_and_gradients(dense, CASES["grpo"], {**arrays, **rounded})
    assert_close(got[0], want[0], 1e-4)
    assert_close(got[1]["head"], want[1]["head"], 1e-2)


def shapes(text: str) -> list[int]:
    found = re.findall(r"\b(?:f32|bf16|s32|pred|u32)\[([\d,]+)\]", text)
    sizes = [[int(d) for d in dims.split(",")] for dims in found]
    return [math.prod(s) for s in sizes if any(d % V == 0 for d in s)]


def compiled(arrays, name, chunk_tokens) -> str:
    function = jitted(total, CASES[name], chunk_tokens=chunk_tokens)
    return function.lower(*split(CASES[name], arrays)).compile().as_text() or ""


def test_no_buffer_holds_the_logits_of_all_tokens(arrays):
    assert max(shapes(compiled(arrays, "everything", CHUNK))) <= V * max(D, CHUNK)
    # The check can fail: everything in one chunk.
    assert max(shapes(compiled(arrays, "everything", B * T))) >= V * B * T


def test_three_products_with_the_head(arrays):
    def count(case):
        parts, rest = split(case, arrays)

        def loss(parts):
            return total(case, **parts, **rest, chunk_tokens=CHUNK)[0]

        return str(jax.make_jaxpr(jax.grad(loss))(parts)).count("dot_general[")

    assert {name: count(case) for name, case in CASES.items()} == dict.fromkeys(CASES, 3)


def test_the_entropy_costs_a_gradient_only_where_it_is_paid_for(arrays):
    def passes(objective):
        case = (objective, 1.0, True)
        parts, rest = split(case, arrays)
        lowered = jitted(total, case, chunk_tokens=CHUNK).lower(parts, rest)
        return len(re.findall(rf"stablehlo\.multiply .*tensor<{CHUNK}x{V}xf32>", lowered.as_text()))

    assert passes(Grpo(kl_coef=0.1, tis_cap=2.0)) == passes(Grpo()) < passes(Grpo(entropy_coef=0.1))


def test_what_is_missing_or_useless_is_named(arrays):
    inputs = (arrays["head"], arrays["hidden"], arrays["labels"], arrays["mask"])
    targets = {"advantages": arrays["advantages"]}
    with pytest.raises(ValueError, match=r"grpo: needs targets\['advantages'\]"):
        chunked_loss(Grpo(), *inputs)
    with pytest.raises(ValueError, match="grpo: tis_cap needs sampler_log_probs"):
        chunked_loss(Grpo(tis_cap=2.0), *inputs, targets)
    with pytest.raises(ValueError, match="sft: a temperature is for policy objectives only"):
        chunked_loss(Sft(), *inputs, temperature=0.5)
    with pytest.raises(ValueError, match="temperature must be above 0, not 0"):
        chunked_loss(Grpo(), *inputs, targets, temperature=0)
    with pytest.raises(ValueError, match="temperature must be above 0, not 0"):
        log_prob_pass(*inputs, temperature=0)


@pytest.mark.gpu
def test_gpu_agrees_with_cpu(arrays):
    results = []
    for platform in ("cpu", "gpu"):
        placed = jax.device_put(arrays, jax.devices(platform)[0])
        with jax.default_matmul_precision("highest"):
            results.append(
                value_and_gradients(total, CASES["everything"], placed, chunk_tokens=CHUNK)
            )
    assert_close(results[1], results[0], 2e-5)
