"""`write_rephrase_report`: what a model made of the questions of a data set, word by word."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curiojax.reports import page

# difflib takes quadratic time at worst; longer texts are shown one after the other.
_MAX_WORDS = 1500
# A LaTeX command, a word, a run of spaces, or one other character.
_WORD = re.compile(r"\\[A-Za-z]+|\w+|\s+|[^\w\s]")

_CSS = """
.table { max-width: 44rem; }
:root { --del: #f9d3ca; --ins: #cdeccb; }
@media screen and (prefers-color-scheme: dark) { :root { --del: #5e2b20; --ins: #1f4a26; } }
.diff { margin: 0 0 1rem; background: var(--surface); border: 1px solid var(--line);
  border-radius: 10px; padding: 0.8rem 1rem; }
.diff p { white-space: pre-wrap; max-width: none; margin: 0; }
.diff figcaption { margin-bottom: 0.4rem; }
.diff del { background: var(--del); text-decoration: line-through; border-radius: 3px; }
.diff ins { background: var(--ins); text-decoration: none; border-radius: 3px; }
@media print { .diff { break-inside: avoid; }
  .diff del, .diff ins { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  .diff ins { text-decoration: underline; } }
"""


@dataclass(frozen=True)
class Diff:
    """A question and its rewriting.

    Attributes:
      heading: which row it is, and what was decided.
      old, new: the texts; untrusted.
    """

    heading: str
    old: str
    new: str


def word_diff(old: str, new: str) -> str:
    """Both texts in one, as HTML: what went in `<del>`, what came in `<ins>`."""
    before, after = _WORD.findall(old), _WORD.findall(new)
    if max(len(before), len(after)) > _MAX_WORDS:
        return f"{_marked('del', old)}\n\n{_marked('ins', new)}"
    parts = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind == "equal":
            parts.append(page.escape("".join(before[i:j])))
        else:
            parts.append(_marked("del", "".join(before[i:j])))
            parts.append(_marked("ins", "".join(after[k:m])))
    return "".join(parts)


def write_rephrase_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    counts: Mapping[str, Any],
    spent: Mapping[str, Any],
    rejected: Mapping[str, int],
    accepted: Sequence[Diff],
    kept: Sequence[Diff],
    notes: Sequence[str] = (),
    settings: str = "",
) -> Path:
    """Writes a self-contained HTML file and returns its path.

    Args:
      path: the file; it is replaced in one go.
      title: heading of the report.
      counts: rows by what became of them.
      spent: tokens, cost and the like.
      rejected: rows that kept their question, by the check that rejected the reply.
      accepted: rewritings that were taken.
      kept: rewritings that were rejected.
      notes: paragraphs of plain text below the heading.
      settings: shown collapsed at the end.
    """
    body = [
        page.section("Rows", _pairs("became", "rows", counts), "rows"),
        page.section("Spent", _pairs("of the whole job", "amount", spent), "spent"),
        page.section("Rejected replies", _pairs("reason", "rows", rejected), "rejected"),
        page.section("Rewritings taken", _diffs(accepted), "taken"),
        page.section("Rewritings rejected", _diffs(kept), "kept"),
    ]
    if settings:
        text = page.details("How this was made", settings)
        body.append(page.section("Settings", text, "settings"))
    heading = f"<h1>{page.escape(title)}</h1>{page.paragraphs(notes)}{page.contents(body)}"
    document = page.page(title, "\n".join([f"<header>{heading}</header>", *body]), css=_CSS)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(document, encoding="utf-8")
    temporary.replace(path)
    return path


def _pairs(name: str, value: str, pairs: Mapping[str, Any]) -> str:
    return page.table((name, value), [[key, item] for key, item in pairs.items()])


def _diffs(diffs: Sequence[Diff]) -> str:
    if not diffs:
        return '<p class="empty">None.</p>'
    return "".join(
        f'<figure class="diff"><figcaption>{page.escape(one.heading)}</figcaption>'
        f"<p>{word_diff(one.old, one.new)}</p></figure>"
        for one in diffs
    )


def _marked(tag: str, text: str) -> str:
    return f"<{tag}>{page.escape(text)}</{tag}>" if text else ""
