"""Sampling what a file lacks: order, keys, the bar, and what is kept of it."""

import json
from array import array

import pytest

from curiojax.evaluation.generation import CompletionFile, generate, number
from curiojax.evaluation.questions import Benchmark, Question
from curiojax.rollout.base import Completion, Sampling

QUESTIONS = ["a", "b", "c"]
PROMPTS = {"a": [1], "b": [1, 2], "c": [1, 2, 3, 4]}
SAMPLING = Sampling(4, n=2)


class Engine:
    """Answers the last question first, and tells what it was asked."""

    def __init__(self, log):
        self.log = log

    def generate(self, prompts, sampling, seed, *, on_group=None, keys=None):
        self.log.append(("generate", [*prompts], seed, [*keys]))
        for i in reversed(range(len(prompts))):
            on_group(i, [Completion([7, 8], [], "stop")] * sampling.n)


@pytest.fixture
def run(tmp_path):
    def run(log, context=100):
        questions = [Question(name, [], "1") for name in QUESTIONS]
        benchmark = Benchmark("own", "Own", "exact", questions, "somewhere")
        with CompletionFile(tmp_path / "c.jsonl", {}, PROMPTS, SAMPLING.n) as file:
            generate(
                benchmark,
                file,
                Engine(log),
                SAMPLING,
                seed=3,
                context=context,
                decode=lambda rows: [" ".join(map(str, row)) for row in rows],
                progress=lambda done, total, **stats: log.append((done, total)),
            )
            return file

    return run


def test_what_is_asked_and_shown(run, tmp_path):
    log = []
    file = run(log)
    keys = [number(name) for name in QUESTIONS]
    # The bar is there before the first answer is, which may take minutes.
    assert log[:2] == [(0, 6), ("generate", [*PROMPTS.values()], number("3/own"), keys)]
    assert log[2:] == [(2, 6), (4, 6), (6, 6)]
    assert file.answers["c"][1].text == "7 8" and file.answers["c"][1].tokens == array("i", [7, 8])
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert [line["question"] for line in lines[1:]] == ["c", "c", "b", "b", "a", "a"]
    again = []
    assert run(again).answers == file.answers and again == []


def test_a_continued_run_begins_where_it_stopped(run, tmp_path):
    run([])
    path = tmp_path / "c.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))  # c, and half of b
    log = []
    run(log)
    expected = [PROMPTS["a"], PROMPTS["b"]], number("3/own"), [number("a"), number("b")]
    assert log == [(2, 6), ("generate", *expected), (4, 6), (6, 6)]


def test_a_prompt_that_does_not_fit_is_not_asked(run):
    log = []
    file = run(log, context=6)
    assert {answer.finish for answer in file.answers["c"]} == {"prompt_too_long"}
    assert log[0] == (2, 6) and log[1][1] == [PROMPTS["a"], PROMPTS["b"]]
