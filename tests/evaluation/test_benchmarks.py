import json
import re

import datasets
import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation.benchmarks import KNOWN, NAMES, SETS, load_benchmark, parse_entries
from curiojax.rewards.verifiers import get_verifier
from tests.evaluation.benchmark_files import (
    ANSWERS,
    ROWS,
    SYSTEM,
    verl_rows,
    write_benchmark_files,
    write_rows,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    write_benchmark_files(folder)
    return folder


def load(value, directory=None, **options):
    (entry,) = parse_entries([value])
    return load_benchmark(entry, directory=directory, **options)


def prompts(benchmark):
    return [question.messages[-1]["content"] for question in benchmark.questions]


def test_the_paper_has_nine_benchmarks_in_two_groups():
    assert set(SETS["math"]) == {
        *("aime24", "aime25", "amc", "math500", "minerva", "olympiadbench"),
    }
    assert set(SETS["general"]) == {"gpqa_diamond", "arc_challenge", "mmlu_pro"}
    assert SETS["paper"] == SETS["math"] + SETS["general"]
    assert set(NAMES) == {*SETS["paper"], "amc23"}


@pytest.mark.parametrize("name", NAMES)
def test_a_right_answer_is_correct_and_a_wrong_one_is_not(name, directory):
    benchmark = load(name, directory)
    assert len(benchmark.questions) == len(ROWS[name])
    assert len({question.id for question in benchmark.questions}) == len(ROWS[name])
    assert benchmark.samples == (1 if name == "mmlu_pro" else 8)
    assert benchmark.private == (name == "gpqa_diamond")
    general = name in SETS["general"]
    assert benchmark.group == ("general" if general else "math")
    assert benchmark.verifier == ("choice" if general else "math")
    assert benchmark.strict_verifier == ("math_verify" if general else None)
    verifier = get_verifier(benchmark.verifier)
    for number, question in enumerate(benchmark.questions):
        json.dumps(question.details)
        (message,) = question.messages
        assert message["role"] == "user"
        right = ANSWERS[name][number] if name in ANSWERS else question.ground_truth
        wrong = "A" if general and question.ground_truth != "A" else "B" if general else "17"
        for said, correct in ((right, True), (wrong, False)):
            response = f"Let me think.\n</think>\nThe answer is $\\boxed{{{said}}}$."
            verdict = verifier(response, question.ground_truth)
            assert (verdict.correct, verdict.status) == (correct, "ok"), (said, question)


@pytest.mark.parametrize("name", SETS["general"])
def test_both_graders_of_a_choice_accept_a_boxed_letter_and_one_the_stated_one(name, directory):
    benchmark = load(name, directory)
    loose, strict = get_verifier(benchmark.verifier), get_verifier(benchmark.strict_verifier)
    for question in benchmark.questions:
        letter = question.ground_truth
        boxed, stated = f"</think>\n\\boxed{{{letter}}}", f"</think>\nANSWER: {letter}"
        assert loose(boxed, letter).correct and strict(boxed, letter).correct
        assert loose(stated, letter).correct and not strict(stated, letter).correct


def test_prompts_of_mathematics_are_the_bare_questions(directory):
    for name in SETS["math"]:
        column = "question" if name == "olympiadbench" else "problem"
        expected = [row[column] for row in ROWS[name]]
        if name == "olympiadbench":
            expected[2] = "Let $T = \\frac{3}{2}$.\n\nCompute $T + 1$."
        assert prompts(load(name, directory)) == expected


def test_ground_truths_as_the_verifier_reads_them(directory):
    def truths(name):
        return [question.ground_truth for question in load(name, directory).questions]

    assert truths("aime24") == ["060", "021", "104"]
    assert truths("amc") == ["142", "4.5", "-4"]
    assert truths("amc23") == ["14", "25", "29"]
    assert truths("minerva") == ["3.0e10", "np.arcsin(10/13)", "m c^{2}", "4"]
    assert truths("olympiadbench") == ["$3$,$-3$", "$2$, $3$", "$\\frac{5}{2}$"]
    assert truths("arc_challenge") == ["B", "D", "A", "E"]
    assert truths("mmlu_pro") == ["J", "A", "D"]


def test_options_of_arc_are_lettered_and_without_an_instruction(directory):
    text = "Which one swims?\n\nA) stone\nB) bird\nC) tree\nD) fish\n"
    assert prompts(load("arc_challenge", directory))[1] == text
    assert prompts(load("mmlu_pro", directory))[0].endswith("\nI) 8\nJ) 9\n")


def test_gpqa_asks_for_a_letter_among_shuffled_options(directory):
    benchmark = load("gpqa_diamond", directory)
    orders = set()
    for row, question in zip(ROWS["gpqa_diamond"], benchmark.questions, strict=True):
        instruction, text, options = question.messages[0]["content"].split("\n\n")
        assert "'ANSWER: $LETTER'" in instruction and text == row["Question"]
        lines = dict(line.split(") ") for line in options.split("\n"))
        assert list(lines) == list("ABCD")
        assert lines[question.ground_truth] == row["Correct Answer"].strip()
        keys = ["Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3))]
        order = question.details["option_order"]
        assert list(lines.values()) == [row[keys[i]].strip() for i in order]
        orders.add(tuple(order))
    assert len(orders) > 1


def test_an_order_of_options_depends_on_the_record_only(directory, tmp_path):
    rows = list(reversed(ROWS["gpqa_diamond"]))[:3]
    path = write_rows(tmp_path / "other.jsonl", rows)
    again = {q.id: q for q in load({"name": "gpqa_diamond", "path": str(path)}).questions}
    before = {q.id: q for q in load("gpqa_diamond", directory).questions}
    assert len(again) == 3 and all(before[name] == again[name] for name in again)


def test_positions_of_right_options_are_uniform(tmp_path):
    row = ROWS["gpqa_diamond"][0]
    rows = [{**row, "Record ID": f"rec{i}"} for i in range(1000)]
    path = write_rows(tmp_path / "many.parquet", rows)
    questions = load({"name": "gpqa_diamond", "path": str(path)}).questions
    counts = [sum(q.ground_truth == letter for q in questions) for letter in "ABCD"]
    # Each is binomial(1000, 1/4), of standard deviation 13.7.
    assert sum(counts) == 1000 and all(abs(count - 250) < 60 for count in counts)


def test_ids_come_from_the_source_or_from_the_question(directory, tmp_path):
    ids = {name: [q.id for q in load(name, directory).questions] for name in NAMES}
    assert ids["aime24"] == ["60", "61", "62"]
    assert ids["math500"][0] == "test/algebra/0.json"
    assert ids["gpqa_diamond"] == ["rec0", "rec1", "rec2", "rec3"]
    assert ids["mmlu_pro"] == ["70", "71", "72"]
    bare = [{"question": r["problem"], "answer": r["answer"]} for r in ROWS["aime24"]]
    path = write_rows(tmp_path / "bare.jsonl", bare)
    hashed = [q.id for q in load({"name": "aime24", "path": str(path)}).questions]
    assert all(re.fullmatch("[0-9a-f]{12}", identity) for identity in hashed)
    path = write_rows(tmp_path / "turned.parquet", bare[::-1])
    assert [q.id for q in load({"name": "aime24", "path": str(path)}).questions] == hashed[::-1]


def test_repeated_ids_get_a_suffix_and_repeated_rows_are_one(tmp_path):
    rows = [
        {"id": "a", "question": "What is 1 + 1?", "answer": "2"},
        {"id": "a", "question": "What is 1 + 2?", "answer": "3"},
        {"id": "a", "question": "What is 1 + 1?", "answer": "2"},
        {"id": "b", "question": "What is 1 + 1?", "answer": "2"},
    ]
    path = write_rows(tmp_path / "own.jsonl", rows)
    questions = load({"name": "own", "path": str(path)}).questions
    assert [(q.id, q.ground_truth) for q in questions] == [("a", "2"), ("a-2", "3"), ("b", "2")]
    assert [q.details for q in questions] == [{"copies": 2}, {}, {}]


LUFFY = [
    ("aime", "How many minutes are there in one hour?", "060"),
    ("aime25", "What is $40 + 30$?", "70"),
    ("amc", "What is $100 + 42$?", "142.0"),
    ("math", "Solve $2x = 6$.", "3"),
    ("minerva", "What is the energy of a mass $m$?", "m c^{2}"),
    ("olympiad_bench", "Which integers $n$ satisfy $n^2 = 9$?", "$3$,$-3$"),
]


@pytest.mark.parametrize("name", SETS["math"])
def test_one_file_of_luffys_holds_all_of_mathematics(name, tmp_path):
    path = write_rows(tmp_path / "valid.all.parquet", verl_rows(LUFFY, copies=4))
    benchmark = load({"name": name, "path": str(path)})
    (question,) = benchmark.questions
    source, text, truth = LUFFY[SETS["math"].index(name)]
    assert source in KNOWN[name].data_sources
    assert question.messages == [{"role": "user", "content": text}]
    assert question.ground_truth == ("142" if name == "amc" else truth)
    assert question.details["copies"] == 4


def test_a_benchmark_of_ones_own_keeps_the_files_system_prompt(tmp_path):
    path = write_rows(tmp_path / "mine.parquet", verl_rows(LUFFY))
    benchmark = load({"name": "mine", "path": str(path), "data_source": "math"})
    roles = [message["role"] for message in benchmark.questions[0].messages]
    assert roles == ["system", "user"] and benchmark.questions[0].messages[0]["content"] == SYSTEM
    assert len(load({"name": "mine", "path": str(path)}).questions) == len(LUFFY)


def test_a_file_of_choices_in_verls_layout_keeps_its_prompts(tmp_path):
    rows = verl_rows([("arc_c", "Which swims?\n\n1) stone\n2) fish\n", "2")])
    path = write_rows(tmp_path / "valid.arc_c.parquet", rows)
    (question,) = load({"name": "arc_challenge", "path": str(path)}).questions
    assert question.ground_truth == "2" and "1) stone" in question.messages[0]["content"]
    assert get_verifier("choice")("</think>\\boxed{2}", "2").correct


def test_unknown_names_in_data_source_are_listed(tmp_path):
    path = write_rows(tmp_path / "test.parquet", verl_rows([("x", "1?", "1"), ("y", "2?", "2")]))
    with pytest.raises(ConfigError, match="has the values x, y in data_source; say which"):
        load({"name": "aime24", "path": str(path)})
    assert len(load({"name": "aime24", "path": str(path), "data_source": "y"}).questions) == 1
    with pytest.raises(ConfigError, match="has the values x, y"):
        load({"name": "aime24", "path": str(path), "data_source": "z"})
    plain = write_rows(tmp_path / "plain.jsonl", ROWS["aime24"])
    with pytest.raises(ConfigError, match=r"data_source: .* has no column data_source"):
        load({"name": "aime24", "path": str(plain), "data_source": "z"})


def test_other_years_are_left_out(tmp_path):
    """AI-MO/aimo-validation-aime has three years, told apart by the url."""
    rows = [{**row, "url": row["url"].replace("2024", "2023")} for row in ROWS["aime24"][:2]]
    rows = [{k: v for k, v in row.items() if k != "year"} for row in (*rows, ROWS["aime24"][2])]
    path = write_rows(tmp_path / "validation.parquet", rows)
    assert [q.id for q in load({"name": "aime24", "path": str(path)}).questions] == ["62"]
    path = write_rows(tmp_path / "old.parquet", rows[:2])
    with pytest.raises(ConfigError, match="no questions of 2024"):
        load({"name": "aime24", "path": str(path)})


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("aime24", {"ID": "2024-I-1", "Problem": "1?", "Solution": "It is 1.", "Answer": 1}),
        ("aime24", {"id": 1, "problem": "1?", "solution": "\\boxed{1}", "url": "u"}),
        ("aime25", {"problem": "1?", "answer": 1, "id": "0"}),
        ("aime25", {"question": "1?", "answer": "1"}),
        ("minerva", {"question": "1?", "answer": "1"}),
        ("minerva", {"problem": "1?", "solution": "\\boxed{1}", "answer": "1"}),
        ("olympiadbench", {"problem": "1?", "answer": "1"}),
    ],
)
def test_other_layouts_of_the_same_benchmarks(name, row, tmp_path):
    path = write_rows(tmp_path / "file.parquet", [row])
    (question,) = load({"name": name, "path": str(path)}).questions
    assert question.ground_truth == "1" and question.messages[0]["content"] == "1?"


def test_limit_takes_the_first(directory):
    assert [q.id for q in load("aime24", directory, limit=2).questions] == ["60", "61"]


@pytest.mark.parametrize(
    ("name", "broken", "needed"),
    [
        ("aime24", {"problem": None}, "problem or question"),
        ("gpqa_diamond", {"Incorrect Answer 2": None}, "needed: Incorrect Answer 2;"),
        ("arc_challenge", {"choices": None}, "needed: choices;"),
        ("mmlu_pro", {"options": None, "answer": None}, "needed: options, answer;"),
    ],
)
def test_missing_columns_are_named(name, broken, needed, tmp_path):
    rows = [{k: v for k, v in row.items() if k not in broken} for row in ROWS[name]]
    path = write_rows(tmp_path / "file.parquet", rows)
    with pytest.raises(ConfigError) as error:
        load({"name": name, "path": str(path)})
    text = str(error.value)
    assert text.startswith(f"benchmarks: {name}: {path} has the columns ") and needed in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("aime24", {"answer": None, "solution": "None here."}, "no answer, and its solution no"),
        ("aime24", {"problem": " "}, "it has no question"),
        ("amc", {"answer": float("nan")}, "it has no answer"),
        ("olympiadbench", {"final_answer": []}, "it has no answer"),
        ("gpqa_diamond", {"Correct Answer": ""}, "its Correct Answer is empty"),
        ("arc_challenge", {"answerKey": "F"}, "'F' is none of its labels A, B, C, D"),
        ("arc_challenge", {"choices": {"text": ["a"], "label": ["A"]}}, "it has 1 options"),
        ("mmlu_pro", {"answer_index": 3}, "answer J and its answer_index 3 differ"),
        ("mmlu_pro", {"answer": "K"}, "the answer 'K'"),
    ],
)
def test_a_row_that_is_no_question_is_an_error(name, change, reason, tmp_path):
    rows = [ROWS[name][1], {**ROWS[name][0], **change}]
    path = write_rows(tmp_path / "file.parquet", rows)
    with pytest.raises(ConfigError, match=reason) as error:
        load({"name": name, "path": str(path)})
    assert f"row 1 of {path}" in str(error.value)


def test_offline_it_says_where_the_file_goes(directory, tmp_path):
    for name, words in {"aime24": "check the network", "gpqa_diamond": "accept the terms"}.items():
        with pytest.raises(ConfigError) as error:
            load(name, tmp_path)
        text = str(error.value)
        assert text.startswith(f"benchmarks: {name}: cannot fetch {KNOWN[name].hub_path} (")
        assert words in text and f"put its rows into {tmp_path / name}.parquet" in text
        assert "\n" not in text
    with pytest.raises(ConfigError, match=r"name a file with \{name: aime24, path: FILE\}"):
        load("aime24")
    with pytest.raises(ConfigError, match="benchmarks: aime24: no such file"):
        load({"name": "aime24", "path": str(tmp_path / "none.parquet")})


def test_the_hub_is_asked_for_config_and_split(monkeypatch):
    asked = []

    def fake(path, config, *, split):
        asked.append((path, config, split))
        return datasets.Dataset.from_list(ROWS["arc_challenge"])

    monkeypatch.setattr(datasets, "load_dataset", fake)
    benchmark = load("arc_challenge")
    assert asked == [("allenai/ai2_arc", "ARC-Challenge", "test")]
    assert benchmark.source == "allenai/ai2_arc:ARC-Challenge" and len(benchmark.questions) == 4
    load({"name": "arc_challenge", "split": "validation"})
    assert asked[-1][2] == "validation"


def test_prepared_files_may_be_json_lines(tmp_path):
    write_rows(tmp_path / "math500.jsonl", ROWS["math500"])
    benchmark = load("math500", tmp_path)
    assert len(benchmark.questions) == 3 and benchmark.source == str(tmp_path / "math500.jsonl")
