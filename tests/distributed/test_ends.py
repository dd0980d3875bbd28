"""Whatever ends one process ends all of them, soon, with a line that says why."""

import os
import signal
import socket
import threading
import time

import psutil
import pytest

from curiojax.distributed import native
from tests.distributed import processes

STOPPED = "stopped answering, so this process ends too; the same command on every host goes on"


def test_one_error_ends_all_with_its_message():
    work = """
if group.index == 1:
    raise ConfigError("data.path: no such file")
time.sleep(100)
"""
    results = processes.together(work, 3)
    assert [code for code, _ in results] == [2, 2, 2]
    for index, (_, errors) in enumerate(results):
        assert "Traceback" not in errors
        last = errors.splitlines()[-1]
        if index == 1:
            assert last == "process 1: error: data.path: no such file"
        else:
            assert "ending, because process 1 (" in last
            assert last.endswith("failed: data.path: no such file")
            assert last.startswith("process 2: ") == (index == 2)


def test_process_0_waits_until_all_have_heard_its_error():
    """Its death would take the store along in which the others look for the reason."""
    results = processes.together(
        "if not group.index: raise ConfigError('x: y')\ntime.sleep(100)", 3
    )
    assert [code for code, _ in results] == [2, 2, 2]
    for _, errors in results[1:]:
        assert "ending, because process 0 (" in errors.splitlines()[-1]


def test_a_crash_shows_one_traceback():
    work = "if group.index == 1: raise ValueError('broken')\ntime.sleep(100)"
    (code, errors), (other, trace) = processes.together(work, 2)
    assert (code, other) == (1, 1)
    assert "process 1 (" in errors and "crashed: ValueError: broken" in errors
    assert "Traceback" not in errors
    assert all(line.startswith("process 1: ") for line in trace.splitlines())
    assert "process 1: Traceback" in trace


@pytest.mark.parametrize("victim", [0, 1], ids=["the coordinator", "a follower"])
def test_a_killed_process_is_named_and_all_end(victim):
    """Also where a thread is busy and where the main one waits in C++."""
    work = f"""
if group.index == {victim}:
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
group._client.blocking_key_value_get("never", 100_000)
"""
    results = processes.together(work, 3, heartbeat_seconds=5)
    for index, (code, errors) in enumerate(results):
        if index == victim:
            assert code == -signal.SIGKILL
        else:
            assert code == 75, errors
            last = errors.splitlines()[-1]
            assert f"process {victim} (" in last and STOPPED in last, errors
            assert "Traceback" not in errors and "Check failure" not in errors
            assert len(errors.splitlines()) < 8


def test_an_error_in_what_they_compute_waits_for_its_reason():
    """A collective fails at once where the other process has died; who it was is known later."""
    work = """
if group.index == 1:
    os.kill(os.getpid(), signal.SIGKILL)
from jax.errors import JaxRuntimeError
raise JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
"""
    (code, errors), _ = processes.together(work, 2, heartbeat_seconds=5)
    assert code == 75
    assert "process 1 (" in errors and STOPPED in errors and "Traceback" not in errors


def test_ctrl_c_on_one_ends_all():
    work = """
if group.index == 1:
    os.kill(os.getpid(), signal.SIGINT)
time.sleep(100)
"""
    (code, errors), (other, own) = processes.together(work, 2)
    assert (code, other) == (130, 130)
    assert "ending, because process 1 (" in errors and "was interrupted" in errors
    assert own.splitlines()[-1].startswith("process 1: interrupted")


def test_a_run_that_ends_well_waits_for_the_slowest():
    work = "time.sleep(2 * group.index)"
    assert [code for code, _ in processes.together(work, 2)] == [0, 0]
    (code, errors), _ = processes.together(f"{work}\nif group.index: raise ValueError('late')", 2)
    assert code == 1 and "crashed: ValueError: late" in errors


def test_a_process_that_never_comes_is_named(tmp_path):
    (first, errors), (second, others) = processes.together(
        "pass", 4, only=[0, 2], meet=tmp_path, join_seconds=6
    )
    assert first == second == 2
    assert "Traceback" not in errors + others
    assert errors.splitlines()[-1].startswith(
        "error: distributed.num_processes: processes 1, 3 of 4 did not come within 6 s"
    )
    assert len(errors.splitlines()) < 4  # what is waited for, and what did not come
    assert others.startswith("process 2: error: distributed.num_processes: the 4 processes did not")


def test_who_is_missing_may_be_said_after_the_error():
    late = threading.Timer(0.3, os.write, (2, b"timed out task names:\n1\n3\n"))
    with pytest.raises(RuntimeError), native.captured_messages() as output:
        late.start()
        output.wait_for_missing(60)
        raise RuntimeError
    assert native.missing_processes(output.text) == [1, 3]


def test_a_coordinator_that_is_not_there_is_named():
    ((code, errors),) = processes.together("pass", 2, only=[1], join_seconds=2)
    assert code == 2
    assert "error: distributed.coordinator: nothing answered at 127.0.0.1:" in errors
    assert "for 2 s (Connection refused)" in errors
    assert len(errors.splitlines()) == 1


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as taken:
        command = [*processes.program("pass"), *processes.keys(0, 2, taken.getsockname()[1])]
        ((code, errors),) = processes.ends([processes.start(command)])
    assert code == 2
    assert errors.startswith("error: distributed.coordinator: port") and "in use" in errors


def test_processes_must_mean_the_same_number():
    port, command = processes.free_port(), processes.program("time.sleep(100)")
    started = [processes.start([*command, *processes.keys(i, 2 + i, port)]) for i in range(2)]
    for code, errors in processes.ends(started):
        assert code == 2
        assert "distributed.num_processes: " in errors


def test_ended_processes_leave_no_children(tmp_path):
    work = """
import multiprocessing
child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=False)
if group.index == 0:
    child.start()
    Path(arguments[0]).write_text(str(child.pid))
    time.sleep(100)
while not Path(arguments[0]).exists():
    time.sleep(0.1)
raise ConfigError("x: y")
"""
    path = tmp_path / "pid"
    assert [code for code, _ in processes.together(work, 2, str(path))] == [2, 2]
    pid, deadline = int(path.read_text()), time.monotonic() + 60
    while not is_gone(pid):  # it was killed, which takes effect a little later
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
