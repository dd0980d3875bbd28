"""Graded groups with demonstrations, and the losses of the hybrids written out from them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from curiojax import models
from curiojax.data.prompts import PromptData
from curiojax.rewards.pool import Grade
from curiojax.rollout.base import Completion
from curiojax.training.rounds import Group
from tests.training import test_policy_step, tiny
from tests.training.test_policy_step import LIMIT, MODEL, TEMPERATURE

N = 4
# By prompt: rewards of the completions, then the demonstration's (None: it has none), and which
# completion was cut at the limit.
REWARDS = [
    ([1, 0, 1, 0], 1),
    ([0, 0, 0, 0], 1),
    ([0, 0, 0, 1], 0),
    ([1, 1, 1, 1], 1),
    ([0, 1, 0, 0], None),
    ([0, 0, 0, 0], None),
]
OBJECTIVES = {
    "luffy": "objective={name: luffy, entropy_coef: 0.05, overlong: zero}",
    "rl_plus": "objective={name: rl_plus, entropy_coef: 0.05, clip_low: 0.05, clip_high: 0.1}",
    "srft": "objective={name: srft, entropy_coef: 0.05, overlong: mask}",
    "hpt": "objective={name: hpt, gate: 1, sft_coef: 0.3, entropy_coef: 0.05, "
    "aggregation: seq_mean_token_mean}",
    "sft_rl": "objective={name: sft_rl, sft_coef: 0.7, clip_low: 0.05, clip_high: 0.1, "
    "normalize_std: true, entropy_coef: 0.0}",
}


def recipe(*text, **more):
    return test_policy_step.recipe(f"rollouts_per_prompt={N}", *text, **more)


@cache
def start():
    """One state for all: no program here is given it to keep."""
    return tiny.start(recipe("objective.name=grpo"))


def data(objective, rewards=REWARDS, seed=0):
    """Prompts and their graded groups; as many completions as the collector would have drawn."""
    rng = np.random.default_rng(seed)
    prompts, shown, groups = [], [], []

    def ids(low, high):
        return rng.integers(0, tiny.VOCAB, rng.integers(low, high)).tolist()

    for number, (own, theirs) in enumerate(rewards):
        prompts.append(ids(1, 9))
        shown.append(None if theirs is None else ids(3, LIMIT + 1))
        replaces = theirs is not None and not objective.stands_beside
        made, grades = [], []
        for sample, reward in enumerate(own[: N - replaces]):
            tokens = ids(1, LIMIT + 1)
            log_probs = rng.normal(-3.0, 1.0, len(tokens)).astype(np.float32).tolist()
            cut = (number, sample) in ((0, 0), (2, 1))
            made.append(Completion(tokens, log_probs, "length" if cut else "stop"))
            grades.append(Grade(float(reward), bool(reward), True, "ok", ""))
        given = [0] * len(made)
        if theirs is not None:
            made.append(Completion(shown[-1], [0.0] * len(shown[-1]), "stop"))
            grades.append(Grade(float(theirs), bool(theirs), True, "ok", ""))
            given.append(len(shown[-1]))
        groups.append(Group(number, made, grades, given))
    count = len(prompts)
    found = PromptData(prompts, [[]] * count, [""] * count, [""] * count, {}, 0, "", shown)
    return found, groups


def written_out(whole, found):
    """Loss and gradient, one sequence per row, every term as its paper has it.

    Returns a function of whether the update is the first of its step."""
    prompts, groups = found
    objective, params = whole.config.objective, jax.device_get(start().params)
    rows = [(g, c, given) for g in groups for c, given in zip(g.completions, g.given, strict=True)]
    shape = (len(rows), 8 + LIMIT)
    tokens, labels, segments = (np.zeros(shape, np.int32) for _ in range(3))
    mask = np.zeros(shape, np.float32)
    for row, (group, completion, _) in enumerate(rows):
        ids = [*prompts.ids[group.prompt], *completion.tokens]
        size = len(ids) - 1
        tokens[row, :size], labels[row, :size], segments[row, :size] = ids[:-1], ids[1:], 1
        mask[row, size - len(completion.tokens) : size] = 1
    positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    theirs = np.array([given > 0 for _, _, given in rows])
    cut = np.array([c.finish_reason == "length" for _, c, _ in rows])

    def scores(params):
        hidden = models.forward(params, MODEL, tokens, positions, segments)
        table = jax.nn.log_softmax(models.logits(params, MODEL, hidden) / TEMPERATURE, axis=-1)
        chosen = jnp.take_along_axis(table, labels[..., None], axis=-1)[..., 0]
        return chosen, -(jnp.exp(table) * table).sum(axis=-1)

    rewards = [[grade.reward for grade in group.grades] for group in groups]
    if objective.overlong == "zero":
        ends = [[c.finish_reason for c in group.completions] for group in groups]
        rewards = [
            [r * (end == "stop") for r, end in zip(row, reasons, strict=True)]
            for row, reasons in zip(rewards, ends, strict=True)
        ]
    learnt = ~cut if objective.overlong == "mask" else np.ones(len(rows), bool)

    def centred(values):
        values = np.array(values)
        deviation = values.std(ddof=1) if objective.normalize_std else 1.0
        return (values - values.mean()) / (deviation + 1e-6 * objective.normalize_std or 1.0)

    together = np.concatenate([centred(row) for row in rewards])
    alone = np.concatenate(
        [[*centred(row[:N]), *([0.0] if len(row) > N else [])] for row in rewards]
    )
    right = np.concatenate(rewards) > 0

    def column(values):
        return jnp.asarray(values, jnp.float32)[:, None]

    def token_mean(loss, chosen):
        chosen = mask * np.array(chosen)[:, None]
        return (loss * chosen).sum() / max(chosen.sum(), 1)

    def loss(params, on_policy):
        lp, H = scores(params)
        earlier = scores(jax.tree.map(lambda p: p * np.float32(0.95), params))[0]
        past = jax.lax.stop_gradient(jnp.where(on_policy, lp, earlier))
        ratio = jnp.exp(lp - past)
        p, bonus = jnp.exp(lp), 0.05 * H
        match objective.name:
            case "luffy":
                A = column(together)
                per_token = jnp.where(theirs[:, None], -A * p / (p + 0.1), -A * ratio) - bonus
                return (mask * per_token).sum() / LIMIT / len(rows)
            case "rl_plus":
                A = column(together)
                bound = jnp.minimum(A * ratio, A * jnp.clip(ratio, 0.95, 1.1))
                explore = jax.lax.stop_gradient(jnp.sqrt(1 - p))
                expert = A * explore * 2 * p / (1.5 * jnp.exp(past) + 0.5)
                per_token = -jnp.where(theirs[:, None], expert, bound) - bonus
                return (mask * per_token).sum() / LIMIT / len(rows)
            case "srft":
                mean = (mask * H).sum(axis=1, keepdims=True) / mask.sum(axis=1, keepdims=True)
                mean = jax.lax.stop_gradient(mean)
                sft = -0.5 * jnp.exp(-mean) * lp - column(together) * p / (p + 0.1) - bonus
                own = jnp.where(right[:, None], -0.1 * jnp.exp(mean) * lp, lp) - bonus
                return token_mean(own, ~theirs & learnt) + token_mean(sft, theirs & learnt)
            case "hpt":
                solved = [sum(row[:N]) > 1 for row in rewards]
                gone = [len(row) > N and not s for row, s in zip(rewards, solved, strict=True)]
                gone_rows = np.concatenate(
                    [[g] * len(r) for g, r in zip(gone, rewards, strict=True)]
                )
                own = -column(alone) * ratio - bonus
                kept = ~theirs & ~gone_rows
                means = (mask * own).sum(axis=1) / mask.sum(axis=1)
                rl = means[kept].mean()
                share = np.mean(gone)
                sft = token_mean(-lp - bonus, theirs & gone_rows)
                return (1 - share) * rl + share * 0.3 * sft
            case "sft_rl":
                A = column(alone)
                bound = jnp.minimum(A * ratio, A * jnp.clip(ratio, 0.95, 1.1))
                return token_mean(-bound, ~theirs) + 0.7 * token_mean(-lp, theirs)

    compiled = jax.jit(jax.value_and_grad(loss))
    return lambda on_policy: compiled(params, on_policy)
