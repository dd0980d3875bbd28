"""Every objective in the training step: right, invariant, and with no forward pass to spare."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax import models
from curiojax.losses import per_token_loss
from curiojax.training import statistics
from curiojax.training import step as step_module
from curiojax.training.sft import place
from curiojax.training.step import compile_step
from tests.training import tiny

OBJECTIVES = {
    "entropy_top20": "{name: entropy, top_fraction: 0.2, coef: 0.5}",
    "kl": "{name: kl, coef: 1.0}",
    "kl_forward": "{name: kl, estimator: forward_full, coef: 1.0, min_base_prob: 0.001}",
    "psft": "{name: psft, updates_per_snapshot: 2, clip_high: 0.02}",
    "curio_forward": "{name: curio, entropy_pivot: 3.0, divergence: forward_kl}",
    "curio_reverse": "{name: curio, entropy_pivot: 3.0, divergence: reverse_kl}",
}
# Nothing but the loss of a token tells these from plain SFT, so one micro-batch is all there is.
LOSS_ONLY = {
    "entropy": "{name: entropy, coef: 0.5}",
    "gem": "{name: gem}",
    "dft": "{name: dft}",
    "psft_alone": "{name: psft, updates_per_snapshot: 1}",
}
# Forward passes beside the student's own: over a second model, or to find tokens.
SECOND = {"kl", "kl_forward", "psft", "curio_forward", "curio_reverse"}
ONE_LAYER = tiny.MODEL.__class__(**{**vars(tiny.MODEL), "num_layers": 1})
STEPS = 4


def recipe(name, **options):
    text = {**OBJECTIVES, **LOSS_ONLY}[name]
    return tiny.recipe(f"objective={text}", "optimizer.warmup_steps=0", model=ONE_LAYER, **options)


def moved(state):
    """The state with a second model that is unlike the student, as after some training."""
    if not state.teacher:
        return state
    params = jax.tree.map(lambda p: p * jnp.asarray(0.97, p.dtype), state.teacher.params)
    return state._replace(teacher=state.teacher._replace(params=params))


def train(recipe, step, state):
    reports = []
    with jax.set_mesh(recipe.mesh):
        for number in range(STEPS):
            state, scalars = step(state, tiny.microbatches(recipe, number))
            scalars = jax.device_get(scalars)
            objective = recipe.config.objective
            report = statistics.summarize(scalars.stats, objective, recipe.model.vocab_size)
            report |= {"loss": float(scalars.loss), "lag": int(scalars.teacher_lag)}
            reports.append(report | {"distance": float(scalars.teacher_distance)})
    return reports, jax.device_get(state)


@pytest.fixture(scope="module")
def runs():
    """Of each objective: the compiled step, the first gradient sums, metrics and final state."""
    made = {}

    def run(name):
        if name not in made:
            whole = recipe(name, rows=16)
            step = compile_step(whole)
            with jax.set_mesh(whole.mesh):
                first = tiny.gradient_sums(
                    step, moved(tiny.start(whole)), tiny.microbatches(whole, 0)
                )
            made[name] = step, first, *train(whole, step, tiny.start(whole))
        return made[name]

    return run


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_that_of_the_dense_loss(runs, name):
    """Of the sum over tokens, from logits in one piece."""
    whole = recipe(name, rows=16)
    state = jax.device_get(moved(tiny.start(whole)))
    batch = jax.tree.map(jnp.asarray, tiny.rows_of(0))
    mask = batch["loss_mask"].reshape(-1)

    def logits(params):
        arrays = (batch[k] for k in ("tokens", "positions", "segment_ids"))
        hidden = models.forward(params, ONE_LAYER, *arrays)
        return models.logits(params, ONE_LAYER, hidden).reshape(-1, tiny.VOCAB)

    def total(params):
        loss, _ = per_token_loss(
            whole.config.objective,
            logits(params),
            batch["labels"].reshape(-1),
            teacher_logits=logits(state.teacher.params) if state.teacher else None,
            mask=mask,
        )
        return (loss * mask).sum()

    want = jax.jit(jax.grad(total))(state.params)
    assert tiny.largest_difference(want, runs(name)[1]) < 1e-5


@pytest.mark.parametrize("name", OBJECTIVES)
def test_result_depends_on_neither_mesh_nor_micro_batching(runs, name):
    _, first, reports, final = runs(name)
    split = recipe(name, rows=4, mesh=(2, 2, 2))
    step = compile_step(split)
    with jax.set_mesh(split.mesh):
        got = tiny.gradient_sums(step, moved(tiny.start(split)), tiny.microbatches(split, 0))
    assert tiny.largest_difference(first, got) < 1e-5
    got, state = train(split, step, tiny.start(split))
    assert tiny.largest_difference(final.params, state.params) < 2e-5
    for one, other in zip(reports, got, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"tau_histogram"}:
            assert other[key] == pytest.approx(one[key], rel=2e-4, abs=2e-5), key


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_forward_pass_to_spare(runs, name, monkeypatch):
    programs = {"accumulate", "update"}
    programs |= {"teacher_pass"} if name in SECOND else set()
    programs |= {"survey"} if name == "entropy_top20" else set()
    step = runs(name)[0]
    assert set(step.memory()) == programs
    assert bool(runs(name)[3].teacher) == (name in SECOND)

    calls = []
    forward = models.forward
    monkeypatch.setattr(models, "forward", lambda *a: calls.append(1) or forward(*a))
    whole = recipe(name, rows=16)
    state, batch = whole.abstract_state(), whole.abstract_batch()
    targets = None
    with jax.set_mesh(whole.mesh):
        if step.teacher_pass:
            targets = jax.eval_shape(
                lambda p, b: step_module.teacher_pass(whole, p, b), state.teacher.params, batch
            )
            targets |= step_module.teacher_head(whole, state.teacher.params)
            assert len(calls) == 1
            calls.clear()
        jax.eval_shape(
            lambda p, b, t: step_module.measure_microbatch(whole, p, b, t),
            state.params,
            batch,
            targets,
        )
    assert len(calls) == 1


def test_the_reference_never_moves(runs):
    _, _, reports, final = runs("kl")
    start = jax.device_get(tiny.start(recipe("kl", rows=16)))
    jax.tree.map(np.testing.assert_array_equal, final.teacher.params, start.params)
    assert [r["lag"] for r in reports] == [1, 2, 3, 4]
    assert reports[0]["distance"] < reports[2]["distance"] < reports[3]["distance"]
    # Student and reference are one model at first; then the student leaves.
    assert reports[0]["kl"] == pytest.approx(0, abs=1e-6) and reports[3]["kl"] > 1e-4


def test_the_snapshot_is_the_student_of_every_other_step(runs):
    _, _, reports, final = runs("psft")
    jax.tree.map(np.testing.assert_array_equal, final.teacher.params, final.params)
    assert [r["lag"] for r in reports] == [1, 0, 1, 0]
    for fresh, stale in ((0, 1), (2, 3)):
        assert reports[fresh]["ratio_mean"] == pytest.approx(1, abs=1e-5)
        assert reports[fresh]["ratio_max"] == pytest.approx(1, abs=1e-4)
        assert reports[fresh]["clipped"] == 0
        assert reports[stale]["ratio_max"] > 1.02 and 0 < reports[stale]["clipped"] < 1
        assert reports[stale]["loss"] > -1.02


def sums_of(recipe, parts, batches=None):
    """Gradient sums and metrics of the first rows, in so many micro-batches."""
    params = tiny.start(recipe).params
    batches = tiny.microbatches(recipe, 0) if batches is None else batches
    with jax.set_mesh(recipe.mesh):
        measure = jax.jit(lambda p, b: step_module.measure_microbatch(recipe, p, b, None))
        sums = [measure(params, b) for b in batches]
    assert len(sums) == parts
    total = sums[0]
    for other in jax.device_get(sums[1:]):
        total = step_module.add_sums(jax.device_get(total), other)
    objective = recipe.config.objective
    return total, statistics.summarize(total.stats, objective, recipe.model.vocab_size)


@pytest.mark.parametrize("name", LOSS_ONLY)
def test_objectives_that_only_change_the_loss(name):
    whole = recipe(name, rows=16)
    assert whole.teacher is None and whole.selection is None
    sums, report = sums_of(whole, 1)
    split, other = sums_of(recipe(name, rows=4, mesh=(2, 2, 2)), 4)
    assert tiny.largest_difference(sums.grads, split.grads) < 1e-5
    assert other == pytest.approx(report, rel=2e-4, abs=2e-5)
    if name == "gem":
        assert 0.4 < report["gem_s"] < 0.6  # log-sigmoid at 0.01 of the gap: about a half
        assert 0.1 < report["gem_q_max"] < 1
    elif name == "dft":
        assert 0 < report["weight_effective"] < 1 and report["weight_max"] <= 1
    elif name == "entropy":
        bonus = report["sft_nll"] - float(sums.loss) / float(sums.weight)
        assert bonus == pytest.approx(0.5 * report["entropy"], rel=1e-5)
        plain = tiny.recipe("objective={name: sft}", model=ONE_LAYER, rows=16)
        assert tiny.largest_difference(sums_of(plain, 1)[0].grads, sums.grads) > 0.01
    else:
        assert report["ratio_max"] == 1 and report["clipped"] == 0
        plain = tiny.recipe("objective={name: sft}", model=ONE_LAYER, rows=16)
        assert tiny.largest_difference(sums_of(plain, 1)[0].grads, sums.grads) < 1e-5


def oxa_microbatches(recipe):
    """16 rows to learn and 8 to unlearn, never in one micro-batch."""
    right, wrong = tiny.rows_of(0), tiny.rows_of(1, count=8)
    right["suppressed"] = np.zeros_like(right["loss_mask"])
    wrong["suppressed"] = np.ones_like(wrong["loss_mask"])
    rows = recipe.config.rows_per_microbatch
    both = {k: np.concatenate([right[k], wrong[k]]) for k in right}
    arrays = {k: v.reshape(24 // rows, rows, tiny.LENGTH) for k, v in both.items()}
    return list(place(arrays, recipe.mesh)), both


def test_oxa_depends_on_neither_mesh_nor_micro_batching():
    def made(rows, mesh=(1, 1, 1)):
        text = "objective={name: oxa, ul_weight: 0.5}"
        ours = tiny.recipe(text, "data.suppressed_path=x", model=ONE_LAYER, rows=rows, mesh=mesh)
        return ours, *sums_of(ours, 24 // rows, oxa_microbatches(ours)[0])

    whole, sums, report = made(8)
    for rows, mesh in ((4, (1, 1, 1)), (8, (2, 2, 2)), (4, (4, 1, 1))):
        _, other, again = made(rows, mesh)
        assert tiny.largest_difference(sums.grads, other.grads) < 1e-5
        assert again == pytest.approx(report, rel=2e-4, abs=2e-5)
        assert float(other.loss) == pytest.approx(float(sums.loss), rel=1e-5)
        assert float(other.weight) == float(sums.weight)

    # All 24 rows at once, from log-softmax: -log p where learnt, -log(1 - p) / 2 where unlearnt.
    batch = jax.tree.map(jnp.asarray, oxa_microbatches(whole)[1])

    def total(params):
        arrays = (batch[k] for k in ("tokens", "positions", "segment_ids"))
        hidden = models.forward(params, ONE_LAYER, *arrays)
        log_probs = jax.nn.log_softmax(models.logits(params, ONE_LAYER, hidden))
        chosen = jnp.take_along_axis(log_probs, batch["labels"][..., None], axis=-1)[..., 0]
        unlearnt = batch["suppressed"] * -jnp.log1p(-jnp.exp(chosen)) * 0.5
        return jnp.sum(batch["loss_mask"] * ((1 - batch["suppressed"]) * -chosen + unlearnt))

    params = jax.device_get(tiny.start(whole).params)
    loss, want = jax.jit(jax.value_and_grad(total))(params)
    assert float(sums.loss) == pytest.approx(float(loss), rel=1e-5)
    assert tiny.largest_difference(want, sums.grads) < 1e-5
    learnt = tiny.rows_of(0)["loss_mask"]
    assert float(sums.weight) == learnt.sum() and report["tokens"] == learnt.sum()


def test_metrics_of_each_method(runs):
    keys = {
        "entropy_top20": "entropy_selected",
        "kl": "kl kl_held kl_k1 kl_k3 reference_nll weight_mean teacher_entropy",
        "kl_forward": "kl kl_held kl_k1 kl_k3 reference_nll teacher_entropy",
        "psft": "ratio_mean ratio_max clipped old_kl weight_mean",
        "curio_forward": "sed_kl tau_mean gated at_floor at_cap entropy_increment",
        "curio_reverse": "sed_kl tau_mean gated at_floor at_cap entropy_increment",
    }
    for name, wanted in keys.items():
        report = runs(name)[2][0]
        assert {"sft_nll", "entropy", "entropy_top20", *wanted.split()} <= report.keys()
        assert all(np.isfinite(v) for v in report.values() if not isinstance(v, dict))
    assert runs("entropy_top20")[2][0]["entropy_selected"] == pytest.approx(0.2, abs=0.01)
    assert 0 < runs("kl_forward")[2][0]["kl_held"] < 1


def test_micro_batches_choose_among_their_own_tokens():
    """With scope microbatch the result depends on the split."""
    text = "objective={name: entropy, top_fraction: 0.2, coef: 0.5, scope: microbatch}"
    whole, split = (
        sums_of(tiny.recipe(text, model=ONE_LAYER, rows=rows), 16 // rows)[0].grads
        for rows in (16, 4)
    )
    assert tiny.largest_difference(whole, split) > 1e-4
