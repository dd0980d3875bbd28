import json

import pyarrow.parquet as pq
import pytest

from curiojax.data.worlds import countdown
from curiojax.data.worlds.demonstrations import (
    demonstrations,
    evaluation_problems,
    training_problems,
    write_parquet,
)
from curiojax.errors import ConfigError
from curiojax.rewards.countdown import verify


def _multisets(problems):
    return {tuple(sorted(problem.numbers)) for problem in problems}


@pytest.mark.parametrize("expert", ["canon", "two", "mix"])
def test_every_demonstration_verifies(expert):
    for item in demonstrations(expert, q=0.3, count=600, seed=1):
        verdict = verify(item.response, item.problem.prompt)
        assert verdict.correct, (item, verdict)


def test_training_data_hold_no_held_out_multiset_and_no_hard_problem():
    items = demonstrations("two", count=4000)
    assert not _multisets(item.problem for item in items) & countdown.held_out_multisets()
    for item in items:
        numbers = tuple(sorted(item.problem.numbers))
        assert item.problem.target in countdown.reachable(numbers, "+-")


def test_two_strategies_come_in_the_asked_proportion():
    items = demonstrations("two", q=0.2, count=4000)
    share = sum(item.strategy == "second" for item in items) / len(items)
    assert share == pytest.approx(0.2, abs=0.025)  # four standard deviations
    for item in items:
        solver = {
            "canonical": countdown.canonical_solution,
            "second": countdown.second_solution,
        }[item.strategy]
        assert item.steps == solver(item.problem)
    assert all(i.strategy == "canonical" for i in demonstrations("canon", count=50))


def test_noise_walks_are_legal_and_miss_the_target():
    items = demonstrations("noise", q=0.5, count=200)
    failures = {(i.strategy, verify(i.response, i.problem.prompt).failure) for i in items}
    assert failures == {("canonical", None), ("noise", "target")}


def test_problems_are_used_about_equally_often():
    items = demonstrations("canon", count=4000)
    uses = {}
    for item in items:
        key = (tuple(sorted(item.problem.numbers)), item.problem.target)
        uses[key] = uses.get(key, 0) + 1
    assert len(uses) == len(countdown.problems("id", held_out=False))
    assert set(uses.values()) <= {1, 2}


def test_a_seed_fixes_the_demonstrations():
    assert demonstrations(count=100, seed=4) == demonstrations(count=100, seed=4)
    assert demonstrations(count=100, seed=4) != demonstrations(count=100, seed=5)


@pytest.mark.parametrize("kind", ["id", "hard"])
def test_evaluation_problems_are_held_out_and_distinct(kind):
    problems = evaluation_problems(kind, 256, seed=7)
    assert _multisets(problems) <= countdown.held_out_multisets()
    assert len({(tuple(sorted(p.numbers)), p.target) for p in problems}) == 256
    assert problems == evaluation_problems(kind, 256, seed=7)
    assert problems != evaluation_problems(kind, 256, seed=8)
    everything = evaluation_problems(kind)
    with pytest.raises(ConfigError, match="count"):
        evaluation_problems(kind, len(everything) + 1)


def test_training_problems_come_from_the_other_multisets():
    problems = training_problems("hard", 500, seed=2)
    assert not _multisets(problems) & countdown.held_out_multisets()


def test_wrong_arguments_are_named():
    with pytest.raises(ConfigError, match="expert"):
        demonstrations("three")
    with pytest.raises(ConfigError, match="q"):
        demonstrations("two", q=1.5)


def test_records_follow_the_verl_schema(tmp_path):
    items = demonstrations("two", count=20)
    write_parquet(tmp_path / "sub" / "train.parquet", items)
    rows = pq.read_table(tmp_path / "sub" / "train.parquet").to_pylist()
    assert len(rows) == 20
    for index, (row, item) in enumerate(zip(rows, items, strict=True)):
        assert row["prompt"] == [{"role": "user", "content": item.problem.prompt}]
        assert row["target"] == [{"role": "assistant", "content": item.response}]
        assert row["reward_model"]["style"] == "rule"
        assert row["extra_info"]["index"] == index
        truth = row["reward_model"]["ground_truth"]
        assert verify(row["target"][0]["content"], truth).correct
    json.dumps(rows)  # plain types only


def test_prompts_without_demonstrations_have_no_target(tmp_path):
    write_parquet(tmp_path / "rl.parquet", training_problems("hard", 5))
    assert "target" not in pq.read_table(tmp_path / "rl.parquet").column_names
