"""Joining the other processes, and leaving them: with a result, an error or a signal."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from curiojax.distributed import group as groups
from curiojax.distributed import native
from curiojax.distributed.group import Group
from curiojax.distributed.output import Prefixed
from curiojax.distributed.settings import Settings
from curiojax.errors import ConfigError, Stopped


@contextlib.contextmanager
def joined(settings: Settings | None) -> Iterator[None]:
    """Joins the other processes for what is done within; an error there ends all of them.

    Raises:
      ConfigError: the others cannot be reached, or some never come.
    """
    if settings is None:
        yield
        return
    group = groups.current = _join(settings)
    group.start()
    try:
        _meet(group)
        yield
        group.finish(0)
    except Stopped:
        group.finish(130)
        if group.index == 0:
            raise
        raise SystemExit(130) from None  # one of them says so
    except KeyboardInterrupt:
        _fail(group, "was interrupted", "the same command goes on from what was saved", 130)
    except ConfigError as error:
        text = " ".join(str(error).split())
        _fail(group, "failed", text, 2)
    except BaseException as error:
        if _is_communication(error):
            group.await_verdict()
        _crash(group, error)


def _fail(group: Group, what: str, message: str, code: int) -> None:
    line = f"error: {message}" if code == 2 else f"interrupted; {message}"
    group.fail(what, message, code, lambda: print(line, file=sys.stderr))


def _crash(group: Group, error: BaseException) -> None:
    others: dict[int, str] = {}
    with contextlib.suppress(Exception):  # process 0 may be gone
        others = group.read(groups.FAILURE)
    lines = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {lines[0][:300] if lines else ''}"

    def show() -> None:
        if others:  # one of the tracebacks is enough
            print(f"error: {message}", file=sys.stderr)
        else:
            traceback.print_exception(error)

    group.fail("crashed", message, 1, show)


def _is_communication(error: BaseException) -> bool:
    """Whether an error may be the echo of another process's death."""
    from jax.errors import JaxRuntimeError

    own = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, JaxRuntimeError) and not str(seen).startswith(own):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


# ---- joining -------------------------------------------------------------------------------


def _join(settings: Settings) -> Group:
    index, count, address = settings.process_id, settings.num_processes or 0, settings.coordinator
    until = time.monotonic() + settings.join_seconds
    if index:
        sys.stderr = Prefixed(sys.stderr, f"process {index}: ")
    arguments: dict[str, Any] = {"heartbeat_timeout_seconds": settings.heartbeat_seconds}
    if address is not None:
        if index == 0:
            _check_port(address)
            limit = f"{settings.join_seconds} s at most"
            print(f"waiting at {address} for {count} processes, {limit}", file=sys.stderr)
        else:
            _reach(address, until, settings.join_seconds)
        arguments |= {
            "coordinator_address": address,
            "num_processes": count,
            "process_id": index,
            "local_device_ids": settings.local_devices,
            "cluster_detection_method": "deactivate",  # or it would pick devices
        }
    output = native.Captured()
    try:
        with native.captured_messages() as output:
            try:
                native.initialize(max(1, int(until - time.monotonic())), _lost, **arguments)
            except Exception:
                if address is not None and index == 0:
                    output.wait_for_missing()
                raise
    except Exception as error:
        # Without the clean-up of JAX, which takes its time and has more to say.
        print(f"error: {_why_not(settings, error, output.text)}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(2)
    from jax._src.distributed import global_state as state

    if state.process_id and not isinstance(sys.stderr, Prefixed):
        sys.stderr = Prefixed(sys.stderr, f"process {state.process_id}: ")
    return Group(state.client, state.process_id, state.num_processes, settings.heartbeat_seconds)


def _check_port(address: str) -> None:
    port = int(address.rpartition(":")[2])
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError as error:
            raise ConfigError(
                f"distributed.coordinator: port {port} of this host cannot be used "
                f"({error.strerror}); name another one"
            ) from None


def _reach(address: str, until: float, seconds: int) -> None:
    """Waits until process 0 is there."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise ConfigError(
                    f"distributed.coordinator: nothing answered at {address} for {seconds} s "
                    f"({error.strerror or error}); start process 0 there, or correct the address "
                    "(distributed.join_seconds: how long to wait)"
                ) from None
        time.sleep(0.2)


def _why_not(settings: Settings, error: Exception, log: str) -> str:
    """What an error of `jax.distributed.initialize` means."""
    if settings.coordinator is None:
        first = (str(error).splitlines() or [""])[0]
        return (
            f"distributed.coordinator: auto, but JAX finds no way to join here ({first}); give "
            "HOST:PORT, distributed.num_processes and distributed.process_id"
        )
    count = settings.num_processes or 0
    waited = f"within {settings.join_seconds} s (distributed.join_seconds)"
    if missing := native.missing_processes(log):
        names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        what = "process" if len(missing) == 1 else "processes"
        return (
            f"distributed.num_processes: {what} {names} of {count} did not come {waited}; "
            f"start all of them, with process_id from 0 to {count - 1}"
        )
    return (
        f"distributed.num_processes: the {count} processes did not come together at "
        f"{settings.coordinator} {waited}; start all of them, each with its own process_id"
    )


def _meet(group: Group) -> None:
    """Learns the others' hosts, and that all mean the same number of processes."""
    said = json.dumps([socket.gethostname(), group.count])
    for index, text in group.gather("curiojax/hosts", said).items():
        group.hosts[index], count = json.loads(text)
        if count != group.count:
            raise ConfigError(
                f"distributed.num_processes: {count} on {group.name(index)}, but {group.count} on "
                f"{group.name(group.index)}; give all processes the same number"
            )


def _lost() -> None:
    """Called by C++, in a thread of its own or by the one that joins."""
    group = groups.current
    if group is None:
        raise ConnectionError("the other processes cannot be reached")
    group.lost()
