"""Grades of saved completions, apart from their generation: another grader needs no new samples.

`grades/<benchmark>.<verifier>.jsonl` holds one line per completion, appended as they are graded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from curiojax.evaluation.generation import Answer
from curiojax.evaluation.journal import Journal
from curiojax.evaluation.questions import Benchmark, Verdict
from curiojax.rewards.pool import Grade, Item

VERSION = 1
# Completions under way at a time: enough for all workers, few enough to be written down soon.
CHUNK = 512

Verdicts = dict[str, list[Verdict]]


class Grader(Protocol):
    """The part of `curiojax.rewards.pool.RewardPool` that is needed here."""

    def submit(self, item: Item) -> Future[Grade]: ...


def grade_path(directory: Path, benchmark: str, verifier: str) -> Path:
    """Where the grades of a benchmark by a verifier are kept."""
    return directory / "grades" / f"{benchmark}.{re.sub(r'[^A-Za-z0-9_-]', '-', verifier)}.jsonl"


def grade(
    benchmark: Benchmark,
    verifier: str,
    answers: Mapping[str, Sequence[Answer]],
    path: Path,
    identity: Mapping[str, Any],
    grader: Grader | None,
    *,
    progress: Callable[..., None] | None = None,
) -> Verdicts:
    """Grades what `path` lacks, and returns the verdicts on all completions by question id.

    The format is not asked for: as in the paper's evaluation, an answer counts wherever the
    verifier finds it.

    Args:
      answers: completions by question id.
      identity: of the completions, plain JSON values.
      grader: None is enough where everything is graded already.
      progress: called with (completions done, in all).

    Raises:
      ConfigError: `path` holds the grades of something else.
    """
    header = {
        "version": VERSION,
        **identity,
        "verifier": verifier,
        "math-verify": version("math-verify"),
    }
    known: dict[tuple[str, int], Verdict] = {}

    def take(line: dict[str, Any]) -> None:
        verdict = Verdict(*(line[key] for key in Verdict._fields))
        known[line["question"], line["sample"]] = verdict

    items = {
        (question.id, sample): Item(
            answer.text, question.ground_truth, answer.finish == "stop", verifier, "none"
        )
        for question in benchmark.questions
        for sample, answer in enumerate(answers[question.id])
    }
    with Journal(path, header, take) as journal:
        todo = [key for key in items if key not in known]
        for start in range(0, len(todo), CHUNK):
            assert grader is not None
            part = todo[start : start + CHUNK]
            futures = [grader.submit(items[key]) for key in part]
            lines = []
            for (question, sample), future in zip(part, futures, strict=True):
                found = future.result()
                verdict = Verdict(found.correct, found.status, found.extracted)
                known[question, sample] = verdict
                lines.append({"question": question, "sample": sample, **verdict._asdict()})
            journal.append(lines)
            if progress is not None:
                progress(len(items) - len(todo) + start + len(part), len(items))
    return {
        question.id: [known[question.id, j] for j in range(len(answers[question.id]))]
        for question in benchmark.questions
    }


def is_graded(benchmark: Benchmark, answers: Mapping[str, Sequence[Answer]], path: Path) -> bool:
    """Whether a file looks as if it held every grade; only saves starting workers for nothing."""
    wanted = 1 + sum(len(answers[question.id]) for question in benchmark.questions)
    try:
        return path.read_bytes().count(b"\n") >= wanted
    except OSError:
        return False
