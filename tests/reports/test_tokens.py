from __future__ import annotations

import math
import re

import pytest

from curiojax.reports import page, tokens

from .samples import HOSTILE, token_view
from .test_page import Document


def test_tokens_keep_order_and_text():
    view = token_view(2, hostile=True)
    html, data = tokens.token_view(view)
    spans = re.findall(r'<span class="t[^"]*" tabindex="-?\d">(.*?)</span>', html, flags=re.S)
    assert len(spans) == len(view["tokens"])
    marks = re.compile(r'<i class="m">(.)</i>')
    for span, token in zip(spans, view["tokens"], strict=True):
        text = token["text"]
        if not text or text.strip(" ") == "":
            assert marks.sub("", span) == ""  # only marks: an empty or blank token
        else:
            assert Document(marks.sub("", span)).text == page.visible(text)
    assert len(data["entropy"]) == len(spans)


def test_hostile_tokens_add_no_elements():
    html, _ = tokens.token_view({"tokens": [{"text": t, "entropy": 1.0} for t in HOSTILE]})
    assert not {"script", "img"} & set(Document(html).tags)


def test_numbers_land_in_their_bins():
    entropies = [0.0, 0.5, 1.0]
    html, data = tokens.token_view({"tokens": [{"text": "x", "entropy": e} for e in entropies]})
    assert re.findall(r'class="t e(\d+)"', html) == ["0", "12", "24"]
    assert data == {"entropy": entropies}


def test_weights_diverge_around_one():
    weights = [0.5, 1.0, 1.5, -7.0]
    view = {"tokens": [{"text": "x", "weight": w} for w in weights * 30]}
    html, _ = tokens.token_view(view)
    bins = [int(b) for b in re.findall(r'class="t w(\d+)"', html)[:4]]
    assert bins[1] == tokens.BINS // 2
    assert bins[3] <= bins[0] < bins[1] < bins[2]


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), "absent"])
def test_missing_numbers_leave_a_token_uncoloured(missing):
    bad = {"text": "b"} if missing == "absent" else {"text": "b", "entropy": missing}
    html, data = tokens.token_view({"tokens": [{"text": "a", "entropy": 1.0}, bad]})
    assert '<span class="t" tabindex="-1">b</span>' in html
    assert data["entropy"] == [1.0, None]


def test_runs_without_a_teacher_offer_only_entropy():
    modes = tokens.token_modes([{"text": "a", "entropy": 1.0, "tau": None}])
    assert [mode.field for mode in modes] == ["entropy"]


def test_a_few_extreme_tokens_do_not_bleach_the_others():
    modes = tokens.token_modes([{"entropy": 0.9}] * 99 + [{"entropy": 11.0}])
    assert modes[0].high == 1.0
    assert modes[0].ticks[-1].startswith("\u2265")


@pytest.mark.parametrize("view", [{}, {"tokens": []}, {"tokens": [{"text": "a"}]}])
def test_views_without_tokens_or_numbers(view):
    html, data = tokens.token_view(view)
    assert data == {}
    assert ("No tokens" in html) == (not view.get("tokens"))


@pytest.mark.parametrize("value", [1e-9, 0.1, 0.11, 0.97, 1.0, 1.01, 3.3, 9.5, 11.0])
def test_scales_end_just_above_their_largest_value(value):
    top = tokens._round_up(value)
    assert top >= value and (top <= 2 * value or top == 0.1)
    assert math.isclose(float(f"{top:.2g}"), top)
