"""What `--scale paper` prints, and the tables of runs that somebody has finished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.errors import ConfigError
from curiojax.evaluation.comparison import estimate
from curiojax.evaluation.results_file import read_results
from reproduction import paper
from reproduction.methods import title
from reproduction.paper import PaperTable
from reproduction.paper_runs import (
    ASSUMPTIONS,
    MAIN,
    OTHERS,
    PaperRun,
    hours,
    paper_runs,
    state_gigabytes,
)
from reproduction.tables import Cell, Column, Table

HEAD = """\
# Paste into a shell in the repository. Every command goes on where it was interrupted.
DATA=Elliott/Openr1-Math-46k-8192      # or a file like it; the paper rewrote its questions
VLLM_PYTHON=/opt/vllm/bin/python       # vLLM 0.32 in an environment of its own
BENCHMARKS=data/benchmarks             # python tools/prepare_data.py fills it
"""


def show(targets: Sequence[str], seeds: int, output: Path) -> list[Table]:
    """Prints commands, memory and hours of what is missing; returns the tables of what is there."""
    runs = paper_runs(targets, seeds)
    missing = [run for run in runs if finished(run, output) is None]
    print(HEAD)
    for run in missing:
        print(f"# seed {run.seed}, {run.backbone}: {title(run.name)}")
        train = run.train(output)
        if train is not None:
            print(train)
        print(run.evaluate(output))
    print()
    expected = [hours(run) for run in missing]
    rows = []
    for run, spent in zip(missing, expected, strict=True):
        memory = state_gigabytes(run)
        held = None if memory is None else f"{memory:.0f} GB"
        rows.append([run.seed, run.backbone, title(run.name), held, f"{spent:.1f}"])
    if rows:
        progress.print_table(
            ["seed", "base model", "run", "state per GPU", "hours"],
            rows,
            title=f"{len(rows)} of {len(runs)} runs are missing: {sum(expected):.0f} h",
            caption=ASSUMPTIONS,
        )
        configs = dict.fromkeys(run.config for run in missing if run.config)
        print("\nMemory with activations, compiled from shapes (no GPU needed):")
        for config in configs:
            print(f"  python tools/plan_memory.py {config} --devices 8 --target h100 --sweep")
    print(
        f"\nFinished runs are read from {output}/seed-S/BASE-MODEL/METHOD/evaluation/results.json"
    )
    return tables(runs, targets, output)


def finished(run: PaperRun, output: Path) -> dict[str, Any] | None:
    """The results of a run's evaluation, or None where there are none."""
    folder = run.folder(output) / "evaluation"
    if not folder.is_dir():
        return None
    try:
        return read_results(folder)
    except ConfigError:
        return None


def tables(runs: Sequence[PaperRun], targets: Sequence[str], output: Path) -> list[Table]:
    """A table for each of the paper's that has a finished run, with the paper's numbers beside."""
    wanted: list[tuple[str, str, PaperTable]] = [
        ("table1", MAIN, paper.TABLE1),
        ("table2", MAIN, paper.TABLE2),
        ("table3", MAIN, paper.TABLE3),
        *(("table4", name, paper.TABLE4[model]) for name, model in OTHERS.items()),
    ]
    made = []
    for target, backbone, printed in wanted:
        if target not in targets:
            continue
        rows = []
        ours = [run for run in runs if run.backbone == backbone]
        for name in dict.fromkeys(run.name for run in ours):
            found = [finished(run, output) for run in ours if run.name == name]
            results = [result for result in found if result is not None]
            if results:
                theirs = [printed.value(name, c) for c in printed.columns if c.endswith("vg.")]
                rows.append([title(name), *_ours(results), *theirs])
        if rows:
            columns = [Column("method"), *(Column(c) for c in ("ID avg.", "OOD avg."))]
            columns += [Column("entropy", 1.0, 3), Column("seeds", 1.0, 0)]
            columns += [Column(f"paper: {c}") for c in printed.columns if c.endswith("vg.")]
            caption = "Percent, mean ± standard error over seeds; entropy in nats per token."
            made.append(Table(f"{printed.title}", columns, rows, caption))
    return made


def _ours(results: Sequence[dict[str, Any]]) -> list[Cell]:
    def mean(group: str) -> Cell:
        parts = [result["means"].get(group) for result in results]
        return estimate(part["avg"]["value"] for part in parts if part)

    entropies = [result.get("entropy") for result in results]
    known = [entropy["token_mean"] for entropy in entropies if entropy]
    return [mean("math"), mean("general"), estimate(known), str(len(results))]
