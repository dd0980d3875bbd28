"""The completions of an evaluation as a report shows them, read from its folder."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError
from curiojax.evaluation import folder
from curiojax.evaluation.generation import Answer
from curiojax.evaluation.grading import digest, grade_path, graded_item
from curiojax.evaluation.questions import Benchmark

Row = dict[str, Any]
_KEYS = ("question", "sample", "prompt", "ground_truth", "text", "pieces", "entropies")
_KEYS += ("extracted", "correct", "status", "finish", "tokens")


def write_questions(directory: Path, benchmark: Benchmark) -> None:
    """Writes what was asked, one question per line, so that completions can be read without it."""
    lines = (
        {
            "question": question.id,
            "prompt": "\n\n".join(message["content"] for message in question.messages),
            "ground_truth": question.ground_truth,
            "private": benchmark.private,
            "details": question.details,
        }
        for question in benchmark.questions
    )
    path = folder.question_path(directory, benchmark.name)
    folder.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def completion_rows(
    directory: Path, results: Mapping[str, Any]
) -> dict[str, list[Mapping[str, Any]]]:
    """What a report shows of every completion, by benchmark, as far as the files are there.

    Args:
      results: of the evaluation in `directory`.

    Returns:
      rows as `curiojax.reports.evaluation.write_evaluation_report` takes them; each is read from
      the files when it is looked into.
    """
    try:
        pieces = _pieces(load_tokenizer(results["model"]["path"]))
    except ConfigError:  # the model may have moved since; then there is text without its tokens
        pieces = None
    return {
        name: _Benchmark(directory, name, part, pieces).rows()
        for name, part in results["benchmarks"].items()
    }


class _Completion(Mapping[str, Any]):
    """One row, of which only `question` and `sample` are in memory; the rest is read when asked."""

    def __init__(self, benchmark: _Benchmark, question: str, sample: int):
        self._benchmark, self._names = benchmark, {"question": question, "sample": sample}

    def __getitem__(self, key: str) -> Any:
        if key in self._names:
            return self._names[key]
        return self._benchmark.read(**self._names)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(_KEYS)

    def __len__(self) -> int:
        return len(_KEYS)


class _Benchmark:
    """Where in the files of a benchmark every completion is: they may be gigabytes."""

    def __init__(
        self,
        directory: Path,
        name: str,
        part: Mapping[str, Any],
        pieces: Callable[[int], str] | None,
    ):
        self._part, self._pieces = part, pieces
        self._completions = folder.completion_path(directory, name)
        self._entropies = folder.entropy_path(directory, name)
        self._questions = {
            line["question"]: line for _, line in _read(folder.question_path(directory, name))
        }
        grades = grade_path(directory, name, part["verifier"])
        self._verdicts = {
            (line["question"], line["sample"], line["item"]): line
            for _, line in _read(grades, header=True)
        }
        # Of several lines the last one replaced the others.
        self._places = {
            (line["question"], line["sample"]): place
            for place, line in _read(self._completions, header=True)
            if self._verdict(line) is not None
        }
        self._entropy_places = {
            line["text"]: place for place, line in _read(self._entropies, header=True)
        }
        self._latest: tuple[tuple[str, int], Row] | None = None

    def rows(self) -> list[Mapping[str, Any]]:
        """Of every completion that the files have, in the order of the results."""
        return [
            _Completion(self, question["id"], sample)
            for question in self._part["per_question"]
            for sample in range(self._part["samples"])
            if (question["id"], sample) in self._places
        ]

    def read(self, question: str, sample: int) -> Row:
        """One row; the latest is remembered, as its values are asked for one by one."""
        key = question, sample
        if self._latest is None or self._latest[0] != key:
            self._latest = key, self._row(question, sample)
        return self._latest[1]

    def _row(self, question: str, sample: int) -> Row:
        asked = self._questions[question]
        answer = _line(self._completions, self._places[question, sample])
        verdict = self._verdict(answer)
        assert verdict is not None
        shown, entropies, pieces = not asked["private"], None, None
        place = self._entropy_places.get(f"{question}/{sample}")
        if shown and self._pieces is not None and place is not None:
            entropies = _line(self._entropies, place)["entropies"]
            pieces = [*map(self._pieces, answer["tokens"])]
        return {
            "question": question,
            "sample": sample,
            "prompt": asked["prompt"] if shown else None,
            "ground_truth": asked["ground_truth"] if shown else None,
            # An answer may quote its question.
            "text": answer["text"] if shown else None,
            "pieces": pieces,
            "entropies": entropies,
            "extracted": verdict["extracted"] if shown else None,
            "correct": verdict["correct"],
            "status": verdict["status"],
            "finish": answer["finish"],
            "tokens": len(answer["tokens"]),
        }

    def _verdict(self, line: Row) -> Row | None:
        """The grade of a completion, by the ground truth that the question has now."""
        if line["question"] not in self._questions:
            return None
        truth = self._questions[line["question"]]["ground_truth"]
        answer = Answer(line["text"], array("i"), line["finish"])
        item = digest(graded_item(answer, truth, self._part["verifier"]))
        return self._verdicts.get((line["question"], line["sample"], item))


def _read(path: Path, *, header: bool = False) -> Iterator[tuple[int, Row]]:
    """Where in the file a line begins, and the line."""
    if not path.is_file():
        return
    place = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream):
            # A kill may have cut the last line short.
            if line.endswith(b"\n") and not (header and number == 0):
                try:
                    yield place, json.loads(line)
                except ValueError:
                    raise ConfigError(f"{path}: line {number + 1} is damaged") from None
            place += len(line)


def _line(path: Path, place: int) -> Row:
    with path.open("rb") as stream:
        stream.seek(place)
        return json.loads(stream.readline())


def _pieces(tokenizer: Any) -> Callable[[int], str]:
    """The text of one token, remembered."""
    known: dict[int, str] = {}

    def piece(token: int) -> str:
        if token not in known:
            known[token] = tokenizer.decode([token])
        return known[token]

    return piece
