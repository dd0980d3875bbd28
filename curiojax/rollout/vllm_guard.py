"""Starts a command, and sees to its end when whoever asked for it dies, however that happens.

Run as a script, by any Python on Linux: `vllm_guard.py PID_FILE [DIR ...] -- COMMAND ...`. It
writes the id of the command's process group to PID_FILE, exits when the command has, and ends the
command and all of its descendants when

- its standard input closes or its parent is gone: the parent holds the other end of a pipe, which
  the kernel closes even after SIGKILL;
- it is sent SIGTERM;
- the command's first process ends: what that process leaves behind would hold GPU memory.

Should this process be killed itself, the kernel sends the command SIGTERM: no more can be done for
one whose parent is gone too.

Shared memory that the processes had open (`/dev/shm/psm_*`, which vLLM's processes leave behind
when they are killed) is then removed, unless another process still has it. When the parent is gone,
so are the directories DIR.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SHARED_MEMORY = "/dev/shm/psm_"
_POLL_SECONDS = 0.5
_SCAN_SECONDS = 2.0
_TRACKER_SECONDS = 3.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    arguments = sys.argv[1:]
    split = arguments.index("--")
    pid_file, *remove = arguments[:split]
    parent = os.getppid()
    stop = False

    def ask_to_stop(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, ask_to_stop)
    # Handlers, not SIG_IGN, which the command would inherit.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    # Orphaned descendants become children of this process, and so stay findable.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    guard = os.getpid()

    def end_with_guard() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != guard:  # killed before that
            os._exit(1)

    child = subprocess.Popen(
        arguments[split + 1 :],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_guard,
    )
    Path(pid_file).write_text(str(child.pid))
    seen: set[str] = set()
    scanned = 0.0
    orphaned = False
    while child.poll() is None and not stop and not orphaned:
        if time.monotonic() - scanned > _SCAN_SECONDS:
            scanned = time.monotonic()
            seen |= shared_memory(descendants(os.getpid()))
        # Ready to read means closed: nothing is ever written.
        ready, _, _ = select.select([0], [], [], _POLL_SECONDS)
        orphaned = bool(ready) or os.getppid() != parent
    seen |= end(child.pid)
    remove_shared_memory(seen)
    if orphaned:
        for directory in remove:
            shutil.rmtree(directory, ignore_errors=True)
    code = child.poll()
    return 0 if code is None else code if code >= 0 else 128 - code


def descendants(pid: int) -> list[int]:
    """Ids of all processes below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name, in parentheses, may hold anything; the parent is the second field after.
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, ahead = [], [pid]
    while ahead:
        below = children.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


def shared_memory(pids: list[int]) -> set[str]:
    """The files of `SHARED_MEMORY` that these processes have open."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                    if target.startswith(SHARED_MEMORY) and not target.endswith(" (deleted)"):
                        found.add(target)
    return found


def end(leader: int, seconds: float = 30.0) -> set[str]:
    """Kills all descendants of this process, and what is left of the process group of `leader`.

    Returns:
      The shared memory that they had open.
    """
    seen = shared_memory(descendants(os.getpid()))
    deadline = time.monotonic() + seconds
    alone_since = math.inf
    while (now := time.monotonic()) < deadline and (left := descendants(os.getpid())):
        others = [pid for pid in left if not _cleans_up(pid)]
        alone_since = min(alone_since, now) if not others else math.inf
        # Left alone, the trackers remove what the others had open, and end. Not for ever.
        impatient = now - alone_since > _TRACKER_SECONDS
        for pid in left if impatient else others:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)
    return seen


def _cleans_up(pid: int) -> bool:
    """Whether a process is Python's, for the removal of named semaphores and shared memory."""
    with contextlib.suppress(OSError):
        command = Path("/proc", str(pid), "cmdline").read_bytes()
        return b"multiprocessing.resource_tracker" in command
    return False


def remove_shared_memory(files: set[str]) -> None:
    """Removes those of `files` that no process has open or mapped."""
    if not files:
        return
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    used = shared_memory(pids)
    for pid in pids:
        with contextlib.suppress(OSError):
            maps = Path("/proc", str(pid), "maps").read_text()
            used |= {file for file in files if file in maps}
    for file in files - used:
        with contextlib.suppress(OSError):
            os.unlink(file)


if __name__ == "__main__":
    sys.exit(main())
