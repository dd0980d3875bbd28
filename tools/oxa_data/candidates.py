"""What is chosen from: records and samples, their token ids and their perplexities."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from curiojax import models, progress
from curiojax.config import Data
from curiojax.data import SupervisedData, build_dataset, graded
from curiojax.errors import ConfigError
from curiojax.evaluation import perplexity
from curiojax.evaluation.scores import ScoreFile
from curiojax.sharding import make_mesh


def candidates(options: argparse.Namespace, work: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The files to choose from, and what was found out about them."""
    found: dict[str, Any] = {}
    sources = {}
    if options.promoted:
        column = graded.grade_column(options.promoted)
        if column:
            raise ConfigError(
                f"--promoted: {options.promoted} has a grade in {column!r}, but all of --promoted "
                "is taken as correct; give the file as --graded"
            )
        sources["promoted"] = options.promoted
        found["promoted"] = f"{options.promoted}, all taken as correct"
    if options.graded:
        right, wrong = work / "correct.jsonl", work / "wrong.jsonl"
        with progress.status("reading the graded completions"):
            read = graded.split_graded(options.graded, right, wrong)
        names = ", ".join(f"{role} in {name!r}" for role, name in read.columns.items())
        rows = {"columns": names, "correct": read.correct, "wrong": read.wrong}
        rows |= {f"left out: {reason}": count for reason, count in read.left_out.items()}
        progress.print_pairs("graded completions", rows)
        found["graded"] = rows
        for name, path, count in (
            ("promoted", right, read.correct),
            ("suppressed", wrong, read.wrong),
        ):
            if name not in sources:
                if not count:
                    kind = "correct" if name == "promoted" else "wrong"
                    raise ConfigError(
                        f"--graded: no {kind} completions; give others"
                        + (", or --promoted" if name == "promoted" else ", or leave it out")
                    )
                sources[name] = str(path)
    return sources, found


def tokenised(options: argparse.Namespace, name: str, path: str, tokenizer: Any) -> SupervisedData:
    """Token ids as training would have them; too long ones are dropped."""
    ours = options.promoted == path
    config = Data(
        path=path,
        format=options.format if ours else "prompt_completion",
        split=options.split if ours else "train",
        limit=options.limit if ours else None,
        template=options.template,
        max_prompt_tokens=options.max_prompt_tokens,
        max_response_tokens=options.max_response_tokens,
        cache_dir=options.cache_dir,
    )
    try:
        with progress.LazyBar(f"tokenising ({name})") as bar:
            data = build_dataset(
                config, tokenizer, seed=0, sequences_per_step=1, rows_per_microbatch=1, progress=bar
            )
    except ConfigError as error:
        option = "--promoted" if ours else "--graded"
        raise ConfigError(str(error).replace("data.path", option)) from None
    if data.drops:
        progress.print_pairs(f"{name}: records dropped", data.drops)
    for warning in data.warnings:
        print(f"warning: {name}: {warning}")
    return data


def score(
    options: argparse.Namespace,
    folder: Path,
    datasets: dict[str, SupervisedData],
    tokenizer: Any,
    model: models.ModelConfig,
    overrides: dict[str, Any],
    scored_with: dict[str, Any],
) -> dict[str, ScoreFile]:
    """Scores of all candidates, read from disk where they are known."""
    files, params = {}, None
    spread = (1, -1) if options.fsdp is None else (-1, options.fsdp)
    mesh = make_mesh(*spread, options.tensor)
    for name, data in datasets.items():
        responses = perplexity.Responses(data, tokenizer, options.context)
        longest = int(responses.max_lengths.max()) - 1
        models.check_context(model, longest, "--max-response-tokens")
        identity = scored_with | {"data": data.fingerprint}
        files[name] = ScoreFile(folder / f"{name}.jsonl", identity, len(responses))
    for name, data in datasets.items():
        if files[name].known.all():
            continue
        if params is None:
            with progress.status("reading the weights"):
                dtype = jnp.dtype(options.compute_dtype)
                model, params = models.load_pretrained(
                    options.model, dtype=dtype, mesh=mesh, overrides=overrides
                )
        with progress.LazyBar(f"scoring ({name}, tokens)") as bar:
            perplexity.score(
                params,
                model,
                perplexity.Responses(data, tokenizer, options.context),
                files[name],
                mesh,
                batch_tokens=options.batch_tokens,
                chunk_tokens=options.chunk_tokens,
                progress=bar,
            )
    for file in files.values():
        file.close()
    return files
