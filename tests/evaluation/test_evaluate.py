"""`python -m curiojax.evaluate` with the JAX sampler: results, kills, changes, errors."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from curiojax.errors import ConfigError
from curiojax.evaluate import main
from curiojax.evaluation import journal, results_file
from curiojax.evaluation.rows import completion_rows
from curiojax.evaluation.runner import run_evaluation
from curiojax.evaluation.settings import load_settings
from tests.evaluation.benchmark_files import ROWS
from tests.held import held
from tests.waiting import wait_until

EVALUATE = """
from curiojax.errors import exit_on_config_error
from curiojax.evaluate import main
exit_on_config_error(main)
"""


def settings(folder, output, *overrides):
    return load_settings(None, arguments(folder, output, *overrides))


def arguments(folder, output, *overrides):
    return [
        f"model={folder / 'model'}",
        f"benchmarks_dir={folder / 'benchmarks'}",
        f"output_dir={output}",
        "benchmarks=[aime24,minerva,arc_challenge]",
        "mesh={data: -1, fsdp: 1}",
        "template=plain",
        "max_response_tokens=64",
        "batch_size=16",
        "batch_tokens=2048",
        "samples=3",
        "temperature=1.0",
        "model.compute_dtype=float32",
        "grading_workers=1",
        *overrides,
    ]


@pytest.fixture(scope="module")
def straight(trained, tmp_path_factory):
    """An evaluation that nothing disturbed."""
    output = tmp_path_factory.mktemp("straight") / "out"
    run_evaluation(settings(trained, output))
    return output


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_written(trained, straight):
    results = json.loads((straight / "results.json").read_text())
    assert list(results["benchmarks"]) == ["aime24", "minerva", "arc_challenge"]
    for name, part in results["benchmarks"].items():
        assert part["questions"] == part["available"] == len(ROWS[name])
        header, *completions = lines(straight / "completions" / f"{name}.jsonl")
        assert header["temperature"] == 1.0 and len(completions) == 3 * part["questions"]
        verdicts = lines(straight / "grades" / f"{name}.{part['verifier']}.jsonl")[1:]
        entropies = lines(straight / "entropies" / f"{name}.jsonl")[1:]
        assert len(verdicts) == len(entropies) == len(completions)
        # The numbers of the results are those of the files.
        right = sum(line["correct"] for line in verdicts)
        assert part["avg"]["value"] == pytest.approx(right / len(completions))
        drawn = [value for line in entropies for value in line["entropies"]]
        assert len(drawn) == sum(len(line["tokens"]) for line in completions)
        assert part["entropy"]["token_mean"] == pytest.approx(sum(drawn) / len(drawn))
        assert part["strict_verifier"] == ("math_verify" if name == "arc_challenge" else None)
    # It has learnt some of it.
    assert 0.2 < results["means"]["all"]["avg"]["value"] <= 1
    assert results["settings"]["engine"] == "sampler" and results["name"] == "model"
    page = (straight / "report.html").read_text()
    assert "ARC-Challenge" in page and "<script" in page


def test_results_are_as_documented(straight):
    """Every key is a word of the documentation; of the counts, the kinds of failure aside."""
    said = set(re.findall(r"[A-Za-z0-9_-]+", results_file.__doc__))
    found = json.loads((straight / "results.json").read_text())
    part = found["benchmarks"].pop("minerva")
    trees = [found["settings"], found["software"], found["means"], {**found, "benchmarks": {}}]
    trees += [{**part, "counts": {}}, part["per_question"][0]]

    def keys(values):
        for key, value in values.items():
            yield key
            if isinstance(value, dict):
                yield from keys(value)

    assert {key for tree in trees for key in keys(tree) if not key.isdigit()} <= said


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [2, 7, 12, 17, 20])
@pytest.mark.parametrize("torn", [False, True])
def test_a_kill_changes_nothing(trained, straight, tmp_path, monkeypatch, after, torn):
    """Stopped after so many writes, in the middle of one or between two; then run again."""
    if torn != (after % 2 == 0):
        pytest.skip("every other one is torn")
    append, count = journal.Journal.append, 0

    def failing(self, rows):
        nonlocal count
        count += 1
        if count < after:
            return append(self, rows)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if torn:
            self._stream.write(text[: len(text) * 2 // 3].encode())
            self._stream.flush()
        raise Killed

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "append", failing)
        with pytest.raises(Killed):
            run_evaluation(settings(trained, output))
    assert not (output / "results.json").exists()
    done = {p: p.read_bytes() for p in (output / "completions").glob("*.jsonl")}
    run_evaluation(settings(trained, output))
    assert (output / "results.json").read_bytes() == (straight / "results.json").read_bytes()
    for path, before in done.items():  # what was there stayed there, a torn line aside
        assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])


def test_all_nine_and_a_kill_from_outside(trained, straight, tmp_path):
    options = arguments(trained, tmp_path / "out", "benchmarks=[paper]")
    command = [sys.executable, "-m", "curiojax.evaluate", *options]
    # The first line comes before any sampling; the second one is a completion.
    slow = [sys.executable, "-c", held(EVALUATE, name="amc.jsonl", lines=1), *options]
    process = subprocess.Popen(slow, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    file = tmp_path / "out/completions/amc.jsonl"
    wait_until(lambda: file.exists() and file.read_bytes().count(b"\n") > 1, 600, process=process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "AIME 2024" in done.stdout and "±" in done.stdout
    # AIME 2024 and 2025 come before the file that was waited for.
    assert "AIME 2025      3 questions x 3; 3 are through" in done.stdout
    assert re.search(r"MMLU-Pro +3 questions x 3 *\n", done.stdout)
    ours, theirs = (
        json.loads((p / "results.json").read_text()) for p in (tmp_path / "out", straight)
    )
    assert len(ours["benchmarks"]) == 9 and ours["means"].keys() == {"math", "general", "all"}
    for name, part in theirs["benchmarks"].items():  # whatever is sampled beside it
        assert ours["benchmarks"][name] == part
    titles = ("AMC", "MATH-500", "GPQA-Diamond", "MMLU-Pro")
    page = (tmp_path / "out/report.html").read_text()
    assert all(title in done.stdout and title in page for title in titles)
    # GPQA asks not to publish its questions: the page has them by number only.
    gpqa = ROWS["gpqa_diamond"][0]["Question"]
    assert gpqa not in page and gpqa in (tmp_path / "out/questions/gpqa_diamond.jsonl").read_text()


def test_a_larger_limit_samples_the_rest_only(trained, straight, tmp_path, monkeypatch):
    output = tmp_path / "out"
    small = run_evaluation(settings(trained, output, "limit=1"))
    part = small["benchmarks"]["minerva"]
    assert part["questions"] == 1 and part["available"] == len(ROWS["minerva"])
    first = lines(output / "completions/minerva.jsonl")
    run_evaluation(settings(trained, output))
    assert lines(output / "completions/minerva.jsonl")[: len(first)] == first
    whole = json.loads((output / "results.json").read_text())
    expected = json.loads((straight / "results.json").read_text())
    assert whole["benchmarks"]["aime24"]["avg"] == expected["benchmarks"]["aime24"]["avg"]
    # And back: the larger file serves.
    again = run_evaluation(settings(trained, output, "limit=1"))
    assert again["benchmarks"] == small["benchmarks"]


def test_another_grader_needs_no_samples(trained, straight, tmp_path, monkeypatch):
    output = tmp_path / "out"
    shutil.copytree(straight, output)
    monkeypatch.setattr("curiojax.evaluation.runner.start_engine", None)  # nobody may sample
    monkeypatch.setattr("curiojax.evaluation.engines.Weights.load", None)
    # Whatever the model said: here it says 3.0e10 in another way.
    path = output / "completions/minerva.jsonl"
    rows = lines(path)
    for row in rows:
        if row.get("question") == "0":
            row["text"] = r"So.</think> The answer is \boxed{3 \times 10^{10}}"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    shutil.rmtree(output / "grades")
    before = run_evaluation(settings(trained, output))["benchmarks"]["minerva"]
    found = run_evaluation(settings(trained, output, "verifier=exact"))
    assert {part["verifier"] for part in found["benchmarks"].values()} == {"exact"}
    assert found["settings"]["verifier"] == "exact"
    # math-verify takes one way of writing a number for another; a comparison of texts does not.
    assert found["benchmarks"]["minerva"]["avg"]["value"] < before["avg"]["value"]


def test_a_corrected_ground_truth_is_graded_again(trained, straight, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    output, files = tmp_path / "out", tmp_path / "files"
    shutil.copytree(straight, output)
    shutil.copytree(trained / "benchmarks", files)
    rows = [{**row, "answer": "no such answer"} for row in ROWS["aime24"]]
    pq.write_table(pa.Table.from_pylist(rows), files / "aime24.parquet")
    found = run_evaluation(settings(trained, output, f"benchmarks_dir={files}"))
    before = json.loads((straight / "results.json").read_text())["benchmarks"]
    assert found["benchmarks"]["aime24"]["avg"]["value"] == 0 < before["aime24"]["avg"]["value"]
    assert found["benchmarks"]["minerva"]["avg"] == before["minerva"]["avg"]
    # And back: the report shows the verdicts that count, not the latest.
    again = run_evaluation(settings(trained, output))
    assert again["benchmarks"] == before
    part = again["benchmarks"]["aime24"]
    right = [bool(value) for row in part["per_question"] for value in row["correct"]]
    rows = completion_rows(output, again)["aime24"]
    assert [row["correct"] for row in rows] == right and any(right)


def test_prompts_that_do_not_fit_count_as_wrong(trained, tmp_path):
    question = {"question": "one " * 300, "answer": "1"}
    easy = {"question": "How many minutes are there in one hour?", "answer": "60"}
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (question, easy)))
    own = f"benchmarks=[{{name: own, path: {path}, verifier: math}}]"
    found = run_evaluation(
        settings(
            trained, tmp_path / "out", own, "model.max_position_embeddings=256", "temperature=0"
        )
    )
    part = found["benchmarks"]["own"]
    assert part["counts"]["prompt_too_long"] == 1 and part["questions"] == 2
    assert part["counts"]["completions"] == 3  # of the other question
    assert part["per_question"][0]["correct"] == [0, 0, 0]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "change, words",
    [
        ("temperature=0.5", "temperature = 1.0"),
        ("samples=2", "samples = 3"),
        ("seed=1", "seed = 0"),
        ("template=qwen", "template"),
    ],
)
def test_completions_of_other_settings_are_refused(trained, straight, change, words):
    before = contents(straight)
    with pytest.raises(ConfigError, match=words):
        run_evaluation(settings(trained, straight, change))
    assert contents(straight) == before  # what the folder says of itself included


def test_other_questions_of_the_same_names_are_refused(trained, straight, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    output, files = tmp_path / "out", tmp_path / "files"
    shutil.copytree(straight, output)
    shutil.copytree(trained / "benchmarks", files)
    rows = pq.read_table(files / "aime24.parquet").to_pylist()
    changed = [{**row, "problem": f"Now: {row['problem']}"} for row in rows]
    pq.write_table(pa.Table.from_pylist(changed), files / "aime24.parquet")
    before = contents(output)
    with pytest.raises(ConfigError, match="had another prompt"):
        run_evaluation(settings(trained, output, f"benchmarks_dir={files}"))
    assert contents(output) == before


def test_nothing_is_sampled_when_no_question_fits(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"^max_response_tokens: .*of 1024; lower it to 1009"):
        run_evaluation(settings(trained, tmp_path / "out", "max_response_tokens=8192"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["benchmarks=[aime23]"], "aime2"),
        (["model=/nowhere/model"], "model"),
        (["verifier=maths"], "did you mean"),
        (["temprature=1"], "did you mean temperature"),
        (["n=4"], "did you mean samples"),
        (["engine=vllm"], "vllm_python"),
        (["vllm_python=/x"], "engine=vllm"),
        (["template=model"], "^template: .*chat template"),
        (["benchmarks_dir=/nowhere"], "put its rows into /nowhere/aime24.parquet"),
        (["expert_data.groups=fixed"], "base"),
        (["expert_data.path=/nowhere/train.jsonl"], "expert_data.path: .*/nowhere"),
        (["verifier=maths"], "^verifier: "),
    ],
)
def test_wrong_input_is_one_line(trained, tmp_path, overrides, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=words) as error:
        main(arguments(trained, tmp_path / "out", *overrides))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["verifier=json:judge"], "^verifier: .*no function 'judge'"),
        (["engine=vllm", "vllm_python=/nowhere/python"], "^vllm_python: /nowhere/python is not"),
        (["engine=vllm", "vllm_python=python", "mesh={data: 7, fsdp: 1}"], "^mesh: .* 8 devices"),
        (["mesh={data: 7, fsdp: 1}"], "^mesh: "),
    ],
)
def test_what_would_fail_after_sampling_is_found_before(trained, tmp_path, overrides, words):
    with pytest.raises(ConfigError, match=words):
        run_evaluation(settings(trained, tmp_path / "out", *overrides))
    for name in ("aime24", "minerva"):
        assert len(lines(tmp_path / f"out/completions/{name}.jsonl")) == 1  # the header


def test_memory_that_does_not_suffice_is_one_line(trained, tmp_path, monkeypatch):
    import jax

    def generate(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating")

    monkeypatch.setattr("curiojax.rollout.sampler.JaxSampler.generate", generate)
    with pytest.raises(ConfigError, match=r"^batch_size: 16 completions of up to 64 tokens"):
        run_evaluation(settings(trained, tmp_path / "out"))


def test_workers_that_do_not_start_are_one_line(trained, straight, tmp_path, monkeypatch):
    from curiojax.rewards.supervisor import WorkersUnavailable

    def pool(*args, **kwargs):
        raise WorkersUnavailable("no processes left")

    shutil.copytree(straight, tmp_path / "out")
    monkeypatch.setattr("curiojax.evaluation.runner.RewardPool", pool)
    with pytest.raises(ConfigError, match=r"^grading_workers: no processes left"):
        run_evaluation(settings(trained, tmp_path / "out", "verifier=exact"))


def test_a_folder_of_something_else_is_left_alone(trained, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        run_evaluation(settings(trained, tmp_path))


def test_comparing(trained, straight, tmp_path, capsys):
    other = tmp_path / "other"
    run_evaluation(settings(trained, other, "seed=1", "name=other"))
    capsys.readouterr()
    main(["compare", str(straight), str(other / "results.json"), f"output={tmp_path / 'c.html'}"])
    said = capsys.readouterr().out
    assert "other" in said and "Minerva" in said
    assert "Minerva" in (tmp_path / "c.html").read_text()
    with pytest.raises(ConfigError, match="two"):
        main(["compare", str(straight)])
    mine = tmp_path / "mine.jsonl"
    mine.write_text("{}")
    with pytest.raises(ConfigError, match=r"^output: .*is no comparison"):
        main(["compare", str(straight), str(other), f"output={mine}"])
    assert mine.read_text() == "{}"
    main(["compare", str(straight), str(other), f"output={tmp_path / 'c.html'}"])  # its own
    for output in ("", tmp_path, straight / "results.json" / "c.html"):
        with pytest.raises(ConfigError, match=r"^output: "):
            main(["compare", str(straight), str(other), f"output={output}"])
    assert len(list(tmp_path.iterdir())) == 3
    completions = other / "completions/aime24.jsonl"
    completions.write_bytes(completions.read_bytes() + b"{\n")
    with pytest.raises(ConfigError, match=r"aime24.jsonl: line 11 is damaged"):
        main(["compare", str(straight), str(other), f"output={tmp_path / 'c.html'}"])
    with pytest.raises(ConfigError, match="outptu"):
        main(["compare", str(straight), str(other), "outptu=x.html"])
