"""Packing, padding and rematerialisation change nothing; the implementations agree."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from curiojax.errors import ConfigError
from curiojax.models import abstract_params, decode, forward, init_cache, logits, param_axes
from curiojax.models import attention as attention_module
from curiojax.models.attention import attention
from curiojax.models.config import ModelConfig
from curiojax.sharding import make_mesh, named_sharding, tree_shardings

LENGTHS = (9, 1, 14, 6)


def tiny(**changes) -> ModelConfig:
    config = ModelConfig(
        model_type="qwen2",
        vocab_size=64,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=48,
        attention_bias=True,
    )
    return dataclasses.replace(config, **changes)


@functools.cache
def random_params():
    """Larger than the usual initialisation, so that attention is far from uniform."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(random.normal(size=x.shape) * 0.25 + (x.ndim < 3), x.dtype),
        abstract_params(tiny()),
    )


def records():
    random = np.random.default_rng(0)
    return [random.integers(0, 64, length) for length in LENGTHS]


def pack(rows, length):
    """Lays records out in rows; `rows` lists, per row, the records and the gaps (ints) in it."""
    batch = {key: np.zeros((len(rows), length), np.int32) for key in ("tokens", "pos", "seg")}
    places = []
    for r, row in enumerate(rows):
        start, segment = 0, 0
        for item in row:
            if isinstance(item, int):
                start += item
                continue
            segment += 1
            span = slice(start, start + len(item))
            batch["tokens"][r, span] = item
            batch["pos"][r, span] = np.arange(len(item))
            batch["seg"][r, span] = segment
            places.append((r, span))
            start += len(item)
    # What lies in the padding must not matter.
    hole = batch["seg"] == 0
    batch["tokens"][hole] = np.random.default_rng(length).integers(0, 64, hole.sum())
    return batch, places


def packings():
    """Row layouts and lengths: one record per row, packed with gaps, with a row of padding only."""
    one, two, three, four = records()
    return [
        ([[one], [two], [three], [four]], 14),
        ([[3, one, two, 2, three, 5, four]], 41),
        ([[one, three], [], [two, four]], 25),
    ]


@functools.partial(jax.jit, static_argnums=1)
def scores_and_gradient(params, config, batch, weights):
    def total(params):
        hidden = forward(params, config, batch["tokens"], batch["pos"], batch["seg"])
        scores = jax.nn.log_softmax(logits(params, config, hidden))
        return jnp.sum(scores * weights), scores

    gradient, scores = jax.grad(total, has_aux=True)(params)
    return scores, gradient


def run(config, rows, length, params=None):
    """Log-softmax of every record, in order, and the gradient of a sum over all of them."""
    batch, places = pack(rows, length)
    weights = np.zeros((*batch["tokens"].shape, config.vocab_size), np.float32)
    order = sorted(range(len(places)), key=lambda i: LENGTHS.index(_length(places[i])))
    for record, i in enumerate(order):
        row, span = places[i]
        random = np.random.default_rng(record)
        weights[row, span] = random.normal(size=(_length(places[i]), config.vocab_size))
    params = random_params() if params is None else params
    scores, gradient = scores_and_gradient(params, config, batch, weights)
    scores = np.asarray(scores)
    assert np.isfinite(scores).all()
    picked = np.concatenate([scores[places[i][0], places[i][1]] for i in order])
    return picked, jax.tree.map(lambda x: np.asarray(x, np.float32), gradient)


def _length(place):
    return place[1].stop - place[1].start


def assert_trees_close(got, want, tolerance):
    def check(a, b):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3))

    jax.tree.map(check, got, want)


@functools.cache
def unpacked():
    return run(tiny(attention="xla"), *packings()[0])


@pytest.mark.parametrize("implementation", ["xla", "blocked"])
def test_packing_and_padding_change_nothing(implementation, monkeypatch):
    monkeypatch.setattr(attention_module, "QUERY_BLOCK", 8)
    scores, gradient = unpacked()
    for layout in packings()[1:]:
        other_scores, other_gradient = run(tiny(attention=implementation), *layout)
        np.testing.assert_allclose(other_scores, scores, rtol=0, atol=1e-5)
        assert_trees_close(other_gradient, gradient, 1e-5)


def test_records_of_a_row_are_really_apart():
    """Merging the segments does change the result, so the test above can fail."""
    batch, _ = pack([records()], 30)
    run_forward = functools.partial(jax.jit(forward, static_argnums=1), random_params(), tiny())
    apart = run_forward(*batch.values())
    together = run_forward(batch["tokens"], batch["pos"], np.ones_like(batch["seg"]))
    assert np.abs(apart - together)[:, 12:].max() > 0.1
    np.testing.assert_array_equal(apart[:, :9], together[:, :9])


def qkv(length, heads=6, kv_heads=3, dim=8, rows=2, dtype=jnp.float32):
    random = np.random.default_rng(length)
    return [
        jnp.asarray(random.normal(size=(rows, length, size, dim)), dtype)
        for size in (heads, kv_heads, kv_heads)
    ]


@pytest.mark.parametrize("length", [5, 16, 50])
def test_implementations_agree(length, monkeypatch):
    monkeypatch.setattr(attention_module, "QUERY_BLOCK", 16)
    q, k, v = qkv(length)
    segments = jnp.asarray([[1] * length, [1] * 3 + [2] * (length - 4) + [0]], jnp.int32)

    def value(implementation, *qkv):
        out = attention(*qkv, segments, implementation)
        return jnp.sum(jnp.where((segments > 0)[:, :, None, None], jnp.sin(out), 0)), out

    gradients = jax.jit(jax.grad(value, argnums=(1, 2, 3), has_aux=True), static_argnums=0)
    results = [gradients(name, q, k, v) for name in ("xla", "blocked")]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6), *results)


def test_attention_against_torch():
    q, k, v = qkv(12, rows=1)
    ids = np.array([1] * 5 + [2] * 7)
    mask = (ids[:, None] == ids[None, :]) & np.tri(12, dtype=bool)
    want = torch.nn.functional.scaled_dot_product_attention(
        *(torch.tensor(np.asarray(x)).transpose(1, 2) for x in (q, k, v)),
        attn_mask=torch.tensor(mask),
        enable_gqa=True,
    )
    got = attention(q, k, v, jnp.asarray(ids[None], jnp.int32), "xla")
    np.testing.assert_allclose(got, want.transpose(1, 2).numpy(), atol=2e-6)


def test_auto_takes_blocks_for_long_rows(monkeypatch):
    monkeypatch.setattr(attention_module, "DENSE_LENGTH", 20)
    ids = jnp.ones((2, 21), jnp.int32)
    assert "scan" in str(jax.make_jaxpr(attention)(*qkv(21), ids))
    assert "scan" not in str(jax.make_jaxpr(attention)(*qkv(20), ids[:, :20]))


def test_cudnn_refuses_what_it_cannot_do():
    ids = jnp.ones((2, 8), jnp.int32)
    with pytest.raises(ConfigError, match="does not take float32"):
        attention(*qkv(8), ids, "cudnn")
    with pytest.raises(ConfigError, match="head dimension of 12"):
        attention(*qkv(8, dim=12, dtype=jnp.bfloat16), ids, "cudnn")


def test_remat_policies_agree():
    layout = packings()[0]
    scores, gradient = unpacked()
    batch, _ = pack(*layout)
    weights = np.ones((*batch["tokens"].shape, 64), np.float32)
    products = set()
    for policy in ("none", "dots", "full"):
        config = tiny(remat=policy, attention="xla")
        other_scores, other_gradient = run(config, *layout)
        np.testing.assert_allclose(other_scores, scores, rtol=0, atol=1e-6)
        assert_trees_close(other_gradient, gradient, 1e-6)
        lowered = scores_and_gradient.lower(random_params(), config, batch, weights)
        products.add(lowered.as_text().count("dot_general"))
    assert len(products) == 3  # each recomputes something else


def test_meshes_agree():
    config = tiny()
    rows = [[record] for record in records()] * 2
    batch, _ = pack(rows, 16)
    weights = np.random.default_rng(1).normal(size=(8, 16, 64)).astype(np.float32)
    weights *= batch["seg"][:, :, None] > 0
    params = random_params()
    scores, gradient = scores_and_gradient(params, config, batch, weights)
    mesh = make_mesh(2, 2, 2)
    shardings = tree_shardings(mesh, param_axes(config))
    with jax.set_mesh(mesh):
        split = jax.device_put(params, shardings)
        rows_of = {
            key: jax.device_put(value, named_sharding(mesh, ("batch", "length")))
            for key, value in batch.items()
        }
        function = jax.jit(
            scores_and_gradient.__wrapped__, static_argnums=1, out_shardings=(None, shardings)
        )
        other_scores, other_gradient = function(split, config, rows_of, weights)
    np.testing.assert_allclose(other_scores, scores, rtol=0, atol=1e-5)
    assert_trees_close(other_gradient, gradient, 1e-5)


def test_embedding_gradient_is_summed_in_float32():
    """4096 occurrences of a token in bfloat16: rounding every partial sum would stall at 256."""
    from curiojax.models.weights import lookup

    tokens = jnp.zeros((4, 1024), jnp.int32)
    table = jnp.zeros((2, 4), jnp.float32)
    axes = ("vocab", "embed")

    def total(table):
        return jnp.sum(lookup(table, tokens, axes, jnp.dtype("bfloat16")).astype(jnp.float32))

    np.testing.assert_array_equal(jax.grad(total)(table)[0], 4096.0)


def test_decode_continues_rows_of_different_lengths():
    config, params = tiny(), random_params()
    one, _, three, _ = records()
    new = np.random.default_rng(3).integers(0, 64, (2, 4))
    batch, places = pack([[np.concatenate([one, new[0]])], [np.concatenate([three, new[1]])]], 18)
    want = jax.jit(forward, static_argnums=1)(params, config, *batch.values())
    step = jax.jit(decode, static_argnums=1)

    tokens = np.zeros((2, 16), np.int32)
    positions = np.full((2, 16), -1, np.int32)
    # One row padded on the left, one on the right: only positions matter.
    tokens[0, 7:], positions[0, 7:] = one, np.arange(9)
    tokens[1, :14], positions[1, :14] = three, np.arange(14)
    cache = init_cache(config, 2, 32, jnp.float32)
    hidden, cache = step(params, config, tokens, positions, cache)
    np.testing.assert_allclose(hidden[0, 7:], want[0, :9], atol=2e-5)
    np.testing.assert_allclose(hidden[1, :14], want[1, :14], atol=2e-5)
    lengths = np.array([[9], [14]], np.int32)
    for i in range(4):
        hidden, cache = step(params, config, new[:, i : i + 1], lengths + i, cache)
        for row, length in enumerate((9, 14)):
            np.testing.assert_allclose(hidden[row, 0], want[row, length + i], atol=2e-5)
    assert places[0][0] == 0 and int(cache["index"]) == 20


def gpu(*arrays):
    return jax.device_put(arrays, jax.devices("gpu")[0])


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["xla", "blocked"])
def test_gpu_packed_equals_unpacked(implementation):
    """On the GPU, at a length where blocks matter, in float32 and bfloat16."""
    lengths, total = (700, 1, 900, 447), 2048
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)):
        ids = np.repeat(np.arange(1, 5, dtype=np.int32), lengths)[None]
        q, k, v, ids = gpu(*qkv(total, 8, 2, 64, rows=1, dtype=dtype), ids)
        with jax.default_matmul_precision("highest"):
            packed = attention(q, k, v, ids, implementation)
            start = 0
            for length in lengths:
                part = [x[:, start : start + length] for x in (q, k, v)]
                alone = attention(*part, jnp.ones_like(ids[:, :length]), "xla")
                got = packed[:, start : start + length].astype(jnp.float32)
                np.testing.assert_allclose(got, alone.astype(jnp.float32), atol=tolerance)
                start += length


@pytest.mark.gpu
def test_gpu_cudnn_equals_xla_for_one_record_per_row():
    length = 1536
    ids = np.zeros((4, length), np.int32)
    for row, valid in enumerate((length, 1000, 1, 0)):
        ids[row, :valid] = 1
    q, k, v, ids = gpu(*qkv(length, 8, 2, 128, rows=4, dtype=jnp.bfloat16), ids)
    valid = (ids > 0)[:, :, None, None]

    def value(implementation, *qkv):
        out = attention(*qkv, ids, implementation).astype(jnp.float32)
        out = jnp.where(valid, out, 0)
        return jnp.sum(jnp.sin(out)), out

    (got_out, got), (want_out, want) = (
        jax.jit(
            lambda *qkv, name=name: (
                value(name, *qkv)[1],
                jax.grad(lambda *x: value(name, *x)[0], argnums=(0, 1, 2))(*qkv),
            )
        )(q, k, v)
        for name in ("cudnn", "blocked")
    )
    np.testing.assert_allclose(got_out, want_out, atol=2e-2)
    for a, b in zip(got, want, strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.isfinite(a).all()
        assert np.abs(a - b).max() <= 3e-2 * np.abs(b).max()


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["xla", "blocked"])
def test_gpu_model_packing_changes_nothing(implementation):
    with jax.default_device(jax.devices("gpu")[0]), jax.default_matmul_precision("highest"):
        config = tiny(attention=implementation)
        params = gpu(random_params())[0]
        scores, gradient = run(config, *packings()[0], params)
        for layout in packings()[1:]:
            other_scores, other_gradient = run(config, *layout, params)
            np.testing.assert_allclose(other_scores, scores, rtol=0, atol=1e-5)
            assert_trees_close(other_gradient, gradient, 1e-5)
