import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation.benchmarks import SETS, Entry, load_benchmark, parse_entries
from curiojax.evaluation.benchmarks.prompts import fill
from tests.evaluation.benchmark_files import ROWS, write_rows


def names(values):
    return tuple(entry.name for entry in parse_entries(values))


def test_names_and_sets():
    assert names(["paper"]) == SETS["paper"] == names("paper")
    assert names(["math", "amc23", "general"]) == (*SETS["math"], "amc23", *SETS["general"])
    assert names(["math", "paper"]) == SETS["paper"]


def test_a_mapping_replaces_what_a_set_brings():
    for values in (
        ["math", {"name": "amc", "samples": 4}],
        [{"name": "amc", "samples": 4}, "math"],
    ):
        entries = {entry.name: entry for entry in parse_entries(values)}
        assert set(entries) == set(SETS["math"]) and entries["amc"].samples == 4


def test_entries_pass_through():
    (entry,) = parse_entries([{"name": "mine", "path": "x.jsonl", "private": True}])
    assert parse_entries([entry]) == (entry,) and isinstance(entry, Entry)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["aime2024"], r"benchmarks\[0\]: unknown benchmark 'aime2024'; did you mean aime24\?"),
        (["aime24", "matt"], r"benchmarks\[1\]: unknown benchmark 'matt'; did you mean math\?"),
        (["zzzzz"], "known are aime24, aime25, .* and the sets paper, math, general"),
        ([{"name": "mine"}], "one of your own needs a path"),
        ([{"path": "x"}], r"benchmarks\[0\]: has no name"),
        ([{"name": "math", "path": "x"}], "math names a set"),
        ([{"name": "my/own", "path": "x"}], "part of file names"),
        ([{"name": "aime24", "paht": "x"}], r"benchmarks\[0\].paht: unknown key; did you mean pat"),
        ([{"name": "aime24", "samples": 0}], r"benchmarks\[0\].samples: .*\(it is 0\)"),
        ([{"name": "aime24", "samples": True}], "samples is true"),
        ([{"name": "aime24", "question": "x"}], r"\.question: aime24 has its own"),
        ([{"name": "aime24", "verifier": "maths"}], r"\.verifier: .*did you mean 'math'\?"),
        (["aime24", "aime24"], r"benchmarks\[1\]: aime24 is there already"),
        ([7], "must be a name or a mapping"),
        ([], "benchmarks: empty"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_entries(values)
    assert "\n" not in str(error.value)


def load(value):
    (entry,) = parse_entries([value])
    return load_benchmark(entry)


@pytest.fixture
def own(tmp_path):
    rows = [
        {"task": "Add $\\frac{1}{2}$ and {1}.", "hint": "Use {task}.", "result": 1.5, "n": 3},
        {"task": "What is 2 + 2?", "hint": "Count.", "result": 4.0, "n": 4},
    ]
    return str(write_rows(tmp_path / "own.parquet", rows))


def test_ones_own_with_columns_and_a_prompt(own):
    benchmark = load(
        {
            "name": "sums",
            "title": "Small sums",
            "path": own,
            "question": "task",
            "answer": "result",
            "prompt": "{question}\n({hint}, {n} points)\nIn \\boxed{n} or \\boxed{}, {really}.",
            "verifier": "number",
            "samples": 2,
        }
    )
    assert (benchmark.name, benchmark.title, benchmark.group) == ("sums", "Small sums", "own")
    assert (benchmark.verifier, benchmark.strict_verifier, benchmark.samples) == ("number", None, 2)
    assert benchmark.source == own and not benchmark.private
    assert [q.ground_truth for q in benchmark.questions] == ["1.5", "4"]
    assert benchmark.questions[0].messages[0]["content"] == (
        "Add $\\frac{1}{2}$ and {1}.\n(Use {task}., 3 points)\n"
        "In \\boxed{n} or \\boxed{}, {really}."
    )


def test_ones_own_needs_columns_that_are_there(own):
    with pytest.raises(ConfigError, match="has the columns task, hint, result, n; needed: problem"):
        load({"name": "sums", "path": own})
    with pytest.raises(ConfigError, match="needed: tasks; name the columns with question and ans"):
        load({"name": "sums", "path": own, "question": "tasks", "answer": "result"})


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{task}: {result}?", r"prompt: \{result\} would tell the answer"),
        ("Answer me {this}", r"prompt: shows nothing of the question; write \{question\} or one"),
    ],
)
def test_prompts_that_cannot_be_meant(own, prompt, message):
    entry = {"name": "sums", "path": own, "question": "task", "answer": "result", "prompt": prompt}
    with pytest.raises(ConfigError, match=message):
        load(entry)


def test_a_known_benchmark_can_be_asked_differently(tmp_path):
    path = write_rows(tmp_path / "arc.parquet", ROWS["arc_challenge"])
    entry = {"name": "arc_challenge", "path": str(path), "prompt": "{question}Answer: $LETTER"}
    text = load(entry).questions[0].messages[0]["content"]
    assert text == "Which one flies?\n\nA) stone\nB) bird\nC) tree\nD) fish\nAnswer: $LETTER"
    with pytest.raises(ConfigError, match=r"answerKey.* would tell"):
        load({**entry, "prompt": "{question} {answerKey}"})


def test_braces_that_name_nothing_stay():
    assert fill("{a} {b} \\frac{a}{b} {} {{a}}", {"a": "{b}"}) == "{b} {b} \\frac{a}{b} {} {{b}}"
