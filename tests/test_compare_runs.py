"""tools/compare_runs.py: run directories side by side."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from curiojax import quickstart
from curiojax.config import load_config
from curiojax.errors import ConfigError
from curiojax.evaluation.results import write_evaluation

ROOT = Path(__file__).parents[1]
SMALL = ("steps=3", "sequences_per_step=8", "rows_per_microbatch=8", "world.num_demonstrations=32")
RUNS = {
    "finished": {"objective": {"name": "sft"}},
    "started": {"objective": {"name": "entropy", "coef": 0.1}},
}
SCORES = {"id_pass1": 0.25, "id_pass1_error": 0.01, "search_hard_pass4": 0.75, "entropy": 1.5}


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("compare_runs", ROOT / "tools/compare_runs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs, one of them finished and evaluated, the other as if it were at its second step."""
    folder = tmp_path_factory.mktemp("runs")
    config = load_config(ROOT / "configs/quickstart.yaml", SMALL)
    config = config.model_copy(update={"compare": RUNS})
    for name in RUNS:
        quickstart.train(quickstart.member(config, name, folder), name=name, details=False)
    write_evaluation(folder / "finished", 2, SCORES | {"early_pass1": 0.125})
    write_evaluation(folder / "finished", 3, SCORES)
    started = folder / "started"
    shutil.rmtree(started / "hf")
    lines = (started / "metrics.jsonl").read_text().splitlines(keepends=True)
    (started / "metrics.jsonl").write_text("".join(lines[:2]))
    return folder


def cells(table, row):
    (found,) = (cells for cells in table["rows"] if cells[0] == row)
    return dict(zip(table["columns"], found, strict=True))


def test_given_runs_side_by_side(tool, folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    tool.main([str(folder / "finished"), str(folder / "started"), "--output", str(page)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "entropy coef=0.1" in shown and "2, unfinished" in shown
    assert "No ratio is given" in shown
    assert "search hard pass@4" in shown and "0.750" in shown
    report = page.read_text()
    for piece in ("plot-entropy_top20", "plot-sft_nll", "2, unfinished", "search hard pass@4"):
        assert piece in report
    tool.main([str(folder), "--output", str(page)])  # a folder of runs; replaces its own page
    assert " ".join(capsys.readouterr().out.split()) == shown


def test_the_tables_say_what_the_runs_measured(tool, folder):
    runs = tool.named(tool.read_run(path) for path in tool.run_directories(folder))
    assert list(runs) == ["finished", "started"]
    tables = tool.tables_of(runs)
    for name, steps in (("finished", 3), ("started", 2)):
        lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").open()]
        assert len(lines) == steps
        row = cells(tables["Loss and entropy"], name)
        assert row["loss"] == pytest.approx(lines[-1]["loss"])
        assert row["cross-entropy"] == pytest.approx(lines[-1]["sft_nll"])
        assert row["top 20 %"] == pytest.approx(lines[-1]["entropy_top20"])
        row = cells(tables["Token weights and time"], name)
        seconds = sum(line["step_seconds"] for line in lines[1:]) / (steps - 1)
        assert float(row["s/step"]) == pytest.approx(seconds, abs=0.01)
        assert row["mean w"] is None
    assert cells(tables["Runs"], "finished")["steps"] == "3"
    # Accuracies of the last step, whoever has any; neither errors nor earlier steps.
    scores = tables["Accuracy, last step"]
    assert cells(scores, "finished") == {
        "run": "finished",
        "id pass@1": 0.25,
        "search hard pass@4": 0.75,
    }
    assert cells(scores, "started")["id pass@1"] is None
    assert "Accuracy, last step" not in tool.tables_of({"started": runs["started"]})


def test_runs_of_equal_names_are_told_apart(tool, folder, tmp_path):
    other = tmp_path / "finished"
    shutil.copytree(folder / "finished", other, ignore=shutil.ignore_patterns("checkpoints", "hf"))
    runs = tool.named(map(tool.read_run, (folder / "finished", other)))
    assert list(runs) == [str(folder / "finished"), str(other)]


def test_a_run_of_another_version_keeps_its_name(tool):
    def text(**objective):
        return tool.objective_text(tool.Run(Path(), objective, [], {}))

    assert text(name="sft") == "sft"
    assert text(name="curio", fixed_tau=1.3) == "curio fixed_tau=1.3"
    assert text(name="gone", x=1) == text(name="gone") == "gone"


def test_other_peoples_files_stay(tool, folder, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<html>mine</html>")
    with pytest.raises(ConfigError, match=r"page\.html exists and is no comparison"):
        tool.main([str(folder), "--output", str(page)])
    assert page.read_text() == "<html>mine</html>"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_what_is_no_run(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="neither a run directory"):
        tool.main(["empty"])
    with pytest.raises(ConfigError, match="not a run directory"):
        tool.main(["nothing"])
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "config.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError, match="names no objective"):
        tool.main(["evaluation"])
    with pytest.raises(SystemExit):
        tool.main([])
    assert "RUN" in capsys.readouterr().err
    assert not (tmp_path / "comparison.html").exists()
