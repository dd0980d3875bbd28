"""Shows what training would make of a data file, before anything is trained.

    python tools/inspect_data.py PATH --tokenizer DIR [--template curio] [--limit 1000] ...

Prints the schema that was detected, how many records are kept and why others are dropped, one
record as the model sees it (with colours: grey is the prompt, green is what is learnt, and the
end-of-sequence token is marked), percentiles of the lengths, and how full packed rows are.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from curiojax.config import Data
from curiojax.data import TEMPLATES, SupervisedData, build_dataset
from curiojax.data.packing import fill
from curiojax.data.pipeline import epoch_order
from curiojax.data.schemas import FORMATS
from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.progress import bar, print_pairs, print_table

PERCENTILES = (0, 10, 50, 90, 99, 100)
_HEAD, _TAIL = 1600, 600  # characters of a long text that are shown


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    try:
        tokenizer = load_tokenizer(options.tokenizer)
    except ConfigError as error:
        raise ConfigError(str(error).replace("model.path", "--tokenizer", 1)) from None
    config = Data(
        path=options.path,
        format=options.format,
        split=options.split,
        limit=options.limit,
        template=options.template,
        max_prompt_tokens=options.max_prompt_tokens,
        max_response_tokens=options.max_response_tokens,
        overlong=options.overlong,
        row_length=options.row_length,
        cache_dir=options.cache_dir,
    )
    with bar("tokenising") as progress:
        data = build_dataset(
            config,
            tokenizer,
            seed=0,
            sequences_per_step=1,
            rows_per_microbatch=1,
            progress=progress,
        )
    console = Console(highlight=False, soft_wrap=True)
    show_counts(data, options)
    show_record(console, data, tokenizer, options.record, full=options.full)
    show_lengths(data)
    show_packing(data, options.sequences_per_step)
    for warning in data.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; defaults are those of the training config."""
    defaults = Data()
    parser = argparse.ArgumentParser(
        description="Shows what training would make of a data file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("path", help="hub id, or a parquet, JSONL or JSON file")
    add("--tokenizer", required=True, help="folder or hub id of the model that is to be trained")
    add("--template", default=defaults.template, choices=TEMPLATES)
    add("--format", default=None, choices=list(FORMATS), help="instead of detecting the schema")
    add("--split", default=defaults.split)
    add("--limit", type=_positive, default=None, help="look at the first rows only")
    add("--max-prompt-tokens", type=_positive, default=defaults.max_prompt_tokens)
    add("--max-response-tokens", type=_positive, default=defaults.max_response_tokens)
    add("--overlong", default=defaults.overlong, choices=("drop", "truncate", "error"))
    add("--row-length", type=_positive, default=None, help="default: both maxima together")
    add("--sequences-per-step", type=_positive, default=256, help="records packed together")
    add("--record", type=_index, default=0, help="which record to show, among those kept")
    add("--full", action="store_true", help="show the record without cutting it")
    add("--cache-dir", default=None)
    return parser.parse_args(arguments)


def show_counts(data: SupervisedData, options: argparse.Namespace) -> None:
    """Schema, template and what became of the rows."""
    rows: dict[str, Any] = {
        "schema": data.format,
        "template": options.template,
        "rows": data.num_rows,
        "kept": data.num_examples,
        "dropped": sum(data.drops.values()),
    }
    rows.update({f"  {reason}": count for reason, count in data.drops.items()})
    if data.truncated:
        rows["cut, without an end-of-sequence token"] = data.truncated
    print_pairs(options.path, rows)


def show_record(
    console: Console, data: SupervisedData, tokenizer: Any, index: int, *, full: bool
) -> None:
    """One record as text. The headings say what is learnt where there are no colours."""
    if index >= data.num_examples:
        raise ConfigError(f"--record: {index}, but only {data.num_examples} records are kept")
    prompt, response = data.example(index)
    ended = response[-1] == tokenizer.eos_token_id
    body = response[:-1] if ended else response
    text = Text("\n")
    text.append(f"record {index}: prompt, {len(prompt)} tokens, not learnt\n", "bold")
    text.append(_shorten(tokenizer.decode(prompt), full), "bright_black")
    text.append(f"\nresponse, {len(response)} tokens, learnt\n", "bold")
    text.append(_shorten(tokenizer.decode(body), full), "green")
    if ended:
        text.append(tokenizer.eos_token, "black on green")
    else:
        text.append(" [cut here, no end-of-sequence token]", "yellow")
    console.print(text)


def show_lengths(data: SupervisedData) -> None:
    """Percentiles of the tokens per record."""
    lengths = {
        "prompt": data.prompt_lengths,
        "response": data.response_lengths,
        "together": data.lengths,
    }
    rows = [
        [name, *(int(v) for v in np.percentile(values, PERCENTILES, method="nearest"))]
        for name, values in lengths.items()
    ]
    names = ["min" if p == 0 else "max" if p == 100 else f"p{p}" for p in PERCENTILES]
    print_table(["tokens", *names], rows)


def show_packing(data: SupervisedData, sequences_per_step: int) -> None:
    """How full the rows of a step are, packed and one record to a row."""
    size = min(sequences_per_step, data.num_examples)
    order = epoch_order(data.num_examples, seed=0, epoch=0)
    steps = [order[start : start + size] for start in range(0, len(order) - size + 1, size)][:20]
    inputs = [data.lengths[step] - 1 for step in steps]
    packed = float(np.mean([fill(lengths.tolist(), data.row_length) for lengths in inputs]))
    alone = float(np.mean([lengths.mean() for lengths in inputs])) / data.row_length
    print_pairs(
        f"rows of {data.row_length} tokens",
        {
            "records per step": size,
            "filled when packed": f"{packed:.1%}",
            "filled one record to a row": f"{alone:.1%}",
        },
    )


def _shorten(text: str, full: bool) -> str:
    if full or len(text) <= _HEAD + _TAIL:
        return text
    return f"{text[:_HEAD]}\n[... {len(text) - _HEAD - _TAIL} characters ...]\n{text[-_TAIL:]}"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be positive")
    return value


def _index(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    exit_on_config_error(main)
