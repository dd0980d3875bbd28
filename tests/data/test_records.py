import json
import os

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curiojax.data.records import load_records, source_fingerprint
from curiojax.errors import ConfigError

QUESTION = {"role": "user", "content": "What is 1 + 1?"}
ANSWER = {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\\boxed{2}"}
SYSTEM = {"role": "system", "content": "Be brief."}

# format -> (row as people write it, its prompt, its ground truth); the response is ANSWER's
ROWS = {
    "verl": (
        {
            "data_source": "",
            "prompt": [SYSTEM, QUESTION],
            "target": [ANSWER],
            "ability": "math",
            "reward_model": {"ground_truth": "2", "style": "rule"},
            "extra_info": {"index": 7, "split": "default"},
            "__index_level_0__": 3,
        },
        [SYSTEM, QUESTION],
        "2",
    ),
    "messages": (
        {"messages": [SYSTEM, QUESTION, ANSWER], "source": "x"},
        [SYSTEM, QUESTION],
        None,
    ),
    "prompt_completion": (
        {"prompt": [SYSTEM, QUESTION], "completion": [ANSWER]},
        [SYSTEM, QUESTION],
        None,
    ),
    "sharegpt": (
        {
            "system": "Be brief.",
            "conversations": [
                {"from": "human", "value": QUESTION["content"]},
                {"from": "gpt", "value": ANSWER["content"]},
            ],
        },
        [SYSTEM, QUESTION],
        None,
    ),
    "alpaca": (
        {
            "instruction": "What is",
            "input": "1 + 1?",
            "output": ANSWER["content"],
            "system": "Be brief.",
            "history": [["Hello", "Hi"]],
        },
        [
            SYSTEM,
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "What is\n1 + 1?"},
        ],
        None,
    ),
    "openr1": (
        {
            "problem": QUESTION["content"],
            "solution": "Add.",
            "answer": "2",
            "generations": ["wrong", "cut", ANSWER["content"], "also right"],
            "correctness_math_verify": [False, True, True, True],
            "is_reasoning_complete": [True, False, True, True],
            "messages": [QUESTION, {"role": "assistant", "content": "not this one"}],
            "uuid": "abc",
        },
        [QUESTION],
        "2",
    ),
}


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    else:
        path.write_text(json.dumps(rows, indent=1))
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json"])
@pytest.mark.parametrize("format", ROWS)
def test_every_schema_from_every_kind_of_file(tmp_path, format, suffix):
    row, prompt, truth = ROWS[format]
    records = load_records(write(tmp_path / f"data{suffix}", [row, row]))
    assert records.format == format
    assert len(records) == records.num_rows == 2
    assert records.drops == {}
    for record in (*records, *load_records(tmp_path / f"data{suffix}", format=format)):
        assert record["prompt"] == prompt
        assert record["response"] == ANSWER["content"]
        assert record["ground_truth"] == truth
        assert set(record) == {"id", "prompt", "response", "ground_truth", "verifier"}


def test_ids_come_from_the_row_or_count_rows(tmp_path):
    def ids(rows):
        return [r["id"] for r in load_records(write(tmp_path / "x.jsonl", rows))]

    plain = {"prompt": "a", "completion": "b"}
    assert ids([plain, plain]) == ["0", "1"]
    assert ids([{**plain, "id": 5}, {**plain, "id": 4}]) == ["5", "4"]
    assert ids([ROWS["openr1"][0]]) == ["abc"]
    assert ids([ROWS["verl"][0]]) == ["7"]


def test_verl_without_target_or_with_null_target_is_dropped_and_counted(tmp_path):
    row = ROWS["verl"][0]
    rows = [row, {**row, "target": None}, {**row, "target": []}]
    records = load_records(write(tmp_path / "a.parquet", rows))
    assert (len(records), records.drops) == (1, {"no response": 2})
    only_rl = {key: value for key, value in row.items() if key != "target"}
    records = load_records(write(tmp_path / "b.parquet", [only_rl]))
    assert (records.format, len(records), records.drops) == ("verl", 0, {"no response": 1})


def test_verl_files_that_went_through_pandas(tmp_path):
    """Arrays of objects, fields in another order, an index column, messages as JSON text."""
    row = dict(ROWS["verl"][0])
    row.pop("__index_level_0__")
    row["prompt"] = [{"content": m["content"], "role": m["role"]} for m in row["prompt"]]
    write(tmp_path / "a.parquet", [row] * 5)
    frame = pd.read_parquet(tmp_path / "a.parquet")
    frame = frame.loc[[0, 1, 3]]
    frame.to_parquet(tmp_path / "b.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "b.parquet").names
    frame["prompt"] = frame["prompt"].map(lambda messages: json.dumps(list(messages)))
    frame.to_parquet(tmp_path / "c.parquet")
    expected = [ROWS["verl"][1]] * 3
    for name in ("b", "c"):
        records = load_records(tmp_path / f"{name}.parquet")
        assert [record["prompt"] for record in records] == expected
        assert records[0]["response"] == ANSWER["content"]


def test_text_that_happens_to_be_json_stays_text(tmp_path):
    row = {"prompt": '[1, 2] or {"a": 1}?', "completion": '[{"a": 1}]'}
    also = {"prompt": "[1, 2]", "completion": '{"role": "x"}'}
    records = load_records(write(tmp_path / "a.jsonl", [row, also]))
    assert records[0]["prompt"] == [{"role": "user", "content": row["prompt"]}]
    assert [r["response"] for r in records] == [row["completion"], also["completion"]]


def test_conversations_end_with_the_assistant(tmp_path):
    later = {"role": "assistant", "content": "Indeed."}
    rows = [
        {"messages": [QUESTION, ANSWER, QUESTION, later]},
        {"messages": [QUESTION, ANSWER, QUESTION]},
        {"messages": []},
        {"messages": [ANSWER]},
        {"messages": [SYSTEM, ANSWER]},
        {"messages": [QUESTION, {"role": "assistant", "content": " \n"}]},
        {"messages": [QUESTION, {"role": "tool", "content": "4"}, ANSWER]},
    ]
    records = load_records(write(tmp_path / "a.jsonl", rows))
    assert records[0]["prompt"] == [QUESTION, ANSWER, QUESTION]
    assert [r["response"] for r in records] == ["Indeed."]
    assert records.drops == {"no response": 3, "empty prompt": 2, "unsupported message": 1}


def test_content_in_parts(tmp_path):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "1 + 1?"}]
    answer = [{"type": "text", "text": "2"}]
    row = {
        "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    }
    image = {"messages": [{"role": "user", "content": [{"type": "image", "text": "x"}]}, ANSWER]}
    records = load_records(write(tmp_path / "a.json", [row]))
    assert (records[0]["prompt"], records[0]["response"]) == ([QUESTION], "2")
    assert load_records(write(tmp_path / "b.json", [image])).drops == {"unsupported message": 1}


def test_openr1_without_a_correct_generation_is_dropped(tmp_path):
    row = {**ROWS["openr1"][0], "correctness_math_verify": [False] * 4}
    records = load_records(write(tmp_path / "a.parquet", [row]))
    assert records.drops == {"no correct and complete generation": 1}


def test_an_object_with_one_list_of_records(tmp_path):
    path = tmp_path / "a.json"
    rows = [{"prompt": "a", "completion": "b"}] * 3
    path.write_text(json.dumps({"version": 1, "data": rows}))
    assert len(load_records(path)) == 3
    path.write_text(json.dumps({"version": 1, "data": rows}, indent=2))
    assert len(load_records(path)) == 3


def test_json_lines_in_a_json_file_and_a_single_record(tmp_path):
    path = tmp_path / "a.json"
    line = json.dumps({"messages": [QUESTION, ANSWER]})
    path.write_text(f"{line}\n{line}\n")
    assert len(load_records(path)) == 2
    path.write_text(f"{line}\n")
    assert len(load_records(path)) == 1


def test_folders_patterns_and_limits(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": "a"} for i in range(6)]
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "b.parquet", rows[3:])
    write(tmp_path / "files" / "a.parquet", rows[:3])
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")

    def questions(path, **options):
        return [r["prompt"][0]["content"] for r in load_records(path, **options)]

    expected = [row["prompt"] for row in rows]
    assert questions(tmp_path / "files" / "*.parquet") == expected
    assert questions(tmp_path / "files") == expected
    assert questions(tmp_path / "saved") == expected
    assert questions(tmp_path / "saved", limit=2) == expected[:2]
    assert questions(tmp_path / "saved", limit=99) == expected


def test_the_fingerprint_goes_by_content(tmp_path):
    rows = [{"prompt": "q", "completion": "a"}]
    first = source_fingerprint(write(tmp_path / "a.jsonl", rows))
    assert source_fingerprint(write(tmp_path / "b.jsonl", rows)) == first
    assert source_fingerprint(write(tmp_path / "a.jsonl", rows * 2)) != first


def test_a_file_changed_within_the_clocks_resolution_is_read_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    for answer in ("a", "b"):
        write(path, [{"prompt": "q", "completion": answer}])
        os.utime(path, (1, 1))
        assert load_records(path)[0]["response"] == answer


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"text": "x"}], {}, r"columns are text; .*split it into `prompt` and `completion`"),
        ([{"foo": "x", "bar": "y"}], {}, r"columns are foo, bar; known formats: verl .*alpaca"),
        ([{"prompt": "x"}], {}, r"columns are prompt; known formats"),
        ([{"messages": []}], {"format": "verl"}, r"data\.format: verl needs prompt and target or"),
        ([{"messages": []}], {"format": "vrel"}, r"unknown format 'vrel'; choose one of verl"),
    ],
)
def test_unknown_columns_are_refused_with_the_remedy(tmp_path, rows, options, message):
    with pytest.raises(ConfigError, match=message):
        load_records(write(tmp_path / "a.parquet", rows), **options)


def test_unreadable_sources_are_one_line(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\na,b\n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "a", "completion": "b"}\nnot json\n')
    (tmp_path / "c.parquet").write_text("PAR1 not really")
    (tmp_path / "d.json").write_text('{"prompt": ')
    for path, message in {
        tmp_path / "absent.parquet": "no such file",
        "absent.jsonl": "no such file",
        tmp_path / "a.csv": r"it takes \.parquet, \.jsonl",
        tmp_path / "b.jsonl": "cannot read",
        tmp_path / "c.parquet": "cannot read",
        tmp_path / "d.json": "not valid JSON",
        "nobody/no-such-dataset": "check the id",
    }.items():
        with pytest.raises(ConfigError, match=message) as error:
            load_records(path)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith("data.path: ")
