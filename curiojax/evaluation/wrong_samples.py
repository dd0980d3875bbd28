"""Wrong answers of a model to the world's training problems: what OXA is to unlearn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from curiojax.data.worlds.interface import EmbeddedWorld
from curiojax.evaluation.worlds import grade, sample_problems

SAMPLES = 4


def wrong_samples(
    world: EmbeddedWorld, params: Any, model: Any, tokenizer: Any, *, count: int, seed: int
) -> list[dict[str, Any]]:
    """For each problem, of those samples that the verifier rejects, the one most likely drawn.

    As in OXA (arXiv 2603.16206), confident mistakes are what is worth unlearning. A sample is wrong
    if its search is: a model that has not seen the answer format is not blamed for it.

    Args:
      world: the world.
      params, model, tokenizer: the model, usually the base.
      count: how many training problems are tried, with `SAMPLES` samples each.
      seed: of the choice of problems and of the sampling.

    Returns:
      Records {prompt, completion, ground_truth}, fewer than `count`: problems whose samples were
      all right, or all cut off, have none.
    """
    problems = world.training_problems("id", count, seed=seed)
    completions = sample_problems(
        params,
        model,
        tokenizer,
        problems,
        max_new_tokens=world.response_tokens,
        samples=SAMPLES,
        seed=seed,
        batch_size=4096,
    )
    verdicts = grade(world, tokenizer, problems, completions)
    records = []
    for problem, row, judged in zip(problems, completions, verdicts, strict=True):
        wrong = [
            sample
            for sample, verdict in zip(row, judged, strict=True)
            if not verdict.search_correct and sample.finish_reason == "stop"
        ]
        if wrong:
            worst = max(wrong, key=lambda sample: float(np.mean(sample.log_probs)))
            text = tokenizer.decode(worst.tokens, skip_special_tokens=True)
            records.append(
                {"prompt": problem.prompt, "completion": text, "ground_truth": problem.ground_truth}
            )
    return records


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> None:
    """One record per line; the file appears in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    temporary.replace(path)
