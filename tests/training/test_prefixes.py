"""Prefix-RFT on the host: what is given to whom, what it is worth, which of it is learnt."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from curiojax.config import load_config
from curiojax.losses.tokens import top_share
from curiojax.objectives import PrefixRft
from curiojax.rewards.pool import Grade
from curiojax.rollout.base import Completion
from curiojax.training.credit import credit
from curiojax.training.experience import microbatches
from curiojax.training.grpo_metrics import guided_metrics, round_metrics
from curiojax.training.prefixes import (
    beginning,
    lowest_ratio,
    prefix_length,
    prefix_ratio,
    top_given,
)
from curiojax.training.round_files import read_round, round_path, write_round
from curiojax.training.rounds import Collector, Group, Round
from tests.training.test_rounds import Grader, Tokenizer, prompts

PAPER = PrefixRft()
OTHER = PrefixRft(prefix_low_start=0.8, prefix_low_end=0.2, prefix_high=0.9)


def test_the_lower_end_is_a_half_cosine():
    """By hand: cos 0 = 1, cos(pi / 3) = 1/2, cos(pi / 2) = 0, cos(2 pi / 3) = -1/2, cos pi = -1."""
    ends = [lowest_ratio(OTHER, step, 7) for step in range(7)]
    assert ends[0] == 0.8
    np.testing.assert_allclose([ends[2], ends[3], ends[4]], [0.65, 0.5, 0.35], atol=1e-12)
    assert ends[6] == pytest.approx(0.2, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(ends))
    assert lowest_ratio(PAPER, 0, 500) == 0.95
    assert lowest_ratio(PAPER, 499, 500) == pytest.approx(0.05, abs=1e-12)
    assert lowest_ratio(PAPER, 0, 1) == 0.95


def test_shares_are_betas_between_the_ends():
    shaped = replace_fields(OTHER, beta_a=2.0, beta_b=5.0)
    for objective, mean, variance in ((OTHER, 1 / 2, 1 / 12), (shaped, 2 / 7, 10 / (49 * 8))):
        drawn = [prefix_ratio(objective, 3, 2, 7, prompt) for prompt in range(4000)]
        low, high = lowest_ratio(objective, 2, 7), 0.9
        assert low <= min(drawn) and max(drawn) <= high
        unit = (np.asarray(drawn) - low) / (high - low)
        assert unit.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / 4000))
        assert unit.var() == pytest.approx(variance, rel=0.1)
    assert prefix_ratio(PAPER, 3, 0, 7, 5) == pytest.approx(0.95)  # no room between the ends yet


def replace_fields(objective, **changes):
    return type(objective)(**{**objective.model_dump(), **changes})


def test_a_draw_depends_on_seed_step_and_prompt():
    even = PrefixRft(prefix_low_start=0.2, prefix_low_end=0.2)  # the ends stay where they are

    def draw(seed, step, prompt):
        return prefix_ratio(even, seed, step, 1000, prompt)

    seen = {draw(s, t, p) for s in range(5) for t in range(5) for p in range(20)}
    assert len(seen) == 500
    assert draw(4, 3, 2) == draw(4, 3, 2)


def test_lengths_leave_a_token_out():
    assert [prefix_length(ratio, 10) for ratio in (0.0, 0.05, 0.35, 0.95, 1.0)] == [1, 1, 3, 9, 9]
    assert [prefix_length(0.5, tokens) for tokens in (1, 2, 3)] == [0, 1, 1]
    shown = list(range(100, 120))
    given = beginning(OTHER, 0, 0, 7, 3, shown)
    assert given == shown[: len(given)] and 16 <= len(given) <= 18


@pytest.mark.parametrize(
    "fields",
    [{"prefix_low_start": 0.96}, {"prefix_low_end": 0.5, "prefix_high": 0.4}, {"beta_a": 0.0},
     {"prefix_high": 1.0}, {"entropy_share": 0.0}],
)  # fmt: skip
def test_refused_fields(fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        PrefixRft(**fields)


# ---- which tokens ----------------------------------------------------------------------------


def test_the_top_share_is_of_all_micro_batches():
    random = np.random.default_rng(0)
    values = random.gamma(1.0, 1.0, (3, 4, 50)).astype(np.float32)
    values[random.random(values.shape) < 0.7] = -1
    values[1] = np.where(values[1] >= 0, values[1] / 100, -1)  # hardly any of these
    got = top_given(list(values), 0.2)
    ranked = np.sort(values[values >= 0])[::-1]
    count = int(got.sum())
    assert abs(count - 0.2 * len(ranked)) <= 1
    np.testing.assert_array_equal(got > 0, values >= ranked[count - 1])
    assert got[1].sum() == 0 < got[0].sum()
    want = top_share(values, values >= 0, 0.2)  # the one that sorts on the devices
    np.testing.assert_array_equal(got, np.asarray(want, np.float32))


def test_the_top_share_of_few():
    nothing = np.full((2, 3), -1, np.float32)
    assert not top_given([nothing, nothing], 0.2).any()
    one = nothing.copy()
    one[1, 2] = 0.0  # a certain token is one all the same
    assert top_given([nothing, one], 0.2).sum() == 1
    same = np.full((2, 3), 0.7, np.float32)
    assert top_given([same], 0.2).all()
    assert top_given([same * np.arange(3, dtype=np.float32)], 1.0).all()


# ---- what it is worth ------------------------------------------------------------------------


def group(rewards, given, cut=(), prompt=0):
    completions = [
        Completion([5] * 6, [0.0] * k + [-1.0] * (6 - k), "length" if j in cut else "stop")
        for j, k in enumerate(given)
    ]
    grades = [Grade(r, r > 0, True, "ok", "") for r in rewards]
    return Group(prompt, completions, grades, list(given))


def worth(objective, *groups):
    found = credit(objective, groups, prompts())
    return [(t.advantage, t.given_advantage, t.given, t.learnt) for t in found]


def test_advantages_by_hand():
    """The plain rewards 1, 0, 0 have the mean 1/3."""
    plain = [(pytest.approx(2 / 3), None, 0, True), *[(pytest.approx(-1 / 3), None, 0, True)] * 2]
    right, wrong = group([1, 0, 0, 1], [0, 0, 0, 4]), group([1, 0, 0, 0], [0, 0, 0, 2])
    assert worth(PAPER, right) == [*plain, (1.0, pytest.approx(2 / 3), 4, True)]
    assert worth(PAPER, wrong) == [*plain, (0.0, pytest.approx(-1 / 3), 2, True)]
    # The only one that is right: nothing to learn from the others, all from it.
    assert worth(PAPER, group([0, 0, 0, 1], [0, 0, 0, 3])) == [(0.0, None, 0, True)] * 3 + [
        (1.0, 1.0, 3, True)
    ]
    # Without a demonstration: the group of all, and its std where that is asked for.
    four = [(a, None, 0, True) for a in (0.75, -0.25, -0.25, -0.25)]
    assert worth(PAPER, group([1, 0, 0, 0], [0] * 4)) == four
    normal = replace_fields(PAPER, normalize_std=True)
    assert worth(normal, group([1, 0, 0, 0], [0] * 4))[0][0] == pytest.approx(1.5, rel=1e-5)
    std = math.sqrt(1 / 3)  # of 1, 0, 0, unbiased
    scaled = worth(normal, right)
    assert scaled[0][0] == pytest.approx(2 / 3 / std, rel=1e-5)
    assert scaled[3][:2] == (1.0, pytest.approx(2 / 3))


def test_what_was_cut_follows_the_rule():
    cut = group([1, 0, 0, 1], [0, 0, 0, 4], cut=(0, 3))
    zero = worth(replace_fields(PAPER, overlong="zero"), cut)
    assert zero == [(0.0, None, 0, True)] * 3 + [(0.0, 0.0, 4, True)]
    masked = worth(replace_fields(PAPER, overlong="mask"), cut)
    assert [learnt for *_, learnt in masked] == [False, True, True, False]
    assert masked[3][:2] == (1.0, pytest.approx(2 / 3))


def test_advantages_in_the_arrays_change_where_the_prefix_ends():
    found = credit(PAPER, [group([1, 0, 0, 1], [0, 0, 0, 4])], prompts())
    batch = microbatches(found, PAPER, rows=1, row_length=32, max_length=10)
    assert (batch["given"].sum(), batch["segment_ids"].max()) == (4, 4)
    given = batch["given"] > 0
    np.testing.assert_allclose(batch["advantages"][given], 2 / 3, rtol=1e-6)
    assert (batch["sampler_log_probs"][given] == 0).all()
    guided = (batch["segment_ids"] == batch["segment_ids"][given][0]) & (batch["loss_mask"] > 0)
    np.testing.assert_array_equal(batch["advantages"][guided & ~given], [1.0, 1.0])
    np.testing.assert_allclose(batch["loss_mask"][guided], 0.1)
    # The guided one is one of four sequences, prefix and continuation together.
    assert batch["loss_share"].sum() == pytest.approx(4)
    assert batch["loss_share"][guided].sum() == pytest.approx(1)


# ---- rounds ----------------------------------------------------------------------------------


class Engine:
    """Completion j of a prompt is its first id and j, as in `test_rounds`, for any orders."""

    def __init__(self):
        self.calls = []

    def generate(self, ids, sampling, seed, *, on_group=None, keys=None, counts=None, limits=None):
        self.calls.append((ids, keys, counts, limits))
        counts = counts or [sampling.n] * len(ids)
        for i in reversed(range(len(ids))):
            made = [Completion([ids[i][0], j], [-0.5, -1.0], "stop", 3) for j in range(counts[i])]
            on_group(i, made)


class Lenient(Grader):
    """Texts with a prefix hold more than two words; the last two say what `Grader` looks at."""

    def submit(self, item):
        future = super().submit(item._replace(response=" ".join(item.response.split()[-2:])))
        self.items[-1] = item
        return future


def shown_prompts():
    """Every third prompt has no demonstration; that of prompt p is p and 20 more tokens."""
    shown = [None if p % 3 == 0 else [p, *range(100, 120)] for p in range(12)]
    return replace(prompts(), demonstrations=shown)


def collector(*overrides):
    values = ["stage=grpo", "objective.name=prefix_rft", "prompts_per_step=6", "steps=9"]
    values += ["prompts_per_update=3", "rollouts_per_prompt=4", "rollout.top_p=1.0"]
    values += ["rollout.max_response_tokens=30", *overrides]
    engine, grader = Engine(), Lenient(easy=range(0, 12, 2))
    config = load_config(None, values)
    return Collector(config, shown_prompts(), engine, grader, Tokenizer()), engine, grader, config


def test_a_round_of_plain_and_guided_rollouts(tmp_path):
    makes, engine, grader, config = collector()
    told = []
    found = makes.collect(5, version=5, progress=told.append)
    order = shown_prompts().indices(5, 6).tolist()
    [(ids, keys, counts, limits)] = engine.calls
    shown = [p for p in order if p % 3]
    given = [
        beginning(config.objective, config.seed, 5, 9, p, [p, *range(100, 120)]) for p in shown
    ]
    assert ids == [[p, 50] for p in order] + [
        [p, 50, *k] for p, k in zip(shown, given, strict=True)
    ]
    assert counts == [3 if p % 3 else 4 for p in order] + [1] * len(shown)
    assert limits == [30] * 6 + [30 - len(k) for k in given]
    # Plain rollouts draw what they would without the guided ones, and these by their prompt.
    assert keys == [*range(6), *(6 + i for i, p in enumerate(order) if p % 3)]
    assert told[-1] == "6/6" and len(told) == 6
    prefixes = dict(zip(shown, given, strict=True))
    for one, prompt in zip(found.groups, order, strict=True):
        assert one.prompt == prompt and len(one.completions) == 4
        given = prefixes.get(prompt, [])
        assert one.given == [0, 0, 0, len(given)]
        last = one.completions[-1]
        assert last.tokens == [*given, prompt, 0 if given else 3]
        assert last.log_probs == [0.0] * len(given) + [-0.5, -1.0] and last.version == 3
        # Graded as a whole, prefix and continuation.
        text = " ".join(map(str, last.tokens))
        assert text in {item.response for item in grader.items}
    path = round_path(tmp_path, 5)
    texts = [makes.texts(one.completions) for one in found.groups]
    write_round(path, found, shown_prompts(), texts)
    assert read_round(path, sampled=found.sampled).groups == found.groups
    assert makes.collect(5, version=5).groups == found.groups
    assert makes.collect(6, version=6).groups != found.groups


def test_without_demonstrations_a_round_is_grpos():
    makes, engine, *_ = collector()
    makes._prompts = replace(shown_prompts(), demonstrations=[None] * 12)
    found = makes.collect(5, version=5)
    assert engine.calls == [([[p, 50] for p in shown_prompts().indices(5, 6)], None, None, None)]
    plain, *_ = collector("objective.name=grpo")
    assert plain.collect(5, version=5).groups == found.groups


def test_metrics_of_guided_rollouts():
    _, _, _, config = collector()
    groups = [
        group([1, 0, 0, 1], [0, 0, 0, 4], prompt=1),
        group([1, 0, 0, 0], [0, 0, 0, 2], prompt=2),
        group([1, 1, 1, 1], [0, 0, 0, 0], prompt=3),
    ]
    found = Round(groups, 0, 3, generate_seconds=2.0)
    got = guided_metrics(config, found, shown_prompts(), 8)
    assert got == {
        "guided_share": pytest.approx(2 / 3),
        "guided_reward": 0.5,
        "guided_accuracy": 0.5,
        "prefix_tokens": 3.0,
        "prefix_ratio": pytest.approx(3 / 21),
        "prefix_ratio_low": pytest.approx(0.05),
        "prefix_ratio_high": 0.95,
    }
    plain = round_metrics(config, found)
    assert plain["accuracy"] == pytest.approx(6 / 10)  # of plain rollouts alone
    assert plain["generated_tokens_per_second"] == (12 * 6 - 6) / 2
    assert "demonstration_share" not in plain
