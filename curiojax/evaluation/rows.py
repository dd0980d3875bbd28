"""The completions of an evaluation as a report shows them, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError
from curiojax.evaluation import folder
from curiojax.evaluation.grading import grade_path
from curiojax.evaluation.questions import Benchmark

Row = dict[str, Any]


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
    path.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def completion_rows(directory: Path, results: Mapping[str, Any]) -> dict[str, list[Row]]:
    """What a report shows of every completion, by benchmark, as far as the files are there.

    Args:
      results: of the evaluation in `directory`.

    Returns:
      rows as `curiojax.reports.evaluation.write_evaluation_report` takes them.
    """
    try:
        pieces = _pieces(load_tokenizer(results["model"]["path"]))
    except ConfigError:  # the model may have moved since; then there is text without its tokens
        pieces = None
    return {
        name: list(_rows(directory, name, part, pieces))
        for name, part in results["benchmarks"].items()
    }


def _rows(
    directory: Path, name: str, part: Mapping[str, Any], pieces: Callable[[int], str] | None
) -> Iterator[Row]:
    wanted = [question["id"] for question in part["per_question"]]
    questions = {line["question"]: line for line in _read(folder.question_path(directory, name))}
    completions = _by_sample(_read(folder.completion_path(directory, name), header=True))
    verdicts = _by_sample(_read(grade_path(directory, name, part["verifier"]), header=True))
    entropies = {
        line["text"]: line["entropies"]
        for line in _read(folder.entropy_path(directory, name), header=True)
    }
    for question in wanted:
        for sample in range(part["samples"]):
            key = question, sample
            if question not in questions or key not in completions or key not in verdicts:
                continue
            asked, answer, verdict = questions[question], completions[key], verdicts[key]
            shown = not asked["private"]
            found = entropies.get(f"{question}/{sample}") if shown and pieces else None
            yield {
                "question": question,
                "prompt": asked["prompt"] if shown else None,
                "ground_truth": asked["ground_truth"] if shown else None,
                "sample": sample,
                # An answer may quote its question.
                "text": answer["text"] if shown else None,
                "pieces": [*map(pieces, answer["tokens"])] if found and pieces else None,
                "entropies": found,
                "extracted": verdict["extracted"] if shown else None,
                "correct": verdict["correct"],
                "status": verdict["status"],
                "finish": answer["finish"],
                "tokens": len(answer["tokens"]),
            }


def _by_sample(lines: Iterator[Row]) -> dict[tuple[str, int], Row]:
    """Lines by question and sample; of several the last, which replaced the others."""
    return {(line["question"], line["sample"]): line for line in lines}


def _read(path: Path, *, header: bool = False) -> Iterator[Row]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream):
            # A kill may have cut the last line short.
            if line.endswith("\n") and not (header and number == 0):
                yield json.loads(line)


def _pieces(tokenizer: Any) -> Callable[[int], str]:
    """The text of one token, remembered."""
    known: dict[int, str] = {}

    def piece(token: int) -> str:
        if token not in known:
            known[token] = tokenizer.decode([token])
        return known[token]

    return piece
