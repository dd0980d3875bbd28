"""`results.json`: what an evaluation found, read back.

Version 1 holds, with shares and scores as fractions in [0, 1], lengths in tokens, entropies in
nats, and `score` for {"value", "se"}, an estimate and its standard error:

    version, name             1, and what tables call the model
    model                     path, fingerprint of the weights
    settings                  engine, temperature, top_p, max_response_tokens, template, seed,
                              preset, limit, verifier, compute_dtype, stop_ids
    software                  versions of curiojax, math-verify, jax, transformers
    benchmarks.<name>
      title, group, source    group: math, general or own
      verifier, strict_verifier
      questions, available    evaluated; in the benchmark, of which `limit` takes a part
      samples                 per question
      avg                     score: avg@k, k = samples
      pass.<k>, maj.<k>       scores, k: powers of two up to samples, and samples
      strict                  avg and pass by the strict verifier, or null
      counts                  of questions: unverifiable, prompt_too_long; of completions: the
                              others, `completions` being all
      rates                   truncated, no_think_close, no_box, timeout: shares of completions
      length                  mean, median, p95, max, histogram {edges, counts}
      entropy                 token_mean, token_mean_se, sequence_mean, tokens, sequences; or null
      diversity               ngram.<n>, ngram_first_512.<n>, distinct.<n>, compression_ratio,
                              distinct_answers, distinct_correct; null with one sample
      per_question            a list: id; correct and strict, a 0 or 1 per sample (null where the
                              ground truth cannot be verified); lengths; distinct_answers;
                              majority (0 to 1); entropy
    means.<group>             of math, general, own, all: avg (score), benchmarks
    entropy                   token_mean, sequence_mean over all benchmarks, or null
    expert_tokens             as `curiojax.evaluation.expert_tokens` has it, or null

It has no times, and floats of 10 digits, so that equal evaluations give equal files. What each
number means is in `curiojax.evaluation.summary` and the modules it calls.
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
