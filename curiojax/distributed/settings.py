"""Who the processes of a run are and where they meet: from the command line, JAX's environment
variables, or whoever started them (SLURM, Open MPI, an indexed Job of Kubernetes).

These keys belong to a process, not to a run: they are taken off the command line before the config
is read, and no config file holds them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curiojax.errors import ConfigError

PREFIX = "distributed."
KEYS = ("coordinator", "num_processes", "process_id", "join_seconds", "heartbeat_seconds")
VARIABLES = {key: f"JAX_{key.upper()}" for key in KEYS[1:3]} | {
    "coordinator": "JAX_COORDINATOR_ADDRESS"
}
AUTO = "auto"


@dataclass(frozen=True)
class Settings:
    """How a process joins the others.

    Attributes:
      coordinator: `HOST:PORT` of process 0; None (`auto`): JAX's own detection of clusters finds it
        and the two numbers.
      num_processes, process_id: None with `coordinator=auto`.
      local_devices: which of the visible GPUs are this process's; None: all of them.
      join_seconds: how long the processes wait for each other at the start.
      heartbeat_seconds: a process that is not heard of for so long is gone.
    """

    coordinator: str | None
    num_processes: int | None
    process_id: int | None
    local_devices: tuple[int, ...] | None = None
    join_seconds: int = 300
    heartbeat_seconds: int = 30


@dataclass(frozen=True)
class Launcher:
    """What started the processes, and what it says about them.

    Attributes:
      count, index: environment variables.
      here, index_here: the number of processes on this host, and which of them this is.
      address: finds where to meet.
    """

    name: str
    count: str
    index: str
    here: int
    index_here: int
    address: Callable[[], str]


def read_settings(
    arguments: Sequence[str], environ: Mapping[str, str] = os.environ
) -> tuple[Settings | None, list[str]]:
    """Takes the `distributed.key=value` arguments off a command line.

    Returns:
      The settings, None where there is only this process; and the other arguments.

    Raises:
      ConfigError: an unknown key, something that is no number, or some keys without the others.
    """
    said, rest = _split(arguments)
    for key, variable in VARIABLES.items():
        if environ.get(variable) and key not in said:
            said[key] = (variable, environ[variable])
    seconds: dict[str, Any] = {
        key: _number(said.pop(key), low=1) for key in KEYS[3:] if key in said
    }
    if seconds.get("heartbeat_seconds", 5) < 5:
        raise ConfigError("distributed.heartbeat_seconds: must be at least 5")
    launcher = _launcher(environ)
    if said.get("coordinator", ("", ""))[1] == AUTO:
        if len(said) > 1:
            name = next(name for key, (name, _) in said.items() if key != "coordinator")
            raise ConfigError(
                f"{name}: coordinator is auto, which finds this out itself; leave it away, or give "
                "HOST:PORT"
            )
        return Settings(None, None, None, **seconds), rest
    if not said and launcher is None:
        return None, rest
    if launcher is not None:
        said.setdefault("num_processes", (launcher.count, environ[launcher.count]))
        said.setdefault("process_id", (launcher.index, environ[launcher.index]))
    elif "JOB_COMPLETION_INDEX" in environ:  # an indexed Job of Kubernetes
        said.setdefault("process_id", ("JOB_COMPLETION_INDEX", environ["JOB_COMPLETION_INDEX"]))
    _check_whole(said, launcher)
    count = _number(said["num_processes"], low=1)
    index = _number(said["process_id"], low=0)
    if index >= count:
        raise ConfigError(
            f"{said['process_id'][0]}: {index}, but there are {count} processes, numbered from 0; "
            f"correct it, or {said['num_processes'][0]}"
        )
    if count == 1:
        return None, rest
    local = None if launcher is None else _local_devices(launcher, environ)
    if "coordinator" in said:
        address = _address(said["coordinator"])
    else:
        assert launcher is not None
        address = launcher.address()
    return Settings(address, count, index, local, **seconds), rest


def _split(arguments: Sequence[str]) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """By key: how the user spells it, and the value."""
    said: dict[str, tuple[str, str]] = {}
    rest = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not name.startswith(PREFIX) or not separator:
            rest.append(argument)
            continue
        if name.removeprefix(PREFIX) not in KEYS:
            raise ConfigError(f"{name}: unknown key; distributed has {', '.join(KEYS)}")
        said[name.removeprefix(PREFIX)] = (name, value)
    return said, rest


def _check_whole(said: Mapping[str, tuple[str, str]], launcher: Launcher | None) -> None:
    known = set(said) if launcher is None else {*said, "coordinator"}
    for key in KEYS[:3]:
        if key not in known:
            name = next(name for name, _ in said.values())
            raise ConfigError(
                f"{PREFIX}{key}: missing, though {name} is set; give coordinator=HOST:PORT, "
                f"num_processes and process_id, or the variables {', '.join(VARIABLES.values())}"
            )


def _number(said: tuple[str, str], low: int) -> int:
    name, text = said
    try:
        number = int(text)
    except ValueError:
        raise ConfigError(f"{name}: must be a whole number (it is {text!r})") from None
    if number < low:
        raise ConfigError(f"{name}: must be at least {low} (it is {number})")
    return number


def _address(said: tuple[str, str]) -> str:
    name, text = said
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(
            f"{name}: must be HOST:PORT of the machine of process 0, e.g. node1:9876 (it is "
            f"{text!r})"
        )
    return text


# ---- who started us ------------------------------------------------------------------------


def _launcher(environ: Mapping[str, str]) -> Launcher | None:
    """SLURM or Open MPI, if it started several processes."""
    # Inside an allocation but outside srun there is one process, and nobody to wait for.
    if environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        # e.g. "2(x3),1": two tasks on each of the first three nodes, one on the fourth
        nodes: list[int] = []
        for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
            tasks, _, times = part.partition("(x")
            nodes += [int(tasks)] * int(times.rstrip(")") or 1)
        here = nodes[min(int(environ.get("SLURM_NODEID", "0")), len(nodes) - 1)]
        place = int(environ.get("SLURM_LOCALID", "0"))
        return Launcher("slurm", "SLURM_NTASKS", "SLURM_PROCID", here, place, _slurm_address)
    if environ.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        here = int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
        place = int(environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0"))
        names = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
        return Launcher("Open MPI", *names, here, place, _ompi_address)
    return None


def _slurm_address() -> str:
    from jax._src.clusters import SlurmCluster

    return _found_by(SlurmCluster, "srun")


def _ompi_address() -> str:
    from jax._src.clusters import OmpiCluster

    return _found_by(OmpiCluster, "mpirun")


def _found_by(cluster: type, name: str) -> str:
    """The address that JAX derives from the launcher's environment variables."""
    try:
        return cluster.get_coordinator_address(  # type: ignore[attr-defined]
            timeout_secs=None, override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT")
        )
    except (KeyError, ValueError, RuntimeError):
        raise ConfigError(
            f"distributed.coordinator: missing; this {name} does not say which host the processes "
            "meet at, so give HOST:PORT"
        ) from None


def _local_devices(launcher: Launcher, environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """Which of the GPUs that it sees a process takes where several share a host; None: all.

    JAX itself gives every process of these launchers one GPU, also where it is alone on its host.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = len([name for name in visible.split(",") if name.strip()])
    else:
        count = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    on_node = environ.get("SLURM_GPUS_ON_NODE", "")
    bound = on_node.isdecimal() and count < int(on_node)  # the launcher has dealt them out already
    if launcher.here == 1 or count < launcher.here or bound:
        return None
    if count % launcher.here:
        raise ConfigError(
            f"{launcher.count}: {launcher.here} processes on this host cannot share its {count} "
            "GPUs evenly; start one process per host, or one per GPU"
        )
    share = count // launcher.here
    return tuple(range(launcher.index_here * share, (launcher.index_here + 1) * share))
