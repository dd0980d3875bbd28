"""The command line: what is asked for, and how messages of shared parts are told to its user."""

from __future__ import annotations

import argparse
from pathlib import Path

from curiojax.config import Data, Model
from curiojax.data import TEMPLATES
from curiojax.data.schemas import FORMATS
from curiojax.data.selection import Bins
from curiojax.errors import ConfigError
from curiojax.evaluation.oxa import Promote, Suppress
from curiojax.models.config import COMPUTE_DTYPES

# Where messages of the parts that training shares name a config field: its option here.
_OPTIONS = {
    "model.path": "--model",
    "model.max_position_embeddings": "--max-position-embeddings",
    "model.rope_theta": "--rope-theta",
    "model.attention": "--attention",
    "model.compute_dtype": "--compute-dtype",
    "data.template": "--template",
    "data.max_prompt_tokens": "--max-prompt-tokens",
    "data.max_response_tokens": "--max-response-tokens",
    "data.cache_dir": "--cache-dir",
    "data.format": "--format",
    "data.split": "--split",
    "data.path": "--promoted",
    "output_dir": "--output",
    "mesh.fsdp": "--fsdp",
    "mesh.tensor": "--tensor",
    "mesh:": "--fsdp and --tensor:",
    "batch_tokens": "--batch-tokens",
}


def in_options(message: str) -> str:
    """The message with options in place of the config fields that it names."""
    for field, option in _OPTIONS.items():
        message = message.replace(field, option)
    return message


def rules(options: argparse.Namespace) -> tuple[Promote, Suppress]:
    """What the options ask for; refuses nonsense before any work."""
    promote = Promote(
        options.count,
        options.mu,
        options.sigma,
        Bins(options.min_perplexity, options.max_perplexity, options.bin_width),
        options.max_per_query,
        options.seed,
    )
    if not promote.bins.low <= promote.mu <= promote.bins.high:
        raise ConfigError(
            f"--mu: {promote.mu:g} is outside of the bins, {promote.bins.low:g} to "
            f"{promote.bins.high:g}; move it, or --min-perplexity or --max-perplexity"
        )
    if not promote.sigma > 0:
        raise ConfigError(f"--sigma: {promote.sigma:g} must be positive")
    suppress = Suppress(
        options.suppressed_count,
        options.suppressed_min_perplexity,
        options.suppressed_per_query,
        options.seed,
    )
    return promote, suppress


def parse_arguments(arguments: list[str] | None, description: str | None) -> argparse.Namespace:
    """The command line; numbers default to those of OXA's release, the rest to training's."""
    data, model = Data(), Model()
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="base model, as a folder or hub id")
    add("--promoted", help="correct records: whatever data.path takes")
    add("--graded", nargs="+", default=[], metavar="JSONL", help="graded completions")
    add("--output", required=True, type=Path, help="a new folder, or one to go on with")
    add("--scores", type=Path, help="folder of the scores; default: OUTPUT/scores")

    group = parser.add_argument_group("the promoted set")
    add = group.add_argument
    add("--count", type=_positive, default=50_000, help="records (%(default)s)")
    add("--mu", type=float, default=3.0, help="released: 3.0 for 7B, 2.5 for 1.5B (%(default)s)")
    add("--sigma", type=float, default=0.25, help="(%(default)s)")
    add("--min-perplexity", type=float, default=1.0, help="first bin's edge (%(default)s)")
    add("--max-perplexity", type=float, default=5.0, help="last bin's edge (%(default)s)")
    add("--bin-width", type=float, default=0.05, help="(%(default)s)")
    add("--max-per-query", type=_positive, default=10, help="records of a query (%(default)s)")

    group = parser.add_argument_group("the suppressed set")
    add = group.add_argument
    add("--suppressed-count", type=_positive, default=50_000, help="samples (%(default)s)")
    add("--suppressed-min-perplexity", type=float, default=1.2, help="(%(default)s)")
    add("--suppressed-per-query", type=_positive, default=1, help="(%(default)s)")

    group = parser.add_argument_group("what is scored")
    add = group.add_argument
    add(
        "--context",
        choices=("none", "prompt"),
        default="none",
        help="what a response follows: nothing, as released, or its prompt (%(default)s)",
    )
    add("--template", default=data.template, choices=TEMPLATES, help="(%(default)s)")
    add("--max-prompt-tokens", type=_positive, default=data.max_prompt_tokens)
    add("--max-response-tokens", type=_positive, default=data.max_response_tokens)
    add("--format", choices=list(FORMATS), help="of --promoted, instead of detecting it")
    add("--split", default=data.split, help="of --promoted (%(default)s)")
    add("--limit", type=_positive, help="take the first rows of --promoted only")
    add("--seed", type=int, default=0, help="of the order of equals (%(default)s)")

    group = parser.add_argument_group("how it is computed")
    add = group.add_argument
    add("--compute-dtype", choices=COMPUTE_DTYPES[:2], default=model.compute_dtype)
    add("--attention", choices=("auto", "xla", "blocked", "cudnn"), default=model.attention)
    add("--rope-theta", type=float, help="to extend the model's context")
    add("--max-position-embeddings", type=_positive, help="to extend the model's context")
    add("--fsdp", type=_positive, help="devices that share weights; the others repeat them (all)")
    add("--tensor", type=_positive, default=1, help="devices that share a layer (%(default)s)")
    add("--batch-tokens", type=_positive, default=32_768, help="of a forward pass (%(default)s)")
    add("--chunk-tokens", type=_positive, default=1024, help="of the LM head (%(default)s)")
    add("--cache-dir", help="where tokenised data are kept")
    options = parser.parse_args(arguments)
    if not options.promoted and not options.graded:
        parser.error("one of --promoted and --graded is needed")
    if options.seed < 0:
        parser.error("--seed must not be negative")
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be positive")
    return value
