"""Policy losses: golden data, closed forms, and what padding may hold."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.config import parse_objective
from curiojax.errors import ConfigError
from curiojax.losses import aggregate, effective_sample_share, group_advantages, policy_loss
from curiojax.losses.demonstrations import luffy_loss, rl_plus_loss
from curiojax.objectives import POLICY_OBJECTIVES, Grpo, GrpoReleased

MODES = ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm")
# The longest response that the golden values of the last mode were made with.
MAX_LENGTH = 16
CASES = {
    "grpo_clip_higher": Grpo(),
    "grpo_dual_clip_3": Grpo(dual_clip=3.0),
    "grpo_tis_2": Grpo(tis_cap=2.0),
    "luffy_demo": None,
    "rlplus_demo": None,
}
EVERYTHING = Grpo(
    dual_clip=1.6, tis_cap=1.1, kl_coef=0.3, kl_estimator="k2", entropy_coef=0.02
)  # fmt: skip


@cache
def golden() -> dict[str, np.ndarray]:
    """5 groups of 8 responses of 1 to 11 tokens, in float64, made independently of this package."""
    with np.load(Path(__file__).parents[1] / "golden" / "rl.npz") as file:
        return dict(file)


def inputs() -> dict[str, jax.Array]:
    data = golden()
    names = {
        "log_probs": "lp", "old_log_probs": "lp_old", "sampler_log_probs": "lp_sampler",
        "mask": "mask",
    }  # fmt: skip
    given = {name: jnp.asarray(data[key], jnp.float32) for name, key in names.items()}
    given["advantages"] = jnp.asarray(data["advantages"].reshape(-1, 1), jnp.float32)
    return given


def token_loss(name, given):
    if name == "luffy_demo":
        return luffy_loss(given["log_probs"], given["advantages"])
    if name == "rlplus_demo":
        return rl_plus_loss(given["log_probs"], given["old_log_probs"], given["advantages"])
    return policy_loss(CASES[name], **given)[0]


def assert_close(got, want, tolerance=1e-5):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def test_every_golden_case_is_here():
    assert {key.split("/")[1] for key in golden() if "/" in key} == set(CASES)
    assert {key.split("/")[2] for key in golden() if key.startswith("loss/")} == set(MODES)


@pytest.mark.parametrize("normalize_std", [True, False])
def test_golden_advantages(normalize_std):
    got = jax.jit(group_advantages, static_argnums=1)(golden()["rewards"], normalize_std)
    assert got.dtype == jnp.float32
    assert_close(got, golden()["advantages" if normalize_std else "advantages_no_std"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_golden_loss_and_gradient(name, mode):
    @jax.jit
    def run(given):
        def mean(log_probs):
            loss = token_loss(name, {**given, "log_probs": log_probs})
            total, weight = aggregate(loss, given["mask"], mode, max_length=MAX_LENGTH)
            return total / weight, loss

        return jax.value_and_grad(mean, has_aux=True)(given["log_probs"])

    (value, loss), gradient = run(inputs())
    data = golden()
    assert_close(loss * data["mask"], data[f"token_loss/{name}"] * data["mask"])
    assert float(value) == pytest.approx(float(data[f"loss/{name}/{mode}"]), rel=1e-5)
    assert_close(gradient, data[f"grad/{name}/{mode}"])


def test_golden_importance_weights():
    _, metrics = policy_loss(Grpo(tis_cap=2.0), **inputs())
    mask = golden()["mask"]
    assert_close(metrics["tis_weight"] * mask, golden()["tis_weight"] * mask)


@partial(jax.jit, static_argnums=0)
def evaluate(objective, given):
    """Loss, metrics and the gradient of the sum in the log-probabilities."""

    def total(log_probs):
        loss, metrics = policy_loss(objective, **{**given, "log_probs": log_probs})
        return loss.sum(), (loss, metrics)

    (_, (loss, metrics)), gradient = jax.value_and_grad(total, has_aux=True)(given["log_probs"])
    return loss, metrics, gradient


def row(**values):
    """Arrays [1, T] from lists; a mask of ones."""
    given = {name: jnp.asarray([x], jnp.float32) for name, x in values.items()}
    given.setdefault("mask", jnp.ones_like(given["log_probs"]))
    return given


def by_ratio(ratios, advantages):
    old = [-3.0] * len(ratios)
    log_probs = [-3.0 + float(np.log(r)) for r in ratios]
    return row(log_probs=log_probs, old_log_probs=old, advantages=advantages)


# Below, inside and above the range [0.8, 1.28], and above the dual clip 3, for either sign.
RATIOS = [0.5, 1.1, 1.5, 4.0] * 2 + [0.5, 4.0]
ADVANTAGES = [2.0] * 4 + [-2.0] * 4 + [0.0] * 2


def test_clipping_case_by_case():
    loss, metrics, gradient = evaluate(Grpo(dual_clip=3.0), by_ratio(RATIOS, ADVANTAGES))
    used = [0.5, 1.1, 1.28, 1.28, 0.8, 1.1, 1.5, 3.0, 0.5, 4.0]
    free = [1, 1, 0, 0, 0, 1, 1, 0, 1, 1]
    np.testing.assert_allclose(loss[0], -np.multiply(ADVANTAGES, used), rtol=2e-6)
    np.testing.assert_allclose(
        gradient[0], -np.multiply(ADVANTAGES, RATIOS) * free, rtol=2e-6, atol=0
    )
    np.testing.assert_allclose(metrics["ratio"][0], RATIOS, rtol=2e-6)
    np.testing.assert_array_equal(metrics["clipped_high"][0], [0, 0, 1, 1] + [0] * 6)
    np.testing.assert_array_equal(metrics["clipped_low"][0], [0] * 4 + [1] + [0] * 5)
    np.testing.assert_array_equal(metrics["dual_clipped"][0], [0] * 7 + [1, 0, 0])
    # Without it, nothing bounds a token of negative advantage from above.
    loss, metrics, gradient = evaluate(Grpo(), by_ratio(RATIOS, ADVANTAGES))
    assert float(loss[0, 7]) == pytest.approx(8.0, rel=1e-5)
    assert float(gradient[0, 7]) == pytest.approx(8.0, rel=1e-5)
    assert not metrics["dual_clipped"].any()


def test_what_the_released_loss_works_out_to():
    """Positive advantages: clipped on both sides. Negative ones: REINFORCE."""
    given = by_ratio(RATIOS, ADVANTAGES)
    loss, metrics, gradient = evaluate(GrpoReleased(), given)
    positive, negative, none = slice(0, 4), slice(4, 8), slice(8, None)
    np.testing.assert_allclose(loss[0, positive], [-1.6, -2.2, -2.4, -2.4], rtol=2e-6)
    np.testing.assert_allclose(gradient[0, positive], [0, -2.2, 0, 0], rtol=2e-6)
    np.testing.assert_allclose(loss[0, negative], 2 * given["log_probs"][0, negative], rtol=2e-6)
    np.testing.assert_array_equal(gradient[0, negative], 2)
    assert not loss[0, none].any() and not gradient[0, none].any()
    np.testing.assert_array_equal(metrics["clipped_high"][0], [0, 0, 1, 1] + [0] * 6)
    np.testing.assert_array_equal(metrics["clipped_low"][0], [1] + [0] * 9)
    # The aggregation that goes with it divides by the longest response allowed.
    total, weight = aggregate(loss, given["mask"], GrpoReleased().aggregation, max_length=8192)
    assert float(total / weight) == pytest.approx(float(loss.sum()) / 8192, rel=1e-5)


@pytest.mark.parametrize("objective", [Grpo(), Grpo(clip_low=1e-6, clip_high=1e-6)])
@pytest.mark.parametrize("given_old", [True, False])
def test_on_policy_the_gradient_is_reinforce(objective, given_old):
    given = inputs()
    given = {**given, "old_log_probs": given["log_probs"] if given_old else None}
    loss, metrics, gradient = evaluate(objective, given)
    mask = np.asarray(given["mask"])
    want = -np.broadcast_to(given["advantages"], mask.shape) * mask
    np.testing.assert_array_equal(gradient, want)
    np.testing.assert_array_equal(loss, want)
    np.testing.assert_array_equal(metrics["ratio"], mask)
    assert not metrics["old_kl"].any()
    assert not metrics["clipped_high"].any() and not metrics["clipped_low"].any()


def test_without_variance_there_is_no_gradient():
    given = inputs()
    _, _, gradient = evaluate(Grpo(dual_clip=3.0), given)
    lengths = np.asarray(given["mask"]).sum(axis=1)
    idle = np.ptp(golden()["rewards"], axis=1).repeat(8) == 0
    assert idle.sum() == 16 and lengths[idle].all()
    assert not np.asarray(gradient)[idle].any()
    assert np.asarray(gradient)[~idle].any(axis=1).mean() > 0.5


GAPS = np.array([-2.0, -0.3, 0.0, 0.4, 3.0])


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [
        ("k1", GAPS, np.ones(5)),
        ("k2", GAPS**2 / 2, GAPS),
        ("k3", np.exp(-GAPS) - 1 + GAPS, 1 - np.exp(-GAPS)),
    ],
)
def test_kl_to_the_reference(estimator, value, slope):
    log_probs = np.full(5, -4.0)
    given = row(
        log_probs=log_probs,
        old_log_probs=log_probs,
        ref_log_probs=log_probs - GAPS,
        advantages=np.ones(5),
    )
    objective = Grpo(kl_coef=0.25, kl_estimator=estimator)
    loss, metrics, gradient = evaluate(objective, given)
    np.testing.assert_allclose(metrics["kl"][0], value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss[0], -1 + 0.25 * value, rtol=1e-5)
    np.testing.assert_allclose(gradient[0], -1 + 0.25 * slope, rtol=1e-5)
    np.testing.assert_allclose(metrics["policy_loss"][0], -1, rtol=1e-6)
    np.testing.assert_allclose(metrics["kl_k1"][0], GAPS, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        metrics["kl_k3"][0], np.exp(-GAPS) - 1 + GAPS, rtol=1e-5, atol=1e-6
    )  # fmt: skip
    # Without a coefficient the reference is measured, and that is all.
    loss, metrics, _ = evaluate(Grpo(), given)
    np.testing.assert_array_equal(loss[0], -1)
    assert "kl" not in metrics and metrics["kl_k1"].any()


def test_truncated_importance_sampling():
    """The sampler gave each token its probability times 1/4, 1/1.5, 1 and 2."""
    old = np.full(4, -3.0)
    weights = np.array([4.0, 1.5, 1.0, 0.5])
    given = row(
        log_probs=old + np.log(1.1),
        old_log_probs=old,
        sampler_log_probs=old - np.log(weights),
        advantages=[1.0, 1.0, -1.0, -1.0],
    )
    plain, _, plain_gradient = evaluate(Grpo(), given)
    plain, plain_gradient = np.asarray(plain), np.asarray(plain_gradient)
    loss, metrics, gradient = evaluate(Grpo(tis_cap=2.0), given)
    capped = np.minimum(weights, 2)
    np.testing.assert_allclose(metrics["tis_weight"][0], capped, rtol=1e-5)
    np.testing.assert_array_equal(metrics["tis_capped"][0], [1, 0, 0, 0])
    np.testing.assert_allclose(loss, plain * capped, rtol=1e-5)
    np.testing.assert_allclose(gradient, plain_gradient * capped, rtol=1e-5)
    gap = -np.log(weights)
    np.testing.assert_allclose(metrics["mismatch_k1"][0], gap, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["mismatch_abs"][0], abs(gap), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["mismatch_k3"][0], weights - 1 + gap, rtol=1e-4, atol=1e-6)
    total, squares = (float(metrics[k].sum()) for k in ("tis_weight", "tis_weight_squared"))
    assert effective_sample_share(total, squares, 4) == pytest.approx(5.0**2 / (4 * 7.5), rel=1e-5)
    # Measured without being used; the penalty and the bonus are not the sampler's concern.
    unused, metrics, _ = evaluate(Grpo(), given)
    np.testing.assert_array_equal(unused, plain)
    np.testing.assert_allclose(metrics["tis_weight"][0], weights, rtol=1e-5)
    assert not metrics["tis_capped"].any()
    given |= row(log_probs=old + np.log(1.1), ref_log_probs=old)
    with_kl, metrics, _ = evaluate(Grpo(tis_cap=2.0, kl_coef=0.5), given)
    np.testing.assert_allclose(with_kl - loss, 0.5 * metrics["kl"], rtol=1e-3, atol=1e-6)


def test_on_policy_importance_weights_are_those_of_the_new_policy():
    given = inputs()
    explicit = {**given, "old_log_probs": given["log_probs"]}
    implicit = {**given, "old_log_probs": None}
    a, b = (evaluate(Grpo(tis_cap=1.5), x) for x in (explicit, implicit))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_effective_sample_share_of_equal_weights_and_of_nothing():
    assert effective_sample_share(6.0, 3.0, 12.0) == 1.0
    assert effective_sample_share(0.0, 0.0, 0.0) == 1.0


def test_entropy_bonus():
    given = inputs()
    entropy = -given["log_probs"] / 2

    def total(entropy):
        return policy_loss(Grpo(entropy_coef=0.1), **given, entropy=entropy)[0].sum()

    plain = policy_loss(Grpo(), **given, entropy=entropy)[0].sum()
    value, gradient = jax.value_and_grad(total)(entropy)
    bonus = (entropy * given["mask"]).sum()
    assert float(value) == pytest.approx(float(plain - 0.1 * bonus), rel=1e-5)
    np.testing.assert_allclose(gradient, -0.1 * given["mask"], rtol=1e-6)


def test_extreme_log_ratios_stay_finite():
    values = [-1e4, -30.0, -0.0]
    given = row(
        log_probs=values,
        old_log_probs=values[::-1],
        sampler_log_probs=[0.0, -np.inf, -1e4],
        ref_log_probs=values[::-1],
        advantages=[1.0, -1.0, -1.0],
    )
    for objective in (Grpo(tis_cap=2.0, kl_coef=0.1, dual_clip=3.0), GrpoReleased()):
        loss, metrics, gradient = evaluate(objective, given)
        assert np.isfinite(loss).all() and np.isfinite(gradient).all()
        assert np.isfinite(metrics["tis_weight_squared"]).all()
        assert float(metrics["ratio"].max()) == pytest.approx(np.exp(20), rel=1e-5)


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("objective", [EVERYTHING, GrpoReleased()], ids=["grpo", "released"])
def test_padding_may_hold_anything(objective, rubbish):
    given = inputs()
    given = {
        **given,
        "advantages": jnp.broadcast_to(given["advantages"], given["mask"].shape),
        "ref_log_probs": given["sampler_log_probs"] - 0.1,
        "entropy": -given["log_probs"],
    }
    spoilt = {
        name: x if name == "mask" else jnp.where(given["mask"] > 0, x, rubbish)
        for name, x in given.items()
    }
    clean, dirty = evaluate(objective, given), evaluate(objective, spoilt)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    padding = np.asarray(given["mask"]) == 0
    for x in jax.tree.leaves(clean):
        assert not np.asarray(x)[padding].any()
    # The mask selects and does not scale.
    scaled = evaluate(objective, {**given, "mask": 0.01 * given["mask"]})
    jax.tree.map(np.testing.assert_array_equal, clean, scaled)
    as_bool = evaluate(objective, {**given, "mask": given["mask"] > 0})
    jax.tree.map(np.testing.assert_array_equal, clean, as_bool)


def test_metrics_and_constants_carry_no_gradient():
    given = inputs()
    given |= {"ref_log_probs": given["sampler_log_probs"], "entropy": -given["log_probs"]}

    def total(given):
        loss, metrics = policy_loss(EVERYTHING, **given)
        return loss.sum() + sum(jax.tree.leaves(jax.tree.map(jnp.sum, metrics)))

    gradients = jax.grad(total)(given)
    for name in ("old_log_probs", "sampler_log_probs", "ref_log_probs", "advantages"):
        assert not gradients[name].any(), name
    _, _, expected = evaluate(EVERYTHING, given)
    np.testing.assert_allclose(gradients["log_probs"], expected, rtol=1e-6)


def test_half_precision_inputs_are_promoted():
    given = {k: x.astype(jnp.bfloat16) for k, x in inputs().items()}
    loss, metrics, _ = evaluate(Grpo(tis_cap=2.0), given)
    assert loss.dtype == jnp.float32
    assert {x.dtype for x in metrics.values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("objective", "missing"),
    [
        (Grpo(tis_cap=2.0), "sampler_log_probs"),
        (Grpo(kl_coef=0.1), "ref_log_probs"),
        (Grpo(entropy_coef=0.1), "entropy"),
    ],
)
def test_what_is_missing_is_named(objective, missing):
    given = {k: x for k, x in inputs().items() if k != "sampler_log_probs"}
    with pytest.raises(ValueError, match=rf"needs {missing}"):
        policy_loss(objective, **given)


def test_shapes_that_would_broadcast_wrongly_are_refused():
    square = {k: x[:11, :11] for k, x in inputs().items()}
    with pytest.raises(ValueError, match="advantages must be of shape"):
        policy_loss(Grpo(), **{**square, "advantages": square["advantages"][:, 0]})
    with pytest.raises(ValueError, match="old_log_probs must be of shape"):
        policy_loss(Grpo(), **{**square, "old_log_probs": square["old_log_probs"][:, :1]})


def test_objectives_from_plain_values():
    assert parse_objective({"name": "grpo"}) == Grpo()
    assert parse_objective({"name": "grpo_released"}) == GrpoReleased()
    paper = parse_objective({"name": "grpo"})
    assert isinstance(paper, Grpo)
    assert (paper.clip_low, paper.clip_high, paper.kl_coef, paper.entropy_coef) == (0.2, 0.28, 0, 0)
    assert (paper.dual_clip, paper.tis_cap, paper.aggregation) == (None, None, "token_mean")
    dr = parse_objective(
        {"name": "grpo", "normalize_std": False, "aggregation": "seq_mean_token_sum_norm"}
    )
    assert hash(dr) != hash(paper)
    hybrids = {"luffy", "rl_plus", "srft", "hpt", "sft_rl", "prefix_rft"}
    assert set(POLICY_OBJECTIVES) == {"grpo", "grpo_released"} | hybrids
    assert not paper.needs_teacher and Grpo(kl_coef=0.1).needs_teacher
    assert not paper.needs_sampler_log_probs and Grpo(tis_cap=2).needs_sampler_log_probs


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"clip_low": 0}, ["objective.clip_low", "greater than 0"]),
        ({"clip_low": 1.5}, ["objective.clip_low", "less than or equal to 1"]),
        ({"dual_clip": 1}, ["objective.dual_clip", "greater than 1"]),
        ({"tis_cap": 0}, ["objective.tis_cap", "greater than 0"]),
        ({"kl_coef": -1}, ["objective.kl_coef"]),
        ({"kl_estimator": "k4"}, ["objective.kl_estimator", "'k3'"]),
        ({"aggregation": "mean"}, ["objective.aggregation", "token_mean"]),
        ({"overlong": "drop"}, ["objective.overlong", "'mask'"]),
        ({"entropy_coef": float("nan")}, ["objective.entropy_coef"]),
        ({"clip": 0.2}, ["objective.clip", "unknown key", "objective.clip_low"]),
        ({"name": "grpo_released", "tis_cap": 2}, ["objective.tis_cap", "unknown key"]),
        ({"name": "gropo"}, ["gropo", "grpo"]),
    ],
    ids=str,
)
def test_bad_values_give_one_clear_line(values, words):
    with pytest.raises(ConfigError) as caught:
        parse_objective({"name": "grpo", **values})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_odd_settings_are_warned_about():
    assert Grpo().warnings == ()
    odd = Grpo(kl_coef=0.1, kl_estimator="k1", tis_cap=0.5, dual_clip=1.2)
    for warning, field in zip(odd.warnings, ("kl_estimator", "tis_cap", "dual_clip"), strict=True):
        assert warning.startswith(f"objective.{field}:")
    assert "grpo_released" in GrpoReleased().warnings[0]
