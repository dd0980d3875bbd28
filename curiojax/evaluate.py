"""Evaluates: `python -m curiojax.evaluate [CONFIG.yaml] [key=value ...]`.

Samples answers to the questions of benchmarks, grades them, and reports scores with their
uncertainty. Running the same command again continues an interrupted evaluation.
`python -m curiojax.evaluate compare A B` compares what was found.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
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
      vllm_python=/opt/vllm/bin/python benchmarks_dir=data/benchmarks
      the paper's nine benchmarks, sampled by vLLM
  python -m curiojax.evaluate compare evaluations/sft evaluations/curio output=both.html
      paired differences on the same questions

The same command again continues an interrupted evaluation; limit=5 is a smoke run.
Keys and defaults: curiojax/evaluation/settings.py.
What results.json holds: curiojax/evaluation/results_file.py.
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
    from curiojax.training.compilation import compilation_cache, programs_folder

    quiet_libraries()
    with compilation_cache(programs_folder()):
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
    from curiojax.evaluation.results_comparison import comparison_tables
    from curiojax.evaluation.results_file import read_results
    from curiojax.evaluation.results_table import results_tables
    from curiojax.reports.comparison import check_target
    from curiojax.reports.evaluation import COMPARISON_MARK

    paths = [Path(a) for a in arguments if "=" not in a or Path(a).exists()]
    options = read_overrides([a for a in arguments if Path(a) not in paths])
    if unknown := [key for key in options if key != "output"]:
        raise ConfigError(f"{unknown[0]}: compare takes folders or results.json, and output=FILE")
    if len(paths) < 2:
        raise ConfigError("compare: needs two evaluations or more; name their folders")
    if "output" in options:
        if not options["output"]:
            raise ConfigError("output: names nothing; write output=x.html")
        check_target(Path(str(options["output"])), field="output", mark=COMPARISON_MARK)
    results = told_apart(paths, [read_results(path) for path in paths])
    tables = [
        *results_tables(results),
        *(table for other in results[1:] for table in comparison_tables(results[0], other)),
    ]
    # First, so that nothing is missing when the tables go into `head` or `less`.
    if "output" in options:
        write_comparison(Path(str(options["output"])), paths, results, tables)
    print_tables(tables)
    if "output" in options:
        progress.print_pairs("written", {"report": options["output"]})


def told_apart(paths: Sequence[Path], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results, those of equal names called after their folders as well."""
    names = [result["name"] for result in results]
    return [
        {**result, "name": f"{result['name']} ({path})"}
        if names.count(result["name"]) > 1
        else result
        for path, result in zip(paths, results, strict=True)
    ]


def write_comparison(
    output: Path, paths: Sequence[Path], results: Sequence[dict[str, Any]], tables: Sequence[Any]
) -> None:
    """Writes the report of several models, their completions side by side."""
    from curiojax.evaluation.rows import completion_rows
    from curiojax.reports.evaluation import write_evaluation_report

    folders = [path if path.is_dir() else path.parent for path in paths]
    try:
        with progress.status("writing the report"):
            write_evaluation_report(
                output,
                title=" and ".join(result["name"] for result in results),
                results=results,
                tables=[vars(table) for table in tables],
                completions={
                    result["name"]: completion_rows(directory, result)
                    for directory, result in zip(folders, results, strict=True)
                },
            )
    except OSError as error:
        raise ConfigError(
            f"output: {output} cannot be written ({error.strerror}); name another file"
        ) from None


def show_tables(results: Sequence[dict[str, Any]]) -> None:
    """Prints scores, votes and what completions are like."""
    from curiojax.evaluation.results_table import results_tables

    print_tables(results_tables(results))


def print_tables(tables: Sequence[Any]) -> None:
    for table in tables:
        progress.print_table(table.columns, table.rows, title=table.title)
        if table.caption:
            print(fitted(table.caption))
        print()


def fitted(text: str) -> str:
    """A paragraph, in a terminal broken between words; elsewhere it stays one line."""
    if not sys.stdout.isatty():
        return text
    return textwrap.fill(text, shutil.get_terminal_size().columns, break_on_hyphens=False)


if __name__ == "__main__":
    exit_on_config_error(main)
