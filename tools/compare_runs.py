"""Compares training runs: losses, entropies, token weights, accuracy and time side by side.

    python tools/compare_runs.py RUN... [--output comparison.html]

Reads run directories, or folders of them, finished or not. The tables are printed, and come with
the curves into an HTML file. To train methods and compare them over seeds there is
tools/reproduce.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from curiojax import progress
from curiojax.config import parse_objective, read_yaml
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.evaluation.comparison import final_mean, seconds_per_step
from curiojax.evaluation.results import read_evaluations
from curiojax.reports.comparison import check_target, write_comparison_report
from curiojax.train import quiet_libraries
from curiojax.training.metrics import read_metrics

Table = dict[str, Any]

LOSSES = {
    "loss": "loss",
    "sft_nll": "cross-entropy",
    "entropy": "entropy",
    "entropy_top20": "top 20 %",
    "entropy_rest": "rest",
}
WEIGHTS = {"weight_mean": "mean w", "weight_below_0.9": "w < 0.9", "weight_negative": "w < 0"}
LOSS_CAPTION = (
    "Means over the last tenth of the steps, on the expert's tokens, in RL on the run's own; nats "
    "per token. Losses compare within one objective only."
)
WEIGHT_CAPTION = (
    "w: weight of a token's cross-entropy gradient, of the methods that are such a weight. Time: "
    "median of a run's steps, without compilation. No ratio is given: the load of the machine, or "
    "the machine, may have differed between the runs."
)


class Run(NamedTuple):
    """One run, as its directory tells.

    Attributes:
      objective: as configured, with its name.
      metrics: the lines of `metrics.jsonl`.
      scores: of the last step; empty unless that has been evaluated.
    """

    directory: Path
    objective: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    scores: dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    quiet_libraries()
    output = Path(options.output)
    check_target(output)
    runs = named(read_run(path) for name in options.runs for path in run_directories(Path(name)))
    tables = tables_of(runs)
    for heading, table in tables.items():
        progress.print_table(title=heading, **table)
        print()
    write_comparison_report(
        output,
        title="Training runs side by side",
        runs={name: run.metrics for name, run in runs.items()},
        tables=tables,
    )
    progress.print_pairs("written", {"report": output})


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory, or folder of them")
    parser.add_argument("--output", default="comparison.html", help="HTML file (%(default)s)")
    return parser.parse_args(arguments)


def run_directories(path: Path) -> list[Path]:
    """The path itself, or the runs in it."""
    if (path / "config.yaml").is_file() or not path.is_dir():
        return [path]
    inside = sorted(p.parent for p in path.glob("*/config.yaml"))
    if not inside:
        raise ConfigError(f"{path}: neither a run directory nor a folder of them")
    return inside


def read_run(directory: Path) -> Run:
    """Reads a run directory, of a finished run or an unfinished one.

    Raises:
      ConfigError: it is none.
    """
    if not (directory / "config.yaml").is_file():
        raise ConfigError(f"{directory}: not a run directory; it has no config.yaml")
    objective = read_yaml(directory / "config.yaml").get("objective")
    if not isinstance(objective, Mapping) or "name" not in objective:
        raise ConfigError(f"{directory}: config.yaml names no objective; is this a training run?")
    metrics = read_metrics(directory / "metrics.jsonl")
    scores = read_evaluations(directory).get(metrics[-1]["step"], {}) if metrics else {}
    return Run(directory, objective, metrics, scores)


def named(runs: Iterable[Run]) -> dict[str, Run]:
    """The runs by the names of their directories, or by whole paths where two names are equal."""
    found = list(runs)
    names = [run.directory.resolve().name for run in found]
    if len(set(names)) < len(names):
        names = [str(run.directory) for run in found]
    return dict(zip(names, found, strict=True))


def tables_of(runs: Mapping[str, Run]) -> dict[str, Table]:
    """The tables by their headings, one row for each run."""

    def end(key: str) -> Callable[[Run], float | None]:
        return lambda run: final_mean(run.metrics, key)

    def score(key: str) -> Callable[[Run], float | None]:
        return lambda run: run.scores.get(key)

    def table(columns: Mapping[str, Callable[[Run], Any]], caption: str | None = None) -> Table:
        rows = [[name, *(cell(run) for cell in columns.values())] for name, run in runs.items()]
        return {"columns": ["run", *columns], "rows": rows, "caption": caption}

    losses = {title: end(key) for key, title in LOSSES.items()}
    weights = {title: end(key) for key, title in WEIGHTS.items()}
    tables = {
        "Runs": table({"objective": objective_text, "steps": steps_text}),
        "Loss and entropy": table(losses, LOSS_CAPTION),
        "Token weights and time": table({**weights, "s/step": seconds_text}, WEIGHT_CAPTION),
    }
    if accuracies := accuracy_columns(runs.values()):
        scores = {title: score(key) for key, title in accuracies.items()}
        tables["Accuracy, last step"] = table(scores)
    return tables


def objective_text(run: Run) -> str:
    """The objective's name and the fields that are not at their defaults."""
    name = str(run.objective["name"])
    try:
        said, defaults = parse_objective(run.objective), parse_objective({"name": name})
    except ConfigError:  # of another version of the program
        return name
    own = {k: v for k, v in said.model_dump().items() if v != getattr(defaults, k)}
    if own.get("fixed_tau") is not None:
        own.pop("gate_entropy", None)  # follows from it
    return " ".join([name, *(f"{key}={value}" for key, value in own.items())])


def steps_text(run: Run) -> str:
    done = run.metrics[-1]["step"] if run.metrics else 0
    return f"{done}" if (run.directory / "hf" / "config.json").is_file() else f"{done}, unfinished"


def seconds_text(run: Run) -> str | None:
    """A step of a toy model takes milliseconds, one of a real model minutes."""
    seconds = seconds_per_step(run.metrics)
    return None if seconds is None else format(seconds, ".4f" if seconds < 1 else ".2f")


def accuracy_columns(runs: Iterable[Run]) -> dict[str, str]:
    """Accuracies that any of the runs has, by key; their errors and what else there is stay out."""
    return {
        key: key.replace("_", " ").replace("pass", "pass@")
        for key in dict.fromkeys(key for run in runs for key in run.scores)
        if key.rstrip("0123456789").endswith(("pass", "avg"))
    }


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    exit_on_config_error(lambda: main(sys.argv[1:]))
