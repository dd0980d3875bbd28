"""What the benchmark's numbers are made of."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax import losses, models
from curiojax.objectives import Curio

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(autouse=True)
def _tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.mark.parametrize("kind", ["peaked", "normal"])
def test_figure6_agrees_with_our_search(kind):
    """In PyTorch, Figure 6 returns the middle of a bracket of 0.4 / 2**15; ours is inside it."""
    torch = pytest.importorskip("torch")
    from speed.figure6 import figure6
    from speed.heads import plain_search
    from speed.inputs import teacher_logits

    rng = np.random.default_rng(0)
    logits = {
        "peaked": teacher_logits(64, 3000),
        "normal": 3 * rng.standard_normal((8, 600)).astype(np.float32),
    }[kind]
    theirs = figure6(torch.from_numpy(logits)).numpy()
    objective = Curio(gate_entropy=None)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        plain = plain_search(jnp.asarray(logits), objective)
    ours = losses.entropy_guided_temperature(jnp.asarray(logits), objective)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    np.testing.assert_allclose(plain, theirs, atol=2e-5)
    if kind == "peaked":
        assert np.unique(theirs.round(2)).size > 10


@pytest.mark.parametrize("single", [False, True])
def test_rows_are_records_side_by_side(single):
    from speed.inputs import counts, packed_rows

    arrays = packed_rows(50, 2, 3, 64, single=single)
    assert {x.shape for x in arrays.values()} == {(2, 3, 64)}
    tokens, pairs = 0, 0
    for row in np.ndindex(2, 3):
        ids = arrays["segment_ids"][row]
        assert arrays["loss_mask"][row][ids == 0].sum() == 0
        found = [i for i in np.unique(ids) if i > 0]
        assert len(found) == 1 if single else len(found) > 1
        for segment in found:
            inside = np.nonzero(ids == segment)[0]
            first, last = inside[0], inside[-1]
            assert (np.diff(inside) == 1).all()
            assert (arrays["positions"][row][inside] == np.arange(len(inside))).all()
            following = arrays["tokens"][row][first + 1 : last + 1]
            assert (arrays["labels"][row][first:last] == following).all()
            mask = arrays["loss_mask"][row][inside]
            assert 0 < mask.sum() <= len(inside) and (np.diff(mask) >= 0).all()
            tokens += len(inside)
            pairs += sum(1 for i in inside for j in inside if j <= i)
    trained = int(arrays["loss_mask"].sum())
    assert counts(arrays) == {"tokens": tokens, "trained": trained, "pairs": pairs}


def test_forward_flops_are_those_that_xla_counts():
    """One layer, so that XLA, which counts the body of a loop once, sees all of them."""
    from speed import sizes

    model = sizes._qwen(512, 64, 1, 4, 2, 16, 160, tied=True, dtype="float32")
    size = sizes.Size("one", model, rows=2, row_length=96, microbatches=1)
    ids = jax.ShapeDtypeStruct((2, 96), jnp.int32)

    def forward(params, tokens, positions, segments):
        hidden = models.forward(params, model, tokens, positions, segments)
        return models.logits(params, model, hidden)

    program = jax.jit(forward).lower(models.abstract_params(model), ids, ids, ids).compile()
    # Dense attention computes all pairs.
    ours = sizes.forward_flops(size, 192, 192, 2 * 96 * 96)
    assert ours == pytest.approx(program.cost_analysis()["flops"], rel=0.05)


def test_sizes_come_back_from_a_job_file():
    import json

    from speed import sizes

    for size in sizes.SIZES.values():
        again = sizes.from_json(json.loads(json.dumps(size.to_json())))
        assert again == size and hash(again.model) == hash(size.model)


def test_fit_takes_the_widest_model_with_all_layers_that_fit(monkeypatch):
    from speed import probe, sizes
    from speed.worker import Skipped

    def needed(size):  # 2 GB and 1 GB per layer, ten times that for the widest
        scale = 10 if size.model.hidden_size == 3584 else 1
        return int(scale * (2e9 + 1e9 * size.model.num_layers))

    monkeypatch.setattr(probe, "_needed", needed)
    monkeypatch.setattr(probe, "_may_fit", lambda size, limit: needed(size) <= limit)
    # 0.92 x 100 = 92 GB: 7 layers of the widest, so 90 GB, are exactly a quarter of its 28.
    fit = probe.fitting(int(100e9))
    assert (fit.name, fit.model.num_layers) == ("7b, 7 layers", 7)
    assert probe.fitting(int(320e9)).model.num_layers == 27  # 294.4 GB / 10 - 2
    assert probe.fitting(int(1000e9)) == sizes.SIZES["7b"]
    assert probe.fitting(int(20e9)).name == "1.5b, 16 layers"  # 18.4 - 2
    with pytest.raises(Skipped, match="no size fits"):
        probe.fitting(int(1e9))


def test_summary_of_times():
    from speed.results import summarise

    found = summarise([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found["median"], found["min"], found["max"], found["spread"]) == (3.0, 1.0, 5.0, 2.0)
    assert summarise([7.0])["spread"] == 0


def test_targets():
    from speed.results import met, ratios
    from speed.sizes import SIZES

    def part(**medians):
        return {"variants": {name: {"seconds": {"median": x}} for name, x in medians.items()}}

    results = {
        "steps": part(sft_full=4.0, curio_full=5.0, curio_dots=4.0, sft_dots=3.0),
        "reference": part(autocast=6.0),
        "search": part(bisect=0.01, newton=0.005, plain=0.02),
        "figure6": part(figure6=0.04),
    }
    results["steps"]["variants"]["curio_dots"]["peak_bytes"] = 30
    results["reference"]["variants"]["autocast"]["peak_bytes"] = 60
    found = ratios(results, {"trained": 10_240}, SIZES["1.5b"])
    values = {name: (round(r["value"], 6), met(r)) for name, r in found.items()}
    assert values == {
        "curio_fastest_to_sft_full": (1.0, True),
        "curio_to_sft_full": (1.25, False),
        "curio_to_sft_dots": (round(4 / 3, 6), None),
        "search_share": (0.02, True),  # ten times 1024 tokens
        "speed_to_reference": (1.5, True),
        "memory_to_reference": (0.5, True),
        "search_to_figure6": (4.0, False),
        "search_to_plain": (2.0, None),
        "newton_to_bisect": (2.0, None),
    }


class Silent:
    """A channel without another end."""

    def __init__(self):
        self.sent = []

    def unit(self, count=1):
        self.sent.append("unit")

    def wait_for_turn(self):
        self.sent.append("turn")


def test_variants_take_turns():
    from speed.worker import take_turns

    order, channel = [], Silent()
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = take_turns(channel, runs, 3)
    assert order == list("ababab")
    assert {name: len(x) for name, x in seconds.items()} == {"a": 3, "b": 3}
    assert channel.sent == ["turn", "unit", "unit"] * 3


def test_compiling_while_the_clock_runs_is_an_error():
    from speed.programs import timed

    program = jax.jit(lambda x: jnp.sin(x) * 7.5)
    with pytest.raises(RuntimeError, match="compiled while the clock ran"):
        timed(Silent(), {"cold": lambda: program(jnp.zeros(3))}, 1)
    assert set(timed(Silent(), {"warm": lambda: program(jnp.zeros(3))}, 2)) == {"warm"}


def test_a_step_without_room_leaves_the_others(monkeypatch):
    """Both kinds: more than the device has by XLA's plan, and refused when it is run."""
    from types import SimpleNamespace as Names

    from speed import programs, sizes, steps

    weights = Names(is_deleted=lambda: False)
    needs = {"sft_full": 5, "curio_full": 7, "sft_dots": 99, "curio_dots": 9}
    order = []

    class Step:
        def __init__(self, size, name):
            self.name, self.recipe = name, Names(teacher=None, name=name)

        def __call__(self, state, batches):
            order.append(self.name)
            if self.name == "curio_dots":
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
            return state, Names(loss=float(len(order)))

    class State(Names):
        def _replace(self, **values):
            return State(**{**vars(self), **values})

    monkeypatch.setattr(steps, "_compile", Step)
    monkeypatch.setattr(steps, "compiled_bytes", lambda recipe, step: needs[step.name])
    monkeypatch.setattr(steps, "memory_limit", lambda: 10)
    monkeypatch.setattr(steps, "random_state", lambda *_: State(teacher=(), weights=weights))
    monkeypatch.setattr(steps, "batches_of", lambda *_: [])
    monkeypatch.setattr(steps.jax.tree, "leaves", lambda state: [state.weights])
    monkeypatch.setattr(programs.jax, "block_until_ready", lambda x: x)
    job = {"size": sizes.SIZES["toy"].to_json(), "variants": list(needs), "repeats": 2}
    found = steps.steps(Silent(), job)["variants"]
    assert order[:3] == ["curio_full"] * 3 and found["curio_full"]["losses"] == [1, 2, 3]
    assert found["sft_dots"]["failed"].startswith("needs 0.0 GB")
    assert found["curio_dots"]["failed"].startswith("out of memory")
    assert [name for name, v in found.items() if "seconds" in v] == ["sft_full", "curio_full"]
    assert order[-4:] == ["curio_full", "sft_full"] * 2


FAKE = """
import sys, time
from speed.worker import main, take_turns

def measure(channel, job):
    def run():
        with open(job["order"], "a") as file:
            file.write(job["name"])
    seconds = take_turns(channel, {"v": run}, job["repeats"])
    return {"variants": {"v": {"seconds": seconds["v"]}}}

def full(channel, job):
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes")

def killed(channel, job):
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)

def hangs(channel, job):
    print("library noise on standard output")
    time.sleep(60)

main({"measure": measure, "full": full, "killed": killed, "hangs": hangs})
"""


@pytest.fixture
def worker(tmp_path):
    from speed.launch import Worker

    (tmp_path / "fake_worker.py").write_text(FAKE)
    environment = {"PYTHONPATH": f"{tmp_path}:{TOOLS}"}

    def make(measurement, name="x", timeout=600.0, repeats=3):
        order = str(tmp_path / "order")
        job = {"measurement": measurement, "name": name, "repeats": repeats, "order": order}
        folder = tmp_path / f"{measurement}-{name}"
        settings = {"module": "fake_worker", "environment": environment, "timeout": timeout}
        return Worker(job, folder, **settings)

    return make


def test_processes_take_turns(worker, tmp_path):
    from speed.launch import run_together

    outcomes = run_together([worker("measure", "a"), worker("measure", "b", repeats=2)])
    assert (tmp_path / "order").read_text() == "ababa"
    assert [len(o["variants"]["v"]["seconds"]) for o in outcomes] == [3, 2]


def test_what_went_wrong_is_said(worker):
    from speed.launch import run_together

    full, killed, fine = run_together([worker("full"), worker("killed"), worker("measure")])
    assert full["status"] == killed["status"] == "failed" and fine["status"] == "ok"
    assert full["reason"].startswith("out of memory") and "signal 9" in killed["reason"]
    slow = worker("hangs", timeout=1.0).run()
    assert slow == {"status": "failed", "reason": "took more than 1 s and was ended"}
    unknown = worker("nonsense").run()
    assert unknown["status"] == "failed" and "nonsense" in unknown["reason"]


def test_a_part_of_several_processes_survives_one(worker):
    from speed.session import _one_by_one

    good, bad = worker("measure", "a", repeats=1), worker("full", "b")
    good.job["variant"], bad.job["variant"] = "v", "w"
    outcome = _one_by_one([bad, good])
    assert outcome["status"] == "ok" and set(outcome["variants"]) == {"v", "w"}
    assert outcome["variants"]["w"]["failed"].startswith("out of memory")


def test_without_torch_it_is_skipped(tmp_path):
    """An interpreter that finds no torch, as the trainer's environment has none."""
    from speed.launch import Worker

    (tmp_path / "torch.py").write_text("raise ImportError('not installed')")
    for name in ("figure6", "reference"):
        environment = {"PYTHONPATH": f"{tmp_path}:{TOOLS}"}
        job = {"measurement": name}
        worker = Worker(job, tmp_path / name, module="speed.torch_worker", environment=environment)
        assert worker.run() == {"status": "skipped", "reason": "no torch"}


def test_only_torch_modules_import_torch():
    for path in (TOOLS / "speed").glob("*.py"):
        text = path.read_text()
        if path.name not in ("torch_worker.py", "reference.py", "figure6.py"):
            assert "import torch" not in text, path
        else:  # they may run where there is neither JAX nor this package
            assert "import jax" not in text and "curiojax import" not in text, path
