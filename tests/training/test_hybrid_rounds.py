"""Rounds with demonstrations: who is sampled, graded, credited and written down."""

import numpy as np
import pytest

from curiojax.config import load_config
from curiojax.data.prompts import PromptData
from curiojax.errors import ConfigError
from curiojax.training.credit import credit
from curiojax.training.grpo_metrics import round_metrics
from curiojax.training.round_files import read_round, round_path, write_round
from curiojax.training.rounds import Collector
from tests.training.test_rounds import Engine, Grader, N, Tokenizer

EOS, SHOWN = Tokenizer.eos_token_id, 100


class Counting(Engine):
    """Draws as many completions of each prompt as it is asked for."""

    def generate(self, prompts, sampling, seed, *, on_group=None, keys=None, counts=None, **more):
        self.asked = keys or list(range(len(prompts))), counts or [sampling.n] * len(prompts)

        def cut(index, completions):
            on_group(index, completions[: self.asked[1][index]])

        super().generate(prompts, sampling, seed, on_group=cut)


class Expert(Grader):
    """Demonstrations hold a number of their own: even ones are right, odd ones wrong."""

    def submit(self, item):
        words = item.response.split()
        if int(words[0]) >= SHOWN:
            item = item._replace(response=f"{words[0]} {int(words[0]) % 2}")
        return super().submit(item)


def prompts(shown):
    """A demonstration for each prompt in `shown`; the last of them was cut."""
    count = 12
    texts = [[i, 50] for i in range(count)]
    demonstrations = [[SHOWN + i, 8, EOS] if i in shown else None for i in range(count)]
    if shown:
        demonstrations[shown[-1]] = [SHOWN + shown[-1], 8, 9]
    return PromptData(texts, [[]] * count, [""] * count, [""] * count, {}, 0, "x", demonstrations)


def collect(name, shown, *overrides, easy=(), hard=()):
    config = load_config(
        None,
        [
            "stage=grpo",
            "prompts_per_step=12",
            "prompts_per_update=12",
            f"rollouts_per_prompt={N}",
            "rollout.top_p=1.0",
            f"objective.name={name}",
            *overrides,
        ],
    )
    engine, data = Counting(), prompts(shown)
    made = Collector(config, data, engine, Expert(easy=easy, hard=hard), Tokenizer())
    return config, data, engine, made.collect(0, version=3)


@pytest.mark.parametrize("name", ["luffy", "rl_plus", "srft", "hpt", "sft_rl"])
def test_who_is_in_a_group(name):
    """A demonstration is one of the n, or stands beside them; without one there are n."""
    shown = (1, 4, 7)
    config, data, engine, found = collect(name, shown)
    beside = config.objective.stands_beside
    for group in found.groups:
        own = N if beside or group.prompt not in shown else N - 1
        assert [c.tokens for c in group.completions[:own]] == [
            [group.prompt, sample] for sample in range(own)
        ]
        assert group.own == list(range(own)) and group.has_demonstration == (group.prompt in shown)
        if group.prompt in shown:
            last = group.completions[-1]
            assert last.tokens == data.demonstration(group.prompt) and len(group.given) == own + 1
            assert (group.given[-1], last.log_probs, last.version) == (3, [0.0] * 3, 3)
            assert last.finish_reason == ("length" if group.prompt == 7 else "stop")
            assert group.grades[-1].reward == float(group.prompt % 2 == 0)
    keys, counts = engine.asked
    assert keys == list(range(12)) and sum(counts) == 12 * N - len(shown) * (not beside)


def test_grpo_looks_at_no_demonstration():
    for name in ("grpo", "sft_rl"):
        more = ["objective.sft_coef=0"] if name == "sft_rl" else []
        *_, found = collect(name, (1, 4), *more)
        assert all(group.given == [0] * N for group in found.groups)


def test_a_round_with_demonstrations_reads_back_equal(tmp_path):
    _, data, _, found = collect("luffy", (1, 4, 7))
    path = round_path(tmp_path, 0)
    write_round(path, found, data, [[""] * len(g.completions) for g in found.groups])
    again = read_round(path)
    assert again is not None and again.groups == found.groups


def by_prompt(trajectories, data):
    found = {}
    for t in trajectories:
        found.setdefault(data.ids.index(t.prompt), []).append(t)
    return found


def advantages(trajectories):
    return [round(t.advantage, 6) for t in trajectories]


def test_what_completions_are_worth():
    """Rewards 1 0 1 0 of the own ones (never where `hard`), 1 of even demonstrations."""
    shown, hard = (1, 2, 3, 4, 7), (3, 4)

    def worth(name, *more):
        config, data, _, found = collect(name, shown, *more, hard=hard)
        return by_prompt(credit(config.objective, found.groups, data), data)

    luffy = worth("luffy")
    assert advantages(luffy[2]) == [0.25, -0.75, 0.25, 0.25]  # 1 0 1 and a right demonstration
    assert advantages(luffy[1]) == [0.5, -0.5, 0.5, -0.5]  # 1 0 1 and a wrong one
    assert advantages(luffy[4]) == [-0.25, -0.25, -0.25, 0.75]
    assert advantages(luffy[0]) == [0.5, -0.5, 0.5, -0.5]  # none
    assert [t.given for t in luffy[2]] == [0, 0, 0, 3] and {t.weight for t in luffy[2]} == {1.0}

    both = worth("sft_rl", "objective.sft_coef=0.3")
    assert advantages(both[4][:N]) == [0.0] * N and advantages(both[2][:N]) == [0.5, -0.5] * 2
    assert [t.weight for t in both[2]] == [1.0] * N + [0.3]

    srft = worth("srft")
    assert advantages(srft[2]) == [1, -1, 1, -1, 0.4]
    assert advantages(srft[4]) == [-1] * 4 + [0.8]
    assert advantages(srft[0]) == [1, -1, 1, -1]

    hpt = worth("hpt", "objective.sft_coef=0.5")
    assert [t.given for t in hpt[3]] == [t.given for t in hpt[4]] == [3]
    assert {t.weight for t in hpt[3]} == {0.5 * 2 / 12}
    for prompt in (0, 1, 2):
        assert [t.given for t in hpt[prompt]] == [0] * N
        assert {t.weight for t in hpt[prompt]} == {10 / 12}
        assert advantages(hpt[prompt]) == [0.5, -0.5, 0.5, -0.5]
    wide = worth("hpt", "objective.gate=2")
    assert {prompt for prompt, rows in wide.items() if rows[0].given} == {*shown}


@pytest.mark.parametrize(("mode", "learnt", "first"), [("mask", False, 0.0), ("zero", True, 0.0)])
def test_a_demonstration_that_was_cut_obeys_the_rule_for_what_was_cut(mode, learnt, first):
    config, data, _, found = collect("luffy", (2,), f"objective.overlong={mode}")
    rows = by_prompt(credit(config.objective, found.groups, data), data)[2]
    assert [t.learnt for t in rows] == [True] * 3 + [learnt]
    rewards = np.array([1, 0, 1, 1 if mode == "mask" else 0])
    np.testing.assert_allclose([t.advantage for t in rows], rewards - rewards.mean(), rtol=1e-6)


def test_metrics_tell_own_completions_from_demonstrations():
    shown, hard = (1, 2, 3, 4), (3, 4)
    config, _, _, found = collect("hpt", shown, hard=hard)
    metrics = round_metrics(config, found)
    assert metrics["reward"] == pytest.approx(10 * 2 / (12 * N))
    assert metrics["response_tokens"] == 2.0 and metrics["groups_all_0"] == pytest.approx(2 / 12)
    assert metrics["grade_statuses"] == {"ok": 12 * N}
    assert metrics["demonstration_share"] == pytest.approx(4 / 12)
    assert metrics["demonstration_reward"] == metrics["demonstration_accuracy"] == 0.5
    assert metrics["demonstration_tokens"] == 3.0
    assert metrics["switched_share"] == pytest.approx(2 / 12)
    config, _, _, found = collect("grpo", shown)
    assert not any("demonstration" in key for key in round_metrics(config, found))


def test_dynamic_sampling_counts_the_demonstration_in():
    """LUFFY: no rollout is right, but the demonstration is, and that is a signal."""
    _, _, _, found = collect(
        "luffy", (2, 3, 4), "objective.dynamic_sampling=true", easy=(0, 1), hard=(2, 3, 5)
    )
    assert {0, 1, 3, 5}.isdisjoint(group.prompt for group in found.groups)
    assert 2 in {group.prompt for group in found.groups}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective={name: hpt, dynamic_sampling: true}"], "objective.dynamic_sampling: hpt"),
        (["objective.name=luffy", "max_staleness=1"], "objective.tis_cap"),
        (["objective={name: srft, clip_low: 0.2}"], "no probability ratio"),
    ],
)
def test_what_does_not_go_together_is_one_line(overrides, message):
    with pytest.raises(ConfigError) as error:
        load_config(None, ["stage=grpo", *overrides])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_stale_hybrid_has_a_correction_for_its_own_tokens():
    more = ["objective={name: luffy, tis_cap: 2.0}", "max_staleness=1", "rollout.top_p=1.0"]
    assert load_config(None, ["stage=grpo", *more]).max_staleness == 1
