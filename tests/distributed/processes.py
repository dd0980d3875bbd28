"""Real processes on one machine that meet on the loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

# What a process does once it has joined; `group` is itself, `arguments` the rest of its command.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from curiojax.distributed import agree, check_shared, first_then_others, group as groups
from curiojax.distributed import is_shared, joined, read_settings
from curiojax.errors import ConfigError, exit_on_config_error

def main():
    settings, arguments = read_settings(sys.argv[1:])
    with joined(settings):
        group = groups.current
        work(group, arguments)

def work(group, arguments):
{work}

exit_on_config_error(main)
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def keys(index: int, count: int, port: int, **more: object) -> list[str]:
    """The command-line keys of a process."""
    values = {"coordinator": f"127.0.0.1:{port}", "num_processes": count, "process_id": index}
    return [f"distributed.{key}={value}" for key, value in {**values, **more}.items()]


def program(work: str) -> list[str]:
    """A command whose `work` is the body of a function."""
    body = "\n".join(f"    {line}" for line in work.strip().splitlines())
    return [sys.executable, "-c", PROGRAM.replace("{work}", body)]


def start(command: Sequence[str], devices: int = 1, **environment: str) -> subprocess.Popen[str]:
    # Quick to compile rather than to run.
    flags = (
        f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true"
    )
    return subprocess.Popen(
        command,
        env={**os.environ, "XLA_FLAGS": flags, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(processes: Sequence[subprocess.Popen[str]], timeout: float = 120) -> list[tuple[int, str]]:
    """The exit code of each process and what it wrote to standard error."""
    results = []
    try:
        for process in processes:
            _, errors = process.communicate(timeout=timeout)
            results.append((process.returncode, errors))
    finally:
        for process in processes:
            process.kill()
    return results


def together(
    work: str, count: int, *rest: str, only: Sequence[int] | None = None, **more: object
) -> list[tuple[int, str]]:
    """Runs `work` in `count` processes, or in some of them only."""
    port, command = free_port(), program(work)
    indices = range(count) if only is None else only
    return ends([start([*command, *keys(i, count, port, **more), *rest]) for i in indices])
