"""`python -m curiojax.evaluate` with the real vLLM: the same greedy results as the JAX sampler."""

import json
import os
import subprocess
import sys

import pytest

from curiojax.evaluation.runner import run_evaluation
from tests.evaluation.test_evaluate import arguments, settings

# vLLM's servers need the memory of their GPUs: until they have ended, JAX may hold no device.
PROGRAM = """
import sys
from jax._src import xla_bridge
from curiojax.evaluate import main
from curiojax.rollout.vllm import VllmRollout

def check(method):
    def checked(*args, **kwargs):
        assert not xla_bridge.backends_are_initialized()
        return method(*args, **kwargs)
    return checked

VllmRollout.generate, VllmRollout.close = check(VllmRollout.generate), check(VllmRollout.close)
main(sys.argv[1:])
assert xla_bridge.backends_are_initialized()
"""
ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
}


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_greedy_results_are_those_of_the_sampler(trained, tmp_path):
    python = os.environ.get("CURIOJAX_VLLM_PYTHON")
    if not python:
        pytest.skip("needs vLLM: tools/setup_vllm_cpu.sh DIR, then set CURIOJAX_VLLM_PYTHON")
    greedy = ("temperature=0", "samples=2")
    ours = run_evaluation(settings(trained, tmp_path / "sampler", *greedy))
    options = arguments(
        trained,
        tmp_path / "vllm",
        *greedy,
        "engine=vllm",
        f"vllm_python={python}",
        "extra_args=[--enforce-eager, --max-num-seqs, '32']",
    )
    command = [sys.executable, "-c", PROGRAM, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ENV)
    assert done.returncode == 0, done.stderr
    theirs = json.loads((tmp_path / "vllm/results.json").read_text())
    assert theirs["settings"]["engine"] == "vllm" and ours["settings"]["engine"] == "sampler"
    assert theirs["benchmarks"] == ours["benchmarks"]
    assert 0 < theirs["means"]["all"]["avg"]["value"] < 1
    # Nothing is left to sample: no server is started, so that any interpreter will do.
    options[options.index(f"vllm_python={python}")] = "vllm_python=/bin/false"
    command = [sys.executable, "-m", "curiojax.evaluate", *options]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "vllm/results.json").read_text()) == theirs
