"""Several processes give the result of one, and end together."""

import os
import signal
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.distributed import processes
from tests.training import project

MESH = ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "steps=4", "checkpoint.every=2")
TEN = ("mesh.data=2", "mesh.fsdp=2", "checkpoint.every=2")

# Ends one process with a signal after the metrics, or the save, of a step.
KILL_AFTER_STEP = """
import os, signal, time
import jax
from curiojax.errors import exit_on_config_error
from curiojax.training import stopping
from curiojax.train import main
after = stopping.Stop.after
def after_and_die(self, step):
    if step == {step} and jax.process_index() == {victim}:
        while not os.path.isdir(os.path.join({output!r}, "checkpoints", "{saved}")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    return after(self, step)
stopping.Stop.after = after_and_die
exit_on_config_error(main)
"""


def kill(output, *, step, victim, saved):
    values = {"step": step, "victim": victim, "saved": saved, "output!r": repr(str(output))}
    text = KILL_AFTER_STEP
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


def start_all(folder, output, count, *more, devices=4, script=None, own=None):
    """`count` processes that share `devices`; `own`: further arguments, by process."""
    port = processes.free_port()
    program = ["-m", "curiojax.train"] if script is None else ["-c", script]
    command = [sys.executable, *program, str(project.config_file(folder))]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return [
        processes.start(
            [
                *command,
                *project.arguments(folder, output, *more),
                *(own or {}).get(index, ()),
                *processes.keys(index, count, port, heartbeat_seconds=8),
            ],
            devices=devices // count,
            **cache,
        )
        for index in range(count)
    ]


def assert_same_metrics(ours, theirs):
    for a, b in zip(project.metrics(ours), project.metrics(theirs), strict=True):
        assert a["step"] == b["step"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


def assert_same_weights(ours, theirs):
    want = load_file(theirs / "hf" / "model.safetensors")
    got = load_file(ours / "hf" / "model.safetensors")
    for name, tensor in got.items():
        np.testing.assert_allclose(
            tensor.astype(np.float32), want[name].astype(np.float32), atol=1e-2, rtol=1e-2
        )


def test_two_processes_are_one(folder, tmp_path):
    single = project.run(folder, tmp_path / "single", *MESH, devices=8)
    assert single.returncode == 0, single.stderr
    for code, errors in processes.ends(start_all(folder, tmp_path / "pair", 2, *MESH, devices=8)):
        assert code == 0, errors
    assert "training: 4/4" in single.stderr
    assert_same_metrics(tmp_path / "pair", tmp_path / "single")
    assert_same_weights(tmp_path / "pair", tmp_path / "single")
    assert (tmp_path / "pair" / "report.html").is_file()


def test_a_run_continues_in_another_number_of_processes(folder, straight, tmp_path):
    """Two processes until one dies, then one until it dies, then four."""
    output = tmp_path / "run"
    script = kill(output, step=3, victim=1, saved=2)
    (code, errors), (killed, _) = processes.ends(start_all(folder, output, 2, *TEN, script=script))
    assert (code, killed) == (75, -signal.SIGKILL), errors
    assert "process 1 (" in errors and "goes on from the last checkpoint" in errors
    assert "Traceback" not in errors

    script = kill(output, step=5, victim=0, saved=4)
    alone = project.run(folder, output, *TEN, devices=4, script=script)
    assert alone.returncode == -signal.SIGKILL, alone.stderr
    assert "continuing after step 2" in alone.stderr

    results = processes.ends(start_all(folder, output, 4, *TEN))
    assert [code for code, _ in results] == [0, 0, 0, 0], results
    assert "continuing after step 4" in results[0][1]
    for _, errors in results[1:]:  # nothing but what XLA says of itself
        assert not [line for line in errors.splitlines() if "process" in line]
    assert_same_metrics(output, straight)
    assert_same_weights(output, straight)


def test_another_data_file_on_one_host_ends_all(folder, tmp_path):
    other = {1: [f"data.path={folder / 'wrong.parquet'}"]}
    for code, errors in processes.ends(start_all(folder, tmp_path / "run", 2, own=other)):
        assert code == 2, errors
        assert "data.path: " in errors and "on process 1 (" in errors and "Traceback" not in errors
    assert not (tmp_path / "run").exists()


def test_a_data_file_missing_on_one_host_or_another_config_ends_all(folder, tmp_path):
    other = {1: ["data.path=/nowhere.parquet"], 2: ["seed=1"]}
    for code, errors in processes.ends(start_all(folder, tmp_path / "run", 3, own=other)):
        assert code == 2, errors
        assert "seed: 1 on process 2 (" in errors
    del other[2]
    (code, errors), (own, theirs) = processes.ends(
        start_all(folder, tmp_path / "run", 2, own=other)
    )
    assert (code, own) == (2, 2)
    assert "process 1: error: " in theirs and "/nowhere.parquet" in theirs
    assert "ending, because process 1 (" in errors and "/nowhere.parquet" in errors
    assert not (tmp_path / "run").exists()


def test_a_signal_to_one_process_saves_and_ends_both(folder, tmp_path):
    """Ctrl-C, which is passed on as the SIGTERM that a cluster sends."""
    output = tmp_path / "pair"
    endless = (*MESH, "steps=100000", "checkpoint.every=100000")
    started = start_all(folder, output, 2, *endless, devices=8)
    deadline = time.monotonic() + 600
    file = output / "metrics.jsonl"
    try:
        while not (file.is_file() and file.read_bytes().count(b"\n") > 2):
            assert time.monotonic() < deadline and all(p.poll() is None for p in started)
            time.sleep(0.2)
        os.kill(started[1].pid, signal.SIGINT)
    except BaseException:
        for process in started:
            process.kill()
        raise
    for index, (code, errors) in enumerate(processes.ends(started)):
        assert code == 130, errors
        assert "Traceback" not in errors
        assert ("interrupted; the same command" in errors) == (index == 0)
    (saved,) = [p.name for p in (output / "checkpoints").iterdir() if p.name.isdigit()]
    assert int(saved) == project.metrics(output)[-1]["step"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["configs/qwen2.5-math-7b/grpo.yaml", "rollout.engine=sampler"],
            "stage: grpo runs in one process",
        ),
        (
            [
                "configs/qwen2.5-math-7b/sft.yaml",
                "evaluation.every=1",
                "evaluation.benchmarks=[aime24]",
            ],
            "evaluation.every: a run of several processes is not evaluated",
        ),
        (["configs/quickstart.yaml"], "compare: a comparison runs in one process"),
    ],
)
def test_what_runs_in_one_process_says_so(tmp_path, arguments, message):
    port = processes.free_port()
    command = [sys.executable, "-m", "curiojax.train", *arguments, f"output_dir={tmp_path / 'run'}"]
    started = [processes.start([*command, *processes.keys(i, 2, port)]) for i in range(2)]
    for code, errors in processes.ends(started):
        assert code == 2 and message in errors, errors
    assert not (tmp_path / "run").exists()
