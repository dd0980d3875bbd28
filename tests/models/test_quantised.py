"""Eight-bit products against numbers rounded by NumPy, and what they must not change."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from curiojax import models
from curiojax.models.quantised import FORMATS, quantised_product
from tests.training import tiny

ROUNDED = {
    "fp8": lambda x: x.astype(ml_dtypes.float8_e4m3fn).astype(np.float64),
    "int8": lambda x: np.rint(x).astype(np.float64),
}
PRECISIONS = ["fp8", "int8"]


leaves_of = jax.tree_util.tree_leaves_with_path


def by_numpy(x, axes, precision):
    """`x` as eight bits say it, in float64."""
    largest = FORMATS[precision][1]
    x = np.asarray(x, np.float32)
    peak = np.abs(x).max(axis=axes, keepdims=True)
    scale = np.where(peak > 0, peak / np.float32(largest), np.float32(1))
    return ROUNDED[precision](x / scale) * scale.astype(np.float64)


@pytest.fixture(scope="module")
def params():
    return models.init_params(jax.random.key(1), tiny.MODEL)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_projection_is_what_numpy_rounds_it_to(params, precision):
    quantised = models.quantise_params(params, tiny.MODEL, precision)
    layers, found = quantised["layers"], 0
    for block, name, inputs in (
        *(("attention", n, 1) for n in "qkv"),
        ("attention", "o", 2),
        *(("mlp", n, 1) for n in ("gate", "up", "down")),
    ):
        kernel = np.asarray(params["layers"][block][name]["kernel"])
        got = layers[block][name]["quantised"]
        assert got["values"].dtype == FORMATS[precision][0]
        values = np.asarray(got["values"].astype(jnp.float32), np.float64)
        scale = np.asarray(got["scale"], np.float64)
        said = values * scale.reshape(scale.shape + (1,) * inputs)
        said = np.moveaxis(said, range(-inputs, 0), range(1, 1 + inputs))
        expected = by_numpy(kernel, tuple(range(1, 1 + inputs)), precision)
        np.testing.assert_allclose(said, expected, rtol=1e-6)
        found += 1
    assert found == len(jax.tree.leaves(quantised)) // 2
    # Nothing else of the layers is a matrix, and no matrix of theirs is kept twice.
    run = models.with_quantised(params, quantised)
    assert not any("kernel" in jax.tree_util.keystr(p) for p, _ in leaves_of(run["layers"]))
    assert run["embed"] is params["embed"] and run["lm_head"] is params["lm_head"]
    assert run["layers"]["attention"]["q"]["bias"] is params["layers"]["attention"]["q"]["bias"]


def test_a_worked_example():
    """Weights (1, -2) and (0, 0), activations (3, 4) and (0, 0), as int8."""
    values = jnp.array([[64, -127], [0, 0]], jnp.int8)
    weights = {"values": values, "scale": jnp.array([2 / 127, 1.0])}
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    out = quantised_product(x, weights, ("embed", "mlp"), 1)
    # 3 is 95 (95.25) of 127 fourths of 4; 95 * 64 - 127 * 127 = -10049.
    np.testing.assert_allclose(out, [[-10049 * (4 / 127) * (2 / 127), 0], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("name", "axes", "inputs"),
    [("q", ("embed", "heads", "head_dim"), 1), ("o", ("heads", "head_dim", "embed"), 2)],
)
def test_a_product_is_that_of_the_rounded_numbers(params, precision, name, axes, inputs):
    kernel = params["layers"]["attention"][name]["kernel"]
    twin = models.quantise_params(params, tiny.MODEL, precision)["layers"]["attention"][name]
    weights = jax.tree.map(lambda w: w[0], twin["quantised"])
    x = 5 * jax.random.normal(jax.random.key(1), (2, 7, *kernel.shape[1 : 1 + inputs]))
    x = x.at[0, 0].set(0.0)
    got = jax.jit(lambda x: quantised_product(x, weights, axes, inputs))(x)
    expected = np.tensordot(
        by_numpy(x, tuple(range(2, 2 + inputs)), precision),
        by_numpy(kernel[0], tuple(range(inputs)), precision),
        axes=inputs,
    )
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    assert not np.asarray(got[0, 0]).any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_token_depends_on_its_own_record_only(params, precision):
    """A scale per token: neither neighbours in the row, nor other rows, nor padding matter."""
    run = models.with_quantised(params, models.quantise_params(params, tiny.MODEL, precision))
    batch = tiny.rows_of(3, 2)
    forward = jax.jit(lambda t, p, s: models.forward(run, tiny.MODEL, t, p, s))
    packed = forward(*(jnp.asarray(batch[n]) for n in ("tokens", "positions", "segment_ids")))
    there = batch["segment_ids"][0] == 2
    alone = {n: np.zeros((2, tiny.LENGTH), np.int32) for n in ("tokens", "positions", "ids")}
    length = int(there.sum())
    alone["tokens"][0, :length] = batch["tokens"][0, there]
    alone["positions"][0, :length] = np.arange(length)
    alone["ids"][0, :length] = 1
    by_itself = forward(*(jnp.asarray(x) for x in alone.values()))
    np.testing.assert_allclose(packed[0, there], by_itself[0, :length], rtol=1e-4, atol=1e-4)


def test_one_nan_stays_in_its_token():
    values = jnp.ones((2, 3), jnp.float8_e4m3fn)
    weights = {"values": values, "scale": jnp.ones((2,))}
    x = jnp.ones((3, 3)).at[1, 0].set(jnp.nan)
    out = np.asarray(quantised_product(x, weights, ("embed", "mlp"), 1))
    assert np.isnan(out[1]).all() and np.isfinite(out[[0, 2]]).all()
