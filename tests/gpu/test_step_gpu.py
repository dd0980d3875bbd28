"""The training step on a GPU: the CPU's result, and a real size."""

import dataclasses

import jax
import numpy as np
import pytest

from curiojax import models
from curiojax.sharding import make_mesh
from curiojax.training.recipe import Recipe
from curiojax.training.state import create_state, shardings_of
from curiojax.training.step import compile_step
from tests.training import tiny

pytestmark = pytest.mark.gpu

QWEN_1_5B = models.ModelConfig(
    model_type="qwen2",
    vocab_size=151_936,
    hidden_size=1536,
    num_layers=28,
    num_heads=12,
    num_kv_heads=2,
    head_dim=128,
    intermediate_size=8960,
    tie_word_embeddings=True,
    attention_bias=True,
    compute_dtype="bfloat16",
    remat="full",
)


def on(device, dtype):
    """Losses and gradients of three tiny steps on one device."""
    recipe = tiny.recipe(model=dataclasses.replace(tiny.MODEL, compute_dtype=dtype))
    recipe = dataclasses.replace(recipe, mesh=make_mesh(devices=[device]))
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        return tiny.train(recipe, steps=3)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_gpu_agrees_with_cpu(dtype, tolerance):
    cpu, gpu = on(jax.devices("cpu")[0], dtype), on(jax.devices("gpu")[0], dtype)
    np.testing.assert_allclose(gpu[0], cpu[0], rtol=tolerance)
    np.testing.assert_allclose(gpu[1], cpu[1], rtol=tolerance)
    assert tiny.largest_difference(cpu[2], gpu[2]) < tolerance


def test_one_step_of_a_1_5b_model():
    recipe = tiny.recipe("loss.chunk_tokens=1024", rows=1, model=QWEN_1_5B)
    config = recipe.config.model_copy(
        update={"data": recipe.config.data.model_copy(update={"row_length": 4096})}
    )
    mesh = make_mesh(devices=jax.devices("gpu")[:1])
    recipe = Recipe(config, QWEN_1_5B, mesh, total_steps=10)
    step = compile_step(recipe)
    params = models.init_params(jax.random.key(0), QWEN_1_5B)
    shardings = shardings_of(recipe.abstract_state())
    with jax.set_mesh(mesh):
        state = jax.jit(
            lambda p: create_state(p, recipe.optimizer, recipe.teacher, 0), out_shardings=shardings
        )(jax.device_put(params, shardings.params))
        del params
        rng = np.random.default_rng(0)
        ids = rng.integers(0, QWEN_1_5B.vocab_size, (1, 1, 4097)).astype(np.int32)
        arrays = {
            "tokens": ids[..., :-1],
            "labels": ids[..., 1:],
            "positions": np.arange(4096, dtype=np.int32)[None, None],
            "segment_ids": np.ones((1, 1, 4096), np.int32),
            "loss_mask": np.ones((1, 1, 4096), np.float32),
        }
        state, scalars = step(state, list(tiny.place(arrays, mesh)))
    # An untrained model knows nothing: the loss is that of a uniform distribution.
    nll = float(scalars.stats.sums["sft_nll"]) / 4096
    assert nll == pytest.approx(np.log(QWEN_1_5B.vocab_size), rel=0.05)
    assert np.isfinite(float(scalars.grad_norm)) and int(state.step) == 1
