"""The report on rewritten questions: what it marks, and that texts stay texts."""

import re
from html.parser import HTMLParser

from curiojax.reports.rephrase import Diff, word_diff, write_rephrase_report

OLD = "(20 points) Let $x \\neq 0$ and $y$ be real. (1) Find $\\frac{x}{y}$;  thanks"
NEW = "Let $x \\neq 0$ and $z$ be real. Find $\\frac{x}{y}$."


def sides(html):
    """What a diff leaves when the removed, or the added, words are taken out."""

    class Text(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tag, self.old, self.new, self.tags = None, "", "", []

        def handle_starttag(self, tag, attributes):
            self.tag = tag
            self.tags.append((tag, attributes))

        def handle_endtag(self, tag):
            self.tag = None

        def handle_data(self, data):
            self.old += data * (self.tag != "ins")
            self.new += data * (self.tag != "del")

    parser = Text()
    parser.feed(html)
    parser.close()
    return parser


def test_a_diff_holds_both_texts_and_marks_single_words():
    html = word_diff(OLD, NEW)
    found = sides(html)
    assert (found.old, found.new) == (OLD, NEW)
    assert "<del>y</del><ins>z</ins>" in html
    assert re.findall("<ins>(.*?)</ins>", html) == ["z", "."]
    assert word_diff(OLD, OLD) == OLD


def test_texts_are_texts():
    hostile = '<script>alert(1)</script><img src=x onerror="a">&amp;</del>'
    for old, new in ((hostile, "a"), ("a", hostile), (hostile, hostile + "!")):
        found = sides(word_diff(old, new))
        assert (found.old, found.new) == (old, new)
        assert {tag for tag, _ in found.tags} <= {"del", "ins"}
        assert not any(attributes for _, attributes in found.tags)
    assert "U+202E" in word_diff("a \u202e b", "a b")


def test_long_texts_come_one_after_the_other():
    old, new = "a b " * 2000, "b a " * 2000
    assert word_diff(old, new) == f"<del>{old}</del>\n\n<ins>{new}</ins>"


def test_the_report(tmp_path):
    path = write_rephrase_report(
        tmp_path / "sub" / "r.html",
        title="A <title>",
        counts={"rephrased": 3, "rejected: empty": 1},
        spent={"replies": 4, "tokens in": 12_345, "cost": None},
        rejected={"empty": 1, "numbers differ": 0},
        accepted=[Diff("row 7", OLD, NEW)],
        kept=[],
        notes=["Some <note>."],
        settings='{"a": "</pre><script>"}',
    )
    text = path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["r.html"]
    assert "<h1>A &lt;title&gt;</h1>" in text and "Some &lt;note&gt;." in text
    assert "12,345" in text and "numbers differ" in text and "row 7" in text
    assert text.count("None.") == 1 and "&lt;/pre&gt;&lt;script&gt;" in text
    assert "<script" not in text and "script-src 'none'" in text
