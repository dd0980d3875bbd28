"""What a step's answers to held-out questions amount to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curiojax.evaluation.answers_stats import read_answers
from curiojax.evaluation.estimators import avg_at_k
from curiojax.evaluation.questions import Benchmark, Sample


def held_out_metrics(
    parts: Sequence[tuple[Benchmark, Sequence[Sequence[Sample]]]],
) -> dict[str, float | None]:
    """What the samples of some benchmarks amount to, for a line of `metrics.jsonl`.

    Returns:
      `eval/<benchmark>/avg`, the share of right samples; `eval/avg`, its mean over the benchmarks;
      `eval/entropy`, nats per token over all tokens; `eval/response_tokens`, mean length; and
      `eval/truncated`, the share of completions without an end. None is what nothing is known of:
      questions whose ground truth cannot be compared with are in no score.
    """
    metrics: dict[str, float | None] = {}
    for benchmark, samples in parts:
        answers = read_answers(benchmark, samples, benchmark.verifier)
        scored = answers.correct[answers.scored]
        metrics[f"eval/{benchmark.name}/avg"] = avg_at_k(scored) if len(scored) else None
    scores = [score for score in metrics.values() if score is not None]
    written = [
        sample
        for _, samples in parts
        for row in samples
        for sample in row
        if sample.finish != "prompt_too_long"
    ]
    entropies = [value for sample in written for value in sample.entropies or ()]
    return metrics | {
        "eval/avg": _mean(scores),
        "eval/entropy": _mean(entropies),
        "eval/response_tokens": _mean([len(sample.tokens) for sample in written]),
        "eval/truncated": _mean([sample.finish == "length" for sample in written]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
