"""What a step costs beside its arithmetic: copies of the state, waiting for the host; and how much
arithmetic CurioSFT adds where the student is its own teacher."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax import models
from curiojax.losses import temperature
from curiojax.objectives import Curio
from curiojax.training import metrics
from curiojax.training.metrics import Watch
from curiojax.training.step import compile_step, measure_microbatch
from tests.training import tiny

SFT, SELF = 'objective={"name":"sft"}', 'objective={"name":"curio","teacher":"self"}'
# Qwen2.5-7B with one layer: all that is not the head is 28 times as much in the real one.
ONE_LAYER = models.ModelConfig(
    model_type="qwen2",
    vocab_size=152_064,
    hidden_size=3584,
    num_layers=1,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    intermediate_size=18_944,
    attention_bias=True,
    compute_dtype="bfloat16",
    remat="full",
)
TOKENS = 1024


def size(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def lowered(objective):
    """One micro-batch with its gradient; nothing is compiled."""
    recipe = tiny.recipe(objective, f"loss.chunk_tokens={TOKENS}", rows=1, model=ONE_LAYER)
    batch = {
        name: jax.ShapeDtypeStruct((1, TOKENS), dtype)
        for name, dtype in recipe.batch_dtypes.items()
    }
    params = models.abstract_params(ONE_LAYER)
    return jax.jit(lambda p, b: measure_microbatch(recipe, p, b, None)).lower(params, batch)


def flops(program):
    """Every loop counts once."""
    return program.cost_analysis()["flops"]


def test_being_ones_own_teacher_costs_within_three_percent():
    step = lowered(SELF)
    plain, own = flops(lowered(SFT)), flops(step)
    # The model, its gradient, and its recomputation without the head, which has none.
    head = ONE_LAYER.vocab_size * ONE_LAYER.hidden_size
    width = ONE_LAYER.hidden_size
    layer = width * (2 * 3584 + 2 * 512) + 3 * width * ONE_LAYER.intermediate_size
    assert plain == pytest.approx(2.0 * TOKENS * (3 * head + 4 * layer), rel=0.1)
    # The bisections are such a loop; 14 more of them.
    values = jax.ShapeDtypeStruct((TOKENS, 512), jnp.float32)
    taus = jax.ShapeDtypeStruct((TOKENS,), jnp.float32)
    one = jax.jit(jax.vmap(lambda v, t: temperature._entropy_and_slope(v, t)[0]))
    own += 14 * flops(one.lower(values, taus))
    assert 1 < own / plain < 1.03
    # Its search is that of one pass over the chunk, not a second one in the gradient.
    logits = jax.ShapeDtypeStruct((TOKENS, ONE_LAYER.vocab_size), jnp.float32)
    search = jax.jit(lambda x: temperature.entropy_guided_temperature(x, Curio())).lower(logits)
    assert step.as_text().count("chlo.top_k") == search.as_text().count("chlo.top_k") == 2


def test_state_and_sums_are_updated_in_place():
    recipe = tiny.recipe()
    recipe = dataclasses.replace(recipe, mesh=tiny.make_mesh(devices=jax.devices()[:1]))
    step = compile_step(recipe)
    state = recipe.abstract_state()
    memory = step.memory()
    # Key and counters are small enough for XLA to copy if it likes.
    assert memory["update"].alias_size_in_bytes >= size(state) - 64
    assert memory["accumulate"].alias_size_in_bytes >= size(state.params)


def test_metrics_are_fetched_one_step_late(monkeypatch):
    """The step that was dispatched last is never waited for."""
    fetched = []

    def fetch(scalars):
        fetched.append(int(scalars.loss))
        return scalars

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def update(self, done, **stats):
            pass

    monkeypatch.setattr(metrics.jax, "device_get", fetch)
    line = {"loss": 0.0, "entropy": 0.0, "tokens_per_second": 0.0, "skipped": 0}
    monkeypatch.setattr(metrics, "step_metrics", lambda *_: dict(line))
    step = type("Scalars", (), {"finite": np.float32(1)})
    with Watch(tiny.recipe(SFT), None, Bar()) as watch:
        for number in range(3):
            scalars = step()
            scalars.loss = number
            watch.see(number, scalars)
            assert fetched == list(range(number))
    assert fetched == [0, 1, 2]
