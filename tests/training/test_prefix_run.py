"""A run of Prefix-RFT on the embedded world, with a kill between its updates."""

import numpy as np
import pytest

from curiojax.data.worlds.demonstrations import demonstrations, write_parquet
from curiojax.objectives import PrefixRft
from curiojax.training.prefixes import lowest_ratio
from curiojax.training.round_files import read_round, round_path
from tests.training.test_grpo import GRADER, assert_same_run, metrics, run, script

STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("prefix")
    (path / "countdown_search.py").write_text(GRADER)
    write_parquet(path / "problems.parquet", demonstrations("canon", count=30))
    (path / "run.yaml").write_text("stage: grpo\n")
    return path


def guided(folder, output, **more):
    options = (
        "objective={name: prefix_rft, tis_cap: 2.0}",
        f"steps={STEPS}",
        "rollout.max_response_tokens=16",
        "data.row_length=40",
    )
    return run(folder, output, *options, **more)


def test_a_killed_run_ends_as_a_straight_one(folder):
    straight, output = folder / "straight", folder / "killed"
    done = guided(folder, straight)
    assert done.returncode == 0, done.stderr
    killed = guided(folder, output, program=script("updating", 4, output / "checkpoints/2"))
    assert killed.returncode == -9, killed.stderr
    done = guided(folder, output)
    assert done.returncode == 0, done.stderr
    assert "continuing after step 2" in done.stderr
    assert_same_run(straight, output)

    objective, ratios = PrefixRft(), []
    for step, line in enumerate(metrics(straight)):
        found = read_round(round_path(straight, step))
        for group in found.groups:
            assert len(group.completions) == 4 and group.given[:3] == [0, 0, 0]
            completion, given = group.completions[-1], group.given[-1]
            assert 0 < given < len(completion.tokens) <= 16
            assert completion.log_probs[:given] == [0.0] * given
            assert all(x < 0 for x in completion.log_probs[given:])
        assert line["guided_share"] == 1.0
        guided_right = np.mean([group.grades[-1].correct for group in found.groups])
        assert line["guided_accuracy"] == pytest.approx(guided_right)
        assert line["prefix_ratio_low"] == pytest.approx(lowest_ratio(objective, step, STEPS))
        # Rounded down to whole tokens, so that the share may be a token's below the lower end.
        assert line["prefix_ratio_low"] - 0.1 < line["prefix_ratio"] <= 0.95
        assert 0.19 < line["given_kept"] < 0.8  # a fifth, and those as uncertain as the last
        assert line["given_tokens"] == sum(group.given[-1] for group in found.groups)
        assert np.isfinite(line["given_loss"]) and np.isfinite(line["given_advantage"])
        # Given tokens are in no comparison with the sampler.
        assert line["mismatch_max"] < 1e-4 and line["tis_weight"] == pytest.approx(1.0, abs=1e-4)
        ratios.append(line["prefix_ratio"])
    assert ratios[0] > ratios[-1]
    assert max(line["guided_accuracy"] for line in metrics(straight)) > 0
