"""The plan of a small step, against the step that training compiles and the arrays it holds."""

import jax
import pytest

from curiojax.planning import sweep as sweeping
from curiojax.planning.flops import matmul_parameters
from curiojax.planning.overlap import Overlap
from curiojax.planning.plan import RESERVE, Plan, ProgramPlan, measure
from curiojax.planning.show import as_json, show, show_sweep
from curiojax.planning.target import make_target
from curiojax.training import memory
from curiojax.training.memory import sampler_bytes
from curiojax.training.passes import teacher_head
from curiojax.training.policy_step import compile_policy_step
from curiojax.training.step import compile_step
from tests.training import tiny

MESH = (2, 4, 1)
TOKENS = 8 * tiny.LENGTH  # rows of a micro-batch
LIMITS = ("data.max_prompt_tokens=8", "data.max_response_tokens=24", "model.path=tiny")


def recipe(*overrides):
    return tiny.recipe(*LIMITS, *overrides, mesh=MESH)


@pytest.fixture(scope="module")
def step():
    """What training compiles."""
    return compile_step(recipe("objective.top_k=16"))


@pytest.fixture(scope="module")
def plan(step):
    return measure(step.recipe, step, make_target("cpu", 8))


def on_one_device(tree):
    device = jax.devices()[0]
    leaves = jax.tree.leaves(tree)
    shards = [s for leaf in leaves for s in leaf.addressable_shards if s.device == device]
    return sum(shard.data.nbytes for shard in shards)


def test_what_is_kept_is_what_the_arrays_take(step, plan):
    state = tiny.start(step.recipe)
    batches = tiny.microbatches(step.recipe, 0)
    with jax.set_mesh(step.recipe.mesh):
        sums = step.zeros()
        targets = step.teacher_pass(state.teacher.params, batches[0])
        targets |= teacher_head(step.recipe, state.teacher.params)
    assert plan.kept["parameters"] == on_one_device(state.params)
    assert plan.kept["optimiser"] == on_one_device(state.opt_state)
    assert plan.kept["teacher"] == on_one_device(state.teacher)
    assert plan.kept["gradients"] == on_one_device(sums.grads)
    # The rest of the sums are statistics.
    beside = on_one_device([sums.loss, sums.weight, sums.stats])
    assert plan.kept["batch"] == on_one_device([batches[0], targets]) + beside


def test_the_plan_is_of_the_step_that_trains(step, plan):
    """`accumulate` is the largest, and does not see the optimiser and the teacher."""
    assert plan.largest_program == "accumulate"
    found = step.memory()["accumulate"]
    seen = found.argument_size_in_bytes + found.temp_size_in_bytes
    unseen = plan.kept["optimiser"] + plan.kept["teacher"]
    # Beside them, the statistics, which go in and come out; and code.
    assert seen + unseen <= plan.peak <= 1.01 * (seen + unseen)


def test_products_have_a_closed_form(plan):
    """A dense attention looks at every pair; the teacher passes forward once, and only once."""
    teacher = plan.programs["teacher_pass"]
    attention = 4 * tiny.LENGTH * 4 * 8 * 2  # pairs x heads x head dimension x layers
    forward = 2 * matmul_parameters(tiny.MODEL) + attention
    assert teacher.flops == forward * TOKENS // 8
    assert teacher.head_passes == 1
    accumulate = plan.programs["accumulate"]
    assert accumulate.head_passes == 3
    # Nothing is rematerialised here: forward, and twice as much backward.
    assert accumulate.flops == 3 * teacher.flops
    assert plan.model_flops == TOKENS * 4 * (forward - attention / 2)


def test_no_scores_of_all_tokens_and_no_sort_of_all_scores(plan):
    for name in ("teacher_pass", "accumulate"):
        assert 0 < plan.programs[name].logits_at_once <= 24, name
        assert plan.programs[name].widest_sort < tiny.VOCAB, name
    assert plan.programs["teacher_pass"].widest_sort > 0
    assert plan.programs["accumulate"].widest_sort == 0


def test_the_update_communicates_numbers_only(plan):
    assert plan.programs["update"].collectives["all-reduce"].largest < 1024
    assert "all-gather" not in plan.programs["update"].collectives


def test_json(plan):
    found = as_json(plan, "preset tiny", "h100", None)
    assert list(found) == [
        *("version", "jax", "model", "target", "setting", "remat", "rows_per_microbatch"),
        *("bytes_per_device", "peak_bytes", "peak_in", "reserve_bytes", "fits", "microbatch"),
        *("programs", "sweep", "suggestion"),
    ]
    assert found["version"] == 1
    assert found["target"] == {
        "asked": "h100",
        "compiled_for": "cpu",
        "exact": False,
        "chip": "H100",
        "devices": 8,
        "mesh": {"data": 2, "fsdp": 4, "tensor": 1},
    }
    assert sum(found["bytes_per_device"].values()) == found["peak_bytes"] == plan.peak
    assert found["fits"] == {"h100": True, "h200": True}
    assert found["microbatch"]["tokens"] == TOKENS
    assert set(found["programs"]) == {"teacher_pass", "accumulate", "update"}
    gathers = found["programs"]["accumulate"]["collectives"]["all-gather"]
    assert set(gathers) == {"count", "bytes", "largest"}
    assert found["sweep"] is None and found["suggestion"] is None


def test_tables(plan, capsys):
    show(plan, "preset tiny", "h100")
    shown = capsys.readouterr().out
    for words in ("virtual CPU devices: less exact", "tools/setup_aot.sh", "fits 141 GB", "NVLink"):
        assert words in shown


def test_a_teacher_whose_logits_are_formed_is_not_counted_twice():
    recipe = tiny.recipe("objective={name: kl, estimator: reverse_full}", *LIMITS)
    step = compile_step(recipe)
    plan = measure(recipe, step, make_target("cpu", 1))
    sums, hidden = step.zeros(), TOKENS * 32 * 4
    beside = on_one_device([sums.loss, sums.weight, sums.stats])
    assert plan.kept["teacher"] == plan.kept["parameters"] + 4
    # The teacher's hidden states come with a micro-batch; its head was there before.
    batch = on_one_device(tiny.microbatches(recipe, 0)[0])
    assert plan.kept["batch"] == batch + hidden + beside


@pytest.mark.parametrize("rows, decides", [(1, False), (100_000, True)])
def test_the_jax_sampler_takes_turns_with_the_updates(monkeypatch, rows, decides):
    """As `memory_budget` of training says before a run."""
    recipe = tiny.recipe(
        *("stage=grpo", "teacher=null", "objective={name: grpo}", "data.max_prompt_tokens=8"),
        *("rollout.max_response_tokens=24", "prompts_per_step=640", f"rollout.batch_size={rows}"),
    )
    step = compile_policy_step(recipe)
    plan = measure(recipe, step, make_target("cpu", 1))
    monkeypatch.setattr(memory, "format_bytes", int)
    budget = memory.memory_budget(recipe, step)
    found = plan.bytes_by_kind
    assert plan.kept["sampler_weights"] == budget["sampler's weights (float32)"] > 0
    assert plan.sampling == budget["sampler's keys and values, at most"] > 0
    assert (plan.peak_in == "sampling") == decides == bool(found["sampler_cache"])
    assert bool(found["gradients"]) != decides
    # What training does not count: statistics and tokens of a micro-batch, outputs, code.
    assert 0 <= plan.peak - budget["at the same time"] < 0.05 * plan.peak
    vllm = tiny.recipe(
        *("stage=grpo", "teacher=null", "objective={name: grpo}", "data.max_prompt_tokens=8"),
        *("rollout.max_response_tokens=24", "rollout={engine: vllm, vllm_python: x}"),
    )
    assert sampler_bytes(vllm) == (0, 0)


# ---- the sweep, with plans made by hand ----------------------------------------------------------


def planned(config, model, target):
    """Bytes and FLOPs that grow with rows and fall with rematerialisation, as they do."""
    rows, remat = config.rows_per_microbatch, config.model.remat
    temporaries = {"full": 1e9, "dots": 1.5e9, "none": 9e9}[remat] * rows
    flops = {"full": 5, "dots": 4.2, "none": 4}[remat] * 1e12 * rows
    nothing = Overlap(0, 0, 0)
    program = ProgramPlan(
        0, 0, 0, int(temporaries), 0, 0, int(flops), 0, None, {}, nothing, 3.0, 0, 24
    )
    kept = {"parameters": int(10e9), "gradients": 0, "batch": 0}
    tokens = rows * config.row_length
    return Plan(config, model, target, {"fsdp": 8}, kept, {"accumulate": program}, tokens, 1e12)


@pytest.fixture
def compiled(monkeypatch):
    asked = []

    def make(config, model, target):
        assert config.model.remat == model.remat
        asked.append((model.remat, config.rows_per_microbatch))
        return planned(config, model, target)

    monkeypatch.setattr(sweeping, "make_plan", make)
    return asked


def test_sweep_leaves_out_what_cannot_fit_and_takes_the_fastest(compiled, capsys):
    config = recipe().config
    target = make_target("cpu", 8)
    assert sweeping.default_rows(config, target) == [8, 16, 32]
    seen = []
    plans = sweeping.sweep(
        config, tiny.MODEL, target, [8, 16, 32], progress=lambda done, total, **_: seen.append(done)
    )
    # 80 GB leave 65 for temporaries, of which a row takes 1, 1.5 and 9; 141 GB leave 126.
    assert compiled == [("full", 8), ("full", 16), ("full", 32), ("dots", 8), ("dots", 16),
                        ("dots", 32), ("none", 8)]  # fmt: skip
    assert seen == [1, 2, 3, 4, 5, 6, 9]
    best = sweeping.suggest(plans, 80e9)
    assert sweeping.setting_of(best) == ("dots", 8)  # as fast as with more rows
    assert best.peak + RESERVE <= 80e9
    assert sweeping.setting_of(sweeping.suggest(plans, 141e9)) == ("none", 8)
    assert sweeping.suggest(plans, 20e9) is None
    show_sweep(plans)
    assert (
        "fastest that fits H100: model.remat=dots rows_per_microbatch=8" in capsys.readouterr().out
    )
    found = as_json(plans[0], "by hand", "cpu", plans)
    assert found["suggestion"] == {"remat": "dots", "rows_per_microbatch": 8}
    assert [(p["remat"], p["rows_per_microbatch"]) for p in found["sweep"]] == compiled


def test_what_is_known_is_not_compiled_again(compiled):
    config, target = recipe().config, make_target("cpu", 8)
    full = sweeping.changed(config, "full", 8)
    known = planned(full, tiny.MODEL, target)
    sweeping.sweep(full, tiny.MODEL, target, [8], known=[known])
    assert compiled == [("dots", 8), ("none", 8)]
