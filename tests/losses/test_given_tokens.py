"""The losses of the hybrids token by token: closed forms, golden data, and who is left out."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.config import parse_objective
from curiojax.errors import ConfigError
from curiojax.losses import policy_loss
from curiojax.losses.demonstrations import GIVEN_LOSSES
from curiojax.losses.own_tokens import POLICY_LOSSES
from curiojax.losses.sequences import sequence_means
from curiojax.objectives import POLICY_OBJECTIVES, Grpo, Hpt, Luffy, RlPlus, SftRl, Srft

N = 60
HYBRIDS = (Luffy(), RlPlus(), Srft(), Hpt(), SftRl())


def tokens(seed=0):
    """Half of the tokens given; probabilities from nearly 0 to 1, and ratios on both sides of 1."""
    rng = np.random.default_rng(seed)
    log_probs = -rng.exponential(2.0, N)
    return {
        "log_probs": log_probs,
        "old_log_probs": np.minimum(log_probs + 0.3 * rng.normal(size=N), 0.0),
        "advantages": rng.choice([-1.0, 1.0, 0.4, -0.6, 0.0], N),
        "given": (np.arange(N) % 2).astype(float),
        "entropy": rng.exponential(1.0, N),
        "sequence_entropy": rng.exponential(1.0, N),
    }


def evaluate(objective, given):
    """Loss, metrics, and the derivative of each token's loss in its log-probability."""
    arrays = {name: jnp.asarray(x, jnp.float32)[None] for name, x in given.items()}
    mask = jnp.ones_like(arrays["log_probs"])

    def run(log_probs):
        def total(log_probs):
            loss, metrics = policy_loss(
                objective, **{"mask": mask, **arrays, "log_probs": log_probs}
            )
            return loss.sum(), (loss, metrics)

        slope, (loss, metrics) = jax.grad(total, has_aux=True)(log_probs)
        return loss[0], {name: x[0] for name, x in metrics.items()}, slope[0]

    return jax.tree.map(np.asarray, run(arrays["log_probs"]))


def by_hand(objective, x):
    """Loss and derivative of every token in float64, for the defaults of each objective."""
    lp, old, A, H = x["log_probs"], x["old_log_probs"], x["advantages"], x["sequence_entropy"]
    p, p_old, ratio = np.exp(lp), np.exp(old), np.exp(lp - old)
    own, own_slope = -A * ratio, -A * ratio
    match objective.name:
        case "luffy":
            theirs, slope = -A * p / (p + 0.1), -A * 0.1 * p / (p + 0.1) ** 2
        case "rl_plus":
            theirs = slope = -A * np.sqrt(1 - p) * 2 * p / (1.5 * p_old + 0.5)
        case "srft":
            own = np.where(A > 0, -0.1 * np.exp(H) * A * lp, -A * lp)
            own_slope = np.where(A > 0, -0.1 * np.exp(H) * A, -A)
            theirs = -0.5 * np.exp(-H) * lp - A * p / (p + 0.1)
            slope = -0.5 * np.exp(-H) - A * 0.1 * p / (p + 0.1) ** 2
        case "hpt" | "sft_rl":
            theirs, slope = -lp, -np.ones_like(lp)
    given = x["given"] > 0
    loss = np.where(given, theirs, own) - 0.001 * x["entropy"]
    return loss, np.where(given, slope, own_slope)


@pytest.mark.parametrize("objective", HYBRIDS, ids=lambda o: o.name)
def test_values_and_derivatives_are_the_closed_forms(objective):
    x = tokens()
    loss, metrics, slope = evaluate(objective, x)
    want, want_slope = by_hand(objective, x)
    np.testing.assert_allclose(loss, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, want_slope, rtol=1e-5, atol=1e-6)
    given = x["given"] > 0
    np.testing.assert_allclose(metrics["given_prob"], np.exp(x["log_probs"]), rtol=1e-5)
    bonus = 0.001 * x["entropy"]
    np.testing.assert_allclose(metrics["given_loss"][given], (want + bonus)[given], rtol=1e-5)
    np.testing.assert_allclose(metrics["policy_loss"][~given], (want + bonus)[~given], rtol=1e-5)


def test_the_entropy_of_the_sequence_sets_the_weights():
    """Hand values: exp(-0.3) / 2 and exp(0.3) / 10; at 1 nat 0.1839397 and 0.2718282."""
    x = tokens() | {"sequence_entropy": np.where(np.arange(N) < N // 2, 0.3, 1.0)}
    _, metrics, _ = evaluate(Srft(), x)
    np.testing.assert_allclose(metrics["sft_weight"][[0, -1]], [0.3704091, 0.1839397], rtol=1e-6)
    np.testing.assert_allclose(
        metrics["positive_weight"][[0, -1]], [0.1349859, 0.2718282], rtol=1e-6
    )
    np.testing.assert_array_equal(metrics["positive"], x["advantages"] > 0)
    np.testing.assert_array_equal(metrics["negative"], x["advantages"] < 0)


def test_no_gradient_through_what_is_a_constant():
    x = {name: jnp.asarray(v, jnp.float32)[None] for name, v in tokens().items()}
    x["mask"] = jnp.ones_like(x["log_probs"])
    for objective in HYBRIDS:

        def total(x, objective=objective):
            loss, metrics = policy_loss(objective, **x)
            return loss.sum() + sum(m.sum() for m in metrics.values())

        slopes = jax.grad(total)(x)
        for name in ("old_log_probs", "advantages", "sequence_entropy", "given"):
            assert not slopes[name].any(), (objective.name, name)
        assert slopes["entropy"].all()  # the bonus is for given tokens as well


@pytest.mark.parametrize(("name", "objective"), [("luffy", Luffy()), ("rlplus", RlPlus())])
def test_golden_demonstrations_through_the_whole_loss(name, objective):
    with np.load(Path(__file__).parents[1] / "golden" / "rl.npz") as file:
        data = dict(file)
    arrays = {
        "log_probs": data["lp"],
        "old_log_probs": data["lp_old"],
        "advantages": data["advantages"].reshape(-1, 1),
        "mask": data["mask"],
        "given": data["mask"],
    }
    arrays = {key: jnp.asarray(value, jnp.float32) for key, value in arrays.items()}
    plain = objective.model_copy(update={"entropy_coef": 0.0})

    def mean(log_probs):
        loss, _ = policy_loss(plain, **{**arrays, "log_probs": log_probs})
        return loss.sum() / arrays["mask"].sum(), loss

    (value, loss), slope = jax.value_and_grad(mean, has_aux=True)(arrays["log_probs"])
    golden = {part: data[f"{part}/{name}_demo/token_mean"] for part in ("loss", "grad")}
    assert float(value) == pytest.approx(float(golden["loss"]), rel=1e-5)
    scale = np.abs(golden["grad"]).max()
    assert np.abs(slope - golden["grad"]).max() <= 1e-5 * scale
    want = data[f"token_loss/{name}_demo"] * data["mask"]
    assert np.abs(np.asarray(loss) - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("objective", [Luffy, RlPlus, Hpt, SftRl])
def test_without_given_tokens_it_is_grpo_bit_for_bit(objective):
    options = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0, "entropy_coef": 0.0}
    x = tokens() | {"given": np.zeros(N)}
    got = evaluate(objective(**options), x)
    want = evaluate(Grpo(**options), {k: v for k, v in x.items() if k != "given"})
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[2], want[2])


@pytest.mark.parametrize("objective", [Luffy, RlPlus, Srft, Hpt, SftRl])
def test_given_tokens_know_no_sampler_and_no_reference(objective):
    """Whatever is said of them there, their loss is the same; own tokens have both."""
    x = tokens()
    more = {"sampler_log_probs": x["old_log_probs"] - 0.2, "ref_log_probs": x["log_probs"] - 0.5}
    corrected = objective(tis_cap=1.1, kl_coef=0.3)
    plain, _, plain_slope = evaluate(objective(), x)
    loss, _, slope = evaluate(corrected, x | more)
    given = x["given"] > 0
    np.testing.assert_array_equal(loss[given], plain[given])
    np.testing.assert_array_equal(slope[given], plain_slope[given])
    assert (np.abs(loss - plain)[~given] > 1e-3).mean() > 0.9


def test_unbounded_where_the_range_has_no_end():
    """The same for own tokens with an end that is never reached, however large the ratio."""
    x = tokens() | {"given": np.zeros(N)}
    for open_end, far in (({"clip_high": None}, {"clip_high": 1e9}), ({"clip_low": None}, {})):
        options = {"clip_low": 0.2, "clip_high": 0.28, **open_end}
        loss, metrics, slope = evaluate(Luffy(**options), x)
        if far:
            want = evaluate(Luffy(**{**options, **far}), x)
            np.testing.assert_array_equal(loss, want[0])
        assert not metrics["clipped_" + next(iter(open_end)).removeprefix("clip_")].any()
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("objective", HYBRIDS, ids=lambda o: o.name)
def test_padding_may_hold_anything(objective, rubbish):
    x = tokens()
    mask = np.arange(N) % 3 > 0
    spoilt = {name: np.where(mask, v, rubbish) for name, v in x.items()}
    clean = evaluate(objective, x | {"mask": mask})
    dirty = evaluate(objective, spoilt | {"mask": mask})
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert not any(v[~mask].any() for v in jax.tree.leaves(clean))


def test_improbable_demonstrations_stay_finite():
    x = {
        "log_probs": np.array([-1e4, -80.0, 0.0]),
        "old_log_probs": np.array([0.0, -1e4, -1e4]),
        "advantages": np.array([1.0, -1.0, 1.0]),
        "given": np.ones(3),
        "entropy": np.zeros(3),
        "sequence_entropy": np.array([12.0, 0.0, 12.0]),
    }
    for objective in HYBRIDS:
        loss, _, slope = evaluate(objective, x)
        assert np.isfinite(loss).all() and np.isfinite(slope).all(), objective.name


def test_sequence_means_are_those_of_each_sequence():
    rng = np.random.default_rng(0)
    segments = np.array([[1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [0] * 8])
    mask = np.array([[0, 0.2, 0.2, 1, 0, 3, 0, 0], [0, 1, 1, 1, 0, 1, 1, 1], [0] * 8])
    values = rng.normal(size=(3, 8))
    want = np.zeros((3, 8))
    for row in range(3):
        for segment in {*segments[row]}:
            chosen = (segments[row] == segment) & (mask[row] > 0)
            if chosen.any():
                want[row, chosen] = values[row, chosen].mean()
    values = np.where(mask > 0, values, np.nan)
    got = jax.jit(sequence_means)(
        jnp.asarray(values, jnp.float32), jnp.asarray(mask, jnp.float32), jnp.asarray(segments)
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_every_hybrid_has_a_loss_of_either_kind():
    assert set(POLICY_LOSSES) == set(POLICY_OBJECTIVES)
    assert set(GIVEN_LOSSES) == {
        name for name, model in POLICY_OBJECTIVES.items() if model().needs_demonstrations
    }
    with pytest.raises(ValueError, match="srft: its weight needs sequence_entropy"):
        x = {k: jnp.asarray(v)[None] for k, v in tokens().items() if k != "sequence_entropy"}
        policy_loss(Srft(), mask=jnp.ones((1, N)), **x)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "srft", "clip_high": 0.2}, ["objective", "clip_high", "no probability ratio"]),
        ({"name": "srft", "dual_clip": 3.0}, ["dual_clip"]),
        ({"name": "luffy", "gamma": 0}, ["objective.gamma", "greater than 0"]),
        ({"name": "luffy", "sft_coef": 1}, ["objective.sft_coef", "unknown key"]),
        ({"name": "hpt", "gate": -1}, ["objective.gate"]),
        ({"name": "hpt", "sft_coef": 0}, ["objective.sft_coef", "greater than 0"]),
        ({"name": "sft_rl", "sft_coef": -1}, ["objective.sft_coef"]),
        ({"name": "lufy"}, ["lufy", "luffy"]),
    ],
    ids=str,
)
def test_bad_values_give_one_clear_line(values, words):
    with pytest.raises(ConfigError) as caught:
        parse_objective(values)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_defaults_are_the_releases():
    for objective in HYBRIDS:
        assert (objective.clip_low, objective.clip_high, objective.normalize_std) == (None,) * 2 + (
            False,
        )
        assert objective.entropy_coef == 0.001 and objective.needs_demonstrations
    assert not SftRl(sft_coef=0).needs_demonstrations
