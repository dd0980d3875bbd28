"""What became of every row: the checks' verdicts, counts, and examples to look at."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from curiojax.data.rephrase import guards, spending
from curiojax.data.rephrase.cache import Cache
from curiojax.data.rephrase.rows import Result, Source
from curiojax.data.rephrase.template import Request

REPHRASED, UNCHANGED, NOT_ASKED = "rephrased", "unchanged", "not asked"
# What `summary` says of tokens and money, in words.
SPENT = {
    "replies": "replies",
    "tokens_in": "tokens in",
    "tokens_out": "tokens out",
    "cost": "cost",
    "characters_before": "characters of replaced questions before",
    "characters_after": "characters of replaced questions after",
}
_EXAMPLES, _PER_REASON = 20, 3


@dataclass(frozen=True)
class Example:
    """A question and a reply, for the report.

    Attributes:
      row: number of the row, from 0.
      reason: why the reply was rejected, or None.
      detail: what the check found.
    """

    row: int
    question: str
    reply: str
    reason: str | None = None
    detail: str = ""


@dataclass
class Decisions:
    """Verdicts on all rows of a source.

    Attributes:
      results: one per row.
      statuses: rows by status.
      labelled: replies whose leading `Output:` was taken off.
      tokens: of all replies at hand, each counted once, however many rows share it.
      characters: of the accepted questions, before and after.
      examples: random accepted rewritings, and some rejected ones of each reason.
    """

    results: list[Result] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    labelled: int = 0
    tokens: spending.Tokens = field(default_factory=spending.Tokens)
    characters: tuple[int, int] = (0, 0)
    examples: list[Example] = field(default_factory=list)

    def kinds(self) -> dict[str, int]:
        """Rows by the kind of their status, that is without its reason."""
        counts: Counter[str] = Counter()
        for status, count in self.statuses.items():
            counts[status.partition(":")[0]] += count
        return dict(sorted(counts.items()))

    def rejected(self) -> dict[str, int]:
        """Rows that kept their question because of a check, by reason; all reasons, in order."""
        return {reason: self.statuses[f"rejected: {reason}"] for reason in guards.REASONS}


def judge_rows(
    source: Source,
    request: Request,
    cache: Cache,
    limits: guards.Limits,
    failed: dict[str, str],
    *,
    seed: int = 0,
) -> Decisions:
    """Decides for every row whether its question is replaced; the same input, the same decisions.

    Args:
      source: the rows.
      request: what the replies came from.
      cache: the replies.
      limits: of the checks.
      failed: questions that got no reply, with the reason.
      seed: of the choice of examples.
    """
    decisions = Decisions(tokens=spending.spent_on(request, source.different(), cache))
    accepted: list[Example] = []
    rejected: dict[str, list[Example]] = {}
    before = after = 0
    shown: set[str] = set()  # questions that are examples already
    for row, question in enumerate(source.questions):
        reply = None if question is None else cache.get(request.key(question))
        if question is None:
            result = Result(f"skipped: {source.skipped[row]}", asked=False)
        elif reply is None:
            why = failed.get(question)
            # Without what the endpoint had to say in particular: a status is to be counted.
            result = Result(f"failed: {why.partition(':')[0]}" if why else NOT_ASKED, asked=False)
        else:
            verdict = guards.judge(question, reply, source.golds[row], limits)
            decisions.labelled += verdict.labelled
            example = Example(row, question, verdict.text, verdict.reason, verdict.detail)
            new = question not in shown
            shown.add(question)
            if verdict.reason is not None:
                result = Result(f"rejected: {verdict.reason}")
                if new:
                    rejected.setdefault(verdict.reason, []).append(example)
            elif verdict.text == question:
                result = Result(UNCHANGED)
            else:
                result = Result(REPHRASED, verdict.text)
                if new:
                    accepted.append(example)
                before, after = before + len(question), after + len(verdict.text)
        decisions.results.append(result)
        decisions.statuses[result.status] += 1
    decisions.characters = (before, after)
    draw = random.Random(seed)
    decisions.examples = _some(draw, accepted, _EXAMPLES)
    for reason in guards.REASONS:
        decisions.examples += _some(draw, rejected.get(reason, []), _PER_REASON)
    return decisions


def summary(decisions: Decisions, prices: spending.Prices) -> dict[str, Any]:
    """The counts as plain JSON values."""
    before, after = decisions.characters
    return {
        "rows": len(decisions.results),
        "statuses": dict(sorted(decisions.statuses.items())),
        "labels_removed": decisions.labelled,
        "characters_before": before,
        "characters_after": after,
        "replies": decisions.tokens.replies,
        "replies_without_usage": decisions.tokens.guessed,
        "tokens_in": decisions.tokens.input,
        "tokens_out": decisions.tokens.output,
        "cost": prices.cost(decisions.tokens.input, decisions.tokens.output),
    }


def _some(draw: random.Random, examples: list[Example], count: int) -> list[Example]:
    chosen = draw.sample(examples, min(count, len(examples)))
    return sorted(chosen, key=lambda example: example.row)
