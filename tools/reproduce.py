"""Reruns the comparison of the CurioSFT paper (arXiv 2602.02244), with seeds and controls.

    python tools/reproduce.py all --scale laptop --seeds 1      embedded worlds, a laptop CPU
    python tools/reproduce.py table2 figure2 --seeds 5          some of it; more seeds extend it
    python tools/reproduce.py table2 --methods curio,base-kl    and vanilla SFT, the control
    python tools/reproduce.py table4 --base countdown=FOLDER    another base model beside ours
    python tools/reproduce.py all --scale paper                 the commands for eight GPUs

Targets: table1, table2, table3, table4, figure1, figure2, figure4, figure5, all. They share runs:
each happens once, what is done is skipped, and killed anywhere the same command goes on; at most
the run in flight is lost. `laptop` runs what is missing and writes into OUTPUT/results a table
(.md, .json) or a figure (.png, .svg) for each target, `raw.json` and `raw.csv` with every number of
every seed, `report.html` with all of it, and `summary.md` and `results.md` in words; with
`--no-run` it writes them from what is finished so far. `paper` runs nothing: it prints commands,
memory plans and expected hours, and fills the tables from the runs that are finished.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path

if __name__ != "__main__":  # imported by a test
    sys.path.insert(0, str(Path(__file__).parent))

from curiojax import folders, progress
from curiojax.errors import ConfigError, exit_on_config_error
from reproduction import crew, paper_scale
from reproduction import output as output_module
from reproduction.findings import Asked
from reproduction.plan import TARGETS, plan
from reproduction.readme import write_readme
from reproduction.records import load
from reproduction.settings import CONFIGS, base_sizes, read_configs

MARKER = "reproduction.json"


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if options.scale == "paper":
        reproduce_paper(options)
    else:
        reproduce_laptop(options)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("targets", nargs="+", metavar="TARGET", help=", ".join((*TARGETS, "all")))
    add("--scale", choices=("laptop", "paper"), default="laptop")
    add("--seeds", type=int, default=1, help="how many (default 1); a later call may ask for more")
    add("--output", type=Path, default=None, help="default runs/reproduction, or runs/paper")
    add("--methods", default="", metavar="NAME,...", help="runs of the config, not all of them")
    add("--config", nargs="+", metavar="FILE", help=f"another scale (default {CONFIGS[0]})")
    add("--base", action="append", default=[], metavar="WORLD=FOLDER", help="Table 4 for it, too")
    add("--no-run", action="store_true", help="write what is finished; run nothing")
    add("--jobs", type=int, default=crew.default_jobs(), help="runs at once (default %(default)s)")
    add("--write-readme", type=Path, metavar="FILE", help="put summary.md between its markers")
    options = parser.parse_args(arguments)
    for target in options.targets:
        if target not in (*TARGETS, "all"):
            raise ConfigError(f"TARGET: {target!r} is none of {', '.join((*TARGETS, 'all'))}")
    if "all" in options.targets:
        options.targets = list(TARGETS)
    for name in ("seeds", "jobs"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name}: must be positive, not {getattr(options, name)}")
    options.methods = [name for name in options.methods.split(",") if name]
    return options


def reproduce_laptop(options: argparse.Namespace) -> None:
    """Runs what is missing and writes what was found."""
    output_module.check_matplotlib(options.targets)
    configs = read_configs(options.config, options.base)
    output = options.output or Path("runs/reproduction")
    runs = plan(configs, options.targets, options.seeds, options.methods)
    errors: dict[str, str] = {}
    # Reading takes no lock, so that one can look while another process runs.
    with nullcontext() if options.no_run else folders.lock(claim(output)):
        if not options.no_run:
            sources = {"files": options.config, "bases": options.base}
            errors = crew.run_missing(runs, output, sources, options.jobs)
        data = load(runs, output)
        if not data.runs:
            raise ConfigError(f"--output: nothing is finished in {output}; leave out --no-run")
        asked = Asked(command(options), len(runs), base_sizes(configs))
        written = output_module.write_all(data, options.targets, output, asked)
        if options.write_readme:
            write_readme(options.write_readme, output / output_module.FOLDER / "summary.md")
    left = {"runs": f"{len(data.runs)} of {len(runs)}", "report": written[0], "words": written[1]}
    progress.print_pairs("written", left)
    for key, error in errors.items():
        print(f"{key}: {error}", file=sys.stderr)
    if errors:
        print(f"{len(errors)} runs failed; the same command tries them again", file=sys.stderr)
        raise SystemExit(1)


def reproduce_paper(options: argparse.Namespace) -> None:
    """Prints what to run, and the tables of what has been run."""
    for name in ("methods", "config", "base", "no_run", "write_readme"):
        if getattr(options, name):
            raise ConfigError(f"--{name.replace('_', '-')}: only with --scale laptop; remove it")
    found = paper_scale.show(options.targets, options.seeds, options.output or Path("runs/paper"))
    for table in found:
        print()
        print(table.markdown())


def command(options: argparse.Namespace) -> str:
    """How the results are made, for those who read them."""
    targets = "all" if options.targets == list(TARGETS) else " ".join(options.targets)
    chosen = f" --methods {','.join(options.methods)}" if options.methods else ""
    chosen += "".join(f" --base {base}" for base in options.base)
    return f"python tools/reproduce.py {targets} --scale laptop --seeds {options.seeds}{chosen}"


def claim(output: Path) -> Path:
    """Makes the folder ours, unless it holds anything that this program did not write."""
    marker = output / MARKER
    if output.is_file():
        raise ConfigError(f"--output: {output} is a file; name a folder")
    if not marker.is_file() and folders.holds_anything(output, MARKER):
        raise ConfigError(
            f"--output: {output} is not empty and holds no reproduction; name another folder"
        )
    folders.write_text(marker, json.dumps({"written_by": "tools/reproduce.py"}) + "\n")
    return output


if __name__ == "__main__":
    exit_on_config_error(main)
