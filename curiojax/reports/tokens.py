"""The token view: one expert response, every token on a background that shows a number.

The text and its colours are plain HTML and CSS, so a response of thousands of tokens scrolls and
recolours without a script touching them; the script only fills the panel with the numbers of the
token under the pointer or the focus. Each colour scale is a straight line in OKLab, mixed by the
browser (for the weight two lines that meet at 1), hence perceptually uniform, from the page's own
background to a colour on which its text keeps a contrast of 4.5 or more. A test holds that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curiojax.reports.page import escape, finite

BINS = 25  # odd: the diverging scale has a middle
FIELDS = (
    "entropy",
    "tau",
    "weight",
    "log_prob",
    "teacher_log_prob",
    "teacher_entropy",
)


@dataclass(frozen=True)
class Mode:
    """One way to colour the tokens: which number, its range and what it means."""

    field: str
    label: str
    prefix: str  # of its CSS classes
    low: float
    high: float
    ticks: tuple[str, ...]
    meaning: str


def token_css() -> str:
    """Style rules that colour the tokens: one class per bin, one parent class per mode."""
    rules = []
    middle = BINS // 2
    for i in range(BINS):
        rules.append(f".by-entropy .e{i},.by-tau .u{i}{{--share:{100 * i / (BINS - 1):.4g}%}}")
        side = "less" if i < middle else "more"
        share = 100 * abs(i - middle) / middle
        rules.append(f".by-weight .w{i}{{--end:var(--{side});--share:{share:.4g}%}}")
    return "\n".join(rules)


def token_modes(tokens: Sequence[Mapping[str, Any]]) -> list[Mode]:
    """The colourings for which at least one token has a number, with their ranges."""
    modes = []
    values = _finite_values(tokens, "entropy")
    if values:
        top = _round_up(_upper(values))
        modes.append(
            Mode(
                "entropy",
                "Entropy",
                "e",
                0.0,
                top,
                ("0", f"{top / 2:g}", _at_most(top, values) + " nats"),
                "Entropy of the model's next-token distribution at this position, over the whole "
                "vocabulary: 0 when one token has all the probability, ln(n) when n tokens are "
                "equally likely.",
            )
        )
    values = _finite_values(tokens, "tau")
    if values:
        top = max(1.5, _round_up(max(values)))
        modes.append(
            Mode(
                "tau",
                "Temperature",
                "u",
                1.0,
                top,
                ("1", f"{(1 + top) / 2:g}", f"{top:g}"),
                "Temperature tau by which the teacher's logits are divided at this position; above "
                "1 it flattens the teacher's distribution.",
            )
        )
    values = _finite_values(tokens, "weight")
    if values:
        spread = max(0.1, _round_up(_upper([abs(v - 1) for v in values])))
        modes.append(
            Mode(
                "weight",
                "Weight",
                "w",
                1 - spread,
                1 + spread,
                (f"\u2264 {1 - spread:.3g}", "1", f"\u2265 {1 + spread:.3g}"),
                "Weight w of this token in the gradient; in plain cross-entropy it is 1. Below 1 "
                "the token is learnt less strongly, above 1 more strongly; below 0 it is made less "
                "likely.",
            )
        )
    return modes


def token_view(view: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """HTML and data (for the script) of a token view.

    Args:
      view: {"title": str, "prompt": str, "tokens": [{"text": str, "entropy": float, ...}]}; the
        numbers of a token are those of `FIELDS`, each may be missing, None or not finite.
    """
    tokens = list(view.get("tokens") or [])
    prompt = view.get("prompt")
    parts = []
    if view.get("title"):
        parts.append(f"<p>{escape(view['title'])}</p>")
    if prompt:
        parts.append(f"<details><summary>Prompt</summary><pre>{escape(prompt)}</pre></details>")
    modes = token_modes(tokens)
    if not tokens:
        parts.append('<p class="empty">No tokens to show.</p>')
        return "".join(parts), {}
    first = modes[0].field if modes else "none"
    parts.append(_controls(modes, len(tokens)))
    spans = "".join(_token(i, token, modes) for i, token in enumerate(tokens))
    parts.append(
        f'<div id="tokens" class="tokens by-{first}" dir="ltr" role="group" '
        f'aria-label="{len(tokens)} tokens; arrow keys move from token to token">{spans}</div>'
        '<div id="token-panel" class="panel" role="status" hidden></div>'
    )
    data = {
        field: [finite(token.get(field), 4) for token in tokens]
        for field in FIELDS
        if _finite_values(tokens, field)
    }
    return "".join(parts), data


def _controls(modes: Sequence[Mode], count: int) -> str:
    if not modes:
        return ""
    buttons = "".join(
        f'<label><input type="radio" name="colour" value="{mode.field}"'
        f"{' checked' if i == 0 else ''}><span>{mode.label}</span></label>"
        for i, mode in enumerate(modes)
    )
    legends = "".join(
        f'<div class="legend" data-mode="{mode.field}"{"" if i == 0 else " hidden"}>'
        f'<div class="scale scale-{mode.field}"></div>'
        f'<div class="ticks">{"".join(f"<span>{escape(t)}</span>" for t in mode.ticks)}</div>'
        f'<p class="caption">{escape(mode.meaning)}</p></div>'
        for i, mode in enumerate(modes)
    )
    return (
        '<div class="controls"><fieldset class="switch"><legend>Colour</legend>'
        f'{buttons}</fieldset><span class="hint">{count:,} tokens. '
        f"Point at, tap or focus one for its numbers.</span></div>{legends}"
    )


def _token(index: int, token: Mapping[str, Any], modes: Sequence[Mode]) -> str:
    classes = ["t"]
    for mode in modes:
        value = finite(token.get(mode.field))
        if value is not None:
            classes.append(f"{mode.prefix}{_bin(value, mode.low, mode.high)}")
    tab = 0 if index == 0 else -1
    return (
        f'<span class="{" ".join(classes)}" tabindex="{tab}">{_shown(str(token.get("text", "")))}'
        "</span>"
    )


def _shown(text: str) -> str:
    """A token's text with marks where it would otherwise be invisible."""
    if not text:
        return '<i class="m">\u2205</i>'
    shown = escape(text)
    if text.strip(" ") == "":
        return shown.replace(" ", '<i class="m">\u00b7</i>')
    shown = shown.replace("\t", '<i class="m">\u21e5</i>\t')
    return shown.replace("\n", '<i class="m">\u21b5</i>\n')


def _bin(value: float, low: float, high: float) -> int:
    return round((min(max(value, low), high) - low) / (high - low) * (BINS - 1))


def _finite_values(tokens: Sequence[Mapping[str, Any]], field: str) -> list[float]:
    numbers = (finite(token.get(field)) for token in tokens)
    return [number for number in numbers if number is not None]


def _upper(values: Sequence[float]) -> float:
    """The 98th percentile: a few extreme tokens must not bleach all others."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(0.98 * len(ordered)))]


def _round_up(value: float) -> float:
    """The next larger of 1, 1.5, 2, 3, 4, 5, 6, 8, 10 times a power of ten, at least 0.1."""
    if value <= 0.1:
        return 0.1
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
    return next(round(step * power, 9) for step in steps if step * power >= value * (1 - 1e-9))


def _at_most(top: float, values: Sequence[float]) -> str:
    return f"{top:g}" if max(values) <= top else f"\u2265 {top:g}"
