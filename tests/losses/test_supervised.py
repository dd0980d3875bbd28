from __future__ import annotations

from functools import partial

import float64_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.losses import largest_safe_alpha, per_token_loss, teacher_targets
from curiojax.objectives import Curio, Sft

OBJECTIVES = {
    "sft": Sft(),
    "curio_released": Curio(),
    "curio_paper": Curio(gate_entropy=None),
    "curio_fixed_tau_1.3": Curio(fixed_tau=1.3),
    "curio_alpha_0.5": Curio(alpha=0.5),
    "curio_self_teacher": Curio(teacher="self"),
}
KINDS = ("sft", "curio_released", "curio_self_teacher")
TARGETS = ("teacher_log_prob", "tau", "teacher_entropy", "entropy_increment")
FLAGS = ("gated", "at_floor", "at_cap")


@partial(jax.jit, static_argnums=0)
def run(objective, logits, labels, teacher_logits=None, mask=None, teacher_log_probs=None):
    """Loss, metrics, and the gradient of the sum in the student's logits."""

    def total(logits):
        loss, metrics = per_token_loss(
            objective,
            logits,
            labels,
            teacher_logits=teacher_logits,
            teacher_log_probs=teacher_log_probs,
            mask=mask,
        )
        return loss.sum(), (loss, metrics)

    (_, (loss, metrics)), gradient = jax.value_and_grad(total, has_aux=True)(logits)
    return loss, metrics, gradient


def float32(x) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def inputs(vocab_size: int = 61):
    data = oracle.golden(vocab_size)
    labels = jnp.asarray(data["labels"], jnp.int32)
    student, teacher = float32(data["student_logits"]), float32(data["teacher_logits"])
    return data, student, labels, teacher, float32(data["mask"])


def relative_error(got, want) -> float:
    return float(np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max())


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("vocab_size", [61, 700])
def test_golden_loss_and_gradient(name, vocab_size):
    data, student, labels, teacher, mask = inputs(vocab_size)
    valid = data["mask"] == 1
    cases = [({}, 1e-4)] if vocab_size == 61 else []
    for update, tolerance in (*cases, ({"search_steps": 24}, 1e-5)):
        objective = OBJECTIVES[name].model_copy(update=update if name != "sft" else {})
        loss, metrics, gradient = run(objective, student, labels, teacher, mask)
        if name == "curio_self_teacher":
            tolerance = 1e-4
        assert loss.dtype == jnp.float32
        assert {x.dtype for x in metrics.values()} == {jnp.dtype("float32")}
        assert {x.shape for x in metrics.values()} == {loss.shape}
        assert relative_error(loss[valid], data[f"loss/{name}"][valid]) <= tolerance
        assert relative_error(gradient, data[f"grad/{name}"]) <= tolerance
        np.testing.assert_array_equal(loss[~valid], 0)
        np.testing.assert_array_equal(gradient[~valid], 0)
    want = oracle.label_log_probs(data["student_logits"], data["labels"])
    assert relative_error(metrics["log_prob"][valid], want[valid]) <= 1e-6
    want = oracle.entropy(data["student_logits"])
    assert relative_error(metrics["entropy"][valid], want[valid]) <= 2e-6


# Student logits and label; lp, the student's entropy, lpT, the weight and K2 that follow from them.
VECTORS = [
    ([8, 2, 1, 0, 0, 0, 0, 0], 0),
    ([2, 1.5, 1, 0, -1, -1, -2, -3], 2),
    ([3, 2.8, -1, -1.5, -2, -4, -5, -6], 5),
    ([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], 7),
    ([12, 0, 0, 0, 0, 0, 0, 0], 1),
]
RESULTS = [
    (-0.00505515, 0.03955450, -0.01152360, 0.99353155, 0.00002092),
    (-1.80396070, 1.40703368, -1.77178277, 1.03217793, 0.00051771),
    (-7.61856591, 0.79680913, -5.94431748, 2.67424843, 1.40155390),
    (-2.45555078, 2.05361100, -2.28727696, 1.16827382, 0.01415804),
    (-12.00004301, None, -8.03285328, 4.96718973, None),
]


def test_worked_examples():
    logits = np.array([row[0] for row in VECTORS])
    teacher = float32(logits + 0.1 * np.cos(np.arange(8)))
    labels = jnp.asarray([row[1] for row in VECTORS], jnp.int32)
    objective = Curio(search_steps=24, gate_entropy=None)
    loss, metrics, _ = run(objective, float32(logits), labels, teacher)
    got = [metrics[k] for k in ("log_prob", "entropy", "teacher_log_prob", "weight", "sed_k2")]
    for expected, *values in zip(RESULTS, *map(np.asarray, got), strict=True):
        for value, want in zip(values, expected, strict=True):
            if want is not None:
                assert value == pytest.approx(want, rel=3e-6, abs=2e-6)
    np.testing.assert_allclose(loss, metrics["sed_k2"] - metrics["log_prob"], rtol=1e-6)
    # The last one is gated, which costs it most of its weight.
    gated = run(Curio(), float32(logits), labels, teacher)[1]
    assert gated["teacher_log_prob"][4] == pytest.approx(-10.95099948, rel=1e-6)
    assert gated["weight"][4] == pytest.approx(2.04904353, rel=1e-5)
    assert gated["sed_k2"][4] == pytest.approx(0.55024616, rel=1e-5)


@pytest.mark.parametrize("objective", [Curio(), Curio(alpha=0.3), Curio(teacher="self")], ids=str)
def test_gradient_is_that_of_weighted_cross_entropy(objective):
    _, student, labels, teacher, mask = inputs()
    _, metrics, gradient = run(objective, student, labels, teacher, mask)
    _, _, plain = run(Sft(), student, labels, mask=mask)
    weight = np.asarray(metrics["weight"], np.float64)
    want = 1 + objective.alpha * (metrics["teacher_log_prob"] - metrics["log_prob"])
    np.testing.assert_allclose(metrics["weight"][mask == 1], want[mask == 1], atol=2e-5)
    assert relative_error(gradient, weight[:, None] * np.asarray(plain)) <= 1e-6
    assert np.ptp(weight[np.asarray(mask) == 1]) > 0.1


def test_alpha_zero_is_cross_entropy_to_the_bit():
    _, student, labels, teacher, mask = inputs()
    loss, _, gradient = run(Sft(), student, labels, mask=mask)
    for kwargs in ({"teacher_logits": teacher}, {}):
        got, metrics, got_gradient = run(Curio(alpha=0), student, labels, mask=mask, **kwargs)
        np.testing.assert_array_equal(got, loss)
        np.testing.assert_array_equal(got_gradient, gradient)
        np.testing.assert_array_equal(metrics["weight"][mask == 1], 1)


def test_teacher_targets_replace_the_teacher_logits():
    data, student, labels, teacher, mask = inputs(700)
    objective = Curio()
    targets = jax.jit(teacher_targets, static_argnums=0)(objective, teacher, labels)
    assert set(targets) == {*TARGETS, *FLAGS}
    assert {(x.dtype, x.shape) for x in targets.values()} == {(jnp.dtype("float32"), (16,))}
    np.testing.assert_allclose(targets["tau"], data["tau_released"], atol=2e-5)
    want = oracle.label_log_probs(
        data["teacher_logits"] / data["tau_released"][:, None], data["labels"]
    )
    assert relative_error(targets["teacher_log_prob"], want) <= 1e-5
    loss, metrics, gradient = run(objective, student, labels, teacher, mask)
    again = run(
        objective, student, labels, mask=mask, teacher_log_probs=targets["teacher_log_prob"]
    )
    np.testing.assert_allclose(again[0], loss, rtol=1e-6)
    np.testing.assert_allclose(again[2], gradient, rtol=1e-6, atol=1e-9)
    assert set(metrics) - set(again[1]) == set(targets)
    assert set(again[1]) == {"log_prob", "entropy", "weight", "sed_k2"}


def test_teacher_gets_no_gradient():
    _, student, labels, teacher, _ = inputs()

    def total(teacher, log_probs):
        by_logits, metrics = per_token_loss(Curio(), student, labels, teacher_logits=teacher)
        by_log_probs, _ = per_token_loss(Curio(), student, labels, teacher_log_probs=log_probs)
        return by_logits.sum() + by_log_probs.sum() + sum(m.sum() for m in metrics.values())

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    gradients = gradient(teacher, jnp.full(labels.shape, -1.0))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_metrics_carry_no_gradient():
    _, student, labels, teacher, _ = inputs()

    def total(logits):
        metrics = per_token_loss(Curio(), logits, labels, teacher_logits=teacher)[1]
        return sum(m.sum() for m in metrics.values())

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(student), 0)


@pytest.mark.parametrize("name", KINDS)
def test_masked_rows_may_hold_anything(name):
    objective = OBJECTIVES[name]
    _, student, labels, teacher, _ = inputs()
    mask = float32(np.arange(24) % 3 == 0)
    left_out = np.asarray(mask) == 0
    garbage = np.array([np.nan, np.inf, -np.inf, 1e30], np.float32)
    garbage = np.resize(garbage, student.shape)
    garbage[1] = np.nan
    garbage[2] = -np.inf
    spoilt = [jnp.where(mask[:, None] == 0, garbage, x) for x in (student, teacher)]
    clean = run(objective, student, labels, teacher, mask)
    labels = jnp.where(mask == 0, -100, labels)
    loss, metrics, gradient = run(objective, spoilt[0], labels, spoilt[1], mask)
    np.testing.assert_array_equal(loss[left_out], 0)
    np.testing.assert_array_equal(gradient[left_out], 0)
    leaves = jax.tree.leaves((loss, metrics, gradient)), jax.tree.leaves(clean)
    for got, want in zip(*leaves, strict=True):
        assert np.isfinite(got).all()
        np.testing.assert_array_equal(got[~left_out], want[~left_out])
    nothing = run(objective, spoilt[0], labels, spoilt[1], jnp.zeros_like(mask))
    for x in jax.tree.leaves(nothing):
        np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize("name", KINDS)
def test_padded_vocabulary_columns_change_nothing(name):
    objective = OBJECTIVES[name]
    _, student, labels, teacher, mask = inputs()
    padding = jnp.full((24, 19), -jnp.inf)
    padded = [jnp.concatenate([x, padding], axis=1) for x in (student, teacher)]
    want = run(objective, student, labels, teacher, mask)
    loss, metrics, gradient = run(objective, padded[0], labels, padded[1], mask)
    np.testing.assert_array_equal(gradient[:, 61:], 0)
    for got, expected in zip(
        jax.tree.leaves((loss, metrics, gradient[:, :61])), jax.tree.leaves(want), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def test_huge_logits_keep_their_digits():
    rng = np.random.default_rng(0)
    offsets = np.array([[1e4], [-1e4], [0.0], [1e4]])
    student = (rng.normal(size=(4, 40)) * 3 + offsets).astype(np.float32)
    teacher = (rng.normal(size=(4, 40)) * 3 + offsets).astype(np.float32)
    student[3, :20] = -1e4
    teacher[3, 20:] = -1e4
    labels = np.array([0, 1, 2, 3])
    objective = Curio(search_steps=24)
    loss, metrics, gradient = run(
        objective, float32(student), jnp.asarray(labels, jnp.int32), float32(teacher)
    )
    student, teacher = student.astype(np.float64), teacher.astype(np.float64)
    tau = oracle.temperature(teacher, objective)
    want = oracle.curio_loss(student, teacher, labels, tau, 1.0)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    log_probs = oracle.label_log_probs(student, labels)
    weight = 1 + oracle.label_log_probs(teacher / tau[:, None], labels) - log_probs
    want = weight[:, None] * (np.exp(oracle.log_softmax(student)) - np.eye(40)[labels])
    np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=1e-5)
    assert np.isfinite(jax.tree.leaves(metrics)).all()


def test_bfloat16_logits_are_computed_in_float32():
    data, student, labels, teacher, mask = inputs()
    objective = Curio(search_steps=24)
    half = [x.astype(jnp.bfloat16) for x in (student, teacher)]
    loss, metrics, gradient = run(objective, half[0], labels, half[1], mask)
    assert gradient.dtype == jnp.bfloat16
    assert {x.dtype for x in (loss, *metrics.values())} == {jnp.dtype("float32")}
    student, teacher = (np.asarray(x.astype(jnp.float32), np.float64) for x in half)
    tau = oracle.temperature(teacher, objective)
    want = oracle.curio_loss(student, teacher, data["labels"], tau, 1.0) * data["mask"]
    assert relative_error(loss, want) <= 1e-5


def test_order_of_vocabulary_and_tokens_does_not_matter():
    _, student, labels, teacher, mask = inputs()
    rng = np.random.default_rng(1)
    columns, rows = rng.permutation(61), rng.permutation(24)
    where = jnp.asarray(np.argsort(columns), jnp.int32)
    loss, _, gradient = run(Curio(), student, labels, teacher, mask)
    got, _, got_gradient = run(
        Curio(),
        student[rows][:, columns],
        where[labels][rows],
        teacher[rows][:, columns],
        mask[rows],
    )
    assert relative_error(got, np.asarray(loss)[rows]) <= 2e-6
    assert relative_error(got_gradient, np.asarray(gradient)[rows][:, columns]) <= 1e-5


def test_own_logits_as_teacher_ignore_any_other():
    _, student, labels, teacher, mask = inputs()
    objective = OBJECTIVES["curio_self_teacher"]
    want = run(objective, student, labels, mask=mask)
    got = run(objective, student, labels, teacher, mask)
    assert set(want[1]) >= {*TARGETS, *FLAGS}
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_label_outside_the_vocabulary_is_not_a_number():
    _, student, labels, _, _ = inputs()
    for bad in (-100, 61):
        loss, _, _ = run(Sft(), student, labels.at[3].set(bad))
        assert np.isnan(loss[3])
        assert np.isfinite(np.delete(np.asarray(loss), 3)).all()


def test_missing_teacher_and_unknown_objective_are_named():
    _, student, labels, _, _ = inputs()
    with pytest.raises(ValueError, match="teacher_logits or teacher_log_probs"):
        per_token_loss(Curio(), student, labels)
    with pytest.raises(ValueError, match="'sft' has no teacher"):
        teacher_targets(Sft(), student, labels)
    unknown = Sft.model_construct(name="other")
    with pytest.raises(ValueError, match="'other' has no supervised loss"):
        per_token_loss(unknown, student, labels)


@pytest.mark.parametrize(
    ("tau", "width", "bound"),
    [(1.1, 1, 37.7), (1.1, 100, 4.0), (1.3, 10, 3.3), (1.5, 3, 4.1), (1.5, 100, 0.96)],
)
def test_largest_safe_alpha_is_where_a_weight_reaches_zero(tau, width, bound):
    found = largest_safe_alpha(tau, width)
    assert found == pytest.approx(bound, rel=0.02)
    # The loss itself agrees: its smallest weight over all p changes sign there.
    p = np.linspace(1e-4, 1 - 1e-4, 2001)
    others = np.log((1 - p) / width)[:, None].repeat(width, axis=1)
    logits = float32(np.concatenate([np.log(p)[:, None], others], axis=1))
    labels = jnp.zeros(len(p), jnp.int32)
    for factor, negative in ((0.98, False), (1.02, True)):
        objective = Curio(alpha=factor * found, fixed_tau=tau, teacher="self")
        assert bool((run(objective, logits, labels)[1]["weight"] < 0).any()) == negative
