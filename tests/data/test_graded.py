"""Graded completions as people have them, sorted into right and wrong."""

import json

import pytest
import zstandard

from curiojax.data import graded, load_records
from curiojax.errors import ConfigError


@pytest.fixture
def split(tmp_path):
    def run(*files):
        paths = []
        for number, rows in enumerate(files):
            paths.append(tmp_path / f"part{number}.jsonl")
            paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
        read = graded.split_graded(paths, tmp_path / "right.jsonl", tmp_path / "wrong.jsonl")
        lines = [
            [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
            for name in ("right.jsonl", "wrong.jsonl")
        ]
        return read, *lines

    return run


@pytest.mark.parametrize(
    ("prompt", "response", "grade"),
    [
        ("prompt", "response", "correct"),
        ("question", "completion", "is_correct"),
        ("query", "text", "reward"),
        ("problem", "output", "score"),
    ],
)
def test_common_names_are_found_and_told(split, prompt, response, grade):
    rows = [{prompt: "1+1?", response: "2", grade: 1}, {prompt: "1+1?", response: "3", grade: 0}]
    read, right, wrong = split(rows)
    assert read.columns == {"prompt": prompt, "response": response, "grade": grade}
    assert [r["response"] for r in right] == ["2"] and [r["response"] for r in wrong] == ["3"]
    assert right[0]["prompt"] == [{"role": "user", "content": "1+1?"}]


def test_a_verdict_is_preferred_to_a_reward_that_also_judges_the_format(split):
    _, right, wrong = split([{"prompt": "p", "response": "r", "reward": 0.0, "correct": True}])
    assert len(right) == 1 and not wrong


def test_lists_of_completions_go_with_lists_of_grades(split):
    row = {
        "prompt": [{"role": "user", "content": "p"}],
        "responses": ["a", "b", "c"],
        "rewards": [1.0, -1.0, 0.0],
        "finish_reasons": ["stop", "stop", "length"],
    }
    read, right, wrong = split([row])
    assert [r["response"] for r in right] == ["a"] and [r["response"] for r in wrong] == ["b"]
    assert read.left_out == {graded.CUT: 1}
    with pytest.raises(ConfigError, match=r"part0.jsonl, line 1: 3 entries in 'responses'"):
        split([{**row, "rewards": [1.0]}])


def test_what_is_neither_is_counted(split):
    def row(response, correct, **more):
        return {"prompt": "p", "response": response, "correct": correct, **more}

    read, right, wrong = split(
        [row("a", True), row("a", True), row(" ", False), row("b", None), row("c", 0.5)],
        [row("d", False, finish_reason="length"), row("e", True, finish_reason="length")],
        [row("f", float("nan")), row("g", False)],
    )
    assert [r["response"] for r in right] == ["a", "e"]
    assert [r["response"] for r in wrong] == ["g"]
    assert read.left_out == {
        graded.REPEATED: 1,
        graded.NO_TEXT: 1,
        graded.UNGRADED: 2,
        graded.PARTLY: 1,
        graded.CUT: 1,
    }


def test_rollouts_that_say_what_was_asked(split, tmp_path):
    """A run's rollouts: compressed, with the record's id as `prompt` and the verifier's status."""

    def row(text, correct, status, **more):
        return {
            "prompt": "17",
            "prompt_index": 3,
            "messages": [{"role": "user", "content": "1+1?"}],
            "text": text,
            "correct": correct,
            "status": status,
            **more,
        }

    rows = [row("2", True, "ok"), row("3", False, "ok"), row("4", False, "timeout")]
    rows.append(row("?", False, "no_answer"))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = tmp_path / "step_000001.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    read = graded.split_graded([path], tmp_path / "right.jsonl", tmp_path / "wrong.jsonl")
    assert (read.correct, read.wrong, read.left_out) == (1, 2, {graded.UNGRADED: 1})
    assert "1+1?" in (tmp_path / "wrong.jsonl").read_text()
    del rows[0]["messages"]
    with pytest.raises(ConfigError, match="its `prompt` is the record's id"):
        split(rows[:1])
    path.write_bytes(b"no zstd")
    with pytest.raises(ConfigError, match=r"cannot read .*step_000001"):
        graded.split_graded([path], tmp_path / "right.jsonl", tmp_path / "wrong.jsonl")


def test_what_is_written_is_what_training_reads(split, tmp_path):
    rows = [
        {"prompt": "p", "response": "r", "correct": False, "answer": 7},
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]}
        | {"response": [{"role": "assistant", "content": "t"}], "correct": False, "answer": None},
    ]
    split(rows)
    records = load_records(tmp_path / "wrong.jsonl", cache_dir=tmp_path / "cache")
    assert records.format == "prompt_completion"
    assert [r["response"] for r in records] == ["r", "t"]
    assert records[0]["ground_truth"] == "7" and records[1]["ground_truth"] is None
    chosen = tmp_path / "chosen.parquet"
    graded.write_chosen(chosen, ({**r, "perplexity": 1.5, "response_tokens": 3} for r in records))
    again = load_records(chosen, cache_dir=tmp_path / "cache")
    assert again.format == "prompt_completion"
    assert list(again) == list(records)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "p", "response": "r"}, ["no column for the grade", "correct", "prompt, respo"]),
        ({"prompt": "p", "correct": 1}, ["no column for the response", "text"]),
        ({"input": "p", "response": "r", "correct": 1}, ["no column for the prompt"]),
        ({"prompt": "p", "response": "r", "correct": "yes"}, ["has a grade", "true, false"]),
        (
            {"prompt": "<|im_start|>user\np", "response": "r", "correct": 1},
            ["line 1", "chat markup", "once more"],
        ),
    ],
)
def test_a_file_that_does_not_say_is_refused(split, row, words):
    with pytest.raises(ConfigError) as error:
        split([row])
    for word in ("--graded", *words):
        assert word in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*absent.jsonl"):
        graded.split_graded([tmp_path / "absent.jsonl"], tmp_path / "r", tmp_path / "w")
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "response": "r", "correct": 1}\n[1]\n')
    with pytest.raises(ConfigError, match="line 2: not a JSON object"):
        graded.split_graded([tmp_path / "a.jsonl"], tmp_path / "r", tmp_path / "w")
    (tmp_path / "a.jsonl").write_bytes(b"\x80\x81")
    with pytest.raises(ConfigError, match="is no text"):
        graded.split_graded([tmp_path / "a.jsonl"], tmp_path / "r", tmp_path / "w")
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        graded.split_graded([tmp_path / "b.jsonl"], tmp_path / "r", tmp_path / "w")
    assert not (tmp_path / "r").exists() or (tmp_path / "r").read_text() == ""


def test_a_grade_in_training_data_is_noticed(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "response": "r", "is_correct": 1}\n')
    assert graded.grade_column(tmp_path / "a.jsonl") == "is_correct"
    (tmp_path / "b.jsonl").write_text('{"prompt": "p", "response": "r"}\n')
    assert graded.grade_column(tmp_path / "b.jsonl") is None
    assert graded.grade_column("owner/name") is None
