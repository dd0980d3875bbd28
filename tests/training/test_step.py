"""One update is the right one, however it is split over micro-batches and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from curiojax import models
from curiojax.losses import per_token_loss
from curiojax.training.step import compile_step
from tests.training import tiny


@pytest.fixture(scope="module")
def single():
    return tiny.train(tiny.recipe())


@pytest.mark.parametrize("mesh", [(8, 1, 1), (4, 2, 1), (2, 2, 2)], ids=str)
def test_result_does_not_depend_on_the_mesh(single, mesh):
    losses, norms, gradients, state = tiny.train(tiny.recipe(mesh=mesh))
    np.testing.assert_allclose(losses, single[0], rtol=1e-5)
    np.testing.assert_allclose(norms, single[1], rtol=1e-5)
    assert tiny.largest_difference(single[2], gradients) < 1e-5
    assert tiny.largest_difference(single[3].params, state.params) < 1e-5
    assert tiny.largest_difference(single[3].teacher.params, state.teacher.params) < 1e-5


@pytest.mark.parametrize("rows", [1, 2, 16])
def test_result_does_not_depend_on_the_micro_batching(single, rows):
    losses, norms, gradients, state = tiny.train(tiny.recipe(rows=rows))
    np.testing.assert_allclose(losses, single[0], rtol=1e-6)
    np.testing.assert_allclose(norms, single[1], rtol=1e-5)
    assert tiny.largest_difference(single[2], gradients) < 1e-5
    assert tiny.largest_difference(single[3].params, state.params) < 1e-5


def test_update_is_the_plain_dense_computation(single):
    """Against logits [N, V] in one piece, jax.grad, optax's own AdamW and Algorithm 1 by hand."""
    recipe = tiny.recipe()
    config = recipe.config
    params = jax.device_get(tiny.start(recipe).params)
    teacher = params
    rates = [1e-3 * f for f in (1e-4, 1e-4 + (1 - 1e-4) / 2, 1.0)]
    adamw = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.inject_hyperparams(optax.adamw)(learning_rate=0.0, eps=1e-4, weight_decay=0.01),
    )
    opt_state = adamw.init(params)

    def loss_fn(params, teacher, batch):
        def all_logits(p):
            hidden = models.forward(
                p, tiny.MODEL, batch["tokens"], batch["positions"], batch["segment_ids"]
            )
            return models.logits(p, tiny.MODEL, hidden).reshape(-1, tiny.VOCAB)

        mask = batch["loss_mask"].reshape(-1)
        loss, _ = per_token_loss(
            config.objective,
            all_logits(params),
            batch["labels"].reshape(-1),
            teacher_logits=all_logits(teacher),
            mask=mask,
        )
        return (loss * mask).sum() / mask.sum()

    for number, rate in enumerate(rates):
        batch = jax.tree.map(jnp.asarray, tiny.rows_of(number))
        loss, gradients = jax.jit(jax.value_and_grad(loss_fn))(params, teacher, batch)
        assert float(loss) == pytest.approx(single[0][number], rel=2e-5)
        assert float(optax.tree.norm(gradients)) == pytest.approx(single[1][number], rel=2e-5)
        opt_state[1].hyperparams["learning_rate"] = jnp.float32(rate)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = adamw.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        if (number + 1) % 2 == 0:
            teacher = jax.tree.map(lambda t, s: 0.01 * t + 0.99 * s, teacher, params)


def test_the_method_is_exercised(single):
    """Many tokens get a temperature between the ends, or the tests above would prove little."""
    recipe = tiny.recipe()
    step, state = compile_step(recipe), tiny.start(recipe)
    with jax.set_mesh(recipe.mesh):
        targets = step.teacher_pass(state.teacher.params, tiny.microbatches(recipe, 0)[0])
    tau = np.asarray(targets["tau"])[np.asarray(targets["tau"]) > 0]
    assert ((tau > 1.1001) & (tau < 1.4999)).mean() > 0.1


def test_self_teacher_keeps_no_second_model():
    recipe = tiny.recipe("objective.teacher=self")
    step, state = compile_step(recipe), tiny.start(recipe)
    assert step.teacher_pass is None and state.teacher == ()
    batch = tiny.microbatches(recipe, 0)
    with jax.set_mesh(recipe.mesh):
        _, scalars = step(state, batch)
    assert "tau_mean" in scalars.stats.sums
    assert float(scalars.stats.sums["sed_k2"]) > 0


def test_a_non_finite_gradient_changes_nothing_but_the_step():
    recipe = tiny.recipe()
    step, state = compile_step(recipe), tiny.start(recipe)
    before = jax.device_get((state.params, state.opt_state))
    batches = tiny.microbatches(recipe, 0)
    poisoned = state.params["final_norm"]["scale"] * jnp.nan
    params = {**state.params, "final_norm": {"scale": poisoned}}
    with jax.set_mesh(recipe.mesh):
        sums = step.zeros()
        for batch in batches:
            targets = step.teacher_pass(state.teacher.params, batch)
            sums = step.accumulate(params, sums, batch, targets)
        state, scalars = step.update(state, sums)
    assert float(scalars.finite) == 0.0
    assert int(state.step) == 1
    after = (state.params, state.opt_state)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_batch_without_trained_tokens_is_harmless():
    recipe = tiny.recipe()
    step, state = compile_step(recipe), tiny.start(recipe)
    batches = [
        {**batch, "loss_mask": jnp.zeros_like(batch["loss_mask"])}
        for batch in tiny.microbatches(recipe, 0)
    ]
    with jax.set_mesh(recipe.mesh):
        state, scalars = step(state, batches)
    assert float(scalars.loss) == 0.0 and float(scalars.grad_norm) == 0.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


def test_bfloat16_compute_stays_close_to_float32(single):
    import dataclasses

    model = dataclasses.replace(tiny.MODEL, compute_dtype="bfloat16", remat="full")
    losses, _, _, state = tiny.train(tiny.recipe(model=model), steps=3)
    np.testing.assert_allclose(losses, single[0][:3], rtol=2e-2)
    assert all(p.dtype == np.float32 for p in jax.tree.leaves(state.params))
