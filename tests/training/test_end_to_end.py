"""A checkpoint and a data file go in, a checkpoint that transformers loads comes out."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from curiojax import models
from curiojax.config import load_config
from tests.training import project


def test_the_run_directory_is_complete(straight):
    names = {path.name for path in straight.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "checkpoints", "hf", "report.html"} <= names
    assert sorted(p.name for p in (straight / "checkpoints").iterdir() if p.name.isdigit()) == [
        "10",
        "5",
    ]
    resolved = yaml.safe_load((straight / "config.yaml").read_text())
    assert resolved["steps"] == 10 and resolved["optimizer"]["weight_decay"] == 0.01


def test_metrics_have_what_the_readme_says(straight):
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 11))
    keys = """step loss sft_nll sed_k2 weight_mean weight_min weight_max entropy entropy_top20
        entropy_rest teacher_entropy teacher_entropy_top20 teacher_entropy_rest entropy_increment
        tau_mean tau_p10 tau_p50 tau_p90 gated at_floor at_cap learning_rate grad_norm tokens
        padding_share tokens_per_second step_seconds teacher_lag teacher_distance""".split()
    for line in lines:
        assert set(keys) <= line.keys()
        assert line["loss"] == pytest.approx(line["sft_nll"] + line["sed_k2"], rel=1e-4)
        assert line["entropy_rest"] < line["entropy"] < line["entropy_top20"]
        assert 1.1 <= line["tau_mean"] <= 1.5
    # Linear warm-up over three steps to 1e-3, then cosine.
    assert lines[0]["learning_rate"] == pytest.approx(1e-7, rel=1e-3)
    assert lines[3]["learning_rate"] == pytest.approx(1e-3, rel=1e-5)
    # The teacher is a copy at first, and again (all but 1 %) after every fifth step.
    assert [line["teacher_lag"] for line in lines] == [1, 2, 3, 4, 0] * 2
    assert lines[3]["teacher_distance"] > 10 * lines[4]["teacher_distance"]
    assert lines[-1]["sft_nll"] < lines[0]["sft_nll"] - 0.3


def test_transformers_loads_the_export_and_agrees(folder, straight):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(straight / "hf", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(straight / "hf")
    # The dtype of the checkpoint the run started from, although training was in float32.
    assert all(
        str(t.dtype) == "bfloat16" for t in load_file(straight / "hf/model.safetensors").values()
    )
    ids = tokenizer("What is 1 + 1?\n", return_tensors="np").input_ids.astype(np.int32)
    config, params = models.load_pretrained(straight / "hf", dtype=jnp.float32)
    positions = np.arange(ids.shape[1], dtype=np.int32)[None]
    hidden = models.forward(params, config, ids, positions, np.ones_like(ids))
    ours = models.logits(params, config, hidden)
    with torch.no_grad():
        want = theirs(torch.tensor(ids.astype(np.int64))).logits.numpy()
    assert np.abs(ours - want).max() <= 1e-4 * max(1.0, np.abs(want).max())
    base = load_file(folder / "base" / "model.safetensors")["model.embed_tokens.weight"]
    trained = load_file(straight / "hf" / "model.safetensors")["model.embed_tokens.weight"]
    assert (base != trained).any()


def test_a_finished_run_is_left_as_it_is(folder, straight):
    before = (straight / "hf" / "model.safetensors").read_bytes()
    again = project.run(folder, straight)
    assert again.returncode == 0, again.stderr
    assert not re.search(r"\d/10\b", again.stderr)  # no step was taken
    assert (straight / "hf" / "model.safetensors").read_bytes() == before
    assert len(project.metrics(straight)) == 10


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["objective.alpa=1"], ["objective.alpa", "objective.alpha"]),
        (["model.path=/nowhere/model"], ["model.path", "/nowhere/model"]),
        (["data.path=/nowhere/train.parquet"], ["/nowhere/train.parquet"]),
        (["data.max_response_tokens=4000"], ["data.max_response_tokens", "512"]),
        (["sequences_per_step=1000"], ["sequences_per_step", "60"]),
        (["data.max_prompt_tokens=3"], ["data.max_prompt_tokens", "prompt too long"]),
        (["mesh.data=3"], ["mesh", "3"]),
        (["data.template=nope"], ["data.template", "curio"]),
        (["data.format=alpaca"], ["data.format", "instruction"]),
        (["model.attention=cudnn", "data.packing=false"], ["model.attention", "GPU"]),
        (["steps=3", "epochs=2"], ["epochs"]),
        (["logging.wandb=project"], ["logging.wandb", "pip install"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_exit_code_2(folder, tmp_path, more, words):
    done = project.run(folder, tmp_path / "run", *more)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]


def test_a_foreign_folder_is_not_written_to(folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    refused = project.run(folder, tmp_path)
    assert refused.returncode == 2 and "not empty" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_released_normalizer_runs(folder, tmp_path):
    done = project.run(folder, tmp_path / "run", "preset=released", "steps=2", "epochs=null")
    assert done.returncode == 0, done.stderr
    config = load_config(tmp_path / "run" / "config.yaml")
    assert config.loss.normalizer == "pair_token_mean"
    # The loss is then a mean over pairs, so it is no longer nll + k2 over tokens.
    line = project.metrics(tmp_path / "run")[0]
    assert line["loss"] != pytest.approx(line["sft_nll"] + line["sed_k2"], rel=1e-4)
