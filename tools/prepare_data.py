"""Makes the local files that training and evaluation read, and checks them.

    python tools/prepare_data.py OUT [--train openr1_46k ...] [--benchmarks paper ...]
                                     [--ngram 13] [--drop-overlap]

Fetches the training sets and the benchmarks from the hub, compares rows and columns with what is
expected, and looks for benchmark questions among the training questions. Afterwards OUT has

    train/NAME.parquet         `data.path` of a run
    benchmarks/NAME.parquet    what evaluation finds when it is given the folder
    manifest.json              sha256, rows and source revision of each file
    overlap.json               which training rows share a run of words with which questions

and with --drop-overlap train/NAME.no_overlap.parquet without those rows.

A file that is there already is checked and used, whoever put it there, so this goes on where it
was interrupted, and works without a network once the files are in place. What is missing is listed
with where it belongs, one line per file, and the exit code is 2. Further files in OUT/train are
checked for overlap as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.data.hub import TRAINING, Source, fetch_from_hub
from curiojax.data.overlap import COMMON, NGRAM
from curiojax.data.prepared import (
    MANIFEST,
    SUFFIXES,
    Fetch,
    Prepared,
    prepare,
    read_json,
    sha256,
    write_json,
    write_without,
)
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.evaluation.benchmarks import KNOWN, load_benchmark, parse_entries
from curiojax.evaluation.contamination import overlap_report, training_records
from curiojax.evaluation.questions import Benchmark

OVERLAP = "overlap.json"
FILTERED = ".no_overlap"
TRAIN_HELP = f"of {', '.join(TRAINING)}; without a name none (all)"


def main(arguments: list[str] | None = None, fetch: Fetch = fetch_from_hub) -> None:
    options = parse_arguments(arguments)
    try:
        for folder in ("train", "benchmarks"):
            (options.output / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"OUT: cannot make {options.output}: {error.strerror}") from None
    manifest = read_json(options.output / MANIFEST).get("files", {})
    found = prepare(
        options.output,
        sources(options),
        manifest,
        fetch=None if options.no_fetch else fetch,
        count=count_rows,
        accept=options.accept,
    )
    usable = [one for one in found if one.problem is None]
    derived = check_overlap(options, usable, manifest)
    # What another call asked for, and this one did not, stays.
    asked = {one.file for one in found}
    others = {name: entry for name, entry in manifest.items() if name not in asked}
    others = {name: e for name, e in others.items() if (options.output / name).is_file()}
    files = others | {one.file: one.entry for one in usable} | derived
    write_json(options.output / MANIFEST, {"version": 1, "files": dict(sorted(files.items()))})
    progress.print_table(
        ["file", "rows", "source"],
        [(name, e["rows"], e["revision"] or e["from"]) for name, e in sorted(files.items())],
        title=str(options.output),
    )
    problems = [one for one in found if one.problem is not None]
    for one in problems:
        print(f"{options.output / one.file}: {one.problem}", file=sys.stderr)
    if problems:
        raise ConfigError(
            f"{len(problems)} of {len(found)} files are missing or wrong, as listed above; what is "
            "there was prepared, and the same command goes on from it"
        )


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("output", metavar="OUT", type=Path)
    add(
        "--train",
        nargs="*",
        default=list(TRAINING),
        choices=list(TRAINING),
        metavar="NAME",
        help=TRAIN_HELP,
    )
    add(
        "--benchmarks",
        nargs="*",
        default=["paper"],
        metavar="NAME",
        help="names or sets of them (paper)",
    )
    add("--ngram", type=int, default=NGRAM, help=f"words of a run that shows overlap ({NGRAM})")
    add(
        "--common",
        type=int,
        default=COMMON,
        help=f"runs in more training rows show nothing ({COMMON})",
    )
    add("--drop-overlap", action="store_true", help="write the training sets without such rows")
    add("--accept", nargs="*", default=[], metavar="NAME", help="files whose rows differ in number")
    add("--no-fetch", action="store_true", help="use the files that are there")
    options = parser.parse_args(arguments)
    if options.ngram < 2 or options.common < 1:
        raise ConfigError("--ngram and --common: at least 2 words, and 1 row")
    return options


def sources(options: argparse.Namespace) -> list[Source]:
    """What was asked for, and the further files in OUT/train."""
    found = [TRAINING[name] for name in options.train]
    for path in sorted((options.output / "train").iterdir()):
        own = path.suffix in SUFFIXES and not path.name.startswith(".")
        if own and path.stem not in TRAINING and not path.stem.endswith(FILTERED):
            found.append(Source(name=path.stem, folder="train"))
    entries = parse_entries(options.benchmarks) if options.benchmarks else ()
    for entry in entries:
        known = KNOWN[entry.name]
        rows = (known.questions, known.questions)
        found.append(
            Source(
                name=known.name,
                folder="benchmarks",
                hub=known.hub,
                config=known.config,
                split=known.split,
                rows=rows,
                gated=known.gated,
            )
        )
    unknown = {*options.accept} - {source.name for source in found}
    if unknown:
        raise ConfigError(f"--accept: {', '.join(sorted(unknown))} is not among what is prepared")
    return found


def count_rows(source: Source, path: Path) -> int:
    """Rows of a training set, or questions of a benchmark, all of which can be read."""
    if source.folder == "benchmarks":
        return len(benchmark_of(source, path).questions)
    records = training_records(path)
    lacking = [name for name in source.columns if name not in records.columns]
    if lacking:
        found = ", ".join(records.columns)
        raise ConfigError(f"its columns are {found}; {', '.join(lacking)} missing")
    return records.num_rows


def benchmark_of(source: Source, path: Path) -> Benchmark:
    (entry,) = parse_entries([{"name": source.name, "path": str(path)}])
    return load_benchmark(entry)


def check_overlap(
    options: argparse.Namespace, usable: Sequence[Prepared], manifest: dict[str, Any]
) -> dict[str, Any]:
    """Writes overlap.json and the filtered sets; returns the manifest's entries of the latter."""
    path = options.output / OVERLAP
    trained = [one for one in usable if one.source.folder == "train"]
    asked = [one for one in usable if one.source.folder == "benchmarks"]
    inputs = {
        "ngram": options.ngram,
        "common": options.common,
        "files": {one.file: one.entry["sha256"] for one in sorted(usable, key=lambda x: x.file)},
    }
    report = read_json(path)
    if report.get("inputs") != inputs:
        sets = overlap_report(
            {one.source.name: options.output / one.file for one in trained},
            [benchmark_of(one.source, options.output / one.file) for one in asked],
            ngram=options.ngram,
            common=options.common,
        )
        report = {"version": 1, "inputs": inputs, "sets": sets}
        write_json(path, report)
    progress.print_table(
        ["training set", "benchmark", "questions", "found", "training rows"],
        [
            (name, benchmark, part["questions"], part["found"], part["rows"])
            for name, one in report["sets"].items()
            for benchmark, part in one["benchmarks"].items()
        ],
        title=f"Overlap: the same {options.ngram} words in a row",
        caption=f"Examples and row numbers are in {path}.",
    )
    derived = {}
    for one in trained:
        file = f"train/{one.source.name}{FILTERED}.parquet"
        before = manifest.get(file, {})
        if options.drop_overlap:
            rows = report["sets"][one.source.name]["rows"]
            derived[file] = filtered(options, one, rows, file, before)
    return derived


def filtered(
    options: argparse.Namespace, one: Prepared, rows: list[int], file: str, before: dict[str, Any]
) -> dict[str, Any]:
    """Writes a training set without some rows, unless that was done."""
    target = options.output / file
    made = {
        "of": one.file,
        "of_sha256": one.entry["sha256"],
        "ngram": options.ngram,
        "common": options.common,
        "dropped": rows,
    }
    same = all(before.get(key) == value for key, value in made.items())
    if same and target.is_file() and sha256(target) == before.get("sha256"):
        return before
    with progress.status(f"writing {file}"):
        left = write_without(options.output / one.file, rows, target)
    entry = {"sha256": sha256(target), "bytes": target.stat().st_size, "rows": left}
    return entry | {"revision": None, "from": f"{one.file}, {len(rows)} rows dropped"} | made


if __name__ == "__main__":
    exit_on_config_error(main)
