from __future__ import annotations

import io
import re
import sys

import pytest
from rich.cells import cell_len

from curiojax import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_track_yields_everything_and_leaves_standard_output_alone(capsys):
    assert list(progress.track([3, 1, 2], "work")) == [3, 1, 2]
    out, err = capsys.readouterr()
    assert out == ""
    assert "work: 3/3" in err


def test_track_of_an_iterator_without_length(capsys):
    assert list(progress.track(iter("ab"), "work")) == ["a", "b"]
    assert "work: 2\n" in capsys.readouterr().err


def test_plain_lines_are_rare_and_the_last_state_is_printed(capsys):
    now = [0.0]
    bar = progress._PlainBar("sft", 100, 0, clock=lambda: now[0])
    with bar:
        for step in range(1, 101):
            now[0] += 1.0
            bar.update(step, loss=2.0, tokens_per_second=12_345.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("sft: 1/100  loss 2.000  12.3k tokens/s")
    assert lines[5].endswith("ETA 0:00:49")  # step 51 of 100 at one step per second
    assert lines[-1].startswith("sft: 100/100") and "ETA" not in lines[-1]


def test_a_resumed_run_is_not_thought_fast(capsys):
    now = [0.0]
    with progress._PlainBar("sft", 100, 90, clock=lambda: now[0]) as bar:
        bar.update(91)
        now[0] += 20.0
        bar.update(93)
    assert "sft: 93/100  ETA 0:01:10" in capsys.readouterr().err


def test_a_bar_is_a_callback(capsys):
    with progress.bar("sampling") as bar:
        bar(2, 4)
    assert "sampling: 2/4" in capsys.readouterr().err


def test_live_bars_nest_and_keep_standard_output_clean(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with progress.bar("runs [b]", 2) as outer:
        for run in range(2):
            for _ in progress.track(range(3), "steps"):
                pass
            outer.update(run + 1, loss=1.0, note="ok", entropy=None)
        print("a result")
    assert progress._display._progress is None
    assert capsys.readouterr().out == "a result\n"
    assert "runs [b]" in terminal.getvalue() and "2/2" in terminal.getvalue()


def test_an_error_closes_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(RuntimeError), progress.bar("x", 2):
        raise RuntimeError
    assert progress._display._progress is None


def test_tables_print_to_standard_output(capsys):
    progress.print_pairs("Derived", {"steps": 1234, "fill": 0.93456, "[b]x[/b]": None, "on": True})
    progress.print_table(["run", "acc"], [["a", 0.5], ["b", None]], title="T", caption="one seed")
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    for part in ("Derived", "1,234", "0.9346", "[b]x[/b]", "yes", "0.500", "one seed"):
        assert part in out


@pytest.mark.parametrize(("width", "parts"), [(200, 1), (60, 2), (40, 4)])
def test_a_wide_table_comes_in_parts(monkeypatch, width, parts):
    """Nothing is broken in two, and every part says which row is which."""
    names = ["run", "ID pass@1", "hard pass@16", "entropy", "what it is"]
    row = ["vanilla SFT, 0.4 x lr", "0.435 ± 0.005", "0.151 ± 0.013", 0.377, "plain words " * 4]
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    progress.print_table(names, [row, ["b", "-", "-", 1.5, "x"]], caption="why", file=terminal)
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert text.count(row[0]) == parts and text.count("why") == 1
    for cell in (*names[1:4], *row[1:3], "0.377", "1.500"):
        assert cell in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (80, ["a setting of thirty characters", "w" * 60]),
        (80, ["n" * 100, "0.123", "0.456"]),
        (20, ["name", "0.123 ± 0.045", "0.987 ± 0.065"]),
        (120, ["a" * 20, "text of many words " * 10, "b" * 24, "c" * 24, "d" * 24]),
        (77, ["vanilla SFT + GRPO", *(f"0.{i}{i}{i}" for i in range(1, 8)), "0.972"]),
        (10, ["x"]),
        (40, ["\u4e2d\u6587" * 12, "0.123"]),
    ],
)
def test_nothing_of_a_table_is_lost(monkeypatch, width, row):
    """However narrow the terminal: what does not fit beside each other stands below each other."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    terminal = Terminal()
    progress.print_table([f"h{i}" for i in range(len(row))], [row], file=terminal)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert all(cell_len(line) <= width for line in lines)
    shown = "".join(lines)
    for character in {c for cell in row for c in cell if not c.isspace()}:
        assert shown.count(character) >= sum(cell.count(character) for cell in row)


@pytest.mark.parametrize(
    ("value", "want"),
    [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (-1, "0:00:00")],
)
def test_format_duration(value, want):
    assert progress.format_duration(value) == want


@pytest.mark.parametrize(
    ("value", "want"), [(950, "950"), (12_345, "12.3k"), (4.56e6, "4.56M"), (7e9, "7G")]
)
def test_format_count(value, want):
    assert progress.format_count(value) == want


def test_columns_with_fractions_share_their_digits():
    assert progress.format_rows([[1, 0.5], [2000, 1]]) == [["1", "0.500"], ["2,000", "1.000"]]
    assert progress.format_rows([]) == []
