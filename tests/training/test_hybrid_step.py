"""Whole updates of the hybrids: from graded groups to the gradient of the loss written out."""

import jax
import numpy as np
import pytest

from curiojax.training import policy_step, statistics
from curiojax.training import step as supervised_step
from curiojax.training.credit import credit
from curiojax.training.experience import Trajectory, loss_weights, microbatches
from curiojax.training.policy_step import compile_policy_step
from tests.training import test_policy_step, tiny
from tests.training.hybrid_reference import OBJECTIVES, REWARDS, N, data, recipe, start, written_out
from tests.training.test_policy_step import LIMIT, MODEL, old


def sums_of(whole, step, found, *, on_policy=False, packing=True):
    """Gradient sums and loss of one update, from graded groups."""
    prompts, groups = found
    return sums_of_trajectories(
        whole,
        step,
        credit(whole.config.objective, groups, prompts),
        on_policy=on_policy,
        packing=packing,
    )


def sums_of_trajectories(whole, step, trajectories, *, on_policy=False, packing=True):
    state = start() if whole.mesh.size == 1 else tiny.start(whole)
    batches = test_policy_step.batches_of(whole, trajectories, packing)
    with jax.set_mesh(whole.mesh):
        scores = step.score(old(state), batches, on_policy=on_policy)
        sums = step.zeros()
        for batch, known in zip(batches, scores, strict=True):
            sums = step.accumulate(state.params, sums, batch, known)
        return jax.device_get(sums)


@pytest.fixture(scope="module")
def compiled():
    made = {}

    def get(name):
        if name not in made:
            whole = recipe(OBJECTIVES[name])
            made[name] = whole, compile_policy_step(whole)
        return made[name]

    return get


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_that_of_the_loss_written_out(compiled, name):
    """Two micro-batches of packed rows; the first update of a step and a later one."""
    whole, step = compiled(name)
    found = data(whole.config.objective)
    written = written_out(whole, found)
    for on_policy in (False, True):
        got = sums_of(whole, step, found, on_policy=on_policy)
        want_loss, want = written(on_policy)
        assert got.loss / got.weight == pytest.approx(float(want_loss), rel=2e-5)
        got = jax.tree.map(lambda g, weight=got.weight: g / weight, got.grads)
        assert tiny.largest_difference(want, got) < 2e-5


def test_layout_changes_nothing(compiled):
    """SRFT's weights are of whole sequences, whoever shares their rows, micro-batch and device."""
    whole, step = compiled("srft")
    found = data(whole.config.objective)
    want = sums_of(whole, step, found)
    unpacked = sums_of(whole, step, found, packing=False)
    split = recipe(OBJECTIVES["srft"], rows=4, mesh=(2, 2, 2))
    sharded = sums_of(split, compile_policy_step(split), found)
    for other in (unpacked, sharded):
        assert other.weight == pytest.approx(float(want.weight), rel=1e-6)
        assert tiny.largest_difference(want.grads, other.grads) < 1e-5
        reports = [
            statistics.summarize(sums.stats, whole.config.objective, tiny.VOCAB)
            for sums in (want, other)
        ]
        for key in reports[0].keys() - {"slots"}:
            assert reports[1][key] == pytest.approx(reports[0][key], rel=1e-4, abs=1e-6), key


def measured(whole, trajectories):
    """Sums of one micro-batch without the other programs of a step; some numbers for scores."""
    (batch,) = test_policy_step.batches_of(whole, trajectories)
    scores = {"old_log_probs": batch["sampler_log_probs"], "on_policy": 0 * batch["loss_mask"]}
    if whole.teacher is not None:
        scores["ref_log_probs"] = 0.9 * batch["sampler_log_probs"]
    run = jax.jit(lambda *x: policy_step.measure_microbatch(whole, *x))
    with jax.set_mesh(whole.mesh):
        return jax.device_get(run(start().params, batch, scores))


def test_a_run_without_demonstrations_is_grpo_bit_for_bit():
    """The same trajectories through the programs of both, with everything that GRPO can do."""
    options = test_policy_step.EVERYTHING.removeprefix("objective={name: grpo")
    trajectories = test_policy_step.trajectories()
    # The program of the others treats own tokens as luffy's does.
    want, got = (
        measured(test_policy_step.recipe(f"objective={{name: {name}{options}"), trajectories)
        for name in ("grpo", "luffy")
    )
    assert got.stats.sums["given_tokens"] == 0
    assert (got.loss, got.weight) == (want.loss, want.weight)
    jax.tree.map(np.testing.assert_array_equal, got.grads, want.grads)
    arrays = []
    for name in ("grpo", "rl_plus", "srft", "hpt", "sft_rl"):
        objective = recipe(f"objective={{name: {name}, aggregation: seq_mean_token_mean}}")
        objective = objective.config.objective
        arrays.append(
            microbatches(trajectories, objective, rows=4, row_length=32, max_length=LIMIT)
        )
        assert not arrays[-1].pop("given", np.zeros(1)).any()
        jax.tree.map(np.testing.assert_array_equal, arrays[-1], arrays[0])


def traced(whole):
    """The program that accumulates a micro-batch, before any compiler sees it."""
    batch = policy_step.abstract_batch(whole)
    scores = dict.fromkeys(("old_log_probs", "on_policy"), batch["loss_mask"])
    with jax.set_mesh(whole.mesh):
        program = jax.make_jaxpr(lambda *x: policy_step.measure_microbatch(whole, *x))
        return str(program(whole.abstract_state().params, batch, scores))


def test_the_coefficient_0_is_grpo_bit_for_bit():
    """The very same program and, since the collector then adds no demonstrations, the same data."""
    options = "entropy_coef: 0.1, normalize_std: true, clip_low: 0.2, clip_high: 0.28"
    grpo, zero, one = (
        recipe(f"objective={{name: {name}, {options}}}")
        for name in ("grpo", "sft_rl, sft_coef: 0", "sft_rl, sft_coef: 1")
    )
    assert traced(zero) == traced(grpo) != traced(one)
    prompts, groups = data(grpo.config.objective, [(own, None) for own, _ in REWARDS])
    both = [credit(whole.config.objective, groups, prompts) for whole in (grpo, zero)]
    assert both[0] == both[1]
    arrays = [
        microbatches(both[0], whole.config.objective, rows=4, row_length=32, max_length=LIMIT)
        for whole in (grpo, zero)
    ]
    jax.tree.map(np.testing.assert_array_equal, *arrays)


def test_all_demonstrations_is_the_gradient_of_sft():
    """HPT where nothing is ever solved, against the step of the supervised stage."""
    whole = recipe(
        f"objective={{name: hpt, gate: {N}, entropy_coef: 0.0}}", "rollout.temperature=1.0"
    )
    prompts, groups = data(whole.config.objective, [(own, 1) for own, _ in REWARDS])
    sft = tiny.recipe("objective={name: sft}", model=MODEL)
    trajectories = credit(whole.config.objective, groups, prompts)
    got = measured(whole, trajectories)
    assert all(t.is_demonstration for t in trajectories) and len(trajectories) == len(groups)
    (batch,) = test_policy_step.batches_of(whole, trajectories)
    batch = {name: batch[name] for name in sft.batch_dtypes}
    run = jax.jit(lambda params: supervised_step.measure_microbatch(sft, params, batch, None))
    with jax.set_mesh(sft.mesh):
        want = jax.device_get(run(start().params))
    assert got.weight == want.weight == sum(len(t.tokens) for t in trajectories)
    assert got.loss == pytest.approx(float(want.loss), rel=1e-6)
    assert tiny.largest_difference(want.grads, got.grads) < 1e-6
    assert statistics.summarize(got.stats, whole.config.objective, tiny.VOCAB)["ratio_max"] == 0.0


def test_the_two_means_have_denominators_of_their_own(compiled):
    """Twice the same demonstrations: the gradient is the same, and so is the loss."""
    whole, step = compiled("sft_rl")
    prompts, groups = data(whole.config.objective)
    trajectories = credit(whole.config.objective, groups, prompts)
    shown = [t for t in trajectories if t.is_demonstration]

    once = sums_of_trajectories(whole, step, trajectories)
    twice = sums_of_trajectories(whole, step, [*trajectories, *shown])
    assert once.weight == twice.weight == sum(len(t.tokens) for t in trajectories if not t.given)
    assert twice.loss == pytest.approx(float(once.loss), rel=1e-5)
    assert tiny.largest_difference(once.grads, twice.grads) < 1e-5


@pytest.mark.parametrize("mode", ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum_norm"])
def test_what_a_token_adds_to_each_sum(mode):
    objective = recipe(f"objective={{name: sft_rl, aggregation: {mode}}}").config.objective
    found = [
        Trajectory([1], [5] * 4, [0.0] * 4, 1.0),
        Trajectory([1], [5] * 6, [0.0] * 6, 1.0),
        Trajectory([1], [5] * 9, [0.0] * 9, 0.0, learnt=False),
        Trajectory([1], [5] * 8, [0.0] * 8, 0.0, given=8, weight=0.5),
        Trajectory([1], [5] * 2, [0.0] * 2, 0.0, given=2, weight=0.5),
    ]
    factors, shares = loss_weights(found, objective, LIMIT)
    own = {"token_mean": (1, 1), "seq_mean_token_mean": (1 / 4, 1 / 6)}.get(mode, (1 / LIMIT,) * 2)
    count = 10 if mode == "token_mean" else 2
    np.testing.assert_allclose(factors, [*own, 0, *[0.5 * count / 10] * 2], rtol=1e-6)
    lengths = np.array([4, 6, 9, 8, 2])
    assert (shares * lengths).sum() == pytest.approx(count)
    assert not shares[2:].any()
    arrays = microbatches(found, objective, rows=2, row_length=32, max_length=LIMIT)
    assert arrays["given"].sum() == 10
    assert arrays["loss_share"].sum() == pytest.approx(count)


def test_a_prefix_that_was_given_is_marked():
    """The seam of prefix-guided completions: the first tokens given, the others the policy's."""
    objective = recipe("objective.name=luffy").config.objective
    guided = Trajectory([1, 2, 3], [5, 6, 7, 8], [0.0, 0.0, -1.0, -2.0], 1.0, given=2)
    arrays = microbatches([guided], objective, rows=1, row_length=8, max_length=LIMIT)
    assert not guided.is_demonstration
    np.testing.assert_array_equal(arrays["labels"][0, 0, :6], [2, 3, 5, 6, 7, 8])
    np.testing.assert_array_equal(arrays["given"][0, 0], [0, 0, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(arrays["sampler_log_probs"][0, 0, 2:6], [0, 0, -1, -2])


def test_metrics_tell_own_from_given_tokens(compiled):
    whole, step = compiled("srft")
    found = data(whole.config.objective)
    sums = sums_of(whole, step, found)
    report = statistics.summarize(sums.stats, whole.config.objective, tiny.VOCAB)
    prompts, groups = found
    learnt = [t for t in credit(whole.config.objective, groups, prompts) if t.learnt]
    own = [t for t in learnt if not t.given]
    assert report["tokens"] == sum(len(t.tokens) for t in own)
    assert report["given_tokens"] == sum(len(t.tokens) for t in learnt if t.given)
    right = sum(len(t.tokens) for t in own if t.advantage > 0)
    assert (report["positive_tokens"], report["negative_tokens"]) == (
        right,
        report["tokens"] - right,
    )
    assert 0 < report["given_prob"] < 1 and 0 < report["sft_weight"] < 0.5
    assert report["positive_weight"] > 0.1 and report["negative_log_prob"] < 0
    # Given tokens have no sampler: their 0 would be a mismatch of several nats.
    batches = test_policy_step.batches_of(whole, learnt)
    with jax.set_mesh(whole.mesh):
        scores = step.score(old(start()), batches, on_policy=False)
    gaps = np.concatenate(
        [
            np.abs(batch["sampler_log_probs"] - known["old_log_probs"])[
                np.asarray((batch["loss_mask"] > 0) & (batch["given"] == 0))
            ]
            for batch, known in zip(batches, scores, strict=True)
        ]
    )
    assert report["mismatch_max"] == pytest.approx(gaps.max(), rel=1e-4)
    assert report["mismatch_abs"] == pytest.approx(gaps.mean(), rel=1e-4)


def test_the_entropies_of_sequences_cost_a_pass_over_the_head_and_no_more():
    """SRFT: one more product with the head, no second forward pass of the body."""
    counts = {
        name: traced(recipe(f"objective.name={name}")).count("dot_general[")
        for name in ("luffy", "srft")
    }
    assert counts["srft"] == counts["luffy"] + 1
