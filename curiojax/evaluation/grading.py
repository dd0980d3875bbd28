"""Grades of saved completions, apart from their generation: another grader needs no new samples.

`grades/<benchmark>.<verifier>.jsonl` holds one line per completion, appended as they are graded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from curiojax.evaluation.generation import Answer, number
from curiojax.evaluation.journal import REMAKE, Journal, check_header
from curiojax.evaluation.questions import Benchmark, Verdict
from curiojax.evaluation.software import installed
from curiojax.rewards.pool import Grade, Item

VERSION = 1
# Completions under way at a time: enough for all workers, few enough to be written down soon.
CHUNK = 512


class Grader(Protocol):
    """The part of `curiojax.rewards.pool.RewardPool` that is needed here."""

    def submit(self, item: Item) -> Future[Grade]: ...


class GradeFile:
    """The verdicts of one verifier on the completions of one benchmark, on disk and in memory.

    The format is not asked for: as in the paper's evaluation, an answer counts wherever the
    verifier finds it.
    """

    def __init__(
        self,
        directory: Path,
        benchmark: Benchmark,
        verifier: str,
        answers: Mapping[str, Sequence[Answer]],
        identity: Mapping[str, Any],
    ):
        """Opens the file, or begins it.

        Args:
          directory: of the evaluation.
          answers: completions of every question, by its id.
          identity: of the completions, plain JSON values.

        Raises:
          ConfigError: the file holds the grades of something else.
        """
        self._items = {
            (question.id, sample): graded_item(answer, question.ground_truth, verifier)
            for question in benchmark.questions
            for sample, answer in enumerate(answers[question.id])
        }
        self._known: dict[tuple[str, int], Verdict] = {}
        path = grade_path(directory, benchmark.name, verifier)
        self._journal = Journal(path, _header(identity, verifier), self._take, remedy=REMAKE)

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Question and sample of what is not graded yet."""
        return [key for key in self._items if key not in self._known]

    @property
    def verdicts(self) -> dict[tuple[str, int], Verdict]:
        """By question and sample."""
        return dict(self._known)

    def grade(self, grader: Grader, progress: Callable[..., None] | None = None) -> None:
        """Grades what is missing.

        Args:
          progress: called with (completions done, in all).
        """
        todo, total = self.missing, len(self._items)
        for start in range(0, len(todo), CHUNK):
            part = todo[start : start + CHUNK]
            futures = [grader.submit(self._items[key]) for key in part]
            lines = []
            for key, future in zip(part, futures, strict=True):
                found = future.result()
                verdict = Verdict(found.correct, found.status, found.extracted)
                self._known[key] = verdict
                names = {"question": key[0], "sample": key[1], "item": digest(self._items[key])}
                lines.append({**names, **verdict._asdict()})
            self._journal.append(lines)
            if progress is not None:
                progress(total - len(todo) + start + len(part), total)

    def close(self) -> None:
        self._journal.close()

    def __enter__(self) -> GradeFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take(self, line: dict[str, Any]) -> None:
        key = line["question"], line["sample"]
        # Where a ground truth was corrected since, the completion is graded again.
        if key in self._items and line["item"] == digest(self._items[key]):
            self._known[key] = Verdict(*(line[name] for name in Verdict._fields))


def check_grades(
    directory: Path, benchmark: str, verifier: str, identity: Mapping[str, Any]
) -> None:
    """Raises a `ConfigError` when the file is there and holds something else; writes nothing."""
    path = grade_path(directory, benchmark, verifier)
    check_header(path, _header(identity, verifier), remedy=REMAKE)


def _header(identity: Mapping[str, Any], verifier: str) -> dict[str, Any]:
    known = {"verifier": verifier, "math-verify": installed("math-verify")}
    return {"version": VERSION, **identity, **known}


def graded_item(answer: Answer, ground_truth: str, verifier: str) -> Item:
    """What the verifier is asked about a completion."""
    return Item(answer.text, ground_truth, answer.finish == "stop", verifier, "none")


def digest(item: Item) -> str:
    """Tells the grade of a completion from that of another, or by another ground truth."""
    text = "\0".join((item.ground_truth, str(item.finished), item.response))
    return f"{number(text):08x}"


def grade_path(directory: Path, benchmark: str, verifier: str) -> Path:
    """Where the grades of a benchmark by a verifier are kept."""
    return directory / "grades" / f"{benchmark}.{re.sub(r'[^A-Za-z0-9_-]', '-', verifier)}.jsonl"
