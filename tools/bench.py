"""Measures the package's speed and memory: `python tools/bench.py --size 1.5b`.

    python tools/bench.py                                     toy shapes, 4 minutes on two cores
    python tools/bench.py --size 0.5b --json bench-0.5b.json  a GPU: 0.5b, 1.5b, 7b, or
    python tools/bench.py --size fit --json bench-fit.json    the largest of them that fits
    python tools/bench.py --read bench-*.json --markdown      the README's table

One invocation measures on one device, with random weights and synthetic packed rows that all
measurements share: training steps (SFT; CurioSFT; CurioSFT with the student as its own teacher;
each with full rematerialisation and with matmul outputs saved), the same step in PyTorch, the
temperature search four ways, the LM head in chunks and at once, decoding, the way of the weights to
another engine, and the time to a compiled step. The best rate of plain matrix products, measured in
the same minutes, is what model FLOPs are compared with.

Each measurement has a process of its own: one that fails is reported, the others go on. Nothing is
compiled while a clock runs, variants take turns (A B A B ...), and medians are compared. On a GPU
PyTorch and JAX run one after the other, as there may be no room for both. PyTorch may live in
another environment, `--torch-python`; without it those rows are skipped.

The results file (`--json`), version 1:

    date, command, commit (with `+changes` where the tree has some), repeats, asked_for, notes
    machine    device, platform, memory_bytes, cores, load {before, after}
    software   versions
    size       shapes (tools/speed/sizes.py), parameters, records (ragged, single), and of one step
               tokens in records, trained ones, pairs of a query and a key it sees
    results    {measurement: {status: ok, failed or skipped, reason, variants: {name: {
               seconds {median, min, max, spread, all}: wall time of one run; spread: quartiles
               tokens_per_second, model_flops (of one step, recomputation not counted), utilisation
               peak_bytes (as the device counted it; null where it does not), compiled_bytes (as
               XLA plans it), compile_seconds, losses (of the first steps), failed (why)}}}}
    ratios     {name: {value: quotient of two medians, of, what, target}}
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

if __name__ != "__main__":  # imported by a test
    sys.path.insert(0, str(Path(__file__).parent))

from curiojax import __version__, progress
from curiojax.errors import ConfigError, exit_on_config_error
from speed import results as summaries
from speed import session, sizes, tables
from speed.launch import Worker
from speed.sizes import SIZES, Size


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sizes.NAMES, default="toy")
    parser.add_argument("--only", metavar="NAME,...", help=", ".join(session.NAMES))
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each variant")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results here")
    parser.add_argument("--markdown", action="store_true", help="print the README's table")
    parser.add_argument("--read", metavar="FILE", type=Path, nargs="+", help="measure nothing")
    parser.add_argument(
        "--records",
        choices=("ragged", "single"),
        default="ragged",
        help="packed rows, or one record per row (on a GPU with fused attention, ours and theirs)",
    )
    parser.add_argument("--torch-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds per process")
    given = parser.parse_args(arguments)
    if given.repeats < 1:
        raise ConfigError(f"--repeats: {given.repeats} is below 1; time each variant at least once")
    if given.read:
        read = [read_results(path) for path in given.read]
    else:
        if given.json and not given.json.absolute().parent.is_dir():
            raise ConfigError(f"--json: {given.json.parent} is no folder; make it first")
        read = [measure(given, chosen(given.only))]
        if given.json:
            write(given.json, read[0])
    if given.markdown:
        print(tables.markdown(read))
        return
    for results in read:
        tables.show(results)


def chosen(only: str | None) -> list[str]:
    """The measurements that were asked for.

    Raises:
      ConfigError: one of them is unknown.
    """
    names = session.NAMES if only is None else only.split(",")
    for name in names:
        if name not in session.NAMES:
            raise ConfigError(f"--only: {name!r} is none of {', '.join(session.NAMES)}")
    return list(names)


def measure(given: argparse.Namespace, names: list[str], size: Size | None = None) -> Any:
    """The results of one invocation; `size` stands in for the one that was asked for."""
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="curiojax-bench-") as folder:
        path = Path(folder)
        asked = size or SIZES.get(given.size)
        weights = str(path / "weights") if asked and asked.gain is not None else None
        job = {
            "measurement": "probe",
            "fit": asked is None,
            "size": asked.to_json() if asked else None,
            "weights": weights if "reference" in names else None,
        }
        with progress.status("looking at the device"):
            machine = Worker(job, path / "probe", timeout=given.timeout).run()
        if machine["status"] != "ok":
            raise ConfigError(f"--size: {given.size} cannot be measured: {machine['reason']}")
        size = asked or sizes.from_json(machine["fit"])
        gpu = machine["platform"] != "cpu"
        if given.records == "single" and gpu:
            model = dataclasses.replace(size.model, attention="cudnn")
            size = dataclasses.replace(size, model=model)
        done = Done()
        task = session.Session(
            size=size,
            repeats=given.repeats,
            folder=path,
            gpu=gpu,
            reports_memory=machine["memory_bytes"] is not None,
            single=given.records == "single",
            torch_python=given.torch_python,
            timeout=given.timeout,
            progress=done,
            weights=job["weights"],
        )
        outcomes = {}
        total = sum(task.units(name) for name in names)
        with progress.bar("benchmark", total=total) as done.bar:
            for group in session.GROUPS:
                wanted = [name for name in group if name in names]
                if wanted:
                    done.now = " and ".join(wanted)
                    outcomes |= task.run(wanted)
                    done.reach(sum(task.units(name) for name in outcomes))
    software = {"curiojax": __version__, **machine["software"]}
    for outcome in outcomes.values():
        software |= outcome.pop("software", {})
    found = summaries.complete(outcomes, size, task.counts)
    results = {
        "version": summaries.VERSION,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": ["tools/bench.py", *sys.argv[1:]],
        "commit": commit(),
        "repeats": given.repeats,
        "asked_for": given.size,
        "machine": {
            **{key: machine[key] for key in ("device", "platform", "memory_bytes")},
            "cores": os.cpu_count(),
            "load": {"before": before, "after": load_average()},
        },
        "software": software,
        "size": {**sizes.describe(size), "records": given.records, **task.counts},
        "results": found,
        "ratios": summaries.ratios(found, task.counts, size),
    }
    return {**results, "notes": notes(results)}


class Done:
    """Units of work done, on a progress bar that also says what is going on."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.now, self.units = "", 0

    def __call__(self, units: int) -> None:
        self.reach(self.units + units)

    def reach(self, units: int) -> None:
        self.units = units
        self.bar.update(units, now=self.now)


def notes(results: Any) -> list[str]:
    """What a reader of the numbers has to know."""
    found = []
    machine = results["machine"]
    load = max(machine["load"].values())
    if load > machine["cores"]:
        found.append(
            f"warning: load average {load:.1f} on {machine['cores']} cores: other programs ran "
            "beside this one; only the ratios of variants that took turns are worth something."
        )
    if machine["platform"] == "cpu":
        found.append(tables.CPU_NOTE)
    return found


def load_average() -> float:
    """Of the last minute; 0 where there is no such thing."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def commit() -> str | None:
    """The commit of the source tree that this file is in."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        name = git("rev-parse", "--short=10", "HEAD")
        return name + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def write(path: Path, results: Any) -> None:
    """Writes the results file in one go."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_results(path: Path) -> Any:
    """A results file.

    Raises:
      ConfigError: it is not there, or none.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--read: {path} cannot be read ({error}); name a results file") from None
    if not isinstance(results, dict) or results.get("version") != summaries.VERSION:
        raise ConfigError(f"--read: {path} is no results file of version {summaries.VERSION}")
    return results


if __name__ == "__main__":
    exit_on_config_error(main)
