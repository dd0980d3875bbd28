"""The tool as a whole: on the Countdown world's base model and its own samples, then training."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from curiojax import models
from curiojax.config import load_config
from curiojax.data import load_records
from curiojax.data.worlds import BASE_MODEL
from curiojax.data.worlds.demonstrations import (
    COUNTDOWN,
    demonstrations,
    training_problems,
    write_parquet,
)
from curiojax.errors import ConfigError
from curiojax.evaluation.worlds import grade, sample_problems, world_tokenizer
from curiojax.rewards.countdown import verify
from curiojax.training.sft import run_sft
from tests.held import held
from tests.waiting import wait_until

TOOL = Path(__file__).parents[2] / "tools" / "select_oxa_data.py"
FILES = ("promoted.parquet", "suppressed.parquet", "selection.json", "settings.json")
SCORES = ("scores/promoted.jsonl", "scores/suppressed.jsonl")
SELECT = f"""
import runpy, sys
sys.path.insert(0, {str(TOOL.parent)!r})
runpy.run_path({str(TOOL)!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("select_oxa_data", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Samples of the base model, graded by what they compute, and an expert's demonstrations."""
    folder = tmp_path_factory.mktemp("world")
    model, params = models.load_pretrained(BASE_MODEL, dtype=jnp.float32)
    tokenizer = world_tokenizer(BASE_MODEL)
    problems = training_problems("id", 80, seed=0)
    completions = sample_problems(
        params, model, tokenizer, problems, max_new_tokens=COUNTDOWN.response_tokens, samples=8
    )
    with (folder / "samples.jsonl").open("w") as stream:
        for problem, row, verdicts in zip(
            problems, completions, grade(COUNTDOWN, tokenizer, problems, completions), strict=True
        ):
            for completion, verdict in zip(row, verdicts, strict=True):
                sample = {
                    "prompt": problem.prompt,
                    "text": tokenizer.decode(completion.tokens, skip_special_tokens=True),
                    "reward": float(verdict.search_correct),
                    "finish_reason": completion.finish_reason,
                    "ground_truth": problem.prompt,
                }
                stream.write(json.dumps(sample) + "\n")
    write_parquet(folder / "expert.parquet", demonstrations("mix", q=1.0, count=300))
    return folder


def command(world, output, *more, graded=True):
    options = ["--model", str(BASE_MODEL), "--output", str(output), "--template", "plain"]
    options += ["--context", "prompt", "--compute-dtype", "float32", "--fsdp", "1"]
    options += ["--count", "60", "--mu", "1.75", "--suppressed-count", "40"]
    options += ["--max-prompt-tokens", "8", "--max-response-tokens", "16"]
    options += ["--graded", str(world / "samples.jsonl")] if graded else []
    return [*options, *map(str, more)]


@pytest.fixture(scope="module")
def selected(tool, world, tmp_path_factory):
    output = tmp_path_factory.mktemp("selected") / "oxa"
    tool.main(command(world, output, "--batch-tokens", "64"))
    return output


def read(path, cache):
    return [dict(record) for record in load_records(path, cache_dir=cache)]


def test_right_samples_are_promoted_and_wrong_ones_suppressed(selected, world, tmp_path):
    right, wrong = (read(selected / f"{n}.parquet", tmp_path) for n in ("promoted", "suppressed"))
    assert 0 < len(right) <= 60 and len(wrong) == 40
    for records, good in ((right, True), (wrong, False)):
        for record in records:
            (question,) = record["prompt"]
            assert verify(record["response"], question["content"]).search_correct is good
    assert len({record["prompt"][0]["content"] for record in wrong}) == 40

    result = json.loads((selected / "selection.json").read_text())
    columns = result["found"]["graded"]["columns"]
    assert "prompt in 'prompt', response in 'text', grade in 'reward'" in columns
    first, second = result["sets"]
    assert first["chosen"] == len(right) and second["chosen"] == 40
    assert float(second["median_perplexity_after"]) < float(second["median_perplexity_before"])
    if len(right) < 60:
        assert f"{len(right)} of 60 records" in " ".join(first["notes"])


def test_the_lowest_wrong_samples_are_those_in_the_scores(selected, tmp_path):
    lines = (selected / "scores/suppressed.jsonl").read_text().splitlines()[1:]
    scores = {line["record"]: line["perplexity"] for line in map(json.loads, lines)}
    candidates = (selected / "candidates/wrong.jsonl").read_text().splitlines()
    best = {}
    for index, line in enumerate(candidates):
        question = json.loads(line)["prompt"][0]["content"]
        if scores[index] >= 1.2:
            best[question] = min(best.get(question, np.inf), scores[index])
    import pyarrow.parquet as pq

    table = pq.read_table(selected / "suppressed.parquet")
    assert sorted(table["perplexity"].to_pylist()) == sorted(best.values())[:40]


def test_killed_and_continued_it_ends_with_the_same_files(selected, world, tmp_path):
    output = tmp_path / "oxa"
    options = command(world, output, "--batch-tokens", "64")
    scores = output / SCORES[0]
    for lines in (20, 60):
        slow = [sys.executable, "-c", held(SELECT, name=scores.name, lines=lines), *options]
        process = subprocess.Popen(slow, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_until(
            lambda n=lines: scores.is_file() and scores.read_bytes().count(b"\n") > n,
            600,
            process=process,
        )
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (output / "selection.json").exists()
    whole = [sys.executable, str(TOOL), *options]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in (*SCORES, *FILES):
        assert (output / name).read_bytes() == (selected / name).read_bytes(), name
    assert (output / "report.html").is_file()


def test_training_takes_the_two_files(selected, tmp_path):
    overrides = [
        "objective={name: oxa, ul_weight: 0.1}",
        f"data.path={selected / 'promoted.parquet'}",
        f"data.suppressed_path={selected / 'suppressed.parquet'}",
        "data.template=plain",
        "data.max_prompt_tokens=8",
        "data.max_response_tokens=16",
        f"data.cache_dir={tmp_path / 'cache'}",
        f"model.path={BASE_MODEL}",
        "model.compute_dtype=float32",
        "sequences_per_step=16",
        "rows_per_microbatch=8",
        "mesh.fsdp=1",
        "mesh.data=-1",
        "optimizer.learning_rate=1e-3",
        "optimizer.warmup_steps=0",
        "steps=4",
        f"output_dir={tmp_path / 'run'}",
    ]
    metrics = run_sft(load_config(None, overrides), details=False).metrics
    assert len(metrics) == 4 and all(np.isfinite(line["loss"]) for line in metrics)
    assert metrics[-1]["suppressed_prob"] < metrics[0]["suppressed_prob"]


def test_demonstrations_and_other_numbers_with_known_scores(
    tool, world, selected, tmp_path, capsys
):
    """All of --promoted counts as correct; scores of another selection are reused."""
    output, scores = tmp_path / "expert", tmp_path / "scores"
    wide = ["--mu", "60", "--sigma", "10", "--max-perplexity", "201", "--bin-width", "5"]
    arguments = ["--promoted", world / "expert.parquet", "--scores", scores]
    tool.main(command(world, output, *arguments, *wide, graded=False))
    shown = capsys.readouterr().out
    assert "objective.ul_weight=0" in shown and not (output / "suppressed.parquet").exists()
    records = read(output / "promoted.parquet", tmp_path)
    assert records and all(verify(r["response"], r["ground_truth"]).correct for r in records)

    before = (scores / "promoted.jsonl").read_bytes()
    tool.main(command(world, tmp_path / "b", *arguments, *wide, "--mu", "70", graded=False))
    assert (scores / "promoted.jsonl").read_bytes() == before
    assert "scoring" not in capsys.readouterr().err


def test_a_finished_selection_is_left_alone(tool, world, selected, capsys):
    before = {name: (selected / name).stat().st_mtime_ns for name in (*SCORES, *FILES)}
    tool.main(command(world, selected))
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"--output: .* holds a selection with promoted ="):
        tool.main(command(world, selected, "--mu", "1.8"))
    after = {name: (selected / name).stat().st_mtime_ns for name in (*SCORES, *FILES)}
    assert before == after


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--mu", "7"], ["--mu: 7 is outside"]),
        (["--bin-width", "0.3"], ["bins", "no whole number"]),
        (["--sigma", "0"], ["--sigma"]),
        (["--model", "absent/model/"], ["--model"]),
        (["--max-response-tokens", "3"], ["--max-response-tokens", "none of"]),
        (["--template", "model"], ["--template", "chat template"]),
        (["--graded", "absent.jsonl"], ["--graded", "absent.jsonl"]),
        (["--promoted", "absent.parquet"], ["--promoted", "absent.parquet"]),
        (["--fsdp", "3"], ["--fsdp", "8 devices"]),
        (["--tensor", "8"], ["num_attention_heads", "smaller --tensor"]),
        (["--mu", "4.9"], ["--mu", "no record", "median"]),
        (["--suppressed-min-perplexity", "1e9"], ["--suppressed-min-perplexity", "lower it"]),
    ],
)
def test_errors_name_the_option_and_the_remedy(tool, world, selected, tmp_path, more, words):
    scores = [] if "--tensor" in more else ["--scores", selected / "scores"]
    with pytest.raises(ConfigError) as error:
        tool.main(command(world, tmp_path / "out", *scores, *more))
    for word in words:
        assert word in str(error.value)
    assert not (tmp_path / "out" / "selection.json").exists()


def test_foreign_folders_and_graded_files_are_not_taken(tool, world, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ConfigError, match=r"--output: .* is not empty"):
        tool.main(command(world, tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    rows = [{"prompt": "p", "response": "r", "correct": False}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match=r"--promoted: .* has a grade in 'correct'"):
        tool.main(command(world, tmp_path / "b", "--promoted", tmp_path / "a.jsonl"))
    with pytest.raises(ConfigError, match="--graded: no correct completions"):
        tool.main([*command(world, tmp_path / "c"), "--graded", str(tmp_path / "a.jsonl")])


def test_a_user_error_is_one_line_and_exit_code_2(world, tmp_path):
    arguments = [sys.executable, str(TOOL), *command(world, tmp_path / "out", "--mu", "9")]
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr == (
        "error: --mu: 9 is outside of the bins, 1 to 5; move it, or --min-perplexity or "
        "--max-perplexity\n"
    )
