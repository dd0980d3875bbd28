"""The RL stage with vLLM's servers on the trainer's own devices, by a stand-in for vLLM."""

import sys
from pathlib import Path

import pytest

from curiojax.data.worlds import BASE_MODEL
from curiojax.data.worlds.demonstrations import (
    evaluation_problems,
    training_problems,
    write_parquet,
)

from .test_grpo import assert_same_run, metrics, run
from .test_grpo_vllm import GRADER

sys.path.append(str(Path(__file__).parents[1] / "rollout"))
from fake_vllm import make_interpreter

SYNC = ["/start_weight_update", "/update_weights", "/finish_weight_update"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared")
    (path / "even_length.py").write_text(GRADER)
    write_parquet(path / "problems.parquet", training_problems("id", 30, seed=0))
    write_parquet(path / "held-out.parquet", evaluation_problems("id", 4))
    (path / "run.yaml").write_text("stage: grpo\n")
    make_interpreter(path)
    return path


def train(folder, name, *more):
    python = folder / "python"
    return run(
        folder,
        folder / name,
        "steps=3",
        f"model.path={BASE_MODEL}",
        f"rollout={{engine: vllm, vllm_python: {python}, max_response_tokens: 10, top_p: 1.0}}",
        "objective.tis_cap=null",
        "reward={verifier: 'even_length:even', format: none, workers: 1}",
        # At a temperature at which the servers cannot report log-probs, and longer than training.
        "evaluation={every: 2, samples: 2, max_response_tokens: 20, verifier: 'even_length:even'}",
        f"evaluation.benchmarks=[{{name: own, path: {folder / 'held-out.parquet'}}}]",
        *more,
    )


def requests(output):
    """The routes that the server was asked for, completions once for any number of them."""
    lines = (output / "vllm" / "vllm-server-0.log").read_text().splitlines()
    assert not any("out of order" in line for line in lines)
    paths = [line for line in lines if line.startswith("/")]
    return [p for i, p in enumerate(paths) if i == 0 or paths[i - 1] != p]


def test_both_layouts_end_the_same(folder):
    done = train(folder, "separate")
    assert done.returncode == 0, done.stderr
    done = train(folder, "shared", "rollout.layout=shared")
    assert done.returncode == 0, done.stderr
    assert "40% for the servers, 55% for JAX" in done.stdout + done.stderr
    assert_same_run(folder / "separate", folder / "shared")
    before, *lines = metrics(folder / "shared")
    assert [line["rollout_version"] for line in lines] == [0, 1, 2]
    watched = [before, *lines[1:]]
    assert [line["step"] for line in watched] == [0, 2, 3] and "eval/avg" not in lines[0]
    assert all(line["eval/response_tokens"] == 20 for line in watched)
    # The stand-in draws the same whatever the weights; their entropies are the trainer's.
    assert len({line["eval/avg"] for line in watched}) == 1
    assert len({line["eval/entropy"] for line in watched}) == 3
    wake = ["/wake_up?tags=weights", *SYNC, "/wake_up?tags=kv_cache", "/reset_prefix_cache"]
    step = ["/v1/completions", "/sleep?level=2", *wake]
    assert requests(folder / "shared") == [
        "/update_weight_version",
        *step * 3,
        "/v1/completions",  # the probe after the last step's weights
    ]
    # The layout says how a run is computed, not which one it is.
    done = train(folder, "shared", "rollout={layout: separate, memory_share: 0.3}")
    assert done.returncode == 0 and "finished already" in done.stderr
