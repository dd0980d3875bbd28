"""Which rows of a training set hold questions of the benchmarks it is going to be tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.data.overlap import Overlap, OverlapIndex
from curiojax.data.records import Records, load_records
from curiojax.errors import ConfigError
from curiojax.evaluation.questions import Benchmark

EXAMPLES = 5


def overlap_report(
    training: Mapping[str, Path], benchmarks: Sequence[Benchmark], *, ngram: int, common: int
) -> dict[str, Any]:
    """Looks for the benchmarks' questions in training sets (see `curiojax.data.overlap`).

    Args:
      training: files by name.
      ngram, common: as of `OverlapIndex`.

    Returns:
      For each training set `rows`, the numbers of the rows that have any, and `benchmarks`: for
      each its number of `questions`, how many were `found`, in how many training `rows`, and
      `examples`, without the text of a benchmark that is private.

    Raises:
      ConfigError: a training file that cannot be read.
    """
    index = OverlapIndex(ngram, common)
    for benchmark in benchmarks:
        for question in benchmark.questions:
            index.add(benchmark.name, question.id, question.messages[-1]["content"])
    report = {}
    for name, path in training.items():
        records = training_records(path)
        numbers = progress.track(range(len(records)), f"overlap of {name}")
        hits = index.search(records[i]["prompt"][-1]["content"] for i in numbers)
        hits = [hit._replace(row=records.rows[hit.row]) for hit in hits]
        report[name] = {
            "rows": sorted({hit.row for hit in hits}),
            "benchmarks": {one.name: _summary(hits, one) for one in benchmarks},
        }
    return report


def training_records(path: Path) -> Records:
    """The records of a training file: those with a response or, if they are more, an answer.

    Raises:
      ConfigError: it has neither.
    """
    try:
        with_response = load_records(path)
    except ConfigError:
        try:
            return load_records(path, need="ground_truth")
        except ConfigError:
            pass
        raise
    if len(with_response) == with_response.num_rows:
        return with_response
    with_answer = load_records(path, need="ground_truth")
    return max(with_response, with_answer, key=len)


def _summary(hits: Sequence[Overlap], benchmark: Benchmark) -> dict[str, Any]:
    own = [hit for hit in hits if hit.benchmark == benchmark.name]
    return {
        "questions": len(benchmark.questions),
        "found": len({hit.question for hit in own}),
        "rows": len({hit.row for hit in own}),
        "examples": [
            {
                "row": hit.row,
                "question": hit.question,
                "ngram": None if benchmark.private else hit.ngram[:300],
            }
            for hit in own[:EXAMPLES]
        ],
    }
