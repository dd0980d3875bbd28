"""The tool as a whole against a local endpoint: files in, files out, kills, budgets, batches."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curiojax.data import load_records
from curiojax.data.rephrase.rows import ADDED
from curiojax.errors import ConfigError
from tests.waiting import wait_until

from .stub import NOISE, Stub, cleaned, completion

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools" / "rephrase_questions.py"
KEY = "sk-not-for-anybody-else"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("rephrase_questions", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stub():
    with Stub() as stub:
        yield stub


@pytest.fixture
def jsonl(tmp_path):
    """Questions with answers; every third one is asked twice."""
    path = tmp_path / "data.jsonl"
    with path.open("w") as stream:
        for i in range(12):
            row = {"question": f"What is {i - (i % 3 == 2)} + 5?{NOISE}", "answer": i + 5.0}
            row |= {"date": "2024-01-01"} if i % 2 else {"tags": {"a": [i, None], "é": "x"}}
            stream.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def verl(tmp_path):
    """LUFFY's schema as pandas would write it, field order and metadata included."""
    message = pa.struct([("content", pa.large_string()), ("role", pa.string())])
    rows = [
        {
            "data_source": "",
            "prompt": [
                {"content": "Think first.", "role": "system"},
                {"content": f"Find ${i} + 1$.{NOISE}", "role": "user"},
            ],
            "target": [
                {"content": f"<think>\nso\n</think>\n\\boxed{{{i + 1}}}", "role": "assistant"}
            ]
            if i % 5
            else None,
            "reward_model": {"ground_truth": str(i + 1), "style": "rule"},
            "extra_info": {"index": i, "split": "default"},
            "score": i / 7,
        }
        for i in range(9)
    ]
    rows[3]["prompt"].append({"content": "And then?", "role": "user"})
    schema = pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(message)),
            ("target", pa.list_(message)),
            ("reward_model", pa.struct([("ground_truth", pa.string()), ("style", pa.string())])),
            ("extra_info", pa.struct([("index", pa.int64()), ("split", pa.string())])),
            ("score", pa.float32()),
        ],
        metadata={"pandas": "{}"},
    )
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def command(data, output, url=None, *more):
    options = ["--data", data, "--output", output, "--model", "m", "--backoff", "0.01"]
    return [*map(str, options), *(["--base-url", url] if url else []), *map(str, more)]


def read(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_question_and_answer_jsonl(tool, stub, jsonl, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    tool.main(command(jsonl, output, stub.url))
    assert set(stub.asked.values()) == {1} and len(stub.asked) == 8
    before, after = read(jsonl), read(output)
    for old, new in zip(before, after, strict=True):
        added = {name: new.pop(name) for name in ADDED}
        assert new == old | {"question": cleaned(old["question"])}
        assert list(new) == list(old)
        assert added["question_original"] == old["question"]
        assert added["rephrase_status"] == "rephrased" and added["rephrase_model"] == "m"
        assert len(added["rephrase_template"]) == 16
    shown = capsys.readouterr().out
    assert "rephrased" in shown and "4,800" in shown
    records = load_records(output, need="ground_truth", cache_dir=tmp_path / "arrow")
    assert records.format == "question_answer" and len(records) == 12
    assert records[7]["prompt"] == [{"role": "user", "content": "What is 7 + 5?"}]
    assert records[7]["ground_truth"] == 12.0
    # The same again: nothing is asked, the same bytes come out.
    content = {path: path.read_bytes() for path in tmp_path.glob("out.jsonl*")}
    assert len(content) == 4
    tool.main(command(jsonl, output, stub.url))
    assert stub.asked.total() == 8
    assert {path: path.read_bytes() for path in content} == content


def test_verl_parquet(tool, stub, verl, tmp_path):
    output = tmp_path / "out.parquet"
    tool.main(command(verl, output, stub.url))
    old, new = pq.read_table(verl), pq.read_table(output)
    assert new.schema.remove_metadata() == pa.schema(
        [*old.schema.remove_metadata(), *((name, pa.string()) for name in ADDED)]
    )
    same = [name for name in old.column_names if name != "prompt"]
    assert new.select(same).equals(old.select(same).replace_schema_metadata(None))
    for i, (one, other) in enumerate(zip(old.to_pylist(), new.to_pylist(), strict=True)):
        if i == 3:
            assert other["prompt"] == one["prompt"] and other["question_original"] is None
            assert other["rephrase_status"] == "skipped: several turns of the user"
            assert other["rephrase_model"] is other["rephrase_template"] is None
            continue
        one["prompt"][1]["content"] = f"Find ${i} + 1$."
        assert other["prompt"] == one["prompt"]
        assert other["rephrase_status"] == "rephrased"
    for need, count in (("response", 7), ("ground_truth", 9)):
        records = load_records(output, need=need, cache_dir=tmp_path / "arrow")
        assert records.format == "verl" and len(records) == count
    assert records[0]["prompt"][1]["content"] == "Find $0 + 1$."
    # From parquet to JSONL, and a second time through the tool.
    tool.main(command(verl, tmp_path / "out.jsonl", stub.url))
    assert read(tmp_path / "out.jsonl") == read(output)
    with pytest.raises(ConfigError, match=r"--data: .* 'question_original' already"):
        tool.main(command(output, tmp_path / "twice.parquet", stub.url))


def test_rejected_and_failed_rows_keep_their_question(tool, jsonl, tmp_path, capsys):
    def behave(question, count):
        if question.startswith("What is 0"):
            return {"body": completion("The answer is 5.")}
        if question.startswith("What is 1 "):
            return {"body": completion("Output:\n\n" + cleaned(question))}
        if question.startswith("What is 4"):
            return {"body": completion(question)}
        if question.startswith("What is 3"):
            return {"status": 400, "body": {"error": {"message": "no"}}}

    output = tmp_path / "out.parquet"
    with Stub(behave) as stub:
        tool.main(command(jsonl, output, stub.url))
    rows = read(output)
    statuses = [row["rephrase_status"] for row in rows]
    assert statuses[0] == "rejected: states an answer"
    assert statuses[1:6] == ["rephrased", "rephrased", "failed: HTTP 400", "unchanged", "unchanged"]
    assert [row["question"] for row in rows[:4]] == [
        f"What is 0 + 5?{NOISE}",
        "What is 1 + 5?",
        "What is 1 + 5?",
        f"What is 3 + 5?{NOISE}",
    ]
    assert rows[3]["rephrase_model"] is None and rows[0]["rephrase_model"] == "m"
    assert "1 rows failed: HTTP 400; the same command asks again" in capsys.readouterr().out
    report = (tmp_path / "out.parquet.html").read_text()
    assert "<del> Thanks in advance, friends!</del>" in report
    assert "row 0: states an answer" in report
    with Stub() as stub:
        tool.main(command(jsonl, output, stub.url))
    assert list(stub.asked) == [f"What is 3 + 5?{NOISE}"]
    assert read(output)[3]["rephrase_status"] == "rephrased"
    record = json.loads((tmp_path / "out.parquet.job").read_text())
    assert record["result"]["labels_removed"] == 2
    assert record["result"]["statuses"]["rephrased"] == 9


def test_other_checks_ask_nothing_again(tool, stub, jsonl, tmp_path):
    output = tmp_path / "out.jsonl"
    tool.main(command(jsonl, output, stub.url))
    with pytest.raises(ConfigError, match=r"--output: .* checks = .*--cache .*\.replies"):
        tool.main(command(jsonl, output, stub.url, "--max-length", "0.2"))
    other = tmp_path / "strict.jsonl"
    cache = ("--cache", f"{output}.replies", "--max-length", "0.2")
    tool.main(command(jsonl, other, stub.url, *cache))
    assert stub.asked.total() == 8
    assert {row["rephrase_status"] for row in read(other)} == {"rejected: too long"}


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (("--limit", "5"), "limit"),
        (("--temperature", "0.5"), "sampling"),
        (("--extra", '{"top_p": 0.5}'), "sampling"),
    ],
)
def test_what_another_job_made_stays(tool, stub, jsonl, tmp_path, more, key):
    output = tmp_path / "out.jsonl"
    tool.main(command(jsonl, output, stub.url))
    content = output.read_bytes()
    with pytest.raises(ConfigError, match=f"--output: .* with {key} = "):
        tool.main(command(jsonl, output, stub.url, *more))
    assert output.read_bytes() == content and stub.asked.total() == 8


def test_files_of_others_stay(tool, stub, jsonl, tmp_path):
    for name in ("out.jsonl", "out.jsonl.html", "out.jsonl.job"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ConfigError, match=f"{name} exists"):
            tool.main(command(jsonl, tmp_path / "out.jsonl", stub.url))
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    content = jsonl.read_bytes()
    with pytest.raises(ConfigError, match="exists and was not made by this tool"):
        tool.main(command(jsonl, jsonl, stub.url))
    assert jsonl.read_bytes() == content and not stub.asked


def test_a_dry_run_sends_and_writes_nothing(tool, stub, jsonl, tmp_path, capsys):
    files = sorted(tmp_path.iterdir())
    more = ("--dry-run", "--price-in", "1000", "--price-out", "0")
    tool.main(command(jsonl, tmp_path / "out.jsonl", stub.url, *more))
    assert not stub.asked and sorted(tmp_path.iterdir()) == files
    shown = capsys.readouterr().out
    prompt = 1312 - len("{question}") + len(f"What is 0 + 5?{NOISE}")
    tokens = sum(-(-(prompt + (i > 9)) // 3) + 8 for i in (0, 1, 3, 4, 6, 7, 9, 10))
    assert f"{tokens:,}" in shown and f"{tokens / 1000:.4g}" in shown
    assert "one token for every three characters" in shown
    tool.main(["--data", str(jsonl), "--model", "m", "--dry-run"])
    assert "give --price-in" in capsys.readouterr().out


def test_the_budget_stops_and_more_of_it_goes_on(tool, stub, jsonl, tmp_path):
    output = tmp_path / "out.jsonl"
    priced = ("--price-in", "1000", "--price-out", "1000", "--max-tokens", "100")
    base = command(jsonl, output, stub.url, *priced, "--concurrency", "1")
    with pytest.raises(ConfigError, match=r"--budget: 2\.8 of 4 is spent .* 4 of 8 questions"):
        tool.main([*base, "--budget", "4"])
    assert stub.asked.total() == 4 and not output.exists()
    # Replies that are there count: the same budget buys nothing more.
    with pytest.raises(ConfigError, match="--budget"):
        tool.main([*base, "--budget", "4"])
    assert stub.asked.total() == 4
    tool.main([*base, "--budget", "4", "--partial"])
    statuses = [row["rephrase_status"] for row in read(output)]
    assert statuses == ["rephrased"] * 6 + ["not asked"] * 6
    tool.main([*base, "--budget", "100"])
    assert stub.asked.total() == 8 and set(stub.asked.values()) == {1}
    assert {row["rephrase_status"] for row in read(output)} == {"rephrased"}
    for wrong in (priced[:2], (*priced, "--extra", '{"max_tokens": null}')):
        with pytest.raises(ConfigError, match="--budget: needs"):
            tool.main(command(jsonl, output, stub.url, *wrong, "--budget", "1"))


def test_batch_files_go_out_and_come_back(tool, stub, jsonl, tmp_path, capsys):
    requests, replies = tmp_path / "requests.jsonl", tmp_path / "replies.jsonl"
    output = tmp_path / "out.jsonl"
    tool.main(command(jsonl, output, None, "--export-batch", requests))
    lines = read(requests)
    assert len(lines) == 8 and len({line["custom_id"] for line in lines}) == 8
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
    with pytest.raises(ConfigError, match=r"--export-batch: .* exists"):
        tool.main(command(jsonl, output, None, "--export-batch", requests))

    def answer(line, status=200, error=None):
        prompt = line["body"]["messages"][0]["content"]
        question = prompt.rpartition("Input:\n\n")[2].removesuffix("\n\nOutput:")
        response = {"status_code": status, "request_id": "r", "body": completion(cleaned(question))}
        return {"id": "b", "custom_id": line["custom_id"], "response": response, "error": error}

    answers = [answer(line) for line in reversed(lines)]
    answers[0] = answer(lines[7], error={"code": "batch_expired", "message": "late"})
    answers[1] = answer(lines[6], status=500)
    answers.append({**answer(lines[0]), "custom_id": "another job's"})
    replies.write_text("\n".join(map(json.dumps, answers)))
    with pytest.raises(ConfigError, match="--import-batch: 2 of 8 questions have no reply"):
        tool.main(command(jsonl, output, None, "--import-batch", replies))
    shown = capsys.readouterr().out
    assert "error batch_expired" in shown and "error 500" in shown and "of other jobs" in shown
    # The two that failed: a second batch, or the endpoint.
    tool.main(command(jsonl, output, None, "--export-batch", tmp_path / "second.jsonl"))
    assert read(tmp_path / "second.jsonl") == lines[6:]
    tool.main(command(jsonl, output, stub.url))
    assert stub.asked.total() == 2
    by_batch = output.read_bytes()
    tool.main(command(jsonl, tmp_path / "direct.jsonl", stub.url))
    assert (tmp_path / "direct.jsonl").read_bytes() == by_batch
    # What is sent directly is what the batch asks for.
    assert sorted(json.dumps(body) for _, _, body in stub.requests[2:]) == sorted(
        json.dumps(line["body"]) for line in lines
    )
    replies.write_text("{}\nnonsense")
    with pytest.raises(ConfigError, match="line 2 is not a JSON object"):
        tool.main(command(jsonl, output, None, "--import-batch", replies))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--extra", "[]"), "--extra: not a JSON object"),
        (("--extra", '{"stream": true}'), "--extra: stream"),
        (("--template", "/no/such"), "--template: cannot read"),
        (("--split", "x", "--format", "alpaca"), "--format: alpaca needs"),
    ],
)
def test_wrong_options(tool, stub, jsonl, tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        tool.main(command(jsonl, tmp_path / "out.jsonl", stub.url, *more))
    with pytest.raises(ConfigError, match=r"\.parquet or \.jsonl"):
        tool.main(command(jsonl, tmp_path / "out.csv", stub.url))


def test_an_endpoint_that_answers_nothing_writes_nothing(tool, jsonl, tmp_path):
    output = tmp_path / "out.jsonl"
    with Stub(lambda question, count: {"status": 400}) as stub:
        with pytest.raises(ConfigError, match="not one question was answered"):
            tool.main(command(jsonl, output, stub.url))
    assert not output.exists()


def run_tool(data, output, url, *more, **environment):
    return subprocess.Popen(
        [sys.executable, str(TOOL), *command(data, output, url, *more)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_killed_and_continued_no_answered_question_is_asked_twice(tool, tmp_path):
    """And the key, which the endpoint quotes wherever it can, is nowhere to be found."""
    killed, held = threading.Event(), []

    def behave(question, count):
        text = cleaned(question) + (f" {KEY}" if question.startswith("What is 7 ") else "")
        body = {"error": {"message": f"{KEY} is busy"}}
        if question.startswith("What is 9 ") and count == 1:
            return {"status": 500, "body": body}
        if stub.asked.total() > 30 and not killed.is_set():
            held.append(question)
            killed.wait()
        return {"delay": 0.01, "body": completion(text, finish_reason="stop")}

    data, output = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    rows = [{"question": f"What is {i} + 5?{NOISE}", "answer": str(i + 5)} for i in range(60)]
    data.write_text("\n".join(map(json.dumps, rows)))
    secret = {"SOME_KEY": KEY, "CURIOJAX_CACHE": str(tmp_path / "cache")}
    more = ("--api-key-env", "SOME_KEY", "--concurrency", "4")
    replies = tmp_path / "out.jsonl.replies"
    with Stub(behave) as stub:
        process = run_tool(data, output, stub.url, *more, **secret)
        wait_until(lambda: len(held) == 4)  # all that are under way at once
        process.send_signal(signal.SIGKILL)
        shown = process.communicate()[0]
        killed.set()
        assert process.returncode == -signal.SIGKILL and not output.exists()
        lines = replies.read_bytes().split(b"\n")
        answered = len(lines) - 2
        assert 15 < answered < 45
        replies.write_bytes(b"\n".join(lines[:-1]) + b'\n{"key": "torn')
        first = stub.asked.total()
        process = run_tool(data, output, stub.url, *more, **secret)
        shown += process.communicate(timeout=300)[0]
        assert process.returncode == 0, shown
        # The second run asked for what had not been answered, and one that failed once.
        assert 60 - answered <= stub.asked.total() - first <= 60 - answered + 1
        assert stub.asked.total() <= 60 + 4 + 1
        headers = {k.lower(): v for k, v in stub.requests[-1][1].items()}
        assert headers["authorization"] == f"Bearer {KEY}"
    result = read(output)
    assert [row["question_original"] for row in result] == [row["question"] for row in rows]
    statuses = {i: row["rephrase_status"] for i, row in enumerate(result)}
    assert statuses.pop(7) == "rephrased" and "[key]" in result[7]["question"]
    assert set(statuses.values()) == {"rephrased"}
    # Uninterrupted, the same bytes.
    with Stub(behave) as stub:
        other = ("--cache", tmp_path / "other.replies")
        tool_output = tmp_path / "again.jsonl"
        os.environ["SOME_KEY"] = KEY
        try:
            tool.main(command(data, tool_output, stub.url, *more, *other))
        finally:
            del os.environ["SOME_KEY"]
    assert tool_output.read_bytes() == output.read_bytes()
    assert KEY not in shown
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path


def test_ctrl_c_finishes_what_is_in_flight(jsonl, tmp_path):
    told = threading.Event()

    def behave(question, count):
        told.wait()

    with Stub(behave) as stub:
        more = ("--concurrency", "3")
        process = run_tool(jsonl, tmp_path / "out.jsonl", stub.url, *more)
        wait_until(lambda: stub.asked.total() == 3)
        process.send_signal(signal.SIGINT)
        shown = ""
        while "stopping after the 3 requests" not in shown:
            line = process.stdout.readline()
            assert line, shown
            shown += line
        told.set()
        shown += process.stdout.read()
        assert process.wait(timeout=300) == 130
        assert shown.endswith("the same command goes on from what was saved\n")
        assert stub.asked.total() == 3
        assert len((tmp_path / "out.jsonl.replies").read_text().splitlines()) == 4
