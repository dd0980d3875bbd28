"""The RL stage with the real vLLM: three steps, each sampled with the weights of the one before."""

import dataclasses
import os

import jax
import numpy as np
import pytest

from curiojax.data.worlds import BASE_MODEL
from curiojax.data.worlds.demonstrations import demonstrations, training_problems, write_parquet
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


pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture
def vllm_run(tmp_path, monkeypatch):
    """A run of some steps by the real vLLM, of a model that it can serve on CPUs."""
    python = os.environ.get("CURIOJAX_VLLM_PYTHON")
    if not python:
        pytest.skip("needs vLLM: tools/setup_vllm_cpu.sh DIR, then set CURIOJAX_VLLM_PYTHON")
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "even_length.py").write_text(GRADER)
    (tmp_path / "run.yaml").write_text("stage: grpo\n")
    # The embedded model's heads are of a size that vLLM on CPUs does not take.
    config = dataclasses.replace(read_config(BASE_MODEL), head_dim=32, hidden_size=128)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + 0.1 * random.standard_normal(x.shape, dtype=np.float32),
        init_params(jax.random.key(0), config),
    )
    save_pretrained(params, config, tmp_path / "model", tokenizer_from=BASE_MODEL)

    def start(problems, *more):
        write_parquet(tmp_path / "problems.parquet", problems)
        done = run(
            tmp_path,
            tmp_path / "run",
            f"model.path={tmp_path / 'model'}",
            f"rollout={{engine: vllm, vllm_python: {python}, max_response_tokens: 10, top_p: 1.0}}",
            "rollout.extra_args=[--enforce-eager, --max-num-seqs, '64']",
            "reward={verifier: 'even_length:even', format: none, workers: 1}",
            *more,
        )
        assert done.returncode == 0, done.stderr
        return tmp_path / "run"

    return start


def test_every_step_samples_from_the_weights_of_the_last(vllm_run):
    output = vllm_run(training_problems("id", 30, seed=0), "steps=3")
    lines = metrics(output)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for step, line in enumerate(lines):
        found = read_round(round_path(output, step))
        assert found is not None and {c.version for g in found.groups for c in g.completions} == {
            step
        }
        assert line["grad_norm"] > 0 and 0 < line["reward"] < 1
        # The trainer's log-probs of what was sampled. Had a sync not come through, they would be
        # those of other weights.
        assert line["mismatch_max"] < 1e-4


def test_begun_responses_are_continued(vllm_run):
    output = vllm_run(
        demonstrations("canon", count=30),
        "steps=2",
        "objective={name: prefix_rft, tis_cap: 2.0}",
        "rollout.max_response_tokens=16",
    )
    for step, line in enumerate(metrics(output)):
        found = read_round(round_path(output, step))
        for group in found.groups:
            assert group.given[:3] == [0, 0, 0] and 0 < group.given[3]
            assert group.given[3] < len(group.completions[3].tokens) <= 16
        assert line["guided_share"] == 1.0 and line["given_tokens"] > 0
        # Of continuations as well: the trainer gives them these log-probs after the same prefix.
        assert line["mismatch_max"] < 1e-4
