"""Evaluates: `python -m curiojax.evaluate [CONFIG.yaml] [key=value ...]`.

Samples answers to the questions of benchmarks, grades them, and reports scores with their
uncertainty. Running the same command again continues an interrupted evaluation.
`python -m curiojax.evaluate compare A B` compares what was found.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.evaluation.settings import load_settings
from curiojax.yaml_files import find_config, read_arguments, read_overrides

USAGE = """\
usage: python -m curiojax.evaluate [CONFIG.yaml] [key=value ...]
       python -m curiojax.evaluate compare A B [C ...] [output=FILE.html]

  python -m curiojax.evaluate model=runs/mine/hf benchmarks=[aime24,math500]
      samples with JAX on this machine's devices
  python -m curiojax.evaluate configs/qwen2.5-math-7b/evaluate.yaml model=runs/mine/hf \\
      engine=vllm vllm_python=/opt/vllm/bin/python
      the paper's nine benchmarks, sampled by vLLM
  python -m curiojax.evaluate compare evaluations/sft evaluations/curio output=both.html
      paired differences on the same questions

The same command again continues an interrupted evaluation; limit=5 is a smoke run.
Keys and defaults: curiojax/evaluation/settings.py.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any(argument in ("-h", "--help") for argument in arguments):
        print(USAGE)
        return
    if arguments[:1] == ["compare"]:
        compare(arguments[1:])
        return
    name, overrides = read_arguments(arguments)
    config = load_settings(find_config(name) if name else None, overrides)
    from curiojax.evaluation import folder
    from curiojax.evaluation.runner import output_folder, run_evaluation
    from curiojax.train import quiet_libraries

    quiet_libraries()
    results = run_evaluation(config)
    show_tables([results])
    directory = output_folder(config)
    progress.print_pairs(
        "written",
        {
            "results": directory / folder.RESULTS,
            "report": directory / folder.REPORT,
            "completions": directory / "completions",
        },
    )


def compare(arguments: Sequence[str]) -> None:
    """Prints how models differ on the same questions, the first one being compared with."""
    from curiojax.evaluation.comparing import write_comparison
    from curiojax.evaluation.results_table import comparison_tables, read_results, results_tables

    paths = [argument for argument in arguments if "=" not in argument or Path(argument).exists()]
    options = read_overrides([argument for argument in arguments if argument not in paths])
    for key in options:
        if key != "output":
            raise ConfigError(
                f"{key}: compare takes folders or results.json files, and output=FILE"
            )
    if len(paths) < 2:
        raise ConfigError("compare: needs two evaluations or more; name their folders")
    results = [read_results(Path(path)) for path in paths]
    tables = [
        *results_tables(results),
        *(table for other in results[1:] for table in comparison_tables(results[0], other)),
    ]
    print_tables(tables)
    if "output" in options:
        path = write_comparison(
            Path(str(options["output"])), list(map(Path, paths)), results, tables
        )
        progress.print_pairs("written", {"report": path})


def show_tables(results: Sequence[dict[str, Any]]) -> None:
    """Prints scores, votes and what completions are like."""
    from curiojax.evaluation.results_table import results_tables

    print_tables(results_tables(results))


def print_tables(tables: Sequence[Any]) -> None:
    for table in tables:
        progress.print_table(table.columns, table.rows, title=table.title)
        if table.caption:
            print(table.caption)
        print()


if __name__ == "__main__":
    exit_on_config_error(main)
