"""The objectives beside CurioSFT's: golden data, worked examples and what they must reduce to."""

from __future__ import annotations

from functools import partial

import float64_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.losses import per_token_loss, teacher_targets
from curiojax.losses.tokens import top_share
from curiojax.objectives import OBJECTIVES, Curio, Dft, Entropy, Gem, Kl, Oxa, Psft, Sft

# Every golden case beyond CurioSFT's. `unlikelihood` has no weight, so it is OXA with weight 1.
GOLDEN = {
    "entropy_0.06": Entropy(),
    "entropy_top20_0.06": Entropy(top_fraction=0.2),
    "kl_k3_0.1": Kl(),
    "gem_linear_0.7": Gem(h="linear"),
    "gem_logsigmoid_0.7": Gem(),
    "dft": Dft(),
    "psft": Psft(),
    "unlikelihood": Oxa(ul_weight=1.0),
}
# One of every kind that has code of its own.
KINDS = {
    **GOLDEN,
    "kl_k1": Kl(estimator="k1"),
    "kl_k2": Kl(estimator="k2"),
    "kl_reverse": Kl(estimator="reverse_full"),
    "kl_forward": Kl(estimator="forward_full", coef=1.0, min_base_prob=0.01, exempt_tokens=(3, 9)),
    "curio_forward": Curio(divergence="forward_kl"),
    "curio_reverse": Curio(divergence="reverse_kl"),
    "curio_self_forward": Curio(divergence="forward_kl", teacher="self"),
}


@partial(jax.jit, static_argnums=0)
def evaluate(objective, given):
    """Loss, metrics, and the gradient of the sum in the student's logits."""

    def total(logits):
        rest = {k: v for k, v in given.items() if k not in ("logits", "labels")}
        loss, metrics = per_token_loss(objective, logits, given["labels"], **rest)
        return loss.sum(), (loss, metrics)

    (_, (loss, metrics)), gradient = jax.value_and_grad(total, has_aux=True)(given["logits"])
    return loss, metrics, gradient


def inputs(objective, vocab_size: int = 61):
    """The golden data and what this objective is given of it."""
    data = oracle.golden(vocab_size)
    as_float = partial(jnp.asarray, dtype=jnp.float32)
    given = {
        "logits": as_float(data["student_logits"]),
        "labels": jnp.asarray(data["labels"], jnp.int32),
        "mask": as_float(data["mask"]),
    }
    if objective.name in ("kl", "curio"):
        given["teacher_logits"] = as_float(data["teacher_logits"])
    if objective.name == "psft":
        given["old_log_probs"] = as_float(data["lp_old"])
    if objective.name == "oxa":
        given["suppressed"] = jnp.ones(data["labels"].shape, bool)
    return data, given


def relative_error(got, want) -> float:
    return float(np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max())


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("vocab_size", [61, 700])
def test_golden_loss_and_gradient(name, vocab_size):
    data, given = inputs(GOLDEN[name], vocab_size)
    loss, metrics, gradient = evaluate(GOLDEN[name], given)
    valid = data["mask"] == 1
    assert {x.dtype for x in (loss, gradient, *metrics.values())} == {jnp.dtype("float32")}
    assert {x.shape for x in metrics.values()} == {loss.shape}
    assert relative_error(loss[valid], data[f"loss/{name}"][valid]) <= 2e-6
    assert relative_error(gradient, data[f"grad/{name}"]) <= 2e-6
    np.testing.assert_array_equal(loss[~valid], 0)
    np.testing.assert_array_equal(gradient[~valid], 0)


# Student logits and label; GEM linear and log-sigmoid, DFT and unlikelihood, in float64.
VECTORS = [
    ([8, 2, 1, 0, 0, 0, 0, 0], 0, -0.00188911, -0.00091326, 0.00502966, 5.28987457),
    ([2, 1.5, 1, 0, -1, -1, -2, -3], 2, 0.61555374, 0.30960865, 0.29701398, 0.17989907),
    ([3, 2.8, -1, -1.5, -2, -4, -5, -6], 5, 6.90033425, 3.56932827, 0.00374259, 0.00049137),
    ([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], 7, 0.42339178, 0.21226702, 0.21072534, 0.08972332),
]


def test_worked_examples():
    given = {
        "logits": jnp.asarray([v[0] for v in VECTORS], jnp.float32),
        "labels": jnp.asarray([v[1] for v in VECTORS], jnp.int32),
    }
    wanted = zip(*[v[2:] for v in VECTORS], strict=True)
    for objective, want in zip((Gem(h="linear"), Gem(), Dft()), wanted, strict=False):
        np.testing.assert_allclose(evaluate(objective, given)[0], want, rtol=3e-5, atol=1e-6)
    suppressed = {**given, "suppressed": jnp.ones(4, bool)}
    want = [v[5] for v in VECTORS]
    np.testing.assert_allclose(evaluate(Oxa(ul_weight=1.0), suppressed)[0], want, rtol=2e-5)


def kl64(p, q) -> np.ndarray:
    p, q = oracle.log_softmax(p), oracle.log_softmax(q)
    return (np.exp(p) * (p - q)).sum(axis=-1)


@pytest.mark.parametrize("vocab_size", [61, 700])
@pytest.mark.parametrize(
    "name", ["kl_reverse", "kl_forward", "curio_forward", "curio_reverse", "curio_self_forward"]
)
def test_divergences_over_the_vocabulary_in_float64(name, vocab_size):
    objective = KINDS[name]
    data, given = inputs(objective, vocab_size)
    z, other, labels = data["student_logits"], data["teacher_logits"], data["labels"]
    held, coef = np.ones(len(labels)), getattr(objective, "coef", 1.0)
    if name == "kl_forward":
        base = oracle.label_log_probs(other, labels)
        held = (base >= np.log(0.01)) & ~np.isin(labels, (3, 9))
        assert 0 < held[data["mask"] == 1].sum() < data["mask"].sum()
    if objective.name == "curio":
        other = z if objective.teacher == "self" else other
        other = other / oracle.temperature(other, objective)[:, None]
    forward = "forward" in name
    kl = kl64(other, z) if forward else kl64(z, other)
    p, q = np.exp(oracle.log_softmax(z)), np.exp(oracle.log_softmax(other))
    one_hot = np.eye(z.shape[1])[labels]
    if forward:
        slope = p - q
    else:
        slope = p * (np.log(p) - np.log(q) - kl[:, None])
    weight = (coef * held)[:, None]
    want = -oracle.label_log_probs(z, labels) + coef * held * kl
    want_gradient = data["mask"][:, None] * (p - one_hot + weight * slope)
    loss, metrics, gradient = evaluate(objective, given)
    # The temperature search ends within 1e-5 of the float64 one.
    tolerance = 1e-5 if objective.name == "kl" else 3e-5
    assert relative_error(loss, data["mask"] * want) <= tolerance
    assert relative_error(gradient, want_gradient) <= tolerance
    key = "sed_kl" if objective.name == "curio" else "kl"
    assert relative_error(metrics[key], data["mask"] * held * kl) <= 10 * tolerance


@pytest.mark.parametrize(
    ("estimator", "weight"),
    [("k1", lambda d: 1.1 + 0 * d), ("k2", lambda d: 1 + 0.1 * d), ("k3", None)],
)
def test_one_token_estimators_are_weighted_cross_entropy(estimator, weight):
    """d of the loss in lp is -1 + coef (1, d, 1 - exp(-d))."""
    objective = Kl(estimator=estimator)
    data, given = inputs(objective)
    d = oracle.label_log_probs(data["student_logits"], data["labels"])
    d = d - oracle.label_log_probs(data["teacher_logits"], data["labels"])
    slope = {"k1": 1 + 0 * d, "k2": d, "k3": 1 - np.exp(-d)}[estimator]
    want = (1 - 0.1 * slope)[:, None] * data["grad/sft"]
    _, metrics, gradient = evaluate(objective, given)
    assert relative_error(gradient, want) <= 2e-6
    valid = data["mask"] == 1
    np.testing.assert_allclose(metrics["weight"][valid], (1 - 0.1 * slope)[valid], atol=2e-6)
    log_probs = {**given, "teacher_log_probs": metrics["kl_k1"] * 0 - metrics["reference_nll"]}
    del log_probs["teacher_logits"]
    again = evaluate(objective, log_probs)
    np.testing.assert_allclose(again[2], gradient, rtol=1e-6, atol=1e-9)


def test_clamped_log_ratio_leaves_cross_entropy():
    """A token the student gives e-60 and the base nearly 1: no overflow, and it is still learnt."""
    logits = jnp.asarray([[60.0, 0.0, 0.0]])
    given = {"logits": logits, "labels": jnp.asarray([1]), "teacher_logits": logits[:, ::-1] * 0}
    loss, metrics, gradient = evaluate(Kl(), given)
    assert np.isfinite(loss).all() and np.isfinite(jax.tree.leaves(metrics)).all()
    plain = evaluate(Sft(), {k: given[k] for k in ("logits", "labels")})
    np.testing.assert_array_equal(gradient, plain[2])
    np.testing.assert_array_equal(metrics["weight"], 1)


# ---- what the objectives reduce to -----------------------------------------------------------


def plain_sft(vocab_size=61):
    return evaluate(Sft(), inputs(Sft(), vocab_size)[1])


@pytest.mark.parametrize(
    "objective",
    [
        Entropy(coef=0),
        Entropy(coef=0, top_fraction=0.2),
        Kl(coef=0),
        Kl(min_base_prob=1.0),
        Kl(exempt_tokens=tuple(range(61))),
        Curio(alpha=0, divergence="forward_kl"),
        Oxa(),
    ],
    ids=str,
)
def test_without_its_term_it_is_cross_entropy(objective):
    _, given = inputs(objective)
    if objective.name == "oxa":
        given["suppressed"] = jnp.zeros_like(given["suppressed"])
    loss, _, gradient = evaluate(objective, given)
    want = plain_sft()
    np.testing.assert_allclose(loss, want[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, want[2], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("vocab_size", [61, 700])
def test_gem_linear_with_beta_one_has_the_gradient_of_cross_entropy(vocab_size):
    gem = Gem(beta=1.0, h="linear")
    _, given = inputs(gem, vocab_size)
    loss, metrics, gradient = evaluate(gem, given)
    want, plain, want_gradient = plain_sft(vocab_size)
    assert relative_error(gradient, np.asarray(want_gradient)) <= 2e-6
    # The value is another: the student's entropy is missing.
    assert relative_error(loss, np.asarray(want - plain["entropy"])) <= 2e-6
    np.testing.assert_allclose(metrics["gem_s"][given["mask"] == 1], 1, rtol=1e-6)


def test_gem_linear_is_tempered_cross_entropy():
    """The gradient is that of beta logsumexp(z / beta) - z_y."""
    gem = Gem(beta=0.4, h="linear")
    data, given = inputs(gem)
    want = np.exp(oracle.log_softmax(data["student_logits"] / 0.4))
    want = (want - np.eye(61)[data["labels"]]) * data["mask"][:, None]
    assert relative_error(evaluate(gem, given)[2], want) <= 2e-6


def test_dft_gradient_is_minus_that_of_the_probability():
    data, given = inputs(Dft())
    prob = np.exp(oracle.label_log_probs(data["student_logits"], data["labels"]))
    want = prob[:, None] * data["grad/sft"]
    _, metrics, gradient = evaluate(Dft(), given)
    assert relative_error(gradient, want) <= 2e-6
    assert relative_error(metrics["weight"], prob * data["mask"]) <= 2e-6


def test_psft_with_one_update_per_snapshot_has_the_gradient_of_cross_entropy():
    alone = Psft(updates_per_snapshot=1)
    assert not alone.needs_teacher and "plain SFT" in alone.warnings[0]
    _, given = inputs(Sft())
    want = plain_sft()
    loss, _, gradient = evaluate(alone, given)
    np.testing.assert_allclose(gradient, want[2], rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(loss, -given["mask"])
    # The same when the snapshot is the student itself.
    fresh = {**given, "old_log_probs": want[1]["log_prob"]}
    np.testing.assert_allclose(evaluate(Psft(), fresh)[2], want[2], rtol=1e-6, atol=1e-8)


def test_psft_gradient_is_the_ratio_or_nothing():
    data, given = inputs(Psft())
    _, metrics, gradient = evaluate(Psft(), given)
    log_probs = oracle.label_log_probs(data["student_logits"], data["labels"])
    ratio = np.exp(log_probs - data["lp_old"])
    weight = np.where(ratio > 1.28, 0, ratio)
    assert relative_error(gradient, weight[:, None] * data["grad/sft"]) <= 2e-6
    np.testing.assert_array_equal(metrics["clipped"], (ratio > 1.28) * data["mask"])
    assert (ratio < 0.8)[data["mask"] == 1].any()  # the lower end does not act


def test_snapshot_logits_stand_for_old_log_probs():
    data, given = inputs(Kl())
    targets = teacher_targets(Psft(), given["teacher_logits"], given["labels"])
    want = oracle.label_log_probs(data["teacher_logits"], data["labels"])
    assert relative_error(targets["old_log_prob"], want) <= 1e-6
    by_logits = evaluate(Psft(), given)
    del given["teacher_logits"]
    by_log_probs = evaluate(Psft(), {**given, "old_log_probs": targets["old_log_prob"]})
    del by_logits[1]["old_log_prob"]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), by_logits, by_log_probs)


def test_oxa_mixes_both_terms_token_by_token():
    objective = Oxa(ul_weight=0.25)
    data, given = inputs(objective)
    suppressed = np.arange(24) % 3 == 0
    given["suppressed"] = jnp.asarray(suppressed)
    loss, metrics, gradient = evaluate(objective, given)
    want = np.where(suppressed, 0.25 * data["loss/unlikelihood"], data["loss/sft"])
    assert relative_error(loss, want * data["mask"]) <= 2e-6
    want = np.where(suppressed[:, None], 0.25 * data["grad/unlikelihood"], data["grad/sft"])
    assert relative_error(gradient, want) <= 2e-6
    prob = np.exp(oracle.label_log_probs(data["student_logits"], data["labels"]))
    assert relative_error(metrics["suppressed_prob"], prob * suppressed * data["mask"]) <= 2e-6
    np.testing.assert_array_equal(metrics["suppressed"], suppressed * data["mask"])


def test_unlikelihood_of_a_certain_token_is_finite_and_constant():
    """As released, p is kept 1e-6 away from 1; just below, digits of 1 - p survive in float32."""
    certain = np.zeros((2, 50))
    certain[0, 7], certain[1, 7] = 40.0, 15.0
    given = {
        "logits": jnp.asarray(certain, jnp.float32),
        "labels": jnp.asarray([7, 7]),
        "suppressed": jnp.ones(2, bool),
    }
    loss, _, gradient = evaluate(Oxa(ul_weight=1.0), given)
    complement = 49 / (49 + np.exp(15.0))
    np.testing.assert_allclose(loss, [-np.log(1e-6), -np.log(complement)], rtol=1e-6)
    np.testing.assert_array_equal(gradient[0], 0)
    assert gradient[1, 7] == pytest.approx(1 - complement, rel=1e-6)


# ---- the top share of the tokens -------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.05, 1 / 3, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2, 6, 11, 1001, 300_001])
def test_top_share_is_numpys_percentile(count, share):
    rng = np.random.default_rng(count)
    values = rng.exponential(size=(3, count)).astype(np.float32)
    values[2, count // 2 :] = 1.0  # ties
    valid = rng.uniform(size=values.shape) < 0.6
    valid[0, 0] = True
    got = jax.jit(top_share, static_argnums=2)(jnp.asarray(values), jnp.asarray(valid), share)
    chosen = values[valid].astype(np.float64)
    want = valid & (values >= np.percentile(chosen, 100 * (1 - share)))
    assert abs(int(got.sum()) - want.sum()) <= (count > 100_000)
    np.testing.assert_array_equal(got, want)


def test_top_share_where_the_quantile_falls_on_a_token():
    """0.8 of 100,000 intervals: the token there is selected, whatever rounding makes of 80,000."""
    values = np.random.default_rng(0).permutation(100_001).astype(np.float32)
    got = top_share(jnp.asarray(values), jnp.ones(100_001, bool), 0.2)
    np.testing.assert_array_equal(got, values >= 80_000)


def test_selection_from_outside_replaces_the_quantile_of_the_call():
    objective = Entropy(top_fraction=0.2)
    data, given = inputs(objective)
    found = evaluate(objective, given)[1]["selected"]
    assert 0 < found.sum() < data["mask"].sum()
    whole = evaluate(objective, given)
    halves = []
    for part in (slice(0, 12), slice(12, 24)):
        piece = {k: v[part] for k, v in given.items()}
        halves.append(evaluate(objective, {**piece, "selected": found[part]}))
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *halves)
    jax.tree.map(np.testing.assert_array_equal, joined, jax.tree.map(np.asarray, whole))


# ---- masks, padding, dtypes, order -----------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_masked_rows_may_hold_anything(name):
    objective = KINDS[name]
    _, given = inputs(objective)
    given["mask"] = jnp.asarray(np.arange(24) % 3 == 0, jnp.float32)
    left_out = np.asarray(given["mask"]) == 0
    clean = evaluate(objective, given)
    garbage = np.resize(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32), (24, 61))
    garbage[1], garbage[2] = np.nan, -np.inf
    spoilt = dict(given)
    for key in ("logits", "teacher_logits"):
        if key in given:
            spoilt[key] = jnp.where(left_out[:, None], garbage, given[key])
    if "old_log_probs" in given:
        spoilt["old_log_probs"] = jnp.where(left_out, jnp.nan, given["old_log_probs"])
    spoilt["labels"] = jnp.where(left_out, -100, given["labels"])
    leaves = jax.tree.leaves(evaluate(objective, spoilt)), jax.tree.leaves(clean)
    for got, want in zip(*leaves, strict=True):
        assert np.isfinite(got).all()
        np.testing.assert_array_equal(got[~left_out], want[~left_out])
        np.testing.assert_array_equal(got[left_out], 0)
    nothing = {**spoilt, "mask": jnp.zeros((24,))}
    for x in jax.tree.leaves(evaluate(objective, nothing)):
        np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize("name", KINDS)
def test_padded_vocabulary_columns_change_nothing(name):
    objective = KINDS[name]
    _, given = inputs(objective)
    padding = jnp.full((24, 19), -jnp.inf)
    padded = {
        k: jnp.concatenate([v, padding], axis=1) if v.ndim == 2 else v for k, v in given.items()
    }
    want = evaluate(objective, given)
    loss, metrics, gradient = evaluate(objective, padded)
    np.testing.assert_array_equal(gradient[:, 61:], 0)
    leaves = jax.tree.leaves((loss, metrics, gradient[:, :61])), jax.tree.leaves(want)
    for got, expected in zip(*leaves, strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_bfloat16_logits_are_computed_in_float32(name):
    objective = GOLDEN[name]
    _, given = inputs(objective)
    half = {k: v.astype(jnp.bfloat16) if v.ndim == 2 else v for k, v in given.items()}
    loss, metrics, gradient = evaluate(objective, half)
    assert gradient.dtype == jnp.bfloat16
    assert {x.dtype for x in (loss, *metrics.values())} == {jnp.dtype("float32")}
    again = {k: v.astype(jnp.float32) if v.ndim == 2 else v for k, v in half.items()}
    want = evaluate(objective, again)
    np.testing.assert_array_equal(loss, want[0])
    np.testing.assert_array_equal(gradient, want[2].astype(jnp.bfloat16))


@pytest.mark.parametrize("name", KINDS)
def test_order_of_vocabulary_and_tokens_does_not_matter(name):
    objective = KINDS[name]
    _, given = inputs(objective)
    rng = np.random.default_rng(1)
    columns, rows = rng.permutation(61), rng.permutation(24)
    where = jnp.asarray(np.argsort(columns), jnp.int32)
    if name == "kl_forward":  # ids, so they move with the columns
        moved = {"exempt_tokens": tuple(int(where[i]) for i in objective.exempt_tokens)}
        other = objective.model_copy(update=moved)
    else:
        other = objective
    shuffled = {k: v[rows][:, columns] if v.ndim == 2 else v[rows] for k, v in given.items()}
    shuffled["labels"] = where[shuffled["labels"]]
    loss, _, gradient = evaluate(objective, given)
    got, _, got_gradient = evaluate(other, shuffled)
    assert relative_error(got, np.asarray(loss)[rows]) <= 3e-6
    assert relative_error(got_gradient, np.asarray(gradient)[rows][:, columns]) <= 1e-5


@pytest.mark.parametrize("name", ["kl_k3_0.1", "kl_forward", "curio_reverse", "psft"])
def test_the_other_model_gets_no_gradient(name):
    objective = KINDS[name]
    _, given = inputs(Kl())

    def total(teacher):
        rest = {**given, "teacher_logits": teacher}
        loss, metrics = per_token_loss(objective, rest.pop("logits"), rest.pop("labels"), **rest)
        return loss.sum() + sum(m.sum() for m in metrics.values())

    gradient = jax.jit(jax.grad(total))(given["teacher_logits"])
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (Kl(), "teacher_logits or teacher_log_probs"),
        (Kl(estimator="reverse_full"), "teacher_logits"),
        (Curio(divergence="forward_kl"), "teacher_logits"),
        (Psft(), "old_log_probs"),
        (Oxa(), "suppressed"),
    ],
    ids=str,
)
def test_what_is_missing_is_named(objective, words):
    _, given = inputs(Sft())
    with pytest.raises(ValueError, match=words):
        per_token_loss(objective, given["logits"], given["labels"])


def test_log_probs_do_not_stand_for_logits():
    _, given = inputs(Sft())
    log_probs = jnp.zeros(given["labels"].shape)
    for objective in (Kl(estimator="forward_full"), Curio(divergence="reverse_kl")):
        assert objective.needs_teacher_logits
        with pytest.raises(ValueError, match="teacher_logits"):
            per_token_loss(objective, given["logits"], given["labels"], teacher_log_probs=log_probs)


def test_every_objective_is_tested_here_or_beside():
    assert {o.name for o in KINDS.values()} | {"sft"} == set(OBJECTIVES)
