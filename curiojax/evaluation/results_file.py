"""`results.json`: what an evaluation found.

Version 1. Scores and shares are fractions, entropies nats, lengths tokens; a score is
`{"value", "se"}` with the standard error over questions, null where it is not defined. The file is
a function of the completions, entropies and grades beside it: it holds neither times nor dates.

    version, name               1; what tables call the model
    model                       {path, fingerprint}
    settings, software          what was sampled and graded with
    benchmarks: {NAME: {
      title, group, source      group: math, general or own
      verifier, strict_verifier
      questions, available      evaluated, and in the benchmark (more, with a limit)
      samples                   completions per question, n
      avg                       score: avg@n
      pass, maj                 {k: score} for k = 1, 2, 4, ... up to n, and n
      strict                    {avg, pass} by the strict verifier, or null
      counts                    questions that are unverifiable (left out of the scores) or
                                prompt_too_long (wrong); completions, and how many of them were
                                truncated, no_think_close, no_box, no_answer, timeout, memory,
                                crash, error, too_long
      rates                     truncated, no_think_close, no_box, timeout: shares of completions
      length                    mean, median, p95, max, histogram: {edges, counts}
      entropy                   token_mean, token_mean_se, sequence_mean, tokens, sequences; or null
      diversity                 ngram: {1..4}, ngram_first_512: {4}, distinct: {1..3},
                                compression_ratio, distinct_answers, distinct_correct; null if n = 1
      per_question              [{id, correct: [0 or 1] or null, strict, lengths,
                                  distinct_answers, majority, entropy}]
    }}
    means: {GROUP or all: {avg: score, benchmarks: [names]}}     unweighted, over benchmarks
    entropy                     token_mean, sequence_mean over all benchmarks; or null
    expert_tokens               as `curiojax.evaluation.expert_tokens` returns it; or null
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from curiojax.errors import ConfigError

NAME = "results.json"
VERSION = 1

_PART_KEYS = ("title", "group", "samples", "questions", "available", "avg", "pass", "maj", "counts")
_PART_KEYS += ("rates", "length", "per_question")


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a `results.json`.

    Args:
      path: the file, or the folder it is in.

    Raises:
      ConfigError: there is none, or it is not a result file of this version.
    """
    file = Path(path)
    if file.is_dir():
        file = file / NAME
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"results: {file} cannot be read ({error.strerror}); give a {NAME} or its folder"
        ) from None
    except ValueError:
        raise ConfigError(
            f"results: {file} is not JSON; give a {NAME} that an evaluation wrote"
        ) from None
    if not isinstance(results, dict) or "version" not in results:
        raise ConfigError(f"results: {file} is no result of an evaluation; give its {NAME}")
    if results["version"] != VERSION:
        raise ConfigError(
            f"results: {file} has version {results['version']!r}, and {VERSION} is read here; "
            "evaluate again or use the release that wrote it"
        )
    parts = results.get("benchmarks")
    whole = (
        isinstance(parts, dict)
        and isinstance(results.get("name"), str)
        and all(isinstance(results.get(key), dict) for key in ("settings", "means"))
        and all(isinstance(p, dict) and all(k in p for k in _PART_KEYS) for p in parts.values())
    )
    if not whole:
        raise ConfigError(f"results: {file} is incomplete; evaluate again")
    return results
