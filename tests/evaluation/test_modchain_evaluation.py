"""Evaluation in the mod-chain world: math-verify decides, the lines are followed beside it."""

import json

import numpy as np
import pytest

from curiojax.data.worlds.modchain_demonstrations import MODCHAIN, demonstrations
from curiojax.evaluation import world_verdicts
from curiojax.evaluation.world_verdicts import Response, judge
from curiojax.evaluation.worlds import evaluate_world, grade, world_tokenizer
from curiojax.models import load_pretrained
from curiojax.rewards.pool import Item
from curiojax.rollout.sampler import Completion


@pytest.fixture(scope="module")
def base():
    return load_pretrained(MODCHAIN.base_model, dtype="float32")


@pytest.fixture(scope="module")
def item():
    """A demonstration whose answer is neither 0 nor 1 and has no zeros on the way."""
    return next(i for i in demonstrations("canon", count=50, seed=9) if "0" not in i.response)


def test_answers_are_compared_by_math_verify_and_lines_are_followed(item):
    truth = item.problem.ground_truth
    lines = item.response.partition("</think>")[0]
    wrong = (int(truth) + 1) % 10
    cases = [
        (item.response, True, (True, True, None)),
        (item.response, False, (False, True, "unfinished")),
        (lines, True, (False, True, "format")),
        (rf"{lines}</think>\boxed{{{wrong}}}", True, (False, True, "answer")),
        (rf"{lines}</think>{truth}", True, (False, True, "format")),
        (rf"{lines}</think>\boxed{{ }}", True, (False, True, "format")),
        (rf"{lines}</think></think>\boxed{{{truth}}}", True, (False, True, "format")),
        (rf"{lines}</think><think> \boxed{{{truth}}}", True, (False, True, "format")),
        # What math-verify takes for the same number is right, as it is for a real model.
        (rf"{lines}</think>\boxed{{ \frac{{{2 * int(truth)}}}{{2}} }}", True, (True, True, None)),
        # A guess is right to the reward, and only there.
        (rf"={truth}</think>\boxed{{{truth}}}", True, (True, False, None)),
        (rf"</think>\boxed{{{wrong}}}", True, (False, False, "incomplete")),
        (lines[: len(lines) // 2], False, (False, False, "unfinished")),
        ("", True, (False, False, "incomplete")),
    ]
    responses = [Response(text, item.problem, finished) for text, finished, _ in cases]
    verdicts = judge(MODCHAIN, responses)
    for (text, _, expected), verdict in zip(cases, verdicts, strict=True):
        assert tuple(verdict) == expected, text


def test_only_the_endings_are_graded_and_grades_are_those_of_the_whole_texts():
    tails = ["", r"</think>\boxed{5}", r"</think>\boxed{5", r"</think><think></think>\boxed{5}"]
    heads = ["", "=1+4=5", "=(2+3)*1", "<think>=1+4=5", r"=5\boxed{5}", "=4=9=</think>"]
    items = demonstrations("two", q=0.5, count=6, seed=4)
    responses = [
        Response(head + tail, item.problem, finished)
        for head in (*heads, *(i.response.partition("</think>")[0] for i in items))
        for tail in tails
        for item in (items[0], items[-1])  # whose answers are 1 and 5
        for finished in (True, False)
    ]
    pool = world_verdicts._pool("math", "strict")
    whole = pool.grade([Item(r.text, r.problem.ground_truth, r.finished) for r in responses])
    before = pool.stats.submitted
    verdicts = judge(MODCHAIN, responses)
    assert [v.correct for v in verdicts] == [bool(g.reward) for g in whole]
    assert pool.stats.submitted - before < len(responses) / 2


def test_completions_are_decoded_with_their_answer(item):
    tokenizer = world_tokenizer(MODCHAIN.base_model)
    ids = [*tokenizer(item.response).input_ids, tokenizer.eos_token_id]
    row = [Completion(ids, [0.0] * len(ids), "stop"), Completion(ids[:-1], [0.0] * 9, "length")]
    verdicts = grade(MODCHAIN, tokenizer, [item.problem], [row])[0]
    assert [v.correct for v in verdicts] == [True, False]


def test_the_shipped_base_calculates_but_has_no_format(base):
    config, params = base
    prompts = {"id": 48, "hard": 48, "longer": 0}
    result = evaluate_world(MODCHAIN, params, config, prompts=prompts, seed=1)
    assert result["id_pass1"] == result["hard_pass1"] == result["hard_pass16"] == 0.0
    quality = json.loads((MODCHAIN.base_model / "quality.json").read_text())["evaluation"]
    for key, wide in {
        "search_id_pass1": 0.1,
        "search_id_pass16": 0.2,
        "search_hard_pass1": 0.08,
        "search_hard_pass16": 0.29,  # four standard errors of 48 problems
        "entropy": 0.06,
    }.items():
        assert abs(result[key] - quality[key]) < wide, key
    assert "longer_pass1" not in result and "prompts_longer" not in result
    assert sum(result["hard_failures"].values()) == 48 * 16
    assert quality["search_hard_pass16"] > 4 * quality["search_hard_pass1"]


def test_the_shipped_base_is_small_and_plain():
    files = {path.name: path.stat().st_size for path in MODCHAIN.base_model.iterdir()}
    assert sum(files.values()) < 1_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "quality.json"} <= set(files)
    assert np.isfinite(json.loads((MODCHAIN.base_model / "quality.json").read_text())["loss"])
