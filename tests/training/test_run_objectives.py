"""Whole runs of the objectives: from a checkpoint and a data file to metrics, report and export."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax import models
from curiojax.config import load_config
from curiojax.data.tokenizer import load_tokenizer
from curiojax.objectives import Curio, Gem
from curiojax.training.metrics import alpha_warning
from curiojax.training.setup import build_data
from curiojax.training.sft import run_sft
from tests.training import project

OBJECTIVES = {
    "entropy_top20": "{name: entropy, top_fraction: 0.2}",
    "base_support_kl": "{name: kl, estimator: forward_full, coef: 1.0, min_base_prob: 0.01}",
    "kl_k3": "{name: kl, coef: 0.1, estimator: k3}",
    "gem": "{name: gem}",
    "dft": "{name: dft}",
    "psft": "{name: psft, updates_per_snapshot: 2}",
    "curio_forward": "{name: curio, divergence: forward_kl}",
}
SHOWN = {
    "entropy_top20": "entropy_selected",
    "base_support_kl": "kl kl_held kl_k1 kl_k3 reference_nll teacher_distance",
    "kl_k3": "kl kl_k1 kl_k3 reference_nll teacher_lag teacher_distance weight_mean",
    "gem": "gem_s gem_q_max",
    "dft": "weight_mean weight_max weight_effective",
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


OXA = ["objective={name: oxa, ul_weight: 0.5}", "data.suppressed_per_step=5"]


def test_oxa_is_two_means_over_sequences(folder, tmp_path):
    """Mean over sequences of the token mean, of each kind on its own, record by record."""
    overrides = project.arguments(folder, tmp_path / "run", *OXA)
    overrides += [f"data.suppressed_path={folder / 'wrong.parquet'}", "steps=3"]
    config = load_config(None, overrides)
    assert config.loss.normalizer == "sequence_token_mean"
    result = run_sft(config, details=False)
    first = result.metrics[0]

    data = build_data(config, load_tokenizer(str(folder / "base")))
    model, params = models.load_pretrained(folder / "base", dtype=jnp.float32)

    @jax.jit
    def scores(ids):
        positions = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
        hidden = models.forward(params, model, ids, positions, jnp.ones_like(ids))
        return jax.nn.log_softmax(models.logits(params, model, hidden))

    def responses(records, step):
        for index in records.indices(step):
            prompt, response = records.example(int(index))
            ids = np.zeros((1, 256), np.int32)  # causal: what follows does not matter
            ids[0, : len(prompt) + len(response)] = prompt + response
            at = np.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
            yield np.asarray(scores(ids), np.float64)[0, at, response]

    right = [-lp.mean() for lp in responses(data, 0)]
    wrong = [-np.log1p(-np.exp(lp)) for lp in responses(data.suppressed, 0)]
    assert (len(right), len(wrong)) == (8, 5)
    unlikelihood = np.mean([ul.mean() for ul in wrong])
    assert first["loss"] == pytest.approx(np.mean(right) + 0.5 * unlikelihood, rel=1e-5)
    assert first["unlikelihood"] == pytest.approx(np.concatenate(wrong).mean(), rel=1e-5)
    assert first["suppressed_tokens"] == sum(map(len, wrong))
    assert first["tokens"] == sum(data.response_lengths[data.indices(0)])
    tokens = np.concatenate([-lp for lp in responses(data, 0)])
    assert first["sft_nll"] == pytest.approx(tokens.mean(), rel=1e-5)
    assert {"suppressed_prob", "suppressed_entropy"} <= first.keys()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (OXA, ["data.suppressed_path", "missing", "ul_weight=0"]),
        (["data.suppressed_path=wrong.parquet"], ["data.suppressed_path", "oxa"]),
    ],
)
def test_oxa_and_its_data_go_together(folder, tmp_path, more, words):
    done = project.run(folder, tmp_path / "run", *more)
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    for word in words:
        assert word in error


def test_alpha_beyond_the_bound_of_the_measured_forks_is_told():
    metrics = {"teacher_entropy_top20": np.log(100.0), "tau_p90": 1.5}
    for alpha, words in ((1.0, ["objective.alpha: 1 is above 0.96", "100"]), (0.9, None)):
        warning = alpha_warning(Curio(alpha=alpha), metrics)
        assert warning is None if words is None else all(word in warning for word in words)
    assert alpha_warning(Curio(alpha=9, divergence="forward_kl"), metrics) is None
    assert alpha_warning(Gem(), {}) is None
