"""Compares training runs: losses, entropies, token weights, accuracy and time side by side.

    python tools/compare_runs.py RUN... [--output comparison.html]
    python tools/compare_runs.py --quickstart [--seeds 3] [--output runs/comparison] [key=value ...]

The first form reads run directories (or folders of them), finished or not, prints the tables and
draws the entropy over the steps into an HTML file.

The second trains every supervised objective on the embedded world, as configs/comparison.yaml says
(--config names another such file), for so many seeds, with the controls that a claim needs: plain
fine-tuning at a lower learning rate, and the checkpoints of plain fine-tuning at equal accuracy.
The same command again continues an interrupted comparison, and more seeds extend it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.comparison import BASE, MARKER, Measured, controls, measured, run_all
from curiojax.config import load_config, parse_objective, to_yaml
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.evaluation.comparison import (
    Estimate,
    difference_at_equal,
    estimate,
    final_mean,
    seconds_per_step,
)
from curiojax.reports.comparison import Plane, Point, check_target, write_comparison_report
from curiojax.train import quiet_libraries
from curiojax.yaml_files import find_config

Groups = Mapping[str, Sequence[Measured]]  # by method, one for each seed
Table = dict[str, Any]

LOSSES = {
    "loss": "loss",
    "sft_nll": "cross-entropy",
    "entropy": "entropy",
    "entropy_top20": "top 20 %",
    "entropy_rest": "rest",
}
WEIGHTS = {"weight_mean": "mean w", "weight_below_0.9": "w < 0.9", "weight_negative": "w < 0"}
LAST = "Means over the last tenth of the steps, on the expert's tokens; nats per token."
WEIGHT_CAPTION = (
    "w: weight of a token's cross-entropy gradient, of the methods that are such a weight. Time: "
    "median of a run's steps, without compilation."
)
TIMED = (
    " Ratio: to the plain SFT run that the same start of the program trained; -: another start did."
)
NOT_TIMED = (
    " No ratio is given: the runs were not all trained by one start of a comparison, so the load "
    "of the machine, or the machine, may have differed."
)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    quiet_libraries()
    if options.quickstart:
        compare_objectives(options)
    else:
        compare_directories(options)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help="run directory; with --quickstart: key=value")
    add("--quickstart", action="store_true", help="train and compare all objectives")
    add("--seeds", type=int, help="how many, from the config's seed on (default 1)")
    add("--config", help="of the comparison (default configs/comparison.yaml)")
    add("--output", help="HTML file; with --quickstart: folder (default: the config's)")
    options = parser.parse_args(arguments)
    if not options.quickstart and not options.runs:
        raise ConfigError("RUN: name run directories, or use --quickstart; see --help")
    if not options.quickstart and (options.seeds or options.config):
        raise ConfigError("--seeds, --config: only with --quickstart; remove them")
    options.seeds = 1 if options.seeds is None else options.seeds
    if options.seeds < 1:
        raise ConfigError(f"--seeds: must be positive, not {options.seeds}")
    return options


# ---- run directories ----------------------------------------------------------------------------


def compare_directories(options: argparse.Namespace) -> None:
    """Prints the tables of given runs and draws their curves."""
    output = Path(options.output or "comparison.html")
    check_target(output)
    found = [measured(path) for name in options.runs for path in run_directories(Path(name))]
    names = [run.name for run in found]
    if len(set(names)) < len(names):
        names = [str(run.directory) for run in found]
    groups = {name: [run] for name, run in zip(names, found, strict=True)}
    plain = [name for name, run in zip(names, found, strict=True) if is_plain(run)]

    head: Table = {"columns": ["run", "objective", "steps"], "caption": None}
    head["rows"] = [
        [n, objective_text(runs[0].objective), steps(runs[0])] for n, runs in groups.items()
    ]
    tables = {"Runs": head, **training_tables(groups, plain)}
    scores = {name: runs[0].final for name, runs in groups.items() if runs[0].final}
    if scores:
        tables["Accuracy, last step"] = accuracy_table(groups, score_columns(scores.values()))
    show(tables)
    write_comparison_report(
        output,
        title="Training runs side by side",
        runs={name: [run.metrics for run in runs] for name, runs in groups.items()},
        tables=tables,
    )
    progress.print_pairs("written", {"report": output})


def run_directories(path: Path) -> list[Path]:
    """The path itself, or the runs in it."""
    if (path / "config.yaml").is_file() or not path.is_dir():
        return [path]
    inside = sorted(p.parent for p in path.glob("*/config.yaml"))
    if not inside:
        raise ConfigError(f"{path}: neither a run directory nor a folder of them")
    return inside


def is_plain(run: Measured) -> bool:
    return run.objective["name"] == "sft"


def objective_text(values: Mapping[str, Any]) -> str:
    """The objective's name and the fields that are not at their defaults."""
    try:
        said = parse_objective(values)
        defaults = parse_objective({"name": values["name"]})
    except ConfigError:  # of another version of the program
        return str(values["name"])
    fields = said.model_dump()
    own = {k: v for k, v in fields.items() if v != getattr(defaults, k)}
    if own.get("fixed_tau") is not None:
        own.pop("gate_entropy", None)  # follows from it
    return " ".join([str(values["name"]), *(f"{k}={v}" for k, v in own.items())])


def steps(run: Measured) -> str:
    done = run.metrics[-1]["step"] if run.metrics else 0
    return f"{done}" if (run.directory / "hf" / "config.json").is_file() else f"{done}, unfinished"


def score_columns(scores: Any) -> dict[str, str]:
    """Accuracies that any of the runs has, by key; their errors and what else there is stay out."""
    keys = dict.fromkeys(
        k for row in scores for k in row if k.rstrip("0123456789").endswith(("pass", "avg"))
    )
    return {key: key.replace("_", " ").replace("pass", "pass@") for key in keys}


# ---- all objectives on the embedded world -------------------------------------------------------


def compare_objectives(options: argparse.Namespace) -> None:
    """Trains what is missing, prints the tables, and writes everything into the output folder."""
    began = time.monotonic()
    config = load_config(find_config(options.config or "configs/comparison.yaml"), options.runs)
    if config.world is None or not config.compare:
        raise ConfigError("--config: compares nothing; it needs the sections world and compare")
    plain = controls(config)
    if not plain:
        raise ConfigError("compare: has no plain SFT to compare with; add `objective: {name: sft}`")
    directory = Path(options.output or config.output_dir or "runs/comparison")
    report = directory / "report.html"
    if (directory / MARKER).is_file():
        check_target(report)
    found = run_all(config, directory, options.seeds)

    groups: dict[str, list[Measured]] = {}
    for run in found:
        groups.setdefault(run.name, []).append(run)
    trained = {name: runs for name, runs in groups.items() if name != BASE}
    k = config.world.samples
    tables = training_tables(trained, plain)
    accuracy = {
        "id_pass1": "ID pass@1",
        f"id_pass{k}": f"ID pass@{k}",
        f"hard_pass{k}": f"hard pass@{k}",
        f"search_hard_pass{k}": "format ignored",
        "entropy": "entropy",
    }
    tables["Accuracy on held-out problems"] = accuracy_table(groups, accuracy) | {
        "caption": (
            f"{config.world.id_prompts} ID and {config.world.hard_prompts} hard problems, {k} "
            f"samples each at temperature 1. Format ignored: hard pass@{k} judged by the search "
            "alone. Entropy: nats per token of the model's own samples."
        )
    }
    tables[f"hard pass@{k}, more than a control at equal accuracy"] = equal_table(trained, plain, k)
    noise = (
        f"{options.seeds} seeds, mean ± standard error over them. " if options.seeds > 1 else ""
    ) + (
        "A seed is a draw of the demonstrations, an order of the batches and a draw of the "
        "evaluation problems and samples, which all methods share; there is one base model, so the "
        "errors say nothing about another one."
    )
    show(tables, noise)
    write_comparison_report(
        report,
        title="Every objective on one toy world",
        runs={name: [run.metrics for run in runs] for name, runs in trained.items()},
        tables=tables,
        planes=[plane(trained, plain, k, search) for search in (False, True)],
        notes=[noise],
        config_text=to_yaml(config),
    )
    write_raw(directory, found, tables, noise, seconds=time.monotonic() - began)
    names = ("report.html", "tables.md", "results.json", "results.csv")
    progress.print_pairs("written", {"files": ", ".join(str(directory / name) for name in names)})
    took = progress.format_duration(time.monotonic() - began)
    print(f"{len(found) - options.seeds} runs, {took} (h:mm:ss) since this start")


def equal_table(groups: Groups, plain: Sequence[str], k: int) -> Table:
    """What each method keeps beyond each control's own checkpoints, strictly and by search."""
    columns = ["run"]
    cells: dict[str, list[str | None]] = {name: [name] for name in groups}
    for prefix, heading in (("", "vs {}"), ("search_", "vs {}, format ignored")):
        for control in plain:
            columns.append(heading.format(control))
            for name, runs in groups.items():
                values = differences(runs, groups[control], prefix, k) if name != control else []
                cells[name].append(text(estimate(values), signed=True, of=len(values)))
    caption = (
        "Seed by seed, the score minus that of the control where it has the same ID pass@1. "
        "Straight lines join the control's checkpoints: "
        f"{'; '.join(f'{name} at {checkpoint_text(groups[name])}' for name in plain)}. "
        "(n): n seeds only are in their range; -: none is, and nothing is extrapolated. "
        "Format ignored: both scores by the search alone. Early checkpoints have not learnt the "
        "answer format, which flatters slow methods in the strict columns."
    )
    return {"columns": columns, "rows": list(cells.values()), "caption": caption}


def differences(
    runs: Sequence[Measured], control: Sequence[Measured], prefix: str, k: int
) -> list[float | None]:
    """Seed by seed; None where the control's checkpoints do not reach."""
    paths = {run.seed: list(run.evaluations.values()) for run in control}
    equal, key = f"{prefix}id_pass1", f"{prefix}hard_pass{k}"
    return [difference_at_equal(paths[r.seed], r.final, equal=equal, key=key) for r in runs]


def checkpoint_text(control: Sequence[Measured]) -> str:
    return "steps " + ", ".join(map(str, control[0].evaluations))


def plane(groups: Groups, plain: Sequence[str], k: int, search: bool) -> Plane:
    """The methods' ends and the controls' paths, means over seeds; strictly or by the search."""
    keys = [f"{'search_' if search else ''}{key}" for key in ("id_pass1", f"hard_pass{k}")]

    def point(runs: Sequence[Measured], step: int | None) -> Point | None:
        scores = [run.final if step is None else run.evaluations.get(step, {}) for run in runs]
        x, y = (estimate(s.get(key) for s in scores) for key in keys)
        return Point(x.mean, y.mean, x.error, y.error) if x and y else None

    paths = {}
    for name, runs in groups.items():
        on_the_way: list[int | None] = list(runs[0].evaluations) if name in plain else [None]
        points = [point(runs, step) for step in on_the_way]
        paths[name] = [p for p in points if p is not None]
    caption = (
        "Large marks: the end of each method's runs; lines: the way of plain SFT there, checkpoint "
        "by checkpoint. Bars are standard errors over seeds, of each score on its own. What counts "
        "is the height above the lines."
    )
    if not search:
        caption += " Plain SFT climbs here for as long as it is learning the answer format."
    note = ", format ignored" if search else ""
    return Plane(f"ID pass@1{note}", f"hard pass@{k}{note}", paths, caption)


def write_raw(
    directory: Path,
    found: Sequence[Measured],
    tables: Mapping[str, Table],
    noise: str,
    seconds: float,
) -> None:
    """Every number of every seed as JSON and CSV, and the tables as Markdown."""
    import jax

    rows = [
        {"run": run.name, "seed": run.seed, "step": step, **flat(scores)}
        | (summary(run) if step == (run.metrics[-1]["step"] if run.metrics else 0) else {})
        for run in found
        for step, scores in run.evaluations.items()
    ]
    result = {
        "machine": {
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "backend": jax.default_backend(),
            "jax": jax.__version__,
        },
        "seconds_of_this_start": round(seconds, 1),
        "about": noise,
        "runs": [
            {
                "run": run.name,
                "seed": run.seed,
                "directory": str(run.directory),
                "objective": run.objective,
                "invocation": run.invocation,
                "training": summary(run),
                "evaluations": run.evaluations,
            }
            for run in found
        ],
        "tables": tables,
    }
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    parts = [markdown(heading, table) for heading, table in tables.items()]
    for name, content in (
        ("results.json", json.dumps(result, indent=1)),
        ("results.csv", buffer.getvalue()),
        ("tables.md", "\n".join([*parts, noise, ""])),
    ):
        temporary = directory / f"{name}.tmp"
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(directory / name)


def flat(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in scores.items() if isinstance(value, int | float)}


def summary(run: Measured) -> dict[str, float | None]:
    """The end of a run, in its own words."""
    keys = {**LOSSES, **WEIGHTS}
    ends = {f"train_{key}": final_mean(run.metrics, key) for key in keys}
    return {**ends, "seconds_per_step": seconds_per_step(run.metrics)}


# ---- tables -------------------------------------------------------------------------------------


def training_tables(groups: Groups, plain: Sequence[str]) -> dict[str, Table]:
    """Losses and entropies; weights and time. `plain` are the names of the plain SFT runs."""
    ratios = {
        name: time_ratios(runs, groups[plain[0]] if plain else ()) for name, runs in groups.items()
    }
    others = [ratio for name in groups if name not in plain[:1] for ratio in ratios[name]]
    timed = any(ratio is not None for ratio in others)

    def ends(key: str) -> Callable[[str], str | None]:
        return lambda name: text(estimate(final_mean(run.metrics, key) for run in groups[name]))

    def speed(name: str) -> str | None:
        seconds = estimate(seconds_per_step(run.metrics) for run in groups[name])
        return text(seconds, spec=".4f" if seconds and seconds.mean < 1 else ".2f")

    losses = {title: ends(key) for key, title in LOSSES.items()}
    weights = {title: ends(key) for key, title in WEIGHTS.items()} | {"s/step": speed}
    if timed:
        weights["ratio"] = lambda name: text(estimate(ratios[name]), spec=".2f")
    caption = LAST + (" Losses compare within one objective only." if len(groups) > 1 else "")
    shown = WEIGHT_CAPTION + (TIMED if timed else NOT_TIMED if plain else "")
    return {
        "Loss and entropy": rows_of(groups, losses, caption),
        "Token weights and time": rows_of(groups, weights, shown),
    }


def rows_of(
    groups: Groups, columns: Mapping[str, Callable[[str], str | None]], caption: str
) -> Table:
    rows = [[name, *(cell(name) for cell in columns.values())] for name in groups]
    return {"columns": ["run", *columns], "rows": rows, "caption": caption}


def time_ratios(runs: Sequence[Measured], reference: Sequence[Measured]) -> list[float | None]:
    """Seconds per step over those of plain SFT, seed by seed, where one start trained both."""
    by_seed = {run.seed: run for run in reference}
    ratios: list[float | None] = []
    for run in runs:
        other = by_seed.get(run.seed)
        together = other and run.invocation is not None and run.invocation == other.invocation
        ours = seconds_per_step(run.metrics)
        theirs = seconds_per_step(other.metrics) if other and together else None
        ratios.append(ours / theirs if ours and theirs else None)
    return ratios


def accuracy_table(groups: Groups, columns: Mapping[str, str]) -> Table:
    def score(key: str) -> Callable[[str], str | None]:
        return lambda name: text(estimate(run.final.get(key) for run in groups[name]))

    return rows_of(groups, {title: score(key) for key, title in columns.items()}, "")


def text(
    value: Estimate | None, *, spec: str = ".3f", signed: bool = False, of: int = 0
) -> str | None:
    """A mean with its standard error, and of how many seeds where some are missing."""
    if value is None:
        return None
    shown = format(value.mean, ("+" if signed else "") + spec)
    if value.error is not None:
        shown += f" ± {format(value.error, spec)}"
    return shown + (f" ({value.count})" if value.count < of else "")


def show(tables: Mapping[str, Table], noise: str = "") -> None:
    for heading, table in tables.items():
        progress.print_table(
            table["columns"], table["rows"], title=heading, caption=table["caption"] or None
        )
        print()
    if noise:
        print(noise)


def markdown(heading: str, table: Table) -> str:
    lines = ["| " + " | ".join(table["columns"]) + " |", "|---" * len(table["columns"]) + "|"]
    lines += [
        "| " + " | ".join("-" if c is None else str(c) for c in r) + " |" for r in table["rows"]
    ]
    return "\n".join([f"## {heading}", "", *lines, "", table["caption"] or "", ""])


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    exit_on_config_error(lambda: main(sys.argv[1:]))
