"""What finished runs leave, and how it is read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from curiojax.evaluation.comparison import seconds_per_step
from curiojax.evaluation.results import read_evaluations
from curiojax.training.metrics import read_metrics
from reproduction.plan import BASE, Run

DONE = "done.json"
EXTRAS = "extras.json"

Value = Callable[["Finished"], float | None]


@dataclass(frozen=True)
class Finished:
    """A run that is done.

    Attributes:
      step: of the last checkpoint.
      evaluations: scores by step.
      extras: `diversity`, and of plain SFT `decoding`: scores by sampling temperature.
      seconds: that it took, training and evaluation together.
    """

    run: Run
    directory: Path
    step: int
    evaluations: Mapping[int, Mapping[str, Any]] = field(repr=False)
    extras: Mapping[str, Any] = field(repr=False)
    seconds: float | None = None

    @property
    def final(self) -> Mapping[str, Any]:
        return self.evaluations[self.step]

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return read_metrics(self.directory / "metrics.jsonl")

    @property
    def seconds_per_step(self) -> float | None:
        return seconds_per_step(self.metrics)


class Group:
    """The runs of one method with one set of demonstrations, by seed."""

    def __init__(self, runs: Iterable[Finished]):
        self.by_seed = {run.run.seed: run for run in runs}

    def __iter__(self) -> Iterator[Finished]:
        return iter(self.by_seed.values())

    def __len__(self) -> int:
        return len(self.by_seed)

    def values(self, value: Value) -> dict[int, float]:
        """By seed, where there is one."""
        found = {seed: value(run) for seed, run in self.by_seed.items()}
        return {seed: number for seed, number in found.items() if number is not None}


Groups = dict[str, Group]


class Data:
    """All finished runs."""

    def __init__(self, runs: Iterable[Finished]):
        self.runs = list(runs)
        self.seeds = sorted({run.run.seed for run in self.runs})

    def groups(self, world: str, demonstrations: str) -> Groups:
        """By method; the base model, which saw no demonstrations, belongs to every set."""
        found: dict[str, list[Finished]] = {}
        for item in self.runs:
            run = item.run
            if run.world == world and run.demonstrations in (demonstrations, ""):
                found.setdefault(run.name, []).append(item)
        return {name: Group(items) for name, items in found.items()}

    @property
    def worlds(self) -> list[str]:
        """The worlds in the order of the plan; `countdown@large` has another base model."""
        return list(dict.fromkeys(run.run.world for run in self.runs))

    def sets(self, world: str) -> list[str]:
        """The sets of demonstrations of a world, in the order of the plan."""
        names = [run.run.demonstrations for run in self.runs if run.run.world == world]
        return [name for name in dict.fromkeys(names) if name]

    @property
    def samples(self) -> int:
        """Completions per problem."""
        return next((int(run.final["samples"]) for run in self.runs), 0)


def score(key: str) -> Value:
    """A score of the last checkpoint."""
    return lambda run: run.final.get(key)


def is_done(run: Run, output: Path) -> bool:
    """Whether the run was finished with these settings."""
    record = read(output / run.directory / DONE)
    return record is not None and record.get("settings") == json.loads(json.dumps(run.settings))


def load(runs: Iterable[Run], output: Path) -> Data:
    """Those of the runs that are done."""
    found = []
    for run in runs:
        directory = output / run.directory
        record = read(directory / DONE)
        if record is None or not is_done(run, output):
            continue
        evaluations = read_evaluations(directory)
        if record["step"] in evaluations:
            extras = read(directory / EXTRAS) or {}
            step, seconds = record["step"], record.get("seconds")
            found.append(Finished(run, directory, step, evaluations, extras, seconds))
    return Data(found)


def read(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def raw_rows(data: Data) -> list[dict[str, Any]]:
    """Every number of every seed: a row for each evaluated checkpoint."""
    rows = []
    for item in data.runs:
        which = {
            "world": item.run.world,
            "demonstrations": item.run.demonstrations or None,
            "seed": item.run.seed,
            "run": item.run.name,
        }
        plain = [(step, 1.0, scores) for step, scores in item.evaluations.items()]
        hotter = item.extras.get("decoding", {})
        plain += [(item.step, float(t), scores) for t, scores in hotter.items()]
        for step, temperature, scores in plain:
            row = {**which, "step": step, "temperature": temperature}
            row |= {k: v for k, v in scores.items() if isinstance(v, int | float) and k not in row}
            if step == item.step and temperature == 1.0:
                grams = item.extras.get("diversity", {}).get("ngram", {})
                row |= {f"diversity_{n}gram": value for n, value in grams.items()}
                row["seconds"] = item.seconds
                row["seconds_per_step"] = None if item.run.name == BASE else item.seconds_per_step
            rows.append(row)
    return rows
