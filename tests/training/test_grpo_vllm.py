"""The RL stage with the real vLLM: three steps, each sampled with the weights of the one before."""

import dataclasses
import os

import jax
import numpy as np
import pytest

from curiojax.data.worlds import BASE_MODEL
from curiojax.data.worlds.demonstrations import training_problems, write_parquet
from curiojax.models import init_params, read_config, save_pretrained
from curiojax.training.round_files import read_round, round_path

from .test_grpo import metrics, run

# An untrained model solves nothing; this tells its completions apart all the same.
GRADER = """
def even(response, ground_truth):
    return len(response) % 2 == 0
"""
# Inherited by the server.
ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
}


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_every_step_samples_from_the_weights_of_the_last(tmp_path, monkeypatch):
    python = os.environ.get("CURIOJAX_VLLM_PYTHON")
    if not python:
        pytest.skip("needs vLLM: tools/setup_vllm_cpu.sh DIR, then set CURIOJAX_VLLM_PYTHON")
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "even_length.py").write_text(GRADER)
    write_parquet(tmp_path / "problems.parquet", training_problems("id", 30, seed=0))
    (tmp_path / "run.yaml").write_text("stage: grpo\n")
    # The embedded model's heads are of a size that vLLM on CPUs does not take.
    config = dataclasses.replace(read_config(BASE_MODEL), head_dim=32, hidden_size=128)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.1 * random.standard_normal(x.shape, dtype=np.float32),
        init_params(jax.random.key(0), config),
    )
    save_pretrained(params, config, tmp_path / "model", tokenizer_from=BASE_MODEL)

    done = run(
        tmp_path,
        tmp_path / "run",
        "steps=3",
        f"model.path={tmp_path / 'model'}",
        f"rollout={{engine: vllm, vllm_python: {python}, max_response_tokens: 10, top_p: 1.0}}",
        "rollout.extra_args=[--enforce-eager, --max-num-seqs, '64']",
        "reward={verifier: 'even_length:even', format: none, workers: 1}",
    )
    assert done.returncode == 0, done.stderr
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3]
    for step, line in enumerate(lines):
        found = read_round(round_path(tmp_path / "run", step))
        assert found is not None and {c.version for g in found.groups for c in g.completions} == {
            step
        }
        assert line["grad_norm"] > 0 and 0 < line["reward"] < 1
        # The trainer's log-probs of what was sampled. Had a sync not come through, they would be
        # those of other weights.
        assert line["mismatch_max"] < 1e-4
