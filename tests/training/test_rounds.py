"""Rounds of completions, with an engine and a grader whose answers are known."""

from concurrent.futures import Future

import numpy as np
import pytest

from curiojax.config import load_config
from curiojax.data.prompts import PromptData
from curiojax.rewards.pool import Grade
from curiojax.rollout.base import Completion
from curiojax.training.round_files import forget_rounds, read_round, round_path, write_round
from curiojax.training.rounds import MAX_DRAWS, Collector, round_seed

N = 4


class Engine:
    """Completion j of a prompt is [its first id, j], so that rewards can be chosen by prompt."""

    def __init__(self, version=0, cut=()):
        self.calls, self.version, self.cut = [], version, cut

    def generate(self, prompts, sampling, seed, *, on_group=None):
        self.calls.append((len(prompts), seed, sampling))
        made = [
            [
                Completion([p[0], j], [-0.5, -1.0], "length" if j in self.cut else "stop")
                for j in range(sampling.n)
            ]
            for p in prompts
        ]
        for i in reversed(range(len(made))):  # the order in which they finish is not theirs
            on_group(i, made[i])
        return made


class Grader:
    """Rewards by prompt: `easy` always right, `hard` never, all others every second sample."""

    def __init__(self, easy=(), hard=()):
        self.easy, self.hard, self.items = easy, hard, []

    def submit(self, item):
        self.items.append(item)
        prompt, sample = (int(word) for word in item.response.split())
        right = prompt in self.easy or (prompt not in self.hard and sample % 2 == 0)
        future = Future()
        future.set_result(Grade(float(right), right, True, "ok", str(sample)))
        return future


class Tokenizer:
    eos_token_id = 7

    def batch_decode(self, rows, skip_special_tokens):
        assert skip_special_tokens
        return [" ".join(map(str, row)) for row in rows]


def prompts(count=12):
    ids = [[i, 50] for i in range(count)]
    turns = [[{"role": "user", "content": f"prompt {i}"}] for i in range(count)]
    return PromptData(
        ids, turns, [f"truth {i}" for i in range(count)], list("abcdefghijkl"), {}, 0, "x"
    )


def collector(engine, grader, *overrides):
    config = load_config(
        None,
        [
            "stage=grpo",
            "prompts_per_step=6",
            "prompts_per_update=3",
            f"rollouts_per_prompt={N}",
            "rollout.top_p=1.0",
            *overrides,
        ],
    )
    return Collector(config, prompts(), engine, grader, Tokenizer())


def test_groups_come_in_the_order_of_the_prompts_with_their_own_grades():
    engine, grader = Engine(), Grader(easy=range(0, 12, 2))
    found = collector(engine, grader).collect(1, version=1)
    order = prompts().indices(1, 6).tolist()
    assert [group.prompt for group in found.groups] == order
    for group in found.groups:
        assert [c.tokens for c in group.completions] == [[group.prompt, j] for j in range(N)]
        assert group.rewards == ([1.0] * N if group.prompt % 2 == 0 else [1.0, 0.0] * (N // 2))
        assert [grade.extracted for grade in group.grades] == [str(j) for j in range(N)]
    assert (found.version, found.sampled) == (1, 6)
    assert {item.ground_truth for item in grader.items} == {f"truth {i}" for i in order}


def test_what_was_cut_is_graded_as_unfinished():
    engine, grader = Engine(cut=(3,)), Grader()
    found = collector(engine, grader).collect(0, version=0)
    assert all(group.truncated == [False, False, False, True] for group in found.groups)
    assert sum(not item.finished for item in grader.items) == 6


def test_sampling_is_that_of_the_config():
    engine = Engine()
    more = ["rollout.temperature=0.8", "rollout.max_response_tokens=9", "rollout.min_tokens=2"]
    collector(engine, Grader(), *more, "rollout.stop_token_ids=[7, 8]").collect(0, version=0)
    sampling = engine.calls[0][2]
    assert (sampling.temperature, sampling.max_tokens, sampling.min_tokens) == (0.8, 9, 2)
    assert (sampling.stop_ids, sampling.n, sampling.top_p) == ((7, 8), N, 1.0)


def test_every_draw_has_a_seed_of_its_own():
    seeds = {round_seed(s, step, draw) for s in range(4) for step in range(50) for draw in range(5)}
    assert len(seeds) == 4 * 50 * 5 and all(0 <= seed < 2**31 for seed in seeds)


def test_dynamic_sampling_drops_groups_without_signal_and_refills():
    engine, grader = Engine(), Grader(easy=(0, 1), hard=(2, 3, 4))
    found = collector(engine, grader, "objective.dynamic_sampling=true").collect(0, version=0)
    assert len(found.groups) == 6 and found.sampled > 6
    assert all(len(set(group.rewards)) == 2 for group in found.groups)
    assert len({seed for _, seed, _ in engine.calls}) == len(engine.calls) > 1
    again = collector(Engine(), grader, "objective.dynamic_sampling=true").collect(0, version=0)
    assert again.groups == found.groups


def test_dynamic_sampling_makes_do_when_nothing_has_signal(capfd):
    engine = Engine()
    makes = collector(engine, Grader(hard=range(12)), "objective.dynamic_sampling=true")
    found = makes.collect(0, version=0)
    assert len(found.groups) == 6 and len(engine.calls) == MAX_DRAWS
    assert "only 0 of" in capfd.readouterr().err


def test_without_dynamic_sampling_all_groups_stay():
    engine = Engine()
    found = collector(engine, Grader(hard=range(12))).collect(0, version=0)
    assert len(found.groups) == found.sampled == 6 and len(engine.calls) == 1


def test_a_round_reads_back_equal(tmp_path):
    found = collector(Engine(), Grader()).collect(2, version=1)
    odd = "line\u2028 separator, \ud800 half a surrogate, \x00 and \n a newline"
    texts = [[odd] * N for _ in found.groups]
    groups = [
        group._replace(
            completions=[
                c._replace(version=1, log_probs=[float(np.float32(-0.1)), -1e-7])
                for c in group.completions
            ]
        )
        for group in found.groups
    ]
    path = round_path(tmp_path, 2)
    assert path.name == "step_000003.jsonl.zst"
    write_round(path, found._replace(groups=groups), prompts(), texts)
    again = read_round(path)
    assert again is not None
    assert (again.groups, again.version) == (groups, 1)


@pytest.mark.parametrize("cut", [0, 10, -5])
def test_a_torn_file_is_no_round(tmp_path, cut):
    found = collector(Engine(), Grader()).collect(0, version=0)
    path = round_path(tmp_path, 0)
    assert read_round(path) is None
    write_round(path, found, prompts(), [[""] * N for _ in found.groups])
    path.write_bytes(path.read_bytes()[:cut])
    assert read_round(path) is None


def test_old_rounds_are_forgotten(tmp_path):
    found = collector(Engine(), Grader()).collect(0, version=0)
    for step in range(6):
        write_round(round_path(tmp_path, step), found, prompts(), [[""] * N for _ in found.groups])
    forget_rounds(tmp_path, None, 5)
    assert len(list((tmp_path / "rollouts").iterdir())) == 6
    forget_rounds(tmp_path, 2, 5)
    assert sorted(path.name[:11] for path in (tmp_path / "rollouts").iterdir()) == [
        "step_000005",
        "step_000006",
    ]
