"""The tool: a process of its own, JSON on standard output, errors in one line."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from curiojax.errors import ConfigError
from curiojax.models.config import config_to_hf
from curiojax.planning import environment
from tests.training import tiny

TOOL = Path(__file__).parents[2] / "tools" / "plan_memory.py"
CONFIG = "configs/qwen3-4b/sft.yaml"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("plan_memory", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def variables(monkeypatch):
    """The environment of a fresh process; what the tool sets is undone."""
    for name in ("XLA_FLAGS", "JAX_PLATFORMS", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
    return os.environ


def test_flags_of_a_run_stay_and_ours_replace_their_own(variables, monkeypatch):
    variables["XLA_FLAGS"] = "--xla_foo=1 --xla_force_host_platform_device_count=8"
    monkeypatch.setattr(environment, "has_plugin", lambda: False)
    environment.prepare(3)
    assert variables["XLA_FLAGS"] == "--xla_foo=1 --xla_force_host_platform_device_count=3"
    assert variables["JAX_PLATFORMS"] == "cpu"
    monkeypatch.setattr(environment, "has_plugin", lambda: True)
    environment.prepare(4)
    assert variables["XLA_FLAGS"].split() == [
        "--xla_foo=1",
        "--xla_force_host_platform_device_count=4",
        "--xla_gpu_autotune_level=0",
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["key=value"], "CONFIG: missing"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["configs/quickstart.yaml"], "a comparison has no step"),
        ([CONFIG, "--devices", "0"], "--devices: 0"),
        ([CONFIG, "--target", "abacus"], "--target: 'abacus' is not one of cpu, h100, h200"),
        ([CONFIG, "--rows", "8,x"], "--rows: '8,x'"),
        ([CONFIG, "--rows", "0"], "--rows: '0'"),
        ([CONFIG, "model.remat=some"], "model.remat"),
        ([CONFIG, "rows_per_microbatch=12"], "rows_per_microbatch: 12 cannot be split"),
        ([CONFIG, "mesh.data=3"], "mesh: .* does not fit 8 devices"),
        ([CONFIG, "--sweep", "--rows", "12"], "rows_per_microbatch: 12"),
        ([CONFIG, "model.attention=cudnn", "data.packing=false"], "cudnn needs an NVIDIA GPU"),
        ([CONFIG, "model.path=no-such-folder"], "model.path: no directory no-such-folder"),
    ],
)
def test_errors(tool, variables, arguments, message):
    with pytest.raises(ConfigError, match=message):
        tool.main(["--target=cpu", *arguments])


def test_a_fresh_process(tmp_path):
    """Another number of devices than this process has, an error, and JSON that is only that."""
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(tiny.MODEL)))
    (tmp_path / "run.yaml").write_text(
        f"model: {{path: {tmp_path}, compute_dtype: float32, remat: dots}}\n"
        "data: {max_prompt_tokens: 8, max_response_tokens: 24}\n"
        "objective: {name: sft}\nloss: {chunk_tokens: 24}\nrows_per_microbatch: 4\n"
    )

    def run(*arguments):
        command = [sys.executable, str(TOOL), str(tmp_path / "run.yaml"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)

    wrong = run("--devices", "3", "--target", "cpu")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr.count("\n") == 1
    assert wrong.stderr.startswith("error: rows_per_microbatch: 4 cannot be split")

    right = run("--devices", "2", "--target", "cpu", "--json")
    assert right.returncode == 0, right.stderr
    found = json.loads(right.stdout)
    assert found["target"]["devices"] == 2 and found["target"]["mesh"]["fsdp"] == 2
    assert found["model"]["source"] == str(tmp_path / "config.json")
    assert (found["remat"], found["rows_per_microbatch"]) == ("dots", 4)
    assert found["bytes_per_device"]["teacher"] == 0
    assert set(found["programs"]) == {"accumulate", "update"}
