"""The processes that measure: started, given their turns, and never waited for in vain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import curiojax

TOOLS = Path(__file__).resolve().parents[1]
Outcome = dict[str, Any]


@dataclass
class Worker:
    """One process that measures.

    Args:
      job: what it reads; see the measurements.
      folder: for the job and for what the process prints.
      python: the interpreter.
      module: `speed.jax_worker` or `speed.torch_worker`.
      environment: beside the caller's.
      timeout: seconds after which it is killed.
      progress: called with units of work done.
    """

    job: dict[str, Any]
    folder: Path
    python: str = sys.executable
    module: str = "speed.jax_worker"
    environment: dict[str, str] = field(default_factory=dict)
    timeout: float = 1800.0
    progress: Callable[[int], None] = lambda units: None
    outcome: Outcome | None = None

    def start(self) -> None:
        """Starts the process and waits until it is compiled, warm and ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        job = self.folder / "job.json"
        job.write_text(json.dumps(self.job), encoding="utf-8")
        paths = [str(TOOLS), str(Path(curiojax.__file__).parents[1])]
        paths += [p for p in [os.environ.get("PYTHONPATH")] if p]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **self.environment}
        self._timed_out = threading.Event()
        with (self.folder / "log").open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    [self.python, "-m", self.module, str(job)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    text=True,
                )
            except OSError as error:
                self.outcome = _failed(f"{self.python}: {error.strerror}")
                return
        self._timer = threading.Timer(self.timeout, self._give_up)
        self._timer.daemon = True
        self._timer.start()
        self._listen()

    def turn(self) -> None:
        """Lets it run one round, and waits for the end of that."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except OSError:  # it has ended; what it said last tells why
            pass
        self._listen()

    def run(self) -> Outcome:
        """From start to end, alone."""
        return run_together([self])[0]

    def stop(self) -> None:
        """Ends the process if it is still there."""
        process = getattr(self, "_process", None)
        if process is None:
            return
        self._timer.cancel()
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            try:
                stream.close()
            except OSError:  # a turn that it did not live to see
                pass

    def _give_up(self) -> None:
        self._timed_out.set()
        self._process.kill()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            event = message.pop("event")
            if event == "progress":
                self.progress(message["units"])
            elif event == "ready":
                return
            elif event == "result":
                self.outcome = {"status": "ok", **message}
            else:  # failed, skipped
                self.outcome = {"status": event, **message}
        code = self._process.wait()
        if self._timed_out.is_set():
            self.outcome = _failed(f"took more than {self.timeout:g} s and was ended")
        elif self.outcome is None:
            self.outcome = _failed(self._last_words(code))

    def _last_words(self, code: int) -> str:
        if code < 0:
            hint = " (out of memory?)" if code == -9 else ""
            return f"the process was ended by signal {-code}{hint}"
        log = (self.folder / "log").read_text(encoding="utf-8", errors="replace").strip()
        last = log.splitlines()[-1:] or ["it said nothing"]
        return f"the process ended with code {code}: {last[0][:200]}"


def run_together(workers: Sequence[Worker]) -> list[Outcome]:
    """Runs workers that are compared: one prepares after the other, then they take turns."""
    try:
        for worker in workers:
            worker.start()
        while waiting := [worker for worker in workers if worker.outcome is None]:
            for worker in waiting:
                worker.turn()
    finally:
        for worker in workers:
            worker.stop()
    return [worker.outcome or _failed("it ended without a result") for worker in workers]


def _failed(reason: str) -> Outcome:
    return {"status": "failed", "reason": reason}
