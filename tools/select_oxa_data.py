"""Chooses what OXA (arXiv 2603.16206) promotes and what it suppresses, by perplexity.

    python tools/select_oxa_data.py --model BASE --promoted train.parquet --graded samples.jsonl \\
        --output DIR --count 50000 --mu 3.0

Scores every response under the base model, then chooses: of correct records such that their
perplexities follow a Gaussian around `mu` (surprising, but not noise), and of wrong samples those
of lowest perplexity (confident mistakes). DIR gets `promoted.parquet` and `suppressed.parquet`,
which are `data.path` and `data.suppressed_path` of a run with `objective.name: oxa`;
`report.html` with histograms before and after; `selection.json`; and the scores.

Right samples come from --promoted, any file that training reads, all of it taken as correct; or,
without it, from --graded. Wrong samples come from --graded: JSONL files with a prompt, a response
and a grade. Without --graded there is no suppressed set.

Killed at any point, the same command goes on and ends with the same files. To choose again with
other numbers, name another --output and reuse the scores with --scores.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

if __name__ != "__main__":  # imported by a test
    sys.path.insert(0, str(Path(__file__).parent))

from curiojax import models
from curiojax.data.store import temporary_folder
from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.evaluation.oxa import choose_promoted, choose_suppressed
from curiojax.training.run_directory import lock
from oxa_data.candidates import candidates, score, tokenised
from oxa_data.folder import check_output, claim, clear, keep
from oxa_data.options import in_options, parse_arguments, rules
from oxa_data.output import finish, write


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments, __doc__)
    try:
        select(options)
    except ConfigError as error:
        raise ConfigError(in_options(str(error))) from None


def select(options: argparse.Namespace) -> None:
    """The whole of it: candidates, scores, choices, files."""
    promote, suppress = rules(options)
    check_output(options.output)
    with lock(options.output), temporary_folder(options.output) as work:
        clear(options.output, work)
        sources, found = candidates(options, work)
        tokenizer = load_tokenizer(options.model)
        datasets = {
            name: tokenised(options, name, path, tokenizer) for name, path in sources.items()
        }
        overrides = {
            "compute_dtype": options.compute_dtype,
            "attention": options.attention,
            "remat": "none",
            "rope_theta": options.rope_theta,
            "max_position_embeddings": options.max_position_embeddings,
        }
        model, fingerprint = models.inspect_pretrained(options.model, overrides=overrides)
        scored_with = {
            "model": fingerprint,
            "compute_dtype": options.compute_dtype,
            "context": options.context,
        }
        settings = scored_with | {
            "template": options.template,
            "limits": [options.max_prompt_tokens, options.max_response_tokens],
            "promoted": dataclasses.asdict(promote),
            "suppressed": dataclasses.asdict(suppress),
            "data": {name: data.fingerprint for name, data in datasets.items()},
        }
        if claim(options.output, settings):
            print(f"{options.output} holds this selection already; nothing to do")
            return
        keep(work, options.output / "candidates")
        folder = options.scores or options.output / "scores"
        with lock(folder):
            scores = score(options, folder, datasets, tokenizer, model, overrides, scored_with)
        chosen = {"promoted": choose_promoted(promote, datasets["promoted"], scores["promoted"])}
        if "suppressed" in datasets:
            data = datasets["suppressed"]
            chosen["suppressed"] = choose_suppressed(suppress, data, scores["suppressed"])
        for name, one in chosen.items():
            write(options, sources[name], datasets[name], one, options.output / f"{name}.parquet")
        finish(options, list(chosen.values()), settings, found)


if __name__ == "__main__":
    exit_on_config_error(main)
