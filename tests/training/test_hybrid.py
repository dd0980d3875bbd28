"""The hybrids end to end on the embedded world, from the base model; one is killed on the way."""

import numpy as np
import pytest

from curiojax.config import load_config
from curiojax.data.worlds import BASE_MODEL
from curiojax.data.worlds.demonstrations import demonstrations, write_parquet
from curiojax.training.grpo import run_grpo
from curiojax.training.round_files import read_round, round_path
from tests.training import test_grpo
from tests.training.test_grpo import GRADER, assert_same_run, metrics, script

HYBRIDS = ("luffy", "rl_plus", "srft", "hpt", "sft_rl")
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hybrid")
    (path / "countdown_search.py").write_text(GRADER)
    write_parquet(path / "problems.parquet", demonstrations("two", count=30))
    (path / "run.yaml").write_text("stage: grpo\n")
    return path


def settings(folder):
    return [
        f"steps={STEPS}",
        "rollout={max_response_tokens: 14, top_p: 1.0, batch_size: 16}",
        "objective.tis_cap=null",
        f"data.path={folder / 'problems.parquet'}",
    ]


def run(folder, output, *more, program=None):
    return test_grpo.run(folder, output, *settings(folder), *more, program=program)


@pytest.mark.parametrize("name", HYBRIDS)
def test_every_hybrid_runs(folder, monkeypatch, name):
    """In this process, on eight devices."""
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    output = folder / name
    config = load_config(
        folder / "run.yaml",
        [
            "steps=2",
            "prompts_per_step=8",
            "rollouts_per_prompt=4",
            "prompts_per_update=4",
            "rows_per_microbatch=8",
            f"model={{path: {BASE_MODEL}, compute_dtype: float32, remat: none}}",
            f"data={{path: {folder / 'problems.parquet'}, template: plain, max_prompt_tokens: 6}}",
            "data.row_length=40",
            "rollout={max_response_tokens: 14, top_p: 1.0, batch_size: 16}",
            "reward={verifier: 'countdown_search:search', format: none, workers: 1}",
            "optimizer.learning_rate=1e-3",
            f"objective={{name: {name}}}",
            f"output_dir={output}",
        ],
    )
    run_grpo(config, details=False)
    lines = metrics(output)
    assert len(lines) == 2
    beside = config.objective.stands_beside
    wanted = {"given_loss", "given_prob", "given_entropy", "policy_loss", "demonstration_share"}
    wanted |= {"demonstration_reward", "demonstration_accuracy", "demonstration_tokens"}
    wanted |= {"srft": {"sft_weight", "positive_weight", "positive_tokens", "negative_log_prob"},
               "hpt": {"switched_share"}}.get(name, set())  # fmt: skip
    for step, line in enumerate(lines):
        assert wanted <= line.keys()
        assert np.isfinite([v for v in line.values() if isinstance(v, float)]).all()
        assert line["mismatch_max"] < 1e-4  # given tokens count for none
        assert line["demonstration_accuracy"] == line["demonstration_share"] == 1.0
        assert line["given_tokens"] > 0 and 0 < line["given_share"] < 1
        found = read_round(round_path(output, step))
        for group in found.groups:
            assert len(group.completions) == (5 if beside else 4)
            assert group.has_demonstration and len(group.own) == len(group.completions) - 1
        if name == "hpt":
            dropped = np.mean([not any(group.rewards[:-1]) for group in found.groups])
            assert line["switched_share"] == dropped > 0


def test_killed_between_its_updates_and_after_a_checkpoint_it_ends_the_same(folder):
    """HPT, one step stale: the demonstrations come back from the round that was written down."""
    more = ("objective={name: hpt, tis_cap: 2.0}", "max_staleness=1", "checkpoint.every=1")
    straight, output = folder / "straight", folder / "killed"
    done = run(folder, straight, *more)
    assert done.returncode == 0, done.stderr
    killed = run(folder, output, *more, program=script("updating", 3))
    assert killed.returncode == -9, killed.stderr
    done = run(folder, output, *more)
    assert done.returncode == 0, done.stderr
    assert "continuing after step" in done.stderr and "sampled again" not in done.stderr
    assert_same_run(straight, output)
    shares = [line["switched_share"] for line in metrics(output)]
    assert max(shares) > 0 and len(shares) == STEPS


def test_a_change_of_demonstrations_is_another_run(folder):
    other = folder / "other.parquet"
    write_parquet(other, demonstrations("two", q=1.0, count=30))
    done = run(folder, folder / "straight", "objective={name: hpt, tis_cap: 2.0}",
               "max_staleness=1", "checkpoint.every=1", f"data.path={other}")  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_prompts_without_demonstrations_are_one_line(folder, tmp_path):
    from curiojax.data.worlds.demonstrations import training_problems

    bare = tmp_path / "bare.parquet"
    write_parquet(bare, training_problems("id", 30, seed=0))
    done = run(folder, tmp_path / "run", "objective={name: luffy}", f"data.path={bare}")
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: data.path: none of the 30 prompts")
    assert not (tmp_path / "run").exists()
