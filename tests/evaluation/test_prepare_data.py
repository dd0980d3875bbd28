"""The tool as a whole, with a folder in place of the hub."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curiojax.data.hub import FetchError, Unreachable
from curiojax.errors import ConfigError
from curiojax.evaluation.benchmarks import SETS, load_benchmark, parse_entries
from tests.evaluation.benchmark_files import ROWS, verl_rows, write_benchmark_files, write_rows

TOOL = Path(__file__).parents[2] / "tools" / "prepare_data.py"
# Thirteen words, the last of which is followed by something else there.
QUESTION = "If a box holds three rows of seven white eggs each, how many eggs are in four boxes?"
ACCEPT = ["--accept", "openr1_46k", *SETS["paper"]]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("prepare_data", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Hub:
    """A `fetch` that copies files, and counts."""

    def __init__(self, files):
        self.files, self.asked = files, []

    def __call__(self, source, target):
        self.asked.append(source.name)
        if source.name not in self.files:
            raise FetchError("it is not there")
        shutil.copy(self.files[source.name], target)
        return "abc123"


def expert_rows():
    """What a training set has, one row of which is a benchmark's and one has a run of it."""
    questions = [f"What is {i} plus {i}?" for i in range(6)]
    questions[2] = ROWS["math500"][0]["problem"]
    questions[4] = f"Hello. {QUESTION.replace('four', 'five')}"
    rows = verl_rows([("", question, "1") for question in questions])
    for row in rows:
        row["target"] = [{"content": "<think>\nso\n</think>\n\\boxed{1}", "role": "assistant"}]
    return rows


@pytest.fixture
def hub(tmp_path):
    files = write_benchmark_files(tmp_path / "hub")
    rows = [{**row, "problem": QUESTION} for row in ROWS["aime24"][:1]]
    files["aime24"] = write_rows(tmp_path / "hub" / "aime24.parquet", [*rows, ROWS["aime24"][1]])
    files["openr1_46k"] = write_rows(tmp_path / "hub" / "train.parquet", expert_rows())
    return Hub(files)


def arguments(out, *more):
    return [str(out), "--train", "openr1_46k", *more]


def contents(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_everything_is_fetched_checked_and_recorded(tool, hub, tmp_path, capsys):
    out = tmp_path / "out"
    tool.main(arguments(out, *ACCEPT, "--drop-overlap"), hub)
    assert set(contents(out)) == {
        "manifest.json",
        "overlap.json",
        "train/openr1_46k.parquet",
        "train/openr1_46k.no_overlap.parquet",
        *(f"benchmarks/{name}.parquet" for name in SETS["paper"]),
    }
    files = json.loads((out / "manifest.json").read_text())["files"]
    math = files["benchmarks/math500.parquet"]
    digest = subprocess.run(
        ["sha256sum", out / "benchmarks/math500.parquet"], capture_output=True, text=True
    ).stdout.split()[0]
    assert math["sha256"] == digest and math["rows"] == 3 and math["revision"] == "abc123"
    assert math["from"] == "HuggingFaceH4/MATH-500, split test"
    for name in SETS["paper"]:
        (entry,) = parse_entries([name])
        assert load_benchmark(entry, directory=out / "benchmarks").questions

    report = json.loads((out / "overlap.json").read_text())["sets"]["openr1_46k"]
    assert report["rows"] == [2, 4]
    aime, math = report["benchmarks"]["aime24"], report["benchmarks"]["math500"]
    assert (aime["questions"], aime["found"], aime["rows"]) == (2, 1, 1)
    assert aime["examples"][0]["row"] == 4 and aime["examples"][0]["question"] == "60"
    assert aime["examples"][0]["ngram"].startswith("if a box holds three rows")
    assert (math["found"], math["rows"], math["examples"][0]["row"]) == (1, 1, 2)
    assert report["benchmarks"]["minerva"]["found"] == 0
    kept = pq.read_table(out / "train/openr1_46k.no_overlap.parquet").to_pylist()
    assert [row["extra_info"]["index"] for row in kept] == [0, 1, 3, 5]
    assert kept[0] == pq.read_table(out / "train/openr1_46k.parquet").to_pylist()[0]
    printed = capsys.readouterr().out
    assert "Overlap: the same 13 words in a row" in printed and "abc123" in printed

    before, hub.asked[:] = contents(out), []
    tool.main(arguments(out, *ACCEPT, "--drop-overlap"), hub)
    assert contents(out) == before and hub.asked == []


def test_a_shorter_run_finds_more(tool, hub, tmp_path):
    out = tmp_path / "out"
    tool.main(arguments(out, *ACCEPT, "--ngram", "3"), hub)
    tool.main(arguments(out, *ACCEPT, "--ngram", "40"), hub)
    report = json.loads((out / "overlap.json").read_text())
    assert report["inputs"]["ngram"] == 40 and report["sets"]["openr1_46k"]["rows"] == [2]


def test_offline_it_lists_what_is_missing_and_uses_what_is_there(tool, hub, tmp_path, capsys):
    out = tmp_path / "out"

    def offline(source, target):
        hub.asked.append(source.name)
        raise Unreachable("no network")

    (out / "benchmarks").mkdir(parents=True)
    write_rows(out / "benchmarks" / "math500.jsonl", ROWS["math500"])
    with pytest.raises(ConfigError, match="9 of 10 files are missing or wrong"):
        tool.main(arguments(out, "--accept", "math500"), offline)
    assert hub.asked == ["openr1_46k"]  # there is no use in asking again
    lines = capsys.readouterr().err.splitlines()
    lines = [line for line in lines if "missing" in line]
    assert len(lines) == 9
    assert (
        f"{out}/train/openr1_46k.parquet: missing; put the 45,000 to 46,500 rows of "
        "Elliott/Openr1-Math-46k-8192, split train there (no network)"
    ) in lines
    (gated,) = [line for line in lines if "gpqa_diamond.parquet" in line]
    assert "198 rows of Idavidrein/gpqa, config gpqa_diamond, split train" in gated
    assert "accept its terms" in gated
    entry = json.loads((out / "manifest.json").read_text())["files"]["benchmarks/math500.jsonl"]
    assert (entry["rows"], entry["revision"], entry["from"]) == (3, None, "a local file")

    # One data set that cannot be had does not keep the others from being fetched.
    del hub.files["amc"]
    hub.asked.clear()
    with pytest.raises(ConfigError, match="1 of 10 files"):
        tool.main(arguments(out, *ACCEPT), hub)
    assert len(hub.asked) == 9 and "math500" not in hub.asked
    assert "amc.parquet: missing; put the 83 rows" in capsys.readouterr().err


def test_wrong_files_are_refused_and_not_put_in_place(tool, hub, tmp_path, capsys):
    out = tmp_path / "out"
    broken = write_rows(tmp_path / "broken.parquet", [{"problem": "1?"}])
    hub.files["aime25"] = broken
    (out / "train").mkdir(parents=True)
    own = [{"prompt": "1?", "completion": "\\boxed{1}"}]
    write_rows(out / "train" / "openr1_46k.parquet", own)
    with pytest.raises(ConfigError, match=r"4 of 4 files"):
        tool.main(arguments(out, "--benchmarks", "aime24", "aime25", "amc"), hub)
    errors = capsys.readouterr().err
    assert (
        "openr1_46k.parquet: cannot be used: its columns are prompt, completion; target" in errors
    )
    assert "aime24.parquet: was fetched from HuggingFaceH4/aime_2024, split train, but" in errors
    assert "has 2 rows, 30 expected; replace it, or add --accept aime24" in errors
    assert "has the columns problem; needed: answer or" in errors
    assert set(contents(out)) == {"manifest.json", "overlap.json", "train/openr1_46k.parquet"}
    assert not list(out.glob(".tmp*"))


def test_a_changed_file_is_read_again(tool, hub, tmp_path):
    out = tmp_path / "out"
    options = arguments(out, "--benchmarks", "amc", "math500", "--accept", "openr1_46k", "amc")
    tool.main([*options, "math500"], hub)
    write_rows(out / "benchmarks" / "amc.parquet", ROWS["amc"][:1])
    tool.main([*options, "math500"], hub)
    files = json.loads((out / "manifest.json").read_text())["files"]
    amc, math = files["benchmarks/amc.parquet"], files["benchmarks/math500.parquet"]
    assert (amc["rows"], amc["revision"], math["revision"]) == (1, None, "abc123")
    # What is not asked for this time stays recorded; what is no longer accepted is a problem.
    with pytest.raises(ConfigError, match="1 of 2 files"):
        tool.main(arguments(out, "--benchmarks", "math500", "--accept", "openr1_46k"), hub)
    files = json.loads((out / "manifest.json").read_text())["files"]
    assert set(files) == {"benchmarks/amc.parquet", "train/openr1_46k.parquet"}


def test_further_training_files_are_compared_too(tool, hub, tmp_path):
    out = tmp_path / "out"
    (out / "train").mkdir(parents=True)
    # The first is dropped, but rows are numbered as they are in the file.
    rows = [{"question": "", "answer": "1"}]
    rows += [{"question": ROWS["math500"][0]["problem"], "answer": "0.75"}]
    write_rows(out / "train" / "mine.jsonl", rows)
    tool.main([str(out), "--train", "--benchmarks", "math500", "--accept", "math500"], hub)
    report = json.loads((out / "overlap.json").read_text())["sets"]
    assert list(report) == ["mine"] and report["mine"]["rows"] == [1]


def test_gpqa_is_not_quoted(tool, hub, tmp_path):
    out = tmp_path / "out"
    (out / "train").mkdir(parents=True)
    question = ROWS["gpqa_diamond"][0]["Question"]
    rows = [{"prompt": f"{question} 1) H and O 2) both", "completion": "1"}]
    write_rows(out / "train" / "mine.jsonl", rows)
    options = ["--train", "--benchmarks", "gpqa_diamond", "--accept", "gpqa_diamond"]
    tool.main([str(out), *options, "--ngram", "4"], hub)
    part = json.loads((out / "overlap.json").read_text())["sets"]["mine"]
    (example,) = part["benchmarks"]["gpqa_diamond"]["examples"]
    assert example == {"row": 0, "question": "rec0", "ngram": None}
    assert "made of" not in (out / "overlap.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--benchmarks", "aime2024"], "did you mean aime24"),
        (["--accept", "x"], "--accept: x is not among"),
        (["--ngram", "1"], "--ngram and --common"),
    ],
)
def test_wrong_options(tool, hub, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        tool.main([str(tmp_path / "out"), *options], hub)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="OUT: cannot make"):
        tool.main([str(tmp_path / "file")], hub)


def test_the_command_ends_with_code_2_and_a_line_for_each_file(tmp_path):
    command = [sys.executable, TOOL, tmp_path / "out", "--no-fetch", "--benchmarks", "math"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert sum("(nothing was to be fetched)" in line for line in lines) == 8
    assert lines[-1].startswith("error: 8 of 8 files") and "Traceback" not in done.stderr
