"""What a selection leaves behind: the chosen records, a report and the command that trains."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.config import Data
from curiojax.data import SupervisedData, graded, load_records
from curiojax.data.store import temporary_folder
from curiojax.reports.selection import COLUMNS, SelectedSet, summary_rows, write_selection_report
from oxa_data.folder import RESULT, write_json

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
    write_json(options.output / RESULT, result)
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
