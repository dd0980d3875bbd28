"""Real processes on one machine that meet on the loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.ports import free_port

# What a process does once it has joined; `group` is itself, `arguments` the rest of its command.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from curiojax.distributed import agree, check_shared, first_then_others, group as groups
from curiojax.distributed import is_shared, joined, read_settings
from curiojax.errors import ConfigError, exit_on_config_error
{first}
def main():
    settings, arguments = read_settings(sys.argv[1:])
    with joined(settings):
        group = groups.current
        work(group, arguments)

def work(group, arguments):
{work}

exit_on_config_error(main)
"""


# Before `main`: the processes import what takes long, and go on when all of them have.
MEET = """
import jax
Path({folder!r}, str(os.getpid())).touch()
while len(os.listdir({folder!r})) < {count}:
    time.sleep(0.01)
"""


def keys(index: int, count: int, port: int, **more: object) -> list[str]:
    """The command-line keys of a process."""
    values = {"coordinator": f"127.0.0.1:{port}", "num_processes": count, "process_id": index}
    return [f"distributed.{key}={value}" for key, value in {**values, **more}.items()]


def program(work: str, first: str = "") -> list[str]:
    """A command whose `work` is the body of a function, and `first` is run before it joins."""
    body = "\n".join(f"    {line}" for line in work.strip().splitlines())
    return [sys.executable, "-c", PROGRAM.replace("{first}", first).replace("{work}", body)]


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


def ends(processes: Sequence[subprocess.Popen[str]], timeout: float = 900) -> list[tuple[int, str]]:
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
    work: str,
    count: int,
    *rest: str,
    only: Sequence[int] | None = None,
    meet: Path | None = None,
    **more: object,
) -> list[tuple[int, str]]:
    """Runs `work` in `count` processes, or in some of them only.

    Args:
      meet: an empty folder, by which those that run wait for each other before they join: their
        patience is then not used up by imports, which take long on a busy machine.
    """
    indices = range(count) if only is None else only
    first = "" if meet is None else MEET.format(folder=str(meet), count=len(indices))
    port, command = free_port(), program(work, first)
    return ends([start([*command, *keys(i, count, port, **more), *rest]) for i in indices])
