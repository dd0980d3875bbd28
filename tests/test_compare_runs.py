"""The comparison tool: every objective over seeds on the embedded world, and given runs."""

import csv
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import yaml

from curiojax import comparison
from curiojax.config import load_config, parse_objective, read_config
from curiojax.errors import ConfigError
from curiojax.evaluation.comparison import Estimate, difference_at_equal
from curiojax.evaluation.results import read_evaluations

ROOT = Path(__file__).parents[1]
RUNS = {
    "vanilla SFT": {"objective": {"name": "sft"}, "checkpoint": {"every": 2, "keep_every": 2}},
    "OXA": {"objective": {"name": "oxa", "ul_weight": 0.1}},
}


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("compare_runs", ROOT / "tools/compare_runs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def compared(tool, tmp_path_factory):
    """A finished comparison of six steps, its folder and the command line."""
    folder = tmp_path_factory.mktemp("comparison")
    values = {
        "steps": 6,
        "sequences_per_step": 16,
        "rows_per_microbatch": 16,
        "model": {"compute_dtype": "float32", "remat": "none"},
        "data": {
            "template": "plain",
            "max_prompt_tokens": 6,
            "max_response_tokens": 13,
            "packing": False,
        },
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 0},
        "world": {"num_demonstrations": 64, "id_prompts": 8, "hard_prompts": 8, "samples": 4},
        "mesh": {"fsdp": 1, "data": -1},
        "compare": RUNS,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    output = folder / "out"
    command = ["--quickstart", "--config", str(folder / "config.yaml"), "--output", str(output)]
    tool.main([*command, "--seeds", "2"])
    return output, command


def test_everything_is_measured_and_written(compared):
    output, _ = compared
    results = json.loads((output / "results.json").read_text())
    assert [(r["run"], r["seed"]) for r in results["runs"]] == [
        (name, seed) for seed in (0, 1) for name in ("base model", "vanilla SFT", "OXA")
    ]
    for run in results["runs"]:
        evaluated = {"base model": ["0"], "vanilla SFT": ["2", "4", "6"], "OXA": ["6"]}
        assert list(run["evaluations"]) == evaluated[run["run"]]
        if run["run"] != "base model":
            assert run["training"]["train_loss"] > 0 and run["training"]["seconds_per_step"] > 0
    rows = list(csv.DictReader((output / "results.csv").open()))
    assert len(rows) == 2 * (1 + 3 + 1)
    assert {"id_pass1", "hard_pass4", "search_hard_pass4", "entropy", "train_sft_nll"} <= set(
        rows[0]
    )
    tables = (output / "tables.md").read_text()
    assert tables.count("| OXA |") == 4 and "±" in tables
    report = (output / "report.html").read_text()
    for piece in ("plot-entropy_top20", "plot-plane-1", "format ignored", "2 seeds"):
        assert piece in report


def test_the_table_says_what_the_runs_measured(compared):
    """Means, errors and the difference at equal accuracy from the raw files, by hand."""
    output, _ = compared
    results = json.loads((output / "results.json").read_text())
    (table,) = (t for h, t in results["tables"].items() if h.startswith("Accuracy"))
    row = dict(zip(table["columns"], next(r for r in table["rows"] if r[0] == "OXA"), strict=True))
    entropies = [r["evaluations"]["6"]["entropy"] for r in results["runs"] if r["run"] == "OXA"]
    a, b = entropies
    assert row["entropy"] == f"{(a + b) / 2:.3f} ± {abs(a - b) / 2:.3f}"

    (table,) = (t for h, t in results["tables"].items() if "equal accuracy" in h)
    row = dict(zip(table["columns"], next(r for r in table["rows"] if r[0] == "OXA"), strict=True))
    found = []
    for seed in (0, 1):
        runs = {r["run"]: r["evaluations"] for r in results["runs"] if r["seed"] == seed}
        found.append(
            difference_at_equal(
                runs["vanilla SFT"].values(),
                runs["OXA"]["6"],
                equal="search_id_pass1",
                key="search_hard_pass4",
            )
        )
    known = [x for x in found if x is not None]
    shown = row["vs vanilla SFT, format ignored"]
    assert (shown is None) == (not known)
    if known:
        assert shown.startswith(f"{sum(known) / len(known):+.3f}")
        assert shown.endswith("(1)") == (len(known) == 1)


def test_nothing_is_done_twice(tool, compared, monkeypatch, capsys):
    output, command = compared
    files = [p for p in output.rglob("*") if p.name in ("metrics.jsonl", "evaluation.json")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert len(before) == 4 + 4 + 2
    monkeypatch.setattr(comparison.quickstart, "score", None)  # evaluating would fail
    tool.main([*command, "--seeds", "2"])
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert "since this start" in capsys.readouterr().out


def test_a_checkpoint_is_evaluated_as_its_export_is(compared, monkeypatch):
    output, command = compared
    config = load_config(command[2]).model_copy(update={"seed": 1})
    run = output / "seed-1" / "vanilla-sft"
    exported = read_evaluations(run)[6]
    copy = run.with_name("copy")
    shutil.copytree(run, copy)
    (copy / "evaluation.json").unlink()
    comparison.evaluate_step(config, copy, 6, last=7)  # from `checkpoints`, not from `hf`
    assert read_evaluations(copy)[6] == exported
    shutil.rmtree(copy)


def test_other_peoples_folders_and_files_stay(tool, compared, tmp_path):
    _, command = compared
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="not empty and holds no comparison"):
        tool.main([*command[:3], "--output", str(tmp_path)])
    page = tmp_path / "page.html"
    page.write_text("<html>mine</html>")
    with pytest.raises(ConfigError, match=r"page\.html exists and is no comparison"):
        tool.main([str(compared[0] / "seed-0"), "--output", str(page)])
    assert page.read_text() == "<html>mine</html>"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "thesis.tex"]


def test_given_runs_side_by_side(tool, compared, tmp_path, capsys):
    output, _ = compared
    started = tmp_path / "started"
    shutil.copytree(output / "seed-0" / "oxa", started)
    shutil.rmtree(started / "hf")
    (started / "invocation.json").unlink()
    lines = (started / "metrics.jsonl").read_text().splitlines(keepends=True)
    (started / "metrics.jsonl").write_text("".join(lines[:4]))
    vanilla = str(output / "seed-0" / "vanilla-sft")
    page = tmp_path / "page.html"
    tool.main([vanilla, str(started), "--output", str(page)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "oxa ul_weight=0.1" in shown and "4, unfinished" in shown
    assert "No ratio is given" in shown
    assert "search hard" in shown  # the finished one was evaluated
    assert "plot-entropy_top20" in page.read_text()
    tool.main([str(output / "seed-0"), "--output", str(page)])  # a folder of runs; its own page
    shown = " ".join(capsys.readouterr().out.split())
    assert "unfinished" not in shown and "ratio" in shown and "1.00" in shown
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="neither a run directory"):
        tool.main([str(tmp_path / "empty")])
    with pytest.raises(ConfigError, match="not a run directory"):
        tool.main([str(tmp_path / "nothing")])


def test_time_compares_within_one_start_only(tool):
    def run(seed, seconds, invocation):
        rows = [{"step": s, "step_seconds": seconds} for s in range(5)]
        return comparison.Measured("x", seed, Path(), {"name": "sft"}, rows, {}, invocation)

    plain = [run(0, 2.0, "a"), run(1, 4.0, "a"), run(2, 4.0, None)]
    ours = [run(1, 6.0, "a"), run(0, 6.0, "b"), run(2, 6.0, None), run(3, 6.0, "a")]
    assert tool.time_ratios(ours, plain) == [1.5, None, None, None]


def test_cells(tool):
    assert tool.text(None) is None
    assert tool.text(Estimate(0.12345, 0.0021, 3), of=3) == "0.123 ± 0.002"
    assert tool.text(Estimate(0.12345, 0.0021, 2), signed=True, of=3) == "+0.123 ± 0.002 (2)"
    assert tool.text(Estimate(-0.5, None, 1), signed=True, of=1) == "-0.500"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name run directories"),
        (["--quickstart", "--seeds", "0"], "--seeds"),
        (["--seeds", "3", "runs"], "only with --quickstart"),
        (["--quickstart", "--config", "configs/qwen3-4b/sft.yaml"], "compares nothing"),
        (["--quickstart", "objective.alpa=1"], "objective.alpa"),
    ],
)
def test_bad_arguments(tool, arguments, words):
    with pytest.raises(ConfigError, match=words):
        tool.main(arguments)


def test_the_shipped_comparison_has_every_baseline_of_the_paper_and_ours():
    config = load_config(ROOT / "configs/comparison.yaml")
    runs = config.compare or {}
    compared = {parse_objective({"name": "curio", **run["objective"]}) for run in runs.values()}
    shipped = [*ROOT.glob("configs/baselines/*.yaml"), *ROOT.glob("configs/beyond/*.yaml")]
    for path in shipped:
        if "grpo.yaml" in path.read_text():  # single-stage: no supervised run to compare
            continue
        objective = read_config(path).get("objective", {})
        assert parse_objective({"name": "curio", **objective}) in compared, path
    slow = "vanilla SFT, 0.4 x lr, 630 steps"
    assert comparison.controls(config) == ["vanilla SFT", slow]
    rates = [float(run.get("optimizer", {}).get("learning_rate", 1)) for run in runs.values()]
    assert min(rates) == pytest.approx(0.4 * config.optimizer.learning_rate)
    assert runs[slow]["steps"] == pytest.approx(config.steps / 0.4)
    others = [run for name, run in runs.items() if name not in comparison.controls(config)]
    assert all(run.keys() == {"objective"} for run in others)
