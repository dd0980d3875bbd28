"""What tools/reproduce.py makes of finished runs: numbers by hand, words, pictures."""

import dataclasses
import json
import xml.etree.ElementTree as ElementTree

import pytest
from reproduced import finished, two_methods

from curiojax.errors import ConfigError
from curiojax.evaluation.comparison import Estimate
from reproduction import figures, findings, output, paper, paper_scale, readme
from reproduction.paper_tables import build
from reproduction.plan import READS, TARGETS
from reproduction.records import Data, Group, raw_rows
from reproduction.statistics import Difference, at_equal, difference, paired
from reproduction.tables import Column, text

# ---- the paper's numbers ------------------------------------------------------------------------


def test_the_papers_averages_are_those_of_its_columns():
    """Its own averages were rounded from numbers with more digits than it prints."""
    maths = ("AIME25", "AIME24", "AMC23", "MATH", "Minerva", "Olympiad")
    general = ("GPQA", "MMLU-Pro", "ARC-C")
    small = ("AIME24", "AIME25", "AMC", "MATH", "Minerva", "Olympiad")
    checks = [(paper.TABLE1, general, "Avg.")]
    for table in (paper.TABLE2, paper.TABLE3):
        checks += [(table, maths, "ID avg."), (table, general, "OOD avg.")]
    checks += [(table, small, "ID avg.") for table in paper.TABLE4.values()]
    for table, columns, average in checks:
        for name in table.rows:
            mean = sum(table.value(name, column) for column in columns) / len(columns)
            assert mean == pytest.approx(table.value(name, average), abs=0.07), (table.title, name)


def test_the_papers_numbers_are_those_it_prints():
    assert paper.TABLE2.value("curio", "ID avg.") == 51.0
    assert paper.TABLE2.value("gem", "Entropy") == 0.66
    assert paper.TABLE2.value("base", "Speed") is None
    assert paper.TABLE3.value("luffy", "AIME24") == 23.1
    assert paper.TABLE3.value("curio+grpo", "OOD avg.") == 61.7
    assert paper.TABLE1.value("entropy-top20", "GPQA") == 29.6
    assert paper.TABLE4["Llama-3.1-8B-Instruct"].value("curio+grpo", "ID avg.") == 37.1


# ---- statistics ---------------------------------------------------------------------------------


def test_the_interval_is_students():
    # Mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.3027.
    found = difference([1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2.0) and found.count == 3
    assert found.high - found.mean == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert found.mean - found.low == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert found.sign == 0
    # t(0.975, 4) = 2.7764.
    five = difference([1.0, 1.1, 0.9, 1.2, 0.8])
    assert five.high - five.mean == pytest.approx(2.776445 * (0.025 / 5) ** 0.5, rel=1e-6)
    assert five.sign == 1 and difference([-x for x in (1.0, 1.1, 0.9)]).sign == -1
    assert difference([0.3]) == Difference(0.3, None, None, 1) and difference([0.3]).sign == 0
    assert difference([]) is None


def test_differences_are_taken_within_a_seed():
    found = paired({0: 0.5, 1: 0.9, 7: 0.1}, {1: 0.2, 0: 0.4})
    assert found.mean == pytest.approx((0.1 + 0.7) / 2) and found.count == 2


def test_equal_accuracy_leaves_out_seeds_that_the_control_does_not_reach():
    control = Group([finished("vanilla", s, {2: (0.2, 0.4), 4: (0.6, 0.2)}) for s in (0, 1)])
    method = Group([finished("curio", 0, {4: (0.5, 0.4)}), finished("curio", 1, {4: (0.7, 0.9)})])
    found = at_equal(method, control, 4)
    assert found.count == 1 and found.mean == pytest.approx(0.4 - 0.25)
    # By the search: the control is on its way from (0.3, 0.5) to (0.7, 0.3).
    method.by_seed[0].final["search_id_pass1"] = 0.5
    by_search = at_equal(method, control, 4, search=True)
    assert by_search.count == 1 and by_search.mean == pytest.approx(0.5 - 0.4)


# ---- tables -------------------------------------------------------------------------------------


def test_a_table_says_what_the_raw_numbers_say():
    data = two_methods(3)
    main = build("table2", data)[0]
    rows = {
        row[0]: dict(zip([c.title for c in main.columns], row, strict=True)) for row in main.rows
    }
    raw = [r for r in raw_rows(data) if r["run"] == "curio"]
    values = [row["hard_pass4"] for row in raw]
    assert values == pytest.approx([0.35, 0.36, 0.37])
    curio = rows["CurioSFT"]
    assert curio["hard pass@4"].mean == pytest.approx(sum(values) / 3)
    assert curio["hard pass@4"].error == pytest.approx(0.01 / 3**0.5)
    assert curio["hard pass@4 - vanilla SFT"].mean == pytest.approx(0.36 - 0.2)
    assert curio["at equal ID vs vanilla"].mean == pytest.approx(0.36 - 0.25)
    assert curio["paper: ID avg."] == 51.0 and rows["vanilla SFT"]["paper: entropy"] == 0.31
    assert rows["base model"]["hard pass@4 - vanilla SFT"] is None
    line = next(line for line in main.markdown().splitlines() if line.startswith("| CurioSFT"))
    assert "| 36.0 ± 0.6 |" in line and "| +16.0 [+13.5, +18.5] |" in line
    assert "3 seeds" in main.caption


def test_the_papers_claim_has_a_table_of_its_own():
    """CurioSFT less each rival, seed by seed, beside the same difference of the paper's numbers."""
    gem = [finished("gem", s, {4: (0.3 + 0.1 * s, 0.2)}) for s in range(2)]
    table = build("table2", Data([*two_methods(3).runs, *gem]))[1]
    assert table.heading.startswith("Table 2, what CurioSFT has more: Countdown")
    titles = [column.title for column in table.columns]
    scores = ["ID pass@1", "hard pass@4", "paper: ID avg.", "paper: OOD avg."]
    assert titles == ["method", *scores, "seeds"]
    # GEM: 0.5 - (0.3, 0.4), and 0.35, 0.36 - 0.2, with t(0.975, 1) = 12.706.
    assert table.texts() == [
        ["vanilla SFT", "-10.0 [-10.0, -10.0]", "+16.0 [+13.5, +18.5]", "+2.5", "+2.9", "3"],
        ["GEM", "+15.0 [-48.5, +78.5]", "+15.5 [+9.1, +21.9]", "+1.7", "+0.5", "2"],
    ]
    ends = [finished(name, 0, {4: (0.5, 0.25)}) for name in ("curio+grpo", "srft", "dft+grpo")]
    table = build("table3", Data([*two_methods(1).runs, *ends]))[1]
    assert table.texts() == [
        ["SRFT", "+0.0", "+0.0", "-", "-", "1"],
        ["DFT + GRPO", "+0.0", "+0.0", "+4.3", "+1.9", "1"],
    ]
    other = build("table2", Data([finished("vanilla", 0, {4: (0.5, 0.2)}, demonstrations="canon")]))
    assert len(other) == 1


def test_cells():
    assert text(Estimate(0.485, 0.008, 5), Column("")) == "48.5 ± 0.8"
    assert text(Estimate(0.485, None, 1), Column("")) == "48.5"
    assert text(Difference(0.025, 0.003, 0.047, 5), Column("")) == "+2.5 [+0.3, +4.7]"
    assert text(Difference(-0.025, None, None, 1), Column("")) == "-2.5"
    assert text(51.0, Column("")) == "51.0" and text(None, Column("")) == "-"
    assert text(Estimate(0.3125, 0.01, 3), Column("", 1.0, 3)) == "0.312 ± 0.010"


def test_hotter_decoding_is_a_row_of_the_control():
    decoding = {"1.15": {"id_pass1": 0.3, "hard_pass4": 0.5, "entropy": 0.6}}
    data = Data([finished("vanilla", 0, {4: (0.6, 0.2)}, decoding=decoding)])
    table = build("table2", data)[0]
    row = next(row for row in table.texts() if "T = 1.15" in row[0])
    by = dict(zip([c.title for c in table.columns], row, strict=True))
    assert by["ID pass@1"] == "30.0" and by["hard pass@4"] == "50.0" and by["entropy"] == "0.600"


# ---- words --------------------------------------------------------------------------------------


def asked(planned):
    sizes = {"countdown": 173_056, "modchain": 166_912, "countdown@large": 1_240_000}
    return findings.Asked("the command", planned, sizes)


def results(data, planned=None):
    tables = [("table2", table) for table in build("table2", data)]
    return findings.in_words(data, tables, asked(planned or len(data.runs))).results


def test_the_readmes_tables_are_folded_and_the_others_not():
    data = two_methods(5)
    tables = [("table2", table) for table in build("table2", data)]
    summary, full, *_ = findings.in_words(data, tables, asked(15))
    for table in tables:
        assert f"<details><summary>{table[1].heading}</summary>\n\n| method |" in summary
        assert f"### {table[1].heading}\n\n| method |" in full
    assert summary.count("\n\n</details>\n") == len(tables) and "<details>" not in full
    assert "All comparisons" in full and "All comparisons" not in summary


@pytest.mark.parametrize("seeds", [1, 4])
def test_few_seeds_claim_nothing(seeds):
    words = results(two_methods(seeds))
    assert "nothing is claimed" in words and "the command" in words
    assert "higher" not in words and "reading" not in words


def test_five_seeds_are_read():
    words = results(two_methods(5))
    assert "nothing is claimed" not in words and "5 seeds" in words
    equal = (
        "| CurioSFT | vanilla SFT | hard pass@4 at equal ID pass@1 | +12.0 [+10.0, +14.0], higher |"
    )
    assert equal in words and "| Countdown, two strategies, the second in 20 % |" in words
    # The same scores at every seed: hard pass@4 falls by nothing but the seed's own 0.01.
    lines = [line for line in words.splitlines() if "| ID pass@1 | -10.0" in line]
    assert len(lines) == 1 and lines[0].endswith("| lower |")


def test_single_stage_methods_are_read_against_their_own_start():
    ends = {"warm-up+grpo": (0.5, 0.2), "luffy": (0.4, 0.3), "vanilla+grpo": (0.5, 0.1)}
    runs = [
        finished(name, s, {4: (easy, hard + 0.001 * s * len(name))})
        for name, (easy, hard) in ends.items()
        for s in range(5)
    ]
    words = findings.in_words(Data(runs), [], asked(15)).summary
    rows = [line for line in words.splitlines() if line.startswith("| LUFFY")]
    assert rows == [
        "| LUFFY | SFT, 84 steps + GRPO | ID pass@1 | -10.0 [-10.0, -10.0], lower |",
        "| LUFFY | SFT, 84 steps + GRPO | hard pass@4 | +8.6 [+7.2, +10.0], higher |",
    ]


def test_nothing_is_compared_twice():
    """Neither the other way round, nor because two tables have it."""
    reads = [read for target in TARGETS for read in READS[target] if read[0] == "countdown"]
    names = {name for _, _, read in reads for name in read}
    data = Data([finished(name, 0, {2: (0.2, 0.4), 4: (0.6, 0.2)}) for name in sorted(names)])
    found = findings.findings(data)
    pairs = [(f.data, frozenset((f.method, f.control)), f.score) for f in found]
    assert len(set(pairs)) == len(pairs) > 100


def test_readings_need_the_seeds_themselves():
    """Five seeds in all, of which two only have the accuracy that the control passes through."""
    data = two_methods(5)
    far = [finished("curio", s, {4: (0.9, 0.4)}) for s in (0, 1, 2)]
    kept = [r for r in data.runs if not (r.run.name == "curio" and r.run.seed < 3)]
    words = results(Data([*kept, *far]))
    # Strictly and by the search; what is told in words has five.
    assert words.count("too few seeds (2)") == 2
    assert words.count("| hard pass@4 at equal ID pass@1, search |") == 1


def test_rows_of_different_numbers_of_seeds_say_so():
    """One method was run with more seeds than the other; what is not finished is said, too."""
    more = [finished("gem", s, {4: (0.5, 0.3 + 0.01 * s)}) for s in range(2)]
    data = Data([*two_methods(5).runs, *more])
    table = build("table2", data)[0]
    by = {
        row[0]: dict(zip([c.title for c in table.columns], row, strict=True))
        for row in table.texts()
    }
    assert (by["GEM"]["seeds"], by["CurioSFT"]["seeds"]) == ("2", "5")
    assert "over 2 to 5 seeds" in table.caption
    assert "seeds" not in [column.title for column in build("table2", two_methods(5))[0].columns]
    words = results(data, planned=20)
    assert "17 of 20 runs" in words
    # What has five seeds is counted, what has fewer is not.
    compared = [line for line in words.splitlines() if line.startswith("| Countdown, two")]
    enough = sum("| 5 |" in line for line in compared)
    assert 0 < enough < len(compared) and f"Of the {enough} comparisons that have" in words
    few = words.count("| GEM | vanilla SFT |") + words.count("| CurioSFT | GEM |")
    assert words.count("too few seeds (2)") == few > 0
    short = next(line for line in words.splitlines() if line.startswith("| method | ID"))
    assert short.endswith("| seeds |")


def test_another_base_model_has_a_table_of_its_own():
    def at(world):
        return [
            dataclasses.replace(item, run=dataclasses.replace(item.run, world=world))
            for item in two_methods(5).runs
        ]

    data = Data([*two_methods(5).runs, *at("countdown@large")])
    headings = [table.heading for table in build("table4", data)]
    assert headings == [
        "Table 4: Countdown, two strategies, the second in 20 %",
        "Table 4: Countdown from large, two strategies, the second in 20 %",
    ]
    assert "Models of 0.2 (countdown from large: 1.2) million parameters" in results(data)
    assert "Models of 0.2 million parameters" in results(two_methods(5))
    told = [f.data for f in findings.findings(data)]
    assert len(told) == 2 * len([x for x in told if x.startswith("Countdown from large")])


def test_the_readmes_block_is_replaced_and_nothing_else(tmp_path):
    path, summary = tmp_path / "README.md", tmp_path / "results" / "summary.md"
    summary.parent.mkdir()
    path.write_text(f"before\n{readme.BEGIN}\nold \\1 text\n{readme.END}\nafter\n")
    for words in ("new \\1 words", "newer"):
        summary.write_text(words + "\n")
        readme.write_readme(path, summary)
        told = path.read_text()
        assert told == f"before\n{readme.BEGIN}\n\n{words}\n\n{readme.END}\nafter\n"
    path.write_text("no markers")
    with pytest.raises(ConfigError, match=r"--write-readme: .* needs one line"):
        readme.write_readme(path, summary)
    assert path.read_text() == "no markers"
    with pytest.raises(ConfigError, match=r"--write-readme: .* cannot be read"):
        readme.write_readme(tmp_path / "none.md", summary)


def test_pictures_come_into_the_readme_with_their_files(tmp_path):
    path, results = tmp_path / "README.md", tmp_path / "results"
    path.write_text(f"{readme.BEGIN}{readme.END}")
    results.mkdir()
    (results / "table2.png").write_bytes(b"a picture")
    words = findings.in_words(two_methods(5), [], asked(15), ["table2", "figure5"]).summary
    (results / "summary.md").write_text(words)
    readme.write_readme(path, results / "summary.md")
    assert "which accuracy](.github/reproduction-table2.png)" in path.read_text()
    assert (tmp_path / ".github/reproduction-table2.png").read_bytes() == b"a picture"
    assert "figure5" not in words


# ---- figures and files --------------------------------------------------------------------------


def test_a_figure_shows_the_means():
    pytest.importorskip("matplotlib")
    groups = two_methods(3).groups("countdown", "two 0.2")
    figure = figures.figure1(groups, 4)
    hard = figure.axes[2]
    lines = {line.get_label(): line for line in hard.get_lines()}
    assert list(lines["vanilla SFT"].get_xdata()) == [0, 2, 4]
    assert list(lines["vanilla SFT"].get_ydata()) == pytest.approx([0.0, 0.4, 0.2])
    assert list(lines["CurioSFT"].get_ydata()) == pytest.approx([0.0, 0.36])
    assert figures.figure5(groups, 4) is None  # no sweep was run
    assert figures.figure1({}, 4) is None


def test_the_picture_of_table_2_has_the_controls_path():
    pytest.importorskip("matplotlib")
    figure = figures.draw("table2", two_methods(3))
    strictly, by_steps = figure.axes
    (path,) = [line for line in strictly.get_lines() if len(line.get_xdata()) == 2]
    assert list(path.get_xdata()) == pytest.approx([0.2, 0.6])
    assert list(path.get_ydata()) == pytest.approx([0.4, 0.2])
    ends = [line for line in by_steps.get_lines() if line.get_marker() in "os"]
    found = {(round(end.get_xdata()[0], 6), round(end.get_ydata()[0], 6)) for end in ends}
    assert found == {(0.7, 0.3), (0.6, 0.46)}  # vanilla SFT and CurioSFT, by the search
    assert figures.draw("table3", two_methods(3)) is None
    assert figures.draw("table2", Data([])) is None


def test_everything_is_written_for_what_is_there(tmp_path):
    pytest.importorskip("matplotlib")
    data = two_methods(2)
    written = output.write_all(data, ["table1", "table2", "figure1"], tmp_path, asked(9))
    names = {path.name for path in written}
    assert names == {
        *("report.html", "results.md", "summary.md", "raw.json", "raw.csv"),
        *("table1.md", "table1.json"),
        *("table2.md", "table2.json", "table2.png", "table2.svg", "figure1.png", "figure1.svg"),
    }
    assert set(path.name for path in (tmp_path / "results").iterdir()) == names
    assert (tmp_path / "results/figure1.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    ElementTree.parse(tmp_path / "results/figure1.svg")
    report = (tmp_path / "results/report.html").read_text()
    assert "data:image/png;base64," in report and "Table 2: Countdown" in report
    found = json.loads((tmp_path / "results/table2.json").read_text())
    assert {row["run"] for row in found["raw"]} == {"base", "vanilla", "curio"}
    assert found["paper"][0]["rows"]["psft"]["ID avg."] == 50.3
    again = output.write_all(data, ["figure1"], tmp_path / "again", asked(9))
    svg = next(path for path in again if path.suffix == ".svg")
    assert svg.read_bytes() == (tmp_path / "results/figure1.svg").read_bytes()


def test_finished_runs_of_the_papers_scale_fill_its_tables(tmp_path, capsys):
    def write(seed, maths, general):
        folder = tmp_path / f"seed-{seed}/qwen2.5-math-7b/curio/evaluation"
        folder.mkdir(parents=True)
        means = {"math": {"avg": {"value": maths}}, "general": {"avg": {"value": general}}}
        values = {"version": 1, "name": "curio", "model": {}, "settings": {}, "benchmarks": {}}
        values |= {"means": means, "entropy": {"token_mean": 0.4 + 0.02 * seed}}
        (folder / "results.json").write_text(json.dumps(values))

    write(0, 0.50, 0.54)
    write(1, 0.52, 0.54)
    (table,) = paper_scale.show(["table2"], 2, tmp_path)
    said = capsys.readouterr().out
    assert table.texts() == [
        ["CurioSFT", "51.0 ± 1.0", "54.0 ± 0.0", "0.410 ± 0.010", "2", "51.0", "54.2"]
    ]
    assert "curio/train" not in said and "seed-1/qwen2.5-math-7b/vanilla/train" in said
    assert "estimated, not measured" in said
