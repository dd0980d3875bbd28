"""Escaping: whatever a model or a user wrote stays text."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from curiojax.reports import page

from .samples import HOSTILE


class Document(HTMLParser):
    """Tags and text as a browser's parser splits them (scripts are raw text)."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_adds_no_tag_and_keeps_what_is_visible(text):
    document = Document(f"<p>{page.escape(text)}</p>")
    assert document.tags == ["p"]
    assert document.text == page.visible(text)
    document = Document(f'<p title="{page.escape(text)}"></p>')
    assert document.tags == ["p"]


def test_invisible_characters_are_spelled_out_and_text_is_left_alone():
    assert page.visible("\x00\x1b\u202e\u200b\ud800") == (
        "\u27e8U+0000\u27e9\u27e8U+001B\u27e9\u27e8U+202E\u27e9\u27e8U+200B\u27e9\u27e8U+D800\u27e9"
    )
    for text in (
        "caf\u00e9 \u6570\u5b66 \u05e9\u05dc\u05d5\u05dd \U0001f469\u200d\U0001f52c",
        "a\n\tb",
    ):
        assert page.visible(text) == text
    assert page.visible("a\r\nb\rc") == "a\nb\u27e8U+000D\u27e9c"


def test_json_in_a_script_cannot_end_it_and_reads_back():
    data = {"texts": HOSTILE, "n": [1.5, None]}
    document = Document(page.json_block("x", data))
    assert document.tags == ["script"]
    assert "<" not in document.text and "&" not in document.text
    assert json.loads(document.text) == data


def test_json_blocks_refuse_numbers_that_json_does_not_have():
    with pytest.raises(ValueError, match="JSON"):
        page.json_block("x", [float("nan")])


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (float("nan"), None),
        (float("inf"), None),
        (None, None),
        (True, None),
        ("1", None),
        (1, 1.0),
        (0.123456789, 0.12346),
    ],
)
def test_finite(value, want):
    assert page.finite(value) == want


def test_table_cells():
    html = page.table(["run", "acc"], [["<b>", 0.5], ["b", None]], "c & d")
    assert "&lt;b&gt;" in html and "<b>" not in html
    assert ">0.500<" in html and ">\u2013<" in html
    assert "c &amp; d" in html


def test_wide_tables_of_few_rows_come_turned_as_well():
    html = page.table(list("abcd"), [["x", 1, 2, 3]])
    assert html.count("<table>") == 2
    assert page.table(list("abc"), [["x", 1, 2]]).count("<table>") == 1


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="2 cells"):
        page.table(["a", "b"], [["x"]])


def test_page_allows_only_its_own_scripts():
    html = page.page("t", "<p>x</p>", scripts=["let a = '</script>'; // <!--"])
    assert "default-src 'none'" in html
    assert html.count("sha256-") == 1
    assert Document(html).tags.count("script") == 1
    assert "http://" not in html and "https://" not in html
