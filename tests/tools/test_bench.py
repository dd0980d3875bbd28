"""The benchmark, end to end on a tiny model: its numbers, and that it compares like with like."""

import argparse
import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = ("sft_full", "curio_full", "fp8_full")
FAST_COMPILER = "--xla_backend_optimization_level=0"
MEASURED = ("matmul", "steps", "reference", "memory", "search", "figure6", "head", "export")


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("bench", ROOT / "tools/bench.py")
    assert spec and spec.loader
    before = list(sys.path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def arguments(**values):
    given = {"size": "toy", "repeats": 3, "records": "ragged", "timeout": 900.0}
    return argparse.Namespace(**{**given, "torch_python": sys.executable, **values})


@pytest.fixture(scope="module")
def tiny(tool):
    from speed import sizes

    return sizes.Size(
        "tiny",
        sizes._qwen(640, 32, 2, 4, 2, 8, 48, tied=False, dtype="float32"),
        rows=2,
        row_length=48,
        microbatches=2,
        chunk_tokens=32,
        search_tokens=32,
        decode_rows=4,
        decode_prompt=4,
        decode_tokens=8,
        gain=3.0,
    )


@pytest.fixture(scope="module")
def measured(tool, tiny):
    from speed import session

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "STEP_VARIANTS", STEPS)
        patch.setenv("XLA_FLAGS", FAST_COMPILER)
        results = tool.measure(arguments(), list(MEASURED), tiny)
    return json.loads(json.dumps(results, allow_nan=False))


def test_every_measurement_gives_finite_positive_numbers(measured):
    for name in MEASURED:
        outcome = measured["results"][name]
        if name == "memory":  # a CPU does not say
            assert outcome["status"] == "skipped" and outcome["reason"]
            continue
        assert (outcome["status"], outcome["reason"]) == ("ok", None), name
        for variant in outcome["variants"].values():
            seconds = variant["seconds"]
            assert len(seconds["all"]) == 3 and 0 < seconds["min"] <= seconds["median"]
            assert seconds["median"] <= seconds["max"] < math.inf
            for key, value in variant.items():
                if key.endswith(("_per_second", "flops", "_bytes", "utilisation")) and value:
                    assert 0 < value < math.inf, (name, key)
    assert set(measured["results"]["steps"]["variants"]) == set(STEPS)
    assert all(v["compiled_bytes"] > 0 for v in measured["results"]["steps"]["variants"].values())


def test_the_file_says_what_was_measured_on_what(measured):
    assert measured["version"] == 1 and measured["repeats"] == 3
    assert measured["machine"]["platform"] == "cpu" and measured["machine"]["cores"] >= 1
    assert set(measured["software"]) == {"curiojax", "jax", "jaxlib", "torch", "transformers"}
    size = measured["size"]
    assert size["slots"] == 2 * 2 * 48 >= size["tokens"] > size["trained"] > 0
    # Embedding and head; two layers of projections with biases, MLP and norms; the last norm.
    layer = 32 * (32 + 16 + 16 + 32) + (32 + 16 + 16) + 3 * 32 * 48 + 2 * 32
    assert size["parameters"] == 2 * 640 * 32 + 2 * layer + 32
    assert any("no evidence about GPUs" in note for note in measured["notes"])


def test_ratios_are_quotients_of_medians(measured):
    def median(path):
        part, name = path.split(".")
        return measured["results"][part]["variants"][name]["seconds"]["median"]

    ratios = measured["ratios"]
    plain = [
        name for name, ratio in ratios.items() if " / " in ratio["of"] and ": " not in ratio["of"]
    ]
    assert len(plain) >= 8
    for name in plain:
        over, under = ratios[name]["of"].split(" / ")
        scale = measured["size"]["trained"] / 32 if name == "search_share" else 1
        assert ratios[name]["value"] == pytest.approx(scale * median(over) / median(under))
    steps = measured["results"]["steps"]["variants"]
    best = max(v["flops_per_second"] for v in measured["results"]["matmul"]["variants"].values())
    curio = steps["curio_full"]
    assert curio["model_flops"] * 3 == pytest.approx(steps["sft_full"]["model_flops"] * 4)
    assert ratios["utilisation"]["value"] == pytest.approx(
        curio["model_flops"] / median("steps.curio_full") / best
    )


def test_the_reference_trains_as_we_do(measured):
    """The same weights and tokens: equal losses, also after updates with either's gradients."""
    ours = measured["results"]["steps"]["variants"]["curio_full"]["losses"]
    theirs = measured["results"]["reference"]["variants"]["float32"]["losses"]
    assert len(ours) == 3 and ours[0] > ours[1] > ours[2]
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_all_searches_find_the_same_temperatures(measured):
    variants = (
        measured["results"]["search"]["variants"] | measured["results"]["figure6"]["variants"]
    )
    means = [variant["tau_mean"] for variant in variants.values()]
    assert len(means) == 4 and means == pytest.approx([means[0]] * 4, abs=2e-5)
    losses = [v["loss"] for v in measured["results"]["head"]["variants"].values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_tables(tool, measured, capsys):
    from speed import tables

    tables.show(measured)
    printed = capsys.readouterr().out
    assert "steps curio_full" in printed and "no evidence" in printed and "missed" not in printed
    table = tables.markdown([measured]).splitlines()
    assert table[0].count("|") == table[2].count("|") == 7
    [row] = [line for line in table if line.startswith("| speed, temperature search / Figure 6")]
    value = measured["ratios"]["search_to_figure6"]["value"]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == [">= 5", *["not measured"] * 3, f"{value:.2f}"]


def test_one_that_fails_leaves_the_others(tool, tiny, monkeypatch):
    """An interpreter that ends at once stands for any way to fail."""
    from speed import launch

    kept, run = [], launch.Worker.run

    def run_and_look(worker):
        outcome = run(worker)
        if "cache" in worker.job:
            kept.append({path.name for path in Path(worker.job["cache"]).glob("*-cache")})
        return outcome

    monkeypatch.setattr(launch.Worker, "run", run_and_look)
    monkeypatch.setenv("XLA_FLAGS", FAST_COMPILER)
    given = arguments(torch_python="/bin/false", repeats=1)
    results = tool.measure(given, ["figure6", "export", "start", "decode"], tiny)["results"]
    assert results["figure6"]["status"] == "failed" and "code 1" in results["figure6"]["reason"]
    assert results["export"]["status"] == "ok"
    assert results["decode"]["variants"]["top_p_0.95"]["tokens_per_second"] > 0
    start = results["start"]["variants"]
    assert start["warm"]["seconds"]["median"] > 0 and start["cold"]["seconds"]["median"] > 0
    # The first process leaves its programs, to which the second one has none to add.
    cold, warm = kept
    assert cold and warm == cold
