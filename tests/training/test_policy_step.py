"""The policy's update: the gradient of the loss written out, whatever the layout."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax import models
from curiojax.config import load_config
from curiojax.losses import aggregate, aggregation_weights, policy_loss
from curiojax.sharding import make_mesh
from curiojax.training import statistics
from curiojax.training.experience import Trajectory, microbatches
from curiojax.training.policy_step import compile_policy_step
from curiojax.training.recipe import Recipe, place
from tests.training import tiny

MODEL = dataclasses.replace(tiny.MODEL, num_layers=1)
LIMIT, TEMPERATURE = 12, 0.7
EVERYTHING = (
    "objective={name: grpo, tis_cap: 1.05, kl_coef: 0.3, entropy_coef: 0.1, dual_clip: 1.5, "
    "clip_low: 0.05, clip_high: 0.1, aggregation: seq_mean_token_mean}"
)


def recipe(*overrides, rows=8, mesh=(1, 1, 1)):
    config = load_config(
        None,
        [
            "stage=grpo",
            f"rows_per_microbatch={rows}",
            "data.max_prompt_tokens=8",
            f"data.row_length={tiny.LENGTH}",
            f"rollout.max_response_tokens={LIMIT}",
            f"rollout.temperature={TEMPERATURE}",
            "rollout.top_p=1.0",
            "loss.chunk_tokens=24",
            "optimizer.learning_rate=1e-3",
            "optimizer.eps=1e-4",
            *overrides,
        ],
    )
    devices = jax.devices()[: math.prod(mesh)]
    return Recipe(config, MODEL, make_mesh(*mesh, devices=devices), 10)


def trajectories(count=20, seed=0):
    """Ragged prompts and completions; some are not learnt, some advantages are 0."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        prompt = rng.integers(0, tiny.VOCAB, rng.integers(1, 9)).tolist()
        tokens = rng.integers(0, tiny.VOCAB, rng.integers(1, LIMIT + 1)).tolist()
        log_probs = rng.normal(-3.0, 1.0, len(tokens)).astype(np.float32).tolist()
        advantage = float(rng.choice([-1.5, -0.5, 0.0, 0.7, 1.2]))
        made.append(Trajectory(prompt, tokens, log_probs, advantage, learnt=index % 7 != 3))
    return made


def batches_of(recipe, found, packing=True):
    config = recipe.config
    arrays = microbatches(
        found,
        config.objective,
        rows=config.rows_per_microbatch,
        row_length=config.row_length,
        max_length=LIMIT,
        packing=packing,
    )
    return list(place(arrays, recipe.mesh))


def old(state, factor=0.95):
    """The state that the step began with: its weights are unlike those of the update."""
    return state._replace(params=jax.tree.map(lambda p: p * np.float32(factor), state.params))


def sums_of(recipe, step, state, *, on_policy, packing=True):
    """Gradient sums and loss of one update."""
    batches = batches_of(recipe, trajectories(), packing)
    with jax.set_mesh(recipe.mesh):
        scores = step.score(old(state), batches, on_policy=on_policy)
        sums = step.zeros()
        for batch, known in zip(batches, scores, strict=True):
            sums = step.accumulate(state.params, sums, batch, known)
        return jax.device_get(sums)


def written_out(recipe, state, *, on_policy):
    """Loss and gradient from one unpacked sequence per row and logits in one piece."""
    found = trajectories()
    width = max(t.num_inputs for t in found)
    shape = (len(found), width)
    tokens, labels, segments = (np.zeros(shape, np.int32) for _ in range(3))
    mask, sampler = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for row, t in enumerate(found):
        ids, size = [*t.prompt, *t.tokens], t.num_inputs
        tokens[row, :size], labels[row, :size], segments[row, :size] = ids[:-1], ids[1:], 1
        first = len(t.prompt) - 1
        mask[row, first:size] = t.learnt
        sampler[row, first:size] = t.log_probs
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), shape)
    advantages = jnp.asarray([[t.advantage] for t in found], jnp.float32)
    objective = recipe.config.objective

    def scores(params):
        hidden = models.forward(params, MODEL, tokens, positions, segments)
        table = jax.nn.log_softmax(models.logits(params, MODEL, hidden) / TEMPERATURE, axis=-1)
        chosen = jnp.take_along_axis(table, labels[..., None], axis=-1)[..., 0]
        return chosen, -(jnp.exp(table) * table).sum(axis=-1)

    earlier = scores(old(state).params)[0]
    reference = scores(state.teacher.params)[0] if state.teacher else None

    def loss(params):
        log_probs, entropy = scores(params)
        values, _ = policy_loss(
            objective,
            log_probs,
            jax.lax.stop_gradient(log_probs) if on_policy else earlier,
            advantages,
            mask,
            sampler_log_probs=sampler,
            ref_log_probs=reference,
            entropy=entropy,
        )
        total, weight = aggregate(values, mask, objective.aggregation, max_length=LIMIT)
        return total / weight

    return jax.jit(jax.value_and_grad(loss))(jax.device_get(state.params))


@pytest.fixture(scope="module")
def everything():
    whole = recipe(EVERYTHING, rows=16)
    return whole, compile_policy_step(whole)


@pytest.mark.parametrize("on_policy", [False, True])
def test_gradient_is_that_of_the_loss_written_out(everything, on_policy):
    whole, step = everything
    state = tiny.start(whole)
    got = sums_of(whole, step, state, on_policy=on_policy)
    want_loss, want = written_out(whole, state, on_policy=on_policy)
    assert got.loss / got.weight == pytest.approx(float(want_loss), rel=1e-5)
    got = jax.tree.map(lambda g: g / got.weight, got.grads)
    assert tiny.largest_difference(want, got) < 1e-5


def test_layout_changes_nothing(everything):
    whole, step = everything
    want = sums_of(whole, step, tiny.start(whole), on_policy=False)
    unpacked = sums_of(whole, step, tiny.start(whole), on_policy=False, packing=False)
    split = recipe(EVERYTHING, rows=4, mesh=(2, 2, 2))
    sharded = sums_of(split, compile_policy_step(split), tiny.start(split), on_policy=False)
    for other in (unpacked, sharded):
        assert other.weight == pytest.approx(float(want.weight), rel=1e-6)
        assert tiny.largest_difference(want.grads, other.grads) < 1e-5
        reports = [
            statistics.summarize(sums.stats, whole.config.objective, tiny.VOCAB)
            for sums in (want, other)
        ]
        for key in reports[0].keys() - {"slots"}:
            assert reports[1][key] == pytest.approx(reports[0][key], rel=1e-4, abs=1e-6), key


def test_ratio_of_the_first_update_is_exactly_one(everything):
    whole, step = everything
    stats = sums_of(whole, step, tiny.start(whole), on_policy=True).stats
    assert float(stats.extremes["ratio_max"]) == 1.0
    assert float(stats.sums["ratio_mean"]) == float(stats.sums["tokens"])
    assert float(stats.sums["clipped_high"]) == float(stats.sums["clipped_low"]) == 0.0
    later = sums_of(whole, step, tiny.start(whole), on_policy=False).stats
    assert float(later.extremes["ratio_max"]) > 1.01


def test_the_log_probs_pass_agrees_with_the_update(everything):
    """With unchanged weights the ratio of a later update is 1 up to rounding."""
    whole, step = everything
    state, batches = tiny.start(whole), batches_of(whole, trajectories())
    with jax.set_mesh(whole.mesh):
        scores = step.score(state, batches, on_policy=False)
        sums = step.accumulate(state.params, step.zeros(), batches[0], scores[0])
    assert float(sums.stats.extremes["ratio_max"]) == pytest.approx(1.0, abs=1e-5)


def test_updates_of_a_step_count_as_one(everything):
    whole, step = everything
    state = tiny.start(whole)
    before = jax.device_get(state.params)
    batches = batches_of(whole, trajectories())
    with jax.set_mesh(whole.mesh):
        scores = step.score(state, batches, on_policy=True)
        state, first = step(state, batches, scores, False)
        assert int(state.step) == 0
        state, second = step(state, batches, scores, True)
    assert int(state.step) == 1
    assert float(first.grad_norm) > 0 and float(second.loss) != float(first.loss)
    assert tiny.largest_difference(before, jax.device_get(state.params)) > 1e-5
    np.testing.assert_array_equal(  # the reference stays where it was
        jax.device_get(state.teacher.params)["final_norm"]["scale"], before["final_norm"]["scale"]
    )


@pytest.mark.parametrize(
    "mode", ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"]
)
def test_weights_of_packed_tokens_are_those_of_the_mode(mode):
    objective = recipe(f"objective={{name: grpo, aggregation: {mode}}}").config.objective
    found = trajectories()
    batch = microbatches(found, objective, rows=4, row_length=32, max_length=LIMIT)
    lengths = np.asarray([len(t.tokens) * t.learnt for t in found])
    factor, share = aggregation_weights(lengths, mode, max_length=LIMIT)
    assert batch["loss_mask"].sum() == pytest.approx((factor * lengths).sum(), rel=1e-6)
    assert batch["loss_share"].sum() == pytest.approx((share * lengths).sum(), rel=1e-6)
    learnt = [t for t in found if t.learnt]
    assert (batch["loss_mask"] > 0).sum() == sum(len(t.tokens) for t in learnt)
    chosen = batch["labels"][batch["loss_mask"] > 0]
    assert sorted(chosen) == sorted(token for t in learnt for token in t.tokens)


def test_a_trajectory_without_weight_leaves_no_trace(everything):
    """Its tokens are not learnt, whatever their advantage and log-probs."""
    whole, step = everything
    state = tiny.start(whole)
    want = sums_of(whole, step, state, on_policy=False)

    def odd(t):
        return t if t.learnt else dataclasses.replace(t, advantage=math.nan)

    batches = batches_of(whole, [odd(t) for t in trajectories()])
    with jax.set_mesh(whole.mesh):
        scores = step.score(old(state), batches, on_policy=False)
        sums = step.accumulate(state.params, step.zeros(), batches[0], scores[0])
    assert len(batches) == 1
    assert tiny.largest_difference(want.grads, jax.device_get(sums.grads)) == 0.0
