"""A process that does runs, one after the other: reads them as lines of JSON, answers each.

What is compiled for one run serves the next. When the driver goes away, however it does, standard
input ends, and so does this process: at most the run in flight is lost, and that only in part,
since a run continues from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from curiojax import progress, quickstart
from curiojax.train import quiet_libraries
from curiojax.training.compilation import compilation_cache, programs_folder
from reproduction.measure import perform
from reproduction.plan import Run
from reproduction.settings import read_configs


def main(output: Path, sources: dict[str, Any], cores: list[int]) -> None:
    if cores:
        os.sched_setaffinity(0, cores)  # before XLA counts them
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed belongs to the log
    quiet_libraries()
    quickstart.keep_freed_memory()
    progress.enable(False)
    configs = read_configs(**sources)
    lines = listen()
    with compilation_cache(programs_folder()):
        while True:
            run = Run(**json.loads(lines.get()))
            print(json.dumps(answer(run, configs, output)), file=answers, flush=True)


def answer(run: Run, configs: Any, output: Path) -> dict[str, Any]:
    """Does a run. A failure is an answer, too: the other runs do not depend on it."""
    try:
        perform(run, configs[run.world], output)
    except Exception as error:
        print(f"{run.key}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return {"key": run.key, "error": " ".join(f"{type(error).__name__}: {error}".split())}
    return {"key": run.key}


def listen() -> queue.SimpleQueue[str]:
    """The lines of standard input, as they come; the process ends with them."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


if __name__ == "__main__":
    folder, given, chosen = sys.argv[1:]
    main(Path(folder), json.loads(given), [int(core) for core in chosen.split(",") if core])
