"""The driver: gives the missing runs to a few processes and shows how far they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import curiojax
from curiojax import progress
from reproduction.plan import Run
from reproduction.records import DONE, is_done, read

TOOLS = Path(__file__).resolve().parents[1]
# Seconds of a run that nothing like it was timed before, by stage; the first ETA stands on them.
GUESSES = {"base": 6.0, "sft": 18.0, "grpo": 70.0}
MOST_JOBS = 4


def default_jobs() -> int:
    """A model this small keeps little more than one core busy."""
    return max(1, min(MOST_JOBS, os.cpu_count() or 1))


def run_missing(
    runs: Sequence[Run], output: Path, sources: Mapping[str, Any], jobs: int
) -> dict[str, str]:
    """Does what is not done yet.

    Args:
      runs: each after the one it starts from.
      output: the folder of all runs.
      sources: `files` and `bases`, from which the workers read the configs as well.
      jobs: processes.

    Returns:
      What went wrong, by the key of the run; runs that start from such a one are left out.
    """
    todo = [run for run in runs if not is_done(run, output)]
    if not todo:
        return {}
    estimates = Estimates(runs, output)
    state = _State(todo, estimates)
    events: SimpleQueue[tuple[_Worker, dict[str, Any]]] = SimpleQueue()
    jobs = min(jobs, len(todo))
    workers = [_Worker(n, output, sources, events, cores_of(n, jobs)) for n in range(jobs)]
    try:
        with progress.bar("seconds of work") as bar:
            while not state.finished:
                for worker in workers:
                    if worker.run is None and (run := state.next()) is not None:
                        worker.give(run)
                        state.began[run.key] = time.monotonic()
                _show(bar, state, len(runs))
                try:
                    worker, answer = events.get(timeout=1.0)
                except Empty:
                    continue
                state.note(worker.run, answer)
                worker.run = None
            _show(bar, state, len(runs))
    finally:
        for worker in workers:
            worker.stop()
    return state.errors


def cores_of(number: int, jobs: int) -> list[int]:
    """A worker's share of the cores, so that workers do not take turns on the same ones.

    Empty, which stands for all of them, where there are fewer cores than workers or where a process
    cannot choose.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    available = sorted(os.sched_getaffinity(0))
    return available[number::jobs] if jobs <= len(available) else []


class Estimates:
    """How long runs take: as long as others of their name did, or else of their stage."""

    def __init__(self, runs: Iterable[Run], output: Path):
        self._by: dict[str, list[float]] = {}
        for run in runs:
            record = read(output / run.directory / DONE)
            if record is not None and is_done(run, output):
                self.add(run, record.get("seconds"))

    def add(self, run: Run, seconds: Any) -> None:
        if isinstance(seconds, int | float):
            for kind in (f"name {run.world} {run.name}", stage(run)):
                self._by.setdefault(kind, []).append(float(seconds))

    def seconds(self, run: Run) -> float:
        for kind in (f"name {run.world} {run.name}", stage(run)):
            if kind in self._by:
                return sum(self._by[kind]) / len(self._by[kind])
        return GUESSES[stage(run)]


def stage(run: Run) -> str:
    settings: Mapping[str, Any] = run.settings.get("run") or {}
    return settings.get("stage", "sft") if settings else "base"


@dataclass
class _State:
    """What is to do, what is going on and what is done."""

    todo: list[Run]
    estimates: Estimates
    began: dict[str, float] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = list(self.todo)

    @property
    def finished(self) -> bool:
        return not self.waiting and not self.running

    @property
    def running(self) -> list[Run]:
        over = {*self.done, *self.errors}
        return [run for run in self.todo if run.key in self.began and run.key not in over]

    def next(self) -> Run | None:
        """The first run that waits for none."""
        blocked = {run.key for run in (*self.waiting, *self.running)}
        for run in list(self.waiting):
            if run.needs in self.errors:
                self.waiting.remove(run)
                self.errors[run.key] = f"{run.needs} failed"
            elif run.needs not in blocked:
                self.waiting.remove(run)
                return run
        return None

    def note(self, run: Run | None, answer: Mapping[str, Any]) -> None:
        assert run is not None
        if "error" in answer:
            self.errors[run.key] = answer["error"]
            return
        seconds = time.monotonic() - self.began[run.key]
        self.estimates.add(run, seconds)
        self.done[run.key] = seconds

    def work(self) -> tuple[float, float]:
        """Seconds of work done and in all, of one process."""
        now = time.monotonic()
        expected = {run.key: self.estimates.seconds(run) for run in self.todo}
        done = sum(expected[key] for key in (*self.done, *self.errors))
        for run in self.running:
            done += min(now - self.began[run.key], 0.95 * expected[run.key])
        return done, sum(expected.values())


def _show(bar: progress.Bar, state: _State, runs: int) -> None:
    done, total = state.work()
    finished = runs - len(state.waiting) - len(state.running)
    now = "; ".join(run.title for run in state.running) or "-"
    bar.update(int(done), int(total), runs=f"{finished} of {runs}", now=now)


class _Worker:
    """A process, and a thread that hears its answers."""

    def __init__(
        self,
        number: int,
        output: Path,
        sources: Mapping[str, Any],
        events: SimpleQueue[tuple[_Worker, dict[str, Any]]],
        cores: Sequence[int],
    ):
        self.run: Run | None = None
        self._log = output / "logs" / f"worker-{number}.log"
        arguments = [str(output), json.dumps(sources), ",".join(map(str, cores))]
        self._command = [sys.executable, "-m", "reproduction.worker", *arguments]
        self._events = events
        self._process: subprocess.Popen[str] | None = None

    def give(self, run: Run) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        self.run = run
        try:
            self._process.stdin.write(json.dumps(asdict(run)) + "\n")
            self._process.stdin.flush()
        except OSError:  # it has ended; its thread says so
            pass

    def stop(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        paths = [str(TOOLS), str(Path(curiojax.__file__).parents[1])]
        paths += [p for p in [os.environ.get("PYTHONPATH")] if p]
        environment = {
            "TOKENIZERS_PARALLELISM": "false",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share one device
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )
        Thread(target=self._hear, args=(self._process,), daemon=True).start()

    def _hear(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._events.put((self, json.loads(line)))
        code = process.wait()
        if self.run is not None:
            self._events.put((self, {"error": f"its process ended ({code}); see {self._log}"}))
