"""Removes noise from the questions of a data set with a language model; answers stay as they are.

    export OPENAI_API_KEY=...
    python tools/rephrase_questions.py --data train.parquet --output rephrased.parquet \\
        --base-url https://HOST/v1 --model NAME --price-in 0.3 --price-out 0.5 --budget 20

Any data that training reads, any OpenAI-compatible endpoint; the prompt is that of CurioSFT's Table
8 unless --template names another. The output has all columns of the input, the question replaced
where it was, and four more: question_original, rephrase_status, rephrase_model, rephrase_template.

rephrase_status is `rephrased`, `unchanged`, `rejected: REASON` (a check did not trust the reply),
`failed: REASON` (no reply), `skipped: REASON` (no single question in the row) or `not asked`. In
all but the first the question is the original one.

Replies are kept in OUTPUT.replies as they arrive: Ctrl-C, a kill or a spent budget loses none, and
the same command goes on; with other limits for the checks nothing is asked again. OUTPUT.html shows
examples of what was taken and what was rejected. --dry-run sends nothing and says what it would
cost; --export-batch and --import-batch go by files instead of requests.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.data import records
from curiojax.data.rephrase import batch, decisions, rows, run, spending
from curiojax.data.rephrase.cache import Cache
from curiojax.data.rephrase.collect import Way, collect, unanswered
from curiojax.data.rephrase.guards import Limits
from curiojax.data.rephrase.job import Job
from curiojax.data.rephrase.template import Request, read_template, sampling_fields
from curiojax.data.schemas import FORMATS
from curiojax.data.store import temporary_folder
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.reports.rephrase import Diff, write_rephrase_report

_OPTIONS = {"data.path": "--data", "data.split": "--split", "data.format": "--format"}


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    try:
        rephrase(options)
    except ConfigError as error:
        text = str(error)
        for field, option in _OPTIONS.items():
            text = text.replace(field, option)
        raise ConfigError(text) from None


def rephrase(options: argparse.Namespace) -> None:
    """The whole of it: rows, replies, checks, files."""
    fields = sampling_fields(options.temperature, options.max_tokens, options.extra)
    request = Request(options.model, read_template(options.template), fields)
    prices = spending.Prices(options.price_in, options.price_out)
    spending.check_budget(options.budget, request, prices)
    limits = Limits(options.max_length, options.min_length, options.max_lost, options.max_added)
    job = Job(options.output) if options.output else None
    identity = identify(options, request, limits)
    if job is not None:
        rows.check_suffix(job.output)
        job.check(identity)
    with temporary_folder(records.default_cache_dir()) as arrow:
        with progress.LazyBar("reading") as bar:
            source = rows.read_source(
                options.data,
                format=options.format,
                split=options.split,
                limit=options.limit,
                cache_dir=arrow,
                progress=bar,
            )
        path = options.cache or (job.replies if job else None)
        if options.dry_run or options.export_batch:
            known = Cache(path, write=False) if path else None
            left = unanswered(source.different(), request, known)
            if options.dry_run:
                show_estimate(source, request, left, prices)
            else:
                export(options.export_batch, request, left)
            return
        assert job is not None and path is not None
        with Cache(path) as cache:
            failed = collect(way(options, prices), request, source.different(), cache)
            decided = decisions.judge_rows(source, request, cache, limits, failed)
        job.check(identity)
        write(options, job, identity, request, source, decided, prices)


def way(options: argparse.Namespace, prices: spending.Prices) -> Way:
    """How replies are got."""
    return Way(
        base_url=options.base_url,
        api_key_env=options.api_key_env,
        imported=options.import_batch,
        partial=options.partial,
        patience=run.Patience(
            options.concurrency, options.timeout, options.retries, options.backoff
        ),
        prices=prices,
        budget=options.budget,
    )


def write(
    options: argparse.Namespace,
    job: Job,
    identity: dict[str, Any],
    request: Request,
    source: rows.Source,
    decided: decisions.Decisions,
    prices: spending.Prices,
) -> None:
    """Output, report and what the job was; then the summary on the terminal."""
    job.claim(identity)
    with progress.LazyBar("writing") as bar:
        rows.write_rows(
            job.output,
            source,
            decided.results,
            model=request.model,
            template=request.template.digest,
            progress=bar,
        )
    result = decisions.summary(decided, prices)
    spent = {label: result[name] for name, label in decisions.SPENT.items()}
    notes = [
        f"{len(source):,} rows of {options.data}, rewritten by {request.model}. Gold answers are "
        "as they were.",
        "Removed words are struck through, new ones are marked. Of the rewritings that were taken "
        "20 are shown, of those that a check rejected three for each reason, all drawn at random. "
        "Rows count from 0.",
    ]
    if decided.tokens.guessed:
        notes.append(
            f"{decided.tokens.guessed:,} replies came without a count of tokens; they are counted "
            "as one token for every three characters."
        )
    write_rephrase_report(
        job.report,
        title="Rephrased questions",
        counts=decided.kinds(),
        spent=spent,
        rejected=decided.rejected(),
        accepted=[diff(one) for one in decided.examples if one.reason is None],
        kept=[diff(one) for one in decided.examples if one.reason is not None],
        notes=notes,
        settings=json.dumps(identity, indent=1, ensure_ascii=False),
    )
    job.claim(identity, result)
    progress.print_pairs("rows", dict(sorted(decided.statuses.items())))
    progress.print_pairs("spent", spent)
    progress.print_pairs("written", {"data": job.output, "report": job.report})
    for reason, count in decided.statuses.items():
        if reason.startswith("failed") or reason == decisions.NOT_ASKED:
            print(f"warning: {count:,} rows {reason}; the same command asks again")


def diff(one: decisions.Example) -> Diff:
    parts = [f"row {one.row:,}", one.reason, one.detail]
    return Diff(": ".join(part for part in parts if part), one.question, one.reply)


def show_estimate(
    source: rows.Source, request: Request, left: list[str], prices: spending.Prices
) -> None:
    """What asking would take."""
    tokens = spending.guess(request, left)
    cost = prices.cost(tokens.input, tokens.output)
    pairs: dict[str, Any] = {
        "rows": len(source),
        "rows without a question": len(source.skipped),
        "different questions": len(source.different()),
        "to ask": len(left),
        "tokens in, about": tokens.input,
        "tokens out, about": tokens.output,
        "cost, about": "give --price-in and --price-out" if cost is None else f"{cost:.4g}",
        "how": "one token for every three characters; a reply as long as its question",
    }
    progress.print_pairs("nothing was sent", pairs)


def export(path: Path, request: Request, left: list[str]) -> None:
    """The requests as a batch's input file."""
    size = batch.export_batch(path, request, left)
    progress.print_pairs("written", {str(path): f"{len(left):,} requests"})
    if len(left) > batch.MAX_REQUESTS or size > batch.MAX_BYTES:
        print(
            f"warning: {len(left):,} requests and {size:,} bytes; OpenAI takes "
            f"{batch.MAX_REQUESTS:,} and {batch.MAX_BYTES:,} in a file; cut it between lines"
        )


def identify(options: argparse.Namespace, request: Request, limits: Limits) -> dict[str, Any]:
    """What decides the output."""
    return {
        "data": records.source_fingerprint(options.data, options.split),
        "format": options.format,
        "limit": options.limit,
        "model": request.model,
        "sampling": request.sampling,
        "template": request.template.digest,
        "checks": dataclasses.asdict(limits),
    }


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    limits, patience = Limits(), run.Patience()
    add = parser.add_argument
    add("--data", required=True, help="hub id, or parquet, JSONL or JSON: whatever data.path takes")
    add("--output", type=Path, help="a new .parquet or .jsonl file, or one to go on with")
    add("--format", choices=list(FORMATS), help="instead of detecting the schema")
    add("--split", default="train", help="of a hub data set (%(default)s)")
    add("--limit", type=_positive, help="take the first rows only")
    add("--cache", type=Path, help="file of the replies; default: OUTPUT.replies")
    add("--partial", action="store_true", help="write the output though replies are missing")

    group = parser.add_argument_group("the model")
    add = group.add_argument
    add("--base-url", help="such as https://api.openai.com/v1 or http://localhost:8000/v1")
    add("--model", required=True, help="its name at the endpoint")
    add("--api-key-env", default="OPENAI_API_KEY", help="variable with the key (%(default)s)")
    add("--template", type=Path, help="text file with {question} in it; default: Table 8")
    add("--temperature", type=float, default=0.0, help="(%(default)s)")
    add("--max-tokens", type=_positive, default=1024, help="of a reply (%(default)s)")
    add("--extra", default="{}", help="further fields of the request as JSON; null removes one")

    group = parser.add_argument_group("requests")
    add = group.add_argument
    add("--concurrency", type=_positive, default=patience.concurrency, help="(%(default)s)")
    add("--timeout", type=_seconds, default=patience.timeout, help="seconds (%(default)s)")
    add("--retries", type=_not_negative, default=patience.retries, help="(%(default)s)")
    add("--backoff", type=_seconds, default=patience.backoff, help="seconds (%(default)s)")

    group = parser.add_argument_group("money, in any currency")
    add = group.add_argument
    add("--price-in", type=_amount, help="per million tokens of prompts")
    add("--price-out", type=_amount, help="per million tokens of replies")
    add("--budget", type=_amount, help="stop before the replies of this job cost more")
    add("--dry-run", action="store_true", help="send nothing; say what it would cost")

    group = parser.add_argument_group("batch files")
    add = group.add_argument
    add("--export-batch", type=Path, metavar="JSONL", help="write the requests, send nothing")
    add("--import-batch", type=Path, metavar="JSONL", help="read the replies, send nothing")

    group = parser.add_argument_group("checks; what fails one keeps its question")
    add = group.add_argument
    add("--max-length", type=_amount, default=limits.max_length, help="times the question's")
    add("--min-length", type=_amount, default=limits.min_length, help="times the question's")
    add("--max-lost", type=_amount, default=limits.max_lost, help="share of numbers or formulas")
    add("--max-added", type=_amount, default=limits.max_added, help="share of numbers or formulas")
    options = parser.parse_args(arguments)
    sends_nothing = options.dry_run or options.export_batch or options.import_batch
    if not (sends_nothing or options.partial or options.base_url):
        parser.error("--base-url is needed (or --dry-run, --export-batch, --import-batch)")
    if options.output is None and not (options.dry_run or options.export_batch):
        parser.error("--output is needed")
    if sum(map(bool, (options.dry_run, options.export_batch, options.import_batch))) > 1:
        parser.error("--dry-run, --export-batch and --import-batch exclude each other")
    return options


def _positive(text: str) -> int:
    return int(_number(text, int(text) >= 1, "must be positive"))


def _not_negative(text: str) -> int:
    return int(_number(text, int(text) >= 0, "must not be negative"))


def _seconds(text: str) -> float:
    return _number(text, 0 < float(text) < math.inf, "must be positive")


def _amount(text: str) -> float:
    return _number(text, 0 <= float(text) < math.inf, "must not be negative")


def _number(text: str, fine: bool, message: str) -> float:
    if not fine:
        raise argparse.ArgumentTypeError(message)
    return float(text)


if __name__ == "__main__":
    exit_on_config_error(main)
