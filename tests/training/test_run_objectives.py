"""Whole runs of the objectives: from a checkpoint and a data file to metrics, report and export."""

import json

import pytest

from curiojax.config import load_config
from curiojax.training.sft import run_sft
from tests.training import project

OBJECTIVES = {
    "entropy_top20": "{name: entropy, top_fraction: 0.2}",
    "base_support_kl": "{name: kl, estimator: forward_full, coef: 1.0, min_base_prob: 0.01}",
    "gem": "{name: gem}",
    "psft": "{name: psft, updates_per_snapshot: 2}",
    "curio_forward": "{name: curio, divergence: forward_kl}",
}
SHOWN = {
    "entropy_top20": "entropy_selected",
    "base_support_kl": "kl kl_held kl_k1 kl_k3 reference_nll teacher_distance",
    "gem": "gem_s gem_q_max",
    "psft": "ratio_mean ratio_max clipped old_kl weight_effective teacher_lag",
    "curio_forward": "sed_kl tau_mean teacher_entropy teacher_lag",
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_of_a_few_steps(folder, tmp_path, name):
    overrides = [
        *project.arguments(folder, tmp_path / "run"),
        f"objective={OBJECTIVES[name]}",
        "optimizer.warmup_steps=0",
        "steps=4",
    ]
    result = run_sft(load_config(None, overrides), details=False)
    assert [line["step"] for line in result.metrics] == [1, 2, 3, 4]
    assert result.metrics[-1]["sft_nll"] < result.metrics[0]["sft_nll"]
    assert set(SHOWN[name].split()) <= result.metrics[-1].keys()
    assert (result.directory / "hf" / "model.safetensors").is_file()
    assert (result.directory / "report.html").is_file()
    tokens = json.loads((result.directory / "token_view.json").read_text())["tokens"]
    assert tokens and {"entropy", "log_prob"} <= tokens[0].keys()


def test_a_warning_is_printed(folder, tmp_path):
    done = project.run(
        folder, tmp_path / "run", "objective={name: psft, updates_per_snapshot: 1}", "steps=1"
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("warning: objective")]
    assert "plain SFT" in line
    (metrics,) = project.metrics(tmp_path / "run")
    assert metrics["ratio_max"] == 1 and "teacher_lag" not in metrics
