"""Two processes of four devices each give the result of one process of eight."""

import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training import project

MESH = ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "steps=4", "checkpoint.every=2")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_process(folder, output, index, port, *more):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
    }
    command = [sys.executable, "-m", "curiojax.train", str(project.config_file(folder))]
    return subprocess.Popen(
        [*command, *project.arguments(folder, output, *MESH, *more)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_are_one(folder, tmp_path):
    single = project.run(folder, tmp_path / "single", *MESH, devices=8)
    assert single.returncode == 0, single.stderr
    port = free_port()
    processes = [start_process(folder, tmp_path / "pair", index, port) for index in range(2)]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    for ours, theirs in zip(
        project.metrics(tmp_path / "pair"), project.metrics(tmp_path / "single"), strict=True
    ):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    want = load_file(tmp_path / "single" / "hf" / "model.safetensors")
    got = load_file(tmp_path / "pair" / "hf" / "model.safetensors")
    for name, tensor in got.items():
        np.testing.assert_allclose(
            tensor.astype(np.float32), want[name].astype(np.float32), atol=1e-2, rtol=1e-2
        )
    assert (tmp_path / "pair" / "report.html").is_file()


def test_sigterm_on_one_process_saves_and_ends_both(folder, tmp_path):
    port, output = free_port(), tmp_path / "pair"
    endless = ("steps=100000", "checkpoint.every=100000")
    processes = [start_process(folder, output, index, port, *endless) for index in range(2)]
    try:
        deadline = time.monotonic() + 240
        while not ((output / "metrics.jsonl").is_file() and project.metrics(output)[2:]):
            assert time.monotonic() < deadline and all(p.poll() is None for p in processes)
            time.sleep(0.2)
        processes[1].terminate()
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 130, errors
            assert "Traceback" not in errors
    finally:
        for process in processes:
            process.kill()
    (saved,) = [p.name for p in (output / "checkpoints").iterdir() if p.name.isdigit()]
    assert int(saved) == project.metrics(output)[-1]["step"]
