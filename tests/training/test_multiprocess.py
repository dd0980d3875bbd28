"""Two processes of four devices each give the result of one process of eight."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training import project

MESH = ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "steps=4", "checkpoint.every=2")


def start_process(folder, output, index, port):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
    }
    command = [sys.executable, "-m", "curiojax.train", str(project.config_file(folder))]
    return subprocess.Popen(
        [*command, *project.arguments(folder, output, *MESH)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_are_one(folder, tmp_path):
    single = project.run(folder, tmp_path / "single", *MESH, devices=8)
    assert single.returncode == 0, single.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
