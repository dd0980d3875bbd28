"""Chooses what OXA (arXiv 2603.16206) promotes and what it suppresses, by perplexity.

    python tools/select_oxa_data.py --model BASE --promoted train.parquet --graded samples.jsonl \\
        --output DIR --count 50000 --mu 3.0

Scores every response under the base model, then chooses: of correct records such that their
perplexities follow a Gaussian around `mu` (surprising, but not noise), and of wrong samples those
of lowest perplexity (confident mistakes). DIR gets `promoted.parquet` and `suppressed.parquet`,
which are `data.path` and `data.suppressed_path` of a run with `objective.name: oxa`;
`report.html` with histograms before and after; `selection.json`; and the scores.

Right samples come from --promoted, any file that training reads, all of it taken as correct; or,
without it, from --graded. Wrong samples come from --graded: JSONL files with a prompt, a response
and a grade. Without --graded there is no suppressed set.

Killed at any point, the same command goes on and ends with the same files. To choose again with
other numbers, name another --output and reuse the scores with --scores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from curiojax import models, progress
from curiojax.config import Data, Model
from curiojax.data import TEMPLATES, SupervisedData, build_dataset, graded, load_records
from curiojax.data.schemas import FORMATS
from curiojax.data.selection import Bins
from curiojax.data.store import temporary_folder
from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.evaluation import perplexity
from curiojax.evaluation.oxa import Promote, Suppress, choose_promoted, choose_suppressed
from curiojax.evaluation.scores import ScoreFile
from curiojax.models.config import COMPUTE_DTYPES
from curiojax.reports.selection import COLUMNS, SelectedSet, summary_rows, write_selection_report
from curiojax.sharding import make_mesh
from curiojax.training.run_directory import lock

SETTINGS, RESULT = "settings.json", "selection.json"
WRITTEN = ("promoted.parquet", "suppressed.parquet", "report.html", RESULT)
# Where messages of the parts that training shares name a config field: its option here.
_OPTIONS = {
    "model.path": "--model",
    "model.max_position_embeddings": "--max-position-embeddings",
    "model.rope_theta": "--rope-theta",
    "model.attention": "--attention",
    "model.compute_dtype": "--compute-dtype",
    "data.template": "--template",
    "data.max_prompt_tokens": "--max-prompt-tokens",
    "data.max_response_tokens": "--max-response-tokens",
    "data.cache_dir": "--cache-dir",
    "data.format": "--format",
    "data.split": "--split",
    "data.path": "--promoted",
    "output_dir": "--output",
    "mesh.fsdp": "--fsdp",
    "mesh.tensor": "--tensor",
    "mesh:": "--fsdp and --tensor:",
    "batch_tokens": "--batch-tokens",
}


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    try:
        select(options)
    except ConfigError as error:
        text = str(error)
        for field, option in _OPTIONS.items():
            text = text.replace(field, option)
        raise ConfigError(text) from None


def select(options: argparse.Namespace) -> None:
    """The whole of it: candidates, scores, choices, files."""
    promote, suppress = rules(options)
    check_output(options.output)
    with lock(options.output), temporary_folder(options.output) as work:
        clear(options.output, work)
        sources, found = candidates(options, work)
        tokenizer = load_tokenizer(options.model)
        datasets = {
            name: tokenised(options, name, path, tokenizer) for name, path in sources.items()
        }
        overrides = {
            "compute_dtype": options.compute_dtype,
            "attention": options.attention,
            "remat": "none",
            "rope_theta": options.rope_theta,
            "max_position_embeddings": options.max_position_embeddings,
        }
        model, fingerprint = models.inspect_pretrained(options.model, overrides=overrides)
        scored_with = {
            "model": fingerprint,
            "compute_dtype": options.compute_dtype,
            "context": options.context,
        }
        settings = scored_with | {
            "template": options.template,
            "limits": [options.max_prompt_tokens, options.max_response_tokens],
            "promoted": dataclasses.asdict(promote),
            "suppressed": dataclasses.asdict(suppress),
            "data": {name: data.fingerprint for name, data in datasets.items()},
        }
        if claim(options.output, settings):
            print(f"{options.output} holds this selection already; nothing to do")
            return
        keep(work, options.output / "candidates")
        folder = options.scores or options.output / "scores"
        with lock(folder):
            scores = score(options, folder, datasets, tokenizer, model, overrides, scored_with)
        chosen = {"promoted": choose_promoted(promote, datasets["promoted"], scores["promoted"])}
        if "suppressed" in datasets:
            data = datasets["suppressed"]
            chosen["suppressed"] = choose_suppressed(suppress, data, scores["suppressed"])
        for name, one in chosen.items():
            write(options, sources[name], datasets[name], one, options.output / f"{name}.parquet")
        finish(options, list(chosen.values()), settings, found)


def rules(options: argparse.Namespace) -> tuple[Promote, Suppress]:
    """What the options ask for; refuses nonsense before any work."""
    promote = Promote(
        options.count,
        options.mu,
        options.sigma,
        Bins(options.min_perplexity, options.max_perplexity, options.bin_width),
        options.max_per_query,
        options.seed,
    )
    if not promote.bins.low <= promote.mu <= promote.bins.high:
        raise ConfigError(
            f"--mu: {promote.mu:g} is outside of the bins, {promote.bins.low:g} to "
            f"{promote.bins.high:g}; move it, or --min-perplexity or --max-perplexity"
        )
    if not promote.sigma > 0:
        raise ConfigError(f"--sigma: {promote.sigma:g} must be positive")
    suppress = Suppress(
        options.suppressed_count,
        options.suppressed_min_perplexity,
        options.suppressed_per_query,
        options.seed,
    )
    return promote, suppress


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; numbers default to those of OXA's release, the rest to training's."""
    data, model = Data(), Model()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="base model, as a folder or hub id")
    add("--promoted", help="correct records: whatever data.path takes")
    add("--graded", nargs="+", default=[], metavar="JSONL", help="graded completions")
    add("--output", required=True, type=Path, help="a new folder, or one to go on with")
    add("--scores", type=Path, help="folder of the scores; default: OUTPUT/scores")

    group = parser.add_argument_group("the promoted set")
    add = group.add_argument
    add("--count", type=_positive, default=50_000, help="records (%(default)s)")
    add("--mu", type=float, default=3.0, help="released: 3.0 for 7B, 2.5 for 1.5B (%(default)s)")
    add("--sigma", type=float, default=0.25, help="(%(default)s)")
    add("--min-perplexity", type=float, default=1.0, help="first bin's edge (%(default)s)")
    add("--max-perplexity", type=float, default=5.0, help="last bin's edge (%(default)s)")
    add("--bin-width", type=float, default=0.05, help="(%(default)s)")
    add("--max-per-query", type=_positive, default=10, help="records of a query (%(default)s)")

    group = parser.add_argument_group("the suppressed set")
    add = group.add_argument
    add("--suppressed-count", type=_positive, default=50_000, help="samples (%(default)s)")
    add("--suppressed-min-perplexity", type=float, default=1.2, help="(%(default)s)")
    add("--suppressed-per-query", type=_positive, default=1, help="(%(default)s)")

    group = parser.add_argument_group("what is scored")
    add = group.add_argument
    add(
        "--context",
        choices=("none", "prompt"),
        default="none",
        help="what a response follows: nothing, as released, or its prompt (%(default)s)",
    )
    add("--template", default=data.template, choices=TEMPLATES, help="(%(default)s)")
    add("--max-prompt-tokens", type=_positive, default=data.max_prompt_tokens)
    add("--max-response-tokens", type=_positive, default=data.max_response_tokens)
    add("--format", choices=list(FORMATS), help="of --promoted, instead of detecting it")
    add("--split", default=data.split, help="of --promoted (%(default)s)")
    add("--limit", type=_positive, help="take the first rows of --promoted only")
    add("--seed", type=int, default=0, help="of the order of equals (%(default)s)")

    group = parser.add_argument_group("how it is computed")
    add = group.add_argument
    add("--compute-dtype", choices=COMPUTE_DTYPES[:2], default=model.compute_dtype)
    add("--attention", choices=("auto", "xla", "blocked", "cudnn"), default=model.attention)
    add("--rope-theta", type=float, help="to extend the model's context")
    add("--max-position-embeddings", type=_positive, help="to extend the model's context")
    add("--fsdp", type=_positive, help="devices that share weights; the others repeat them (all)")
    add("--tensor", type=_positive, default=1, help="devices that share a layer (%(default)s)")
    add("--batch-tokens", type=_positive, default=32_768, help="of a forward pass (%(default)s)")
    add("--chunk-tokens", type=_positive, default=1024, help="of the LM head (%(default)s)")
    add("--cache-dir", help="where tokenised data are kept")
    options = parser.parse_args(arguments)
    if not options.promoted and not options.graded:
        parser.error("one of --promoted and --graded is needed")
    if options.seed < 0:
        parser.error("--seed must not be negative")
    return options


def check_output(folder: Path) -> None:
    """Refuses a folder that holds something else, before any work."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output: {folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not _ours(folder):
        raise ConfigError(
            f"--output: {folder} is not empty and holds no such selection; name a new folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output: {folder} cannot be made ({error.strerror}); name another folder"
        ) from None


def clear(folder: Path, work: Path) -> None:
    """Removes what a killed run left behind; nobody else is at work while the lock is held."""
    for path in folder.glob(".tmp-*"):
        if path != work:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def claim(folder: Path, settings: dict[str, Any]) -> bool:
    """Makes the folder this selection's; returns whether it is finished.

    A selection of other settings that wrote nothing but scores gives way: they have a header of
    their own.

    Raises:
      ConfigError: it belongs to another selection.
    """
    path = folder / SETTINGS
    if any((folder / name).exists() for name in WRITTEN):
        theirs = json.loads(path.read_text(encoding="utf-8"))
        for key in settings:
            if theirs.get(key) != settings[key]:
                raise ConfigError(
                    f"--output: {folder} holds a selection with {key} = {theirs.get(key)}, this "
                    f"one has {settings[key]}; name a new folder (and --scores to reuse scores)"
                )
        return (folder / RESULT).is_file()
    _write_json(path, settings)
    return False


def keep(work: Path, folder: Path) -> None:
    """Copies the sorted completions to where the record numbers of the scores can be looked up."""
    for path in work.glob("*.jsonl"):
        folder.mkdir(exist_ok=True)
        temporary = folder / f".{path.name}.tmp"
        shutil.copyfile(path, temporary)
        temporary.replace(folder / path.name)


def candidates(options: argparse.Namespace, work: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The files to choose from, and what was found out about them."""
    found: dict[str, Any] = {}
    sources = {}
    if options.promoted:
        column = graded.grade_column(options.promoted)
        if column:
            raise ConfigError(
                f"--promoted: {options.promoted} has a grade in {column!r}, but all of --promoted "
                "is taken as correct; give the file as --graded"
            )
        sources["promoted"] = options.promoted
        found["promoted"] = f"{options.promoted}, all taken as correct"
    if options.graded:
        right, wrong = work / "correct.jsonl", work / "wrong.jsonl"
        with progress.status("reading the graded completions"):
            read = graded.split_graded(options.graded, right, wrong)
        names = ", ".join(f"{role} in {name!r}" for role, name in read.columns.items())
        rows = {"columns": names, "correct": read.correct, "wrong": read.wrong}
        rows |= {f"left out: {reason}": count for reason, count in read.left_out.items()}
        progress.print_pairs("graded completions", rows)
        found["graded"] = rows
        for name, path, count in (
            ("promoted", right, read.correct),
            ("suppressed", wrong, read.wrong),
        ):
            if name not in sources:
                if not count:
                    kind = "correct" if name == "promoted" else "wrong"
                    raise ConfigError(
                        f"--graded: no {kind} completions; give others"
                        + (", or --promoted" if name == "promoted" else ", or leave it out")
                    )
                sources[name] = str(path)
    return sources, found


def tokenised(options: argparse.Namespace, name: str, path: str, tokenizer: Any) -> SupervisedData:
    """Token ids as training would have them; too long ones are dropped."""
    ours = options.promoted == path
    config = Data(
        path=path,
        format=options.format if ours else "prompt_completion",
        split=options.split if ours else "train",
        limit=options.limit if ours else None,
        template=options.template,
        max_prompt_tokens=options.max_prompt_tokens,
        max_response_tokens=options.max_response_tokens,
        cache_dir=options.cache_dir,
    )
    try:
        with progress.LazyBar(f"tokenising ({name})") as bar:
            data = build_dataset(
                config, tokenizer, seed=0, sequences_per_step=1, rows_per_microbatch=1, progress=bar
            )
    except ConfigError as error:
        option = "--promoted" if ours else "--graded"
        raise ConfigError(str(error).replace("data.path", option)) from None
    if data.drops:
        progress.print_pairs(f"{name}: records dropped", data.drops)
    for warning in data.warnings:
        print(f"warning: {name}: {warning}")
    return data


def score(
    options: argparse.Namespace,
    folder: Path,
    datasets: dict[str, SupervisedData],
    tokenizer: Any,
    model: models.ModelConfig,
    overrides: dict[str, Any],
    scored_with: dict[str, Any],
) -> dict[str, ScoreFile]:
    """Scores of all candidates, read from disk where they are known."""
    files, params = {}, None
    spread = (1, -1) if options.fsdp is None else (-1, options.fsdp)
    mesh = make_mesh(*spread, options.tensor)
    for name, data in datasets.items():
        responses = perplexity.Responses(data, tokenizer, options.context)
        longest = int(responses.max_lengths.max()) - 1
        models.check_context(model, longest, "--max-response-tokens")
        identity = scored_with | {"data": data.fingerprint}
        files[name] = ScoreFile(folder / f"{name}.jsonl", identity, len(responses))
    for name, data in datasets.items():
        if files[name].known.all():
            continue
        if params is None:
            with progress.status("reading the weights"):
                dtype = jnp.dtype(options.compute_dtype)
                model, params = models.load_pretrained(
                    options.model, dtype=dtype, mesh=mesh, overrides=overrides
                )
        with progress.LazyBar(f"scoring ({name}, tokens)") as bar:
            perplexity.score(
                params,
                model,
                perplexity.Responses(data, tokenizer, options.context),
                files[name],
                mesh,
                batch_tokens=options.batch_tokens,
                chunk_tokens=options.chunk_tokens,
                progress=bar,
            )
    for file in files.values():
        file.close()
    return files


def write(
    options: argparse.Namespace, source: str, data: SupervisedData, one: SelectedSet, path: Path
) -> None:
    """Writes the chosen records of a set."""
    ours = options.promoted == source
    with temporary_folder(options.output) as arrow:  # of no use once the choice is written
        records = load_records(
            source,
            format=options.format if ours else "prompt_completion",
            split=options.split if ours else "train",
            limit=options.limit if ours else None,
            cache_dir=arrow,
        )
        graded.write_chosen(
            path,
            (
                {
                    **records[int(data.records[index])],
                    "perplexity": float(one.perplexity[index]),
                    "response_tokens": int(one.tokens[index]),
                }
                for index in progress.track(
                    one.chosen.tolist(), f"writing {path.name}", total=len(one.chosen)
                )
            ),
        )


def finish(
    options: argparse.Namespace,
    sets: list[SelectedSet],
    settings: dict[str, Any],
    found: dict[str, Any],
) -> None:
    """The report, the summary on the terminal and the command that trains."""
    result = {
        "settings": settings,
        "found": found,
        "sets": [
            dict(zip(("set", *_KEYS), row, strict=True)) | {"notes": list(one.notes)}
            for one, row in zip(sets, summary_rows(sets), strict=True)
        ],
    }
    context = "its prompt" if options.context == "prompt" else "nothing, as OXA's release has it"
    write_selection_report(
        options.output / "report.html",
        title="OXA: what is promoted, what is suppressed",
        sets=sets,
        notes=[
            f"Perplexity of each response under {options.model}, following {context}. Promoted "
            "records were chosen to follow a Gaussian over perplexity, longest first, queries "
            "taking turns; suppressed samples are the wrong ones of lowest perplexity."
        ],
        settings=json.dumps(result, indent=1, ensure_ascii=False),
    )
    _write_json(options.output / RESULT, result)
    progress.print_table(COLUMNS, summary_rows(sets))
    for one in sets:
        for note in one.notes:
            print(f"warning: {one.name.lower()}: {note}")
    command = [
        "python -m curiojax.train configs/baselines/oxa.yaml",
        f"data.path={shlex.quote(str(options.output / 'promoted.parquet'))}",
    ]
    if len(sets) > 1:
        path = options.output / "suppressed.parquet"
        command.append(f"data.suppressed_path={shlex.quote(str(path))}")
    else:
        command.append("objective.ul_weight=0")
    command += [f"model.path={shlex.quote(options.model)}", f"data.template={options.template}"]
    for field in ("max_prompt_tokens", "max_response_tokens"):
        if getattr(options, field) != getattr(Data(), field):
            command.append(f"data.{field}={getattr(options, field)}")
    for field in ("rope_theta", "max_position_embeddings"):
        if getattr(options, field) is not None:
            command.append(f"model.{field}={getattr(options, field)}")
    progress.print_pairs("written", {"report": options.output / "report.html"})
    print("train with:\n  " + " ".join(command))


_KEYS = (
    "candidates",
    "queries",
    "asked_for",
    "chosen",
    "median_perplexity_before",
    "median_perplexity_after",
    "mean_tokens_before",
    "mean_tokens_after",
)


def _ours(folder: Path) -> bool:
    """A claimed folder, or one whose first run was killed before it could claim it."""
    names = (path.name for path in folder.iterdir())
    ours = (folder / SETTINGS).is_file()
    return ours or all(name == "lock" or name.startswith(".tmp-") for name in names)


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be positive")
    return value


if __name__ == "__main__":
    exit_on_config_error(main)
