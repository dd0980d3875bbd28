"""Evaluation during training: what is measured, and that nothing else changes by it."""

import dataclasses
import json
import shutil
from concurrent.futures import Future

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from curiojax import models
from curiojax.config import load_config
from curiojax.data.worlds import BASE_MODEL
from curiojax.data.worlds.demonstrations import (
    demonstrations,
    evaluation_problems,
    training_problems,
    write_parquet,
)
from curiojax.errors import ConfigError
from curiojax.evaluation.questions import Benchmark, Question, Sample, Verdict
from curiojax.rewards.pool import Grade
from curiojax.rollout import JaxSampler
from curiojax.rollout.base import Completion
from curiojax.sharding import make_mesh
from curiojax.training.compilation import compilation_cache
from curiojax.training.grpo import run_grpo
from curiojax.training.held_out import HeldOut
from curiojax.training.held_out_metrics import held_out_metrics
from curiojax.training.recipe import Recipe
from curiojax.training.sft import run_sft

from . import tiny


def benchmark(name="own", count=3):
    questions = [
        Question(f"q{i}", [{"role": "user", "content": str(i)}], "1") for i in range(count)
    ]
    return Benchmark(name, name, "exact", questions, "here")


def sample(correct, *, tokens=2, entropies=None, finish="stop", status="ok"):
    given = [0.5] * tokens if entropies is None else entropies
    return Sample("x", [1] * tokens, finish, given, {"exact": Verdict(correct, status, "x")})


def test_the_numbers_by_hand():
    one = [
        [sample(True), sample(False)],
        [sample(True, tokens=4, entropies=[1.0, 2.0, 3.0, 0.0], finish="length"), sample(True)],
        [sample(False, status="unverifiable")] * 2,  # in no score, but its tokens are in the rest
    ]
    two = [[Sample("", [], "prompt_too_long", [], {})] * 2, [sample(True), sample(True)]]
    found = held_out_metrics([(benchmark("one"), one), (benchmark("two", 2), two)])
    assert found == pytest.approx(
        {
            "eval/one/avg": 3 / 4,
            "eval/two/avg": 1 / 2,
            "eval/avg": 5 / 8,
            "eval/entropy": (7 * 2 * 0.5 + 6.0) / (7 * 2 + 4),
            "eval/response_tokens": (7 * 2 + 4) / 8,
            "eval/truncated": 1 / 8,
        }
    )


def test_what_is_not_known_is_none():
    unknown = [[sample(False, status="unverifiable")]]
    assert held_out_metrics([(benchmark(count=1), unknown)])["eval/avg"] is None
    too_long = [[Sample("", [], "prompt_too_long", [], {})]]
    found = held_out_metrics([(benchmark(count=1), too_long)])
    assert found["eval/own/avg"] == 0 and found["eval/entropy"] is None


# ---- the questions asked -------------------------------------------------------------------------


class Tokenizer:
    """A prompt of so many tokens as the question's text says."""

    eos_token_id = 7
    bos_token_id = None

    def batch_decode(self, rows, skip_special_tokens):
        return [" ".join(map(str, row)) for row in rows]


class Grader:
    """Right is what ends in an even token."""

    def __init__(self):
        self.items = []

    def submit(self, item):
        self.items.append(item)
        right = int(item.response.split()[-1]) % 2 == 0
        future = Future()
        future.set_result(Grade(float(right), right, True, "ok", "x"))
        return future


@pytest.fixture
def asked(monkeypatch):
    def make(*overrides, lengths=(3, 5, 40)):
        config = load_config(
            None,
            [
                "rows_per_microbatch=8",
                "data.row_length=32",
                "evaluation={every: 2, benchmarks: aime24, max_response_tokens: 6, samples: 3}",
                *overrides,
            ],
        )
        monkeypatch.setattr(
            "curiojax.training.held_out.encode_questions",
            lambda b, template, tokenizer: {
                q.id: list(range(1, n + 1)) for q, n in zip(b.questions, lengths, strict=True)
            },
        )
        grader = Grader()
        questions = benchmark(count=len(lengths))
        return config, grader, HeldOut(config, [questions], grader, Tokenizer(), context=32)

    return make


class WithoutEntropies:
    """The sampler as an engine that does not compute them, as vLLM does not."""

    def __init__(self, sampler):
        self.sampler, self.seeds = sampler, []

    def generate(self, prompts, sampling, seed, *, on_group=None, keys=None):
        assert not sampling.log_probs
        self.seeds.append((seed, tuple(keys)))

        def stripped(index, group):
            on_group(index, [Completion(*c[:4]) for c in group])

        return self.sampler.generate(prompts, sampling, seed, on_group=stripped, keys=keys)


def test_questions_are_asked_graded_and_measured_by_any_engine(asked):
    config, grader, held_out = asked()
    mesh = make_mesh(devices=jax.devices()[:1])
    model = dataclasses.replace(tiny.MODEL, max_position_embeddings=32)
    recipe = Recipe(config, model, mesh, total_steps=10)
    params = jax.tree.map(
        lambda p: p * 3.0 if p.ndim > 1 else p, models.init_params(jax.random.key(0), model)
    )
    told = []
    found = held_out.evaluate(None, recipe, params, told.append)
    assert len(grader.items) == 6 and told == ["own 1/2", "own 2/2"]
    assert {(item.verifier, item.format, item.ground_truth) for item in grader.items} == {
        ("exact", "none", "1")
    }
    right = sum(int(item.response.split()[-1]) % 2 == 0 for item in grader.items)
    assert found["eval/own/avg"] == pytest.approx(right / 9)  # the long prompt's three are wrong
    assert 0 < found["eval/entropy"] < np.log(tiny.VOCAB)

    engine = WithoutEntropies(JaxSampler(params, model, num_slots=8, mesh=mesh))
    again = held_out.evaluate(engine, recipe, params)
    third = held_out.evaluate(engine, recipe, params)
    assert again["eval/entropy"] == pytest.approx(found["eval/entropy"], abs=1e-3)
    for other in (again, third):
        for key in ("eval/own/avg", "eval/response_tokens", "eval/truncated"):
            assert other[key] == found[key]
    assert engine.seeds[0] == engine.seeds[1]  # the same draws at every step


def test_when_it_is_due_and_how_large_a_call_is(asked):
    _, _, held_out = asked("evaluation.every=4")
    assert [step for step in range(11) if held_out.is_due(step, 10)] == [0, 4, 8, 10]
    assert held_out.call[:4] == (256, 9, 5, 6)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["evaluation.every=2"], ["evaluation", "benchmarks is empty"]),
        (["evaluation={every: 0, benchmarks: [aime24]}"], ["evaluation.every"]),
        (["evaluation.benchmark=aime24"], ["evaluation.benchmark", "did you mean"]),
    ],
)
def test_settings_are_checked(overrides, words):
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert all(word in str(caught.value) for word in words)


# ---- whole runs ----------------------------------------------------------------------------------


COMMON = [
    "steps=4",
    "checkpoint={every: 2, keep_last: 4}",
    "rows_per_microbatch=8",
    f"model={{path: {BASE_MODEL}, compute_dtype: float32, remat: none}}",
    "optimizer={learning_rate: 1e-3, warmup_steps: 0}",
]
STAGES = {
    "sft": [
        "sequences_per_step=8",
        "data={template: plain, max_prompt_tokens: 6, max_response_tokens: 13, packing: false}",
        "objective.name=sft",
    ],
    "grpo": [
        "stage=grpo",
        "prompts_per_step=4",
        "prompts_per_update=2",
        "rollouts_per_prompt=4",
        "data={template: plain, max_prompt_tokens: 6, row_length: 40}",
        "rollout={max_response_tokens: 13, top_p: 1.0, batch_size: 16}",
        "reward={verifier: countdown, format: none, workers: 1}",
        "objective.entropy_coef=0.1",
    ],
}


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def folder(tmp_path_factory, monkeypatch_module):
    one = make_mesh(devices=jax.devices()[:1])  # compiles faster than eight
    for stage in STAGES:
        monkeypatch_module.setattr(f"curiojax.training.{stage}.make_mesh", lambda **_: one)
    path = tmp_path_factory.mktemp("held-out")
    write_parquet(path / "sft.parquet", demonstrations("two", q=0.2, count=40, seed=0))
    write_parquet(path / "grpo.parquet", training_problems("id", 30, seed=0))
    for kind in ("id", "hard"):
        write_parquet(path / f"countdown-{kind}.parquet", evaluation_problems(kind, 6))
    with compilation_cache():
        yield path


def run(folder, stage, name, *more):
    output = folder / f"{stage}-{name}"
    data = f"data.path={folder / stage}.parquet"
    config = load_config(None, [*COMMON, *STAGES[stage], data, f"output_dir={output}", *more])
    (run_grpo if stage == "grpo" else run_sft)(config, details=False)
    return output


def evaluation(folder, every=2):
    own = [
        f"{{name: {kind}, path: {folder / f'countdown-{kind}.parquet'}, verifier: countdown}}"
        for kind in ("id", "hard")
    ]
    return (
        f"evaluation={{every: {every}, samples: 2, temperature: 1.0, max_response_tokens: 13, "
        f"benchmarks: [{', '.join(own)}]}}"
    )


def lines(output):
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    times = ("_seconds", "_per_second")
    return [{k: v for k, v in row.items() if not k.endswith(times)} for row in rows]


def without(rows):
    return [
        {k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows if row["step"]
    ]


def weights(output):
    return load_file(output / "hf" / "model.safetensors")


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_run_learns_the_same_with_it_and_without(folder, stage):
    plain = run(folder, stage, "plain")
    watched = run(folder, stage, "watched", evaluation(folder))
    rows = lines(watched)
    keys = {"eval/id/avg", "eval/hard/avg", "eval/avg", "eval/entropy", "eval/response_tokens"}
    assert [row["step"] for row in rows if keys <= row.keys()] == [0, 2, 4]
    assert all(0 < row["eval/entropy"] < 5 for row in rows if row["step"] in (0, 2, 4))
    assert len({row["eval/entropy"] for row in rows if row["step"] in (0, 2, 4)}) == 3
    assert without(rows) == lines(plain)
    ours, theirs = weights(watched), weights(plain)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)

    # As after a kill in the fourth step; the first evaluation is there, and not made again.
    for gone in ("checkpoints/4", "hf"):
        shutil.rmtree(watched / gone)
    run(folder, stage, "watched", evaluation(folder))
    assert lines(watched) == rows
    ours = weights(watched)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)

    # It may change when a run goes on.
    for gone in ("checkpoints/4", "hf"):
        shutil.rmtree(watched / gone)
    run(folder, stage, "watched", evaluation(folder, every=1))
    assert [row["step"] for row in lines(watched) if "eval/avg" in row] == [0, 2, 3, 4]
    assert without(lines(watched)) == lines(plain)
    report = (watched / "report.html").read_text()
    assert "plot-eval_avg" in report and "plot-eval_entropy" in report


def test_bad_input_is_said_before_anything_is_written(folder):
    missing = "evaluation={every: 2, benchmarks: [{name: own, path: nowhere.jsonl}]}"
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl"):
        run(folder, "sft", "bad", missing)
    assert not (folder / "sft-bad").exists()
