"""What an evaluation ends with: `results.json` and the report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.evaluation import folder
from curiojax.evaluation.plain_values import plain
from curiojax.evaluation.questions import Sample
from curiojax.evaluation.results_file import VERSION
from curiojax.evaluation.results_table import results_tables
from curiojax.evaluation.rows import completion_rows
from curiojax.evaluation.settings import EvaluationConfig
from curiojax.evaluation.software import software
from curiojax.evaluation.summary import means, overall_entropy, summarise
from curiojax.evaluation.work import Subject, Work
from curiojax.reports.evaluation import write_evaluation_report


def samples_of(item: Work) -> list[list[Sample]]:
    """The graded completions of a benchmark, by question and sample."""
    return [
        [
            Sample(
                answer.text,
                answer.tokens,
                answer.finish,
                None if item.entropies is None else item.entropies[question.id, number],
                {name: found[question.id, number] for name, found in item.verdicts.items()},
            )
            for number, answer in enumerate(item.answers[question.id])
        ]
        for question in item.benchmark.questions
    ]


def summary(
    config: EvaluationConfig,
    subject: Subject,
    work: list[Work],
    demonstrations: dict[str, Any] | None,
) -> dict[str, Any]:
    """The content of `results.json`; a function of the files, without times."""
    parts = {
        item.benchmark.name: summarise(
            item.benchmark, samples_of(item), available=item.available, seed=config.seed
        )
        for item in work
    }
    kept = ("engine", "temperature", "top_p", "max_response_tokens", "template", "seed")
    settings = {name: getattr(config, name) for name in (*kept, "preset", "limit", "verifier")}
    settings["compute_dtype"] = subject.config.compute_dtype
    settings["stop_ids"] = list(subject.stop_ids)
    return plain(
        {
            "version": VERSION,
            "name": config.label,
            "model": {"path": subject.path, "fingerprint": subject.fingerprint},
            "settings": settings,
            "software": software(),
            "benchmarks": parts,
            "means": means(parts),
            "entropy": overall_entropy(parts),
            "expert_tokens": demonstrations,
        }
    )


def report(config: EvaluationConfig, results: dict[str, Any], directory: Path) -> None:
    """The report. The results are safe by now, so a failure here is a warning."""
    try:
        with progress.status("writing the report"):
            write_evaluation_report(
                directory / folder.REPORT,
                title=f"Evaluation of {results['name']}",
                results=[results],
                tables=[vars(table) for table in results_tables([results])],
                completions={results["name"]: completion_rows(directory, results)},
                cap_bytes=int(config.report_megabytes * 1e6),
            )
    except Exception as error:
        print(
            f"warning: the report could not be written ({type(error).__name__}: {error})",
            file=sys.stderr,
        )
