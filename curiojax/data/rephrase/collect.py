"""Getting the replies that a data set still lacks, from an endpoint or from a batch's file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curiojax import progress
from curiojax.data.rephrase import batch, client, run, spending
from curiojax.data.rephrase.cache import Cache
from curiojax.data.rephrase.template import Request
from curiojax.errors import ConfigError


@dataclass(frozen=True)
class Way:
    """How replies are got; with neither an address nor a file, those at hand must do.

    Attributes:
      base_url: of an endpoint.
      api_key_env: the environment variable with its key.
      imported: a batch's output file.
      partial: whether it is fine if some are missing in the end.
      patience: with the endpoint.
      prices, budget: what it may cost, all replies of these questions together.
    """

    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    imported: Path | None = None
    partial: bool = False
    patience: run.Patience = field(default_factory=run.Patience)
    prices: spending.Prices = field(default_factory=spending.Prices)
    budget: float | None = None


def unanswered(questions: Sequence[str], request: Request, cache: Cache | None) -> list[str]:
    """Those of the questions that the cache has no reply to."""
    return [q for q in questions if cache is None or request.key(q) not in cache]


def collect(way: Way, request: Request, questions: Sequence[str], cache: Cache) -> dict[str, str]:
    """Fills the cache; returns the questions that were given up, with the reason.

    Args:
      way: how.
      request: model, prompt and sampling.
      questions: all different.
      cache: where replies are and go.

    Raises:
      ConfigError: some questions were not even asked (see `Way.partial`), or no request can work.
      KeyboardInterrupt: some were not asked because of a signal.
    """
    outcome = run.Outcome()
    if way.imported is not None:
        result = batch.import_batch(way.imported, request, questions, cache)
        counts = {"new replies": result.new, "known already": result.known}
        counts["of other jobs"] = result.foreign
        progress.print_pairs(str(way.imported), counts | dict(result.failed))
    elif way.base_url is not None:
        outcome = _ask(way, way.base_url, request, questions, cache)
    left = [q for q in unanswered(questions, request, cache) if q not in outcome.failed]
    if outcome.failed and len(outcome.failed) + len(left) == len(questions):
        reason = next(iter(outcome.failed.values()))
        raise ConfigError(f"--base-url: not one question was answered ({reason})")
    if not left or way.partial:
        return outcome.failed
    if outcome.stopped == run.INTERRUPTED:
        raise KeyboardInterrupt
    state = f"{len(left):,} of {len(questions):,} questions have no reply yet"
    partial = "or add --partial to write what there is"
    if outcome.stopped == run.BUDGET:
        tokens = spending.spent_on(request, questions, cache)
        cost = way.prices.cost(tokens.input, tokens.output) or 0.0
        raise ConfigError(
            f"--budget: {cost:.4g} of {way.budget:g} is spent and the next request might not fit; "
            f"{state}; raise it and run the same command again, {partial}"
        )
    raise ConfigError(f"--import-batch: {state}; ask for the others by --base-url, {partial}")


def _ask(
    way: Way, base_url: str, request: Request, questions: Sequence[str], cache: Cache
) -> run.Outcome:
    left = unanswered(questions, request, cache)
    if not left:
        return run.Outcome()
    client.check_address(base_url)
    key = client.read_key(way.api_key_env)
    if key and client.is_exposed(base_url):
        print("warning: --base-url is not https: the key goes there unencrypted", file=sys.stderr)
    tokens = spending.spent_on(request, questions, cache)
    ledger = spending.Ledger(request, way.prices, way.budget, tokens)
    with progress.LazyBar("asking") as bar:
        outcome = run.ask_all(
            request,
            left,
            cache,
            lambda: client.Endpoint(
                base_url,
                key,
                timeout=way.patience.timeout,
                connections=way.patience.concurrency,
            ),
            way.patience,
            ledger,
            bar,
        )
    counts: dict[str, Any] = {"requests": outcome.requests, "answered": outcome.answered}
    counts |= {f"tried again: {reason}": n for reason, n in outcome.again.items()}
    counts |= {"given up": len(outcome.failed)} if outcome.failed else {}
    if ledger.lost:
        counts["at most billed without a reply"] = f"{ledger.lost:.4g}"
    progress.print_pairs("this run", counts)
    return outcome
