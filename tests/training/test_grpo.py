"""The RL stage end to end on the embedded world: it learns, and being killed changes nothing."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from curiojax.data.worlds import BASE_MODEL
from curiojax.data.worlds.demonstrations import training_problems, write_parquet
from curiojax.training.round_files import read_round, round_path

# The base model does not know the answer's format, so only its search is graded.
GRADER = """
from curiojax.rewards.countdown import verify

def search(response, ground_truth):
    return verify(response, ground_truth).search_correct
"""
TIMES = ("_seconds", "_per_second")

# Each ends the process at one point of a step.
KILLS = {
    "generating": (
        "sampler.JaxSampler.generate",
        "def patched(self, *a, on_group, **k):\n"
        "    return original(self, *a, on_group=lambda i, c: die(), **k)",
    ),
    "grading": ("pool.RewardPool.submit", "def patched(self, item):\n    die()"),
    "updating": (
        "policy_step.PolicyStep.__call__",
        "def patched(self, state, batches, scores, last):\n"
        "    result = original(self, state, batches, scores, last)\n"
        "    return die() if last else result",
    ),
    "syncing": ("sampler.JaxSampler.sync", "def patched(self, *a):\n    die()"),
    "saving": (
        "checkpoint.Checkpoints.save",
        "def patched(self, state):\n    original(self, state)\n    die()",
    ),
}


def script(kill, step, saved=None):
    """A run that kills itself in the given step (from 1), at the given point.

    Args:
      saved: a checkpoint that it waits for then. They are written beside the steps, so that it is
        a matter of luck which one is whole.
    """
    target, patch = KILLS[kill]
    return f"""
import os, signal, time
from curiojax.errors import exit_on_config_error
from curiojax.rewards import pool
from curiojax.rollout import sampler
from curiojax.train import main
from curiojax.training import checkpoint, grpo, policy_step
def die():
    while {str(saved or "")!r} and not os.path.isdir({str(saved or "")!r}):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
original = {target}
{patch}
make = grpo.Ahead.take
def take(self, step, **k):
    if step + 1 == {step}:
        {target} = patched
    return make(self, step, **k)
grpo.Ahead.take = take
exit_on_config_error(main)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("grpo")
    (path / "countdown_search.py").write_text(GRADER)
    write_parquet(path / "problems.parquet", training_problems("id", 30, seed=0))
    (path / "run.yaml").write_text("stage: grpo\n")
    return path


def run(folder, output, *more, program=None):
    command = [sys.executable, *(["-c", program] if program else ["-m", "curiojax.train"])]
    environment = {
        "XLA_FLAGS": "",
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    arguments = [
        "steps=6",
        "prompts_per_step=8",
        "rollouts_per_prompt=4",
        "prompts_per_update=4",
        "rows_per_microbatch=8",
        f"model={{path: {BASE_MODEL}, compute_dtype: float32, remat: none}}",
        f"data={{path: {folder / 'problems.parquet'}, template: plain, max_prompt_tokens: 6}}",
        "data.row_length=40",
        "rollout={max_response_tokens: 10, top_p: 1.0, batch_size: 16}",
        "objective.tis_cap=2.0",
        "reward={verifier: 'countdown_search:search', format: none, workers: 1}",
        "optimizer.learning_rate=1e-3",
        "checkpoint.every=2",
        f"output_dir={output}",
        *more,
    ]
    return subprocess.run(
        [*command, str(folder / "run.yaml"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


@pytest.fixture(scope="module")
def straight(folder):
    done = run(folder, folder / "straight")
    assert done.returncode == 0, done.stderr
    return folder / "straight"


def metrics(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(TIMES)} for line in lines]


def assert_same_run(a, b):
    theirs = load_file(b / "hf" / "model.safetensors")
    for name, tensor in load_file(a / "hf" / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)
    assert metrics(a) == metrics(b)
    for step in range(len(metrics(a))):
        assert read_round(round_path(a, step)) == read_round(round_path(b, step))


def test_a_run_leaves_everything_behind(straight):
    assert {"config.yaml", "metrics.jsonl", "report.html", "hf", "checkpoints", "rollouts"} <= {
        path.name for path in straight.iterdir()
    }
    lines = metrics(straight)
    assert [line["step"] for line in lines] == list(range(1, 7))
    wanted = """reward accuracy format_rate groups_all_0 groups_all_1 response_tokens
        truncated_share entropy clipped_high clipped_low dual_clipped mismatch_abs mismatch_max
        mismatch_k3 tis_weight tis_capped ess_share ratio_max old_kl grad_norm
        learning_rate""".split()
    timed = json.loads((straight / "metrics.jsonl").read_text().splitlines()[0])
    parts = ("generate", "grade", "log_probs", "update", "sync", "step")
    for line in lines:
        assert set(wanted) <= line.keys()
        assert line["mismatch_max"] < 1e-4  # the sampler's log-probs are the trainer's
        assert line["tis_weight"] == pytest.approx(1.0, abs=1e-4)
        assert line["ess_share"] == pytest.approx(1.0, abs=1e-4)
        assert line["grade_statuses"] == {"ok": 32}
    assert all(timed[f"{part}_seconds"] >= 0 for part in parts)


def test_completions_are_on_disk_as_they_were_learnt_from(straight):
    found = read_round(round_path(straight, 3))
    assert found is not None and found.version == 3
    assert len(found.groups) == 8 and all(len(g.completions) == 4 for g in found.groups)
    line = metrics(straight)[3]
    rewards = [reward for group in found.groups for reward in group.rewards]
    assert np.mean(rewards) == pytest.approx(line["reward"])
    for group in found.groups:
        for completion in group.completions:
            assert len(completion.log_probs) == len(completion.tokens) <= 10
            assert completion.version == 3


def test_killed_at_every_point_the_run_ends_the_same(folder, straight):
    output = folder / "killed"
    points = [("generating", 1), ("grading", 2), ("saving", 2), ("updating", 4), ("syncing", 5)]
    for kill, step in points:
        killed = run(folder, output, program=script(kill, step))
        assert killed.returncode == -9, f"{kill}: {killed.stderr}"
    done = run(folder, output)
    assert done.returncode == 0, done.stderr
    # After step 4, or after step 2 where the kill came before step 4 was on disk.
    assert "continuing after step" in done.stderr
    assert_same_run(straight, output)


def test_a_step_of_staleness_survives_a_kill(folder):
    stale = "max_staleness=1"
    straight, output = folder / "stale", folder / "stale-killed"
    assert run(folder, straight, stale).returncode == 0
    assert [line["rollout_version"] for line in metrics(straight)] == [0, 0, 1, 2, 3, 4]
    assert max(line["mismatch_max"] for line in metrics(straight)[1:]) > 1e-4
    killed = run(folder, output, stale, program=script("updating", 4))
    assert killed.returncode == -9, killed.stderr
    done = run(folder, output, stale)
    assert done.returncode == 0, done.stderr
    assert "sampled again" not in done.stderr
    assert_same_run(straight, output)


def test_it_learns(folder):
    more = ("steps=60", "prompts_per_step=16", "prompts_per_update=16", "checkpoint.every=60")
    done = run(folder, folder / "learns", *more)
    assert done.returncode == 0, done.stderr
    rewards = [line["reward"] for line in metrics(folder / "learns")]
    # From 0.31 to 0.49; the noise of such a difference is 0.03.
    assert np.mean(rewards[-10:]) > np.mean(rewards[:10]) + 0.1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["reward.verifier=maths"], "reward.verifier"),
        (["reward.verifier=nowhere:nothing"], "nowhere"),
        (["data.max_prompt_tokens=5"], "data.max_prompt_tokens"),
        (["rows_per_microbatch=6", "mesh={data: 4, fsdp: 1}"], "mesh"),
        (["rollout.max_response_tokens=5000"], "rollout.max_response_tokens"),
        (["data.row_length=8"], "data.row_length"),
        (["data.path=nothing.jsonl"], "data.path"),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, more, message):
    done = run(folder, tmp_path / "run", *more)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_another_reward_is_another_run(folder, straight):
    done = run(folder, straight, "reward.format=strict")
    assert done.returncode == 2
    assert "reward.format" in done.stderr.strip().splitlines()[-1]


def test_a_finished_run_says_so(folder, straight):
    done = run(folder, straight)
    assert done.returncode == 0 and "finished already" in done.stderr
