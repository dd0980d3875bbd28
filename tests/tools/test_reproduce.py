"""tools/reproduce.py from the command line: killed, continued, extended, wrong input."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from curiojax.errors import exit_on_config_error
from reproduction.records import DONE

ROOT = Path(__file__).parents[2]
RUNS = ("base", "vanilla", "curio", "curio-grpo")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "tools/reproduce.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment():
    # One device, and a compiler that does not try hard.
    flags = "--xla_backend_optimization_level=0"
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def reproduce(*arguments, **options):
    command = [sys.executable, str(ROOT / "tools/reproduce.py"), *map(str, arguments)]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=1800, **options
    )


def records(output):
    """The finished runs, and when their records were written."""
    found = sorted(output.glob(f"seed-*/*/*/{DONE}"))
    return {str(path.parent.relative_to(output)): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A plan of a base model and three runs of a few steps."""
    folder = tmp_path_factory.mktemp("reproduce")
    grpo = {
        "after": "curio",
        "stage": "grpo",
        "steps": 2,
        "prompts_per_step": 4,
        "rollouts_per_prompt": 4,
        "prompts_per_update": 4,
        "rows_per_microbatch": 16,
        "rollout": {"top_p": 1.0, "max_response_tokens": 13},
        "reward": {"verifier": "countdown", "format": "none", "workers": 1},
    }
    values = {
        "steps": 4,
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
        "world": {
            "num_demonstrations": 64,
            "num_prompts": 8,
            "id_prompts": 8,
            "hard_prompts": 8,
            "samples": 4,
        },
        "compare": {
            "vanilla": {"objective": {"name": "sft"}, "checkpoint": {"every": 2, "keep_every": 2}},
            "curio": {"objective": {"name": "curio"}},
            "curio+grpo": grpo,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    output = folder / "out"
    names = ("table3", "figure1", "--config", folder / "config.yaml", "--output", output)
    return [*names, "--jobs", "1"], output


@pytest.fixture(scope="module")
def killed(command):
    """What was done when the driver was killed, and the processes that it had started."""
    arguments, output = command
    driver = subprocess.Popen(
        [sys.executable, str(ROOT / "tools/reproduce.py"), *map(str, arguments)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    began = time.monotonic()
    metrics = output / "seed-0/countdown-two-0.2/vanilla/metrics.jsonl"
    while not metrics.is_file():  # the second run is under way
        assert driver.poll() is None and time.monotonic() - began < 900
        time.sleep(0.02)
    workers = psutil.Process(driver.pid).children(recursive=True)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=120)
    return records(output), workers, alive


@pytest.fixture(scope="module")
def continued(command, killed):
    """The same command again, and again with a second seed."""
    arguments, output = command
    first = reproduce(*arguments)
    once = records(output)
    second = reproduce(*arguments, "--seeds", "2")
    return first, once, second, records(output)


def test_nothing_outlives_a_killed_driver(killed):
    done, workers, alive = killed
    assert workers and not alive
    assert "seed-0/countdown/base" in done and len(done) < len(RUNS)


def test_only_what_was_missing_is_run_again(killed, continued):
    done, _, _ = killed
    first, once, _, _ = continued
    assert first.returncode == 0, first.stderr
    assert len(once) == len(RUNS)
    assert done.items() <= once.items()


def test_more_seeds_extend(continued):
    _, once, second, twice = continued
    assert second.returncode == 0, second.stderr
    assert once.items() <= twice.items()
    assert {name.partition("/")[0] for name in twice} == {"seed-0", "seed-1"}
    assert len(twice) == 2 * len(RUNS)
    assert second.stderr.count("vanilla") == second.stderr.count("seed 1, countdown, two 0.2: van")


def test_the_table_is_made_from_the_raw_numbers(command, continued):
    _, output = command
    found = json.loads((output / "results/table3.json").read_text())
    rows = {row["method"]: row for row in found["tables"][0]["rows"]}
    raw = [r for r in found["raw"] if r["run"] == "curio+grpo" and r["step"] == 2]
    assert sorted(r["seed"] for r in raw) == [0, 1]
    low, high = (r["entropy"] for r in raw)
    cell = rows["CurioSFT + GRPO"]["entropy"]
    assert cell["mean"] == pytest.approx((low + high) / 2) and cell["count"] == 2
    assert cell["error"] == pytest.approx(abs(high - low) / 2)
    assert rows["CurioSFT + GRPO"]["paper: ID avg."] == 58.7
    for run in raw:
        folder = output / f"seed-{run['seed']}/countdown-two-0.2/curio-grpo"
        scores = json.loads((folder / "evaluation.json").read_text())["steps"]["2"]
        assert scores["entropy"] == run["entropy"] and scores["seed"] == run["seed"]
    path = [r["step"] for r in json.loads((output / "results/raw.json").read_text())]
    assert set(path) == {0, 2, 4}  # the control's checkpoint on the way is evaluated, too


def test_what_is_done_is_only_read(command, continued):
    arguments, output = command
    _, _, _, before = continued
    (output / "results/report.html").unlink()
    again = reproduce(*arguments, "--seeds", "2")
    assert again.returncode == 0 and records(output) == before
    assert (output / "results/report.html").is_file() and "seconds of work" not in again.stderr


def test_what_is_finished_can_be_written_before_the_rest(command, continued):
    arguments, output = command
    _, _, _, before = continued
    early = reproduce(*arguments, "--seeds", "3", "--no-run")
    assert early.returncode == 0, early.stderr
    assert records(output) == before and "seconds of work" not in early.stderr
    words = (output / "results/results.md").read_text()
    assert f"{2 * len(RUNS)} of {3 * len(RUNS)} runs" in words


def test_a_run_that_fails_does_not_stop_the_others(command, continued, tmp_path):
    arguments, output = command
    folder = tmp_path / "out"
    place = folder / "seed-0/countdown-two-0.2/curio"
    place.mkdir(parents=True)
    (folder / "reproduction.json").write_text("{}")
    (place / "foreign").write_text("somebody else's")
    given = list(arguments)
    given[given.index(output)] = folder
    failed = reproduce(*given)
    assert failed.returncode == 1
    assert "curio: ConfigError: output_dir:" in failed.stderr and "2 runs failed" in failed.stderr
    assert "curio-grpo: seed-0/countdown-two-0.2/curio failed" in failed.stderr
    assert set(records(folder)) == {"seed-0/countdown/base", "seed-0/countdown-two-0.2/vanilla"}
    assert (folder / "results/report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["table2", "--seeds", "0"], "error: --seeds: must be positive, not 0"),
        (["table2", "--methods", "gems"], "error: --methods: 'gems' is none of the runs; try gem"),
        (["table2", "--scale", "paper", "--methods", "gem"], "error: --methods: only with --scale"),
        (["table2", "--output", "README.md"], "error: --output: README.md is a file"),
        (["table2", "--output", "tests"], "error: --output: tests is not empty and holds no"),
        (["table2", "--config", "none.yaml"], "error: none.yaml"),
        (["table4", "--base", "runs"], "error: --base: 'runs' is not of the form countdown=FOLDER"),
        (["table4", "--base", "countdown=tests"], "error: --base: tests holds no checkpoint; make"),
        (
            ["table2", "--no-run", "--output", "none"],
            "error: --output: nothing is finished in none",
        ),
        (["table2", "--config", "configs/qwen3-4b/sft.yaml"], "error: --config: "),
    ],
)
def test_wrong_input_is_one_line(tool, arguments, line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        exit_on_config_error(lambda: tool.main(arguments))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


def test_an_unknown_target_ends_with_code_2():
    found = reproduce("table9", cwd=ROOT)
    assert found.returncode == 2
    assert found.stderr.startswith("error: TARGET: 'table9'") and found.stderr.count("\n") == 1
