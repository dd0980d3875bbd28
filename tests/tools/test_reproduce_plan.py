"""What tools/reproduce.py runs, at either scale."""

import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from curiojax import quickstart
from curiojax.config import load_config, parse_objective, read_config
from curiojax.data.worlds import embedded_world
from curiojax.data.worlds.countdown import reachable
from curiojax.errors import ConfigError
from curiojax.evaluation.settings import load_settings
from curiojax.objectives import POLICY_OBJECTIVES
from curiojax.rewards.countdown import parse_ground_truth
from reproduction import paper, settings
from reproduction.paper_runs import hours, paper_runs, state_gigabytes
from reproduction.plan import (
    BASE,
    HYBRIDS,
    LOW_LR,
    OTHER_BASE,
    SETS,
    TARGETS,
    VANILLA,
    configured,
    plan,
)
from reproduction.records import is_done
from reproduction.worker import answer

ROOT = Path(__file__).parents[2]
LAPTOP = ROOT / "configs/reproduce/laptop.yaml"
SMALL = {
    **{"num_demonstrations": 8, "num_prompts": 8, "id_prompts": 8, "hard_prompts": 8},
    "samples": 2,
}


@pytest.fixture(scope="module")
def config():
    return load_config(LAPTOP)


@pytest.fixture(scope="module")
def everything(config):
    return plan({"countdown": config}, TARGETS, 1)


def test_every_run_happens_once_and_after_the_one_it_starts_from(everything):
    keys = [run.key for run in everything]
    assert len(keys) == len(set(keys))
    for place, run in enumerate(everything):
        assert run.needs is None or run.needs in keys[:place]
        assert run.needs is None or run.settings["run"]["after"] == run.after
    assert "seed-0/countdown-two-0.2/curio-grpo" in keys and "seed-0/countdown/base" in keys


def test_more_seeds_add_runs_and_change_none(config, everything):
    more = plan({"countdown": config}, TARGETS, 3)
    assert {run.key: run for run in everything}.items() <= {run.key: run for run in more}.items()
    assert len(more) == 3 * len(everything)
    assert {run.seed for run in more} == {0, 1, 2}


def test_the_list_of_methods_is_the_papers(config, everything):
    def read(target):
        return {run.name for run in plan({"countdown": config}, [target], 1)}

    unbuilt = {name for name in HYBRIDS if name not in POLICY_OBJECTIVES}
    assert set(paper.TABLE1.rows) <= read("table1")
    assert set(paper.TABLE2.rows) <= read("table2")
    assert set(paper.TABLE3.rows) - unbuilt <= read("table3")
    for table in paper.TABLE4.values():
        assert set(table.rows) <= read("table4")
    assert {"srft", "hpt", "sft_rl"} - unbuilt <= read("table3")
    assert {f"curio-pivot{x}" for x in ("0.4", "0.6", "0.8", "1.0", "1.4")} <= read("figure5")
    sets = {run.demonstrations for run in everything if run.name == "curio"}
    assert sets == set(SETS)


def test_every_shipped_objective_of_the_supervised_stage_is_compared(config):
    # Those in which nothing but the objective is special.
    alone = [run for run in config.compare.values() if run.keys() <= {"objective", "checkpoint"}]
    compared = {parse_objective(run["objective"]) for run in alone}
    for path in [*ROOT.glob("configs/baselines/*.yaml"), *ROOT.glob("configs/beyond/*.yaml")]:
        if "grpo.yaml" in path.read_text():  # single-stage: no supervised run to compare
            continue
        objective = read_config(path).get("objective", {})
        assert parse_objective({"name": "curio", **objective}) in compared, path


def test_the_controls_are_plain_sft_and_as_far_at_a_lower_rate(config):
    vanilla, slow = config.compare[VANILLA], config.compare[LOW_LR]
    assert vanilla["objective"] == slow["objective"] == {"name": "sft"}
    assert vanilla.keys() == {"objective", "checkpoint"}
    rate = float(slow["optimizer"]["learning_rate"]) / config.optimizer.learning_rate
    assert rate == pytest.approx(0.4)
    assert slow["steps"] == pytest.approx(config.steps / rate)
    for name, run in config.compare.items():
        if run.get("stage") != "grpo" and name != LOW_LR:
            assert "optimizer" not in run, name


@pytest.mark.parametrize("file", ["laptop.yaml", "laptop_modchain.yaml"])
def test_every_entry_of_a_config_is_a_run(file, tmp_path):
    config = load_config(LAPTOP.with_name(file))
    runs = plan({config.world.name: config}, TARGETS, 1)
    world = config.world.model_copy(update={"num_demonstrations": 8, "num_prompts": 8})
    small = config.model_copy(update={"world": world})
    # Sampled from the base model, which would take half a minute.
    (tmp_path / f"wrong-samples-{world.name}-8-0.jsonl").write_text("")
    names = dict.fromkeys(run.name for run in runs)
    assert set(names) == {BASE, *config.compare}
    for name in names:
        if name != BASE:
            member = quickstart.member(small, name, tmp_path)
            assert Path(member.data.path).is_file()
            assert member.seed == 0
    if "luffy" in names:
        hybrid = quickstart.member(small, "luffy", tmp_path)
        assert hybrid.data.path != quickstart.member(small, "grpo", tmp_path).data.path
        # A run may draw other data than the others.
        assert pq.read_table(hybrid.data.path).num_rows == 5500


def test_hybrids_see_demonstrations_of_easy_problems_only(config, tmp_path):
    world = config.world.model_copy(update={"num_prompts": 40, "hard_share": 0.75})
    small = config.model_copy(update={"world": world})
    path = quickstart.prompts_file(small, tmp_path, with_demonstrations=True)
    rows = pq.read_table(path).to_pylist()
    shown = [row["target"] is not None for row in rows]
    assert sum(shown) == 10 and len(rows) == 40
    for row, has in zip(rows, shown, strict=True):
        numbers, target = parse_ground_truth(row["reward_model"]["ground_truth"])
        assert (target in reachable(tuple(sorted(numbers)), "+-")) == has


@pytest.fixture
def other_base(tmp_path):
    folder = tmp_path / "large"
    shutil.copytree(embedded_world("countdown").base_model, folder)
    return folder


def test_another_base_model_runs_table_4_beside_the_shipped_one(other_base, config, everything):
    configs = settings.read_configs([str(LAPTOP)], [f"countdown={other_base}"])
    assert list(configs) == ["countdown", "countdown@large"]
    runs = plan(configs, TARGETS, 1)
    shipped = [run for run in runs if run.world == "countdown"]
    ours = [run for run in runs if run.world == "countdown@large"]
    # The other one adds runs and changes none.
    assert shipped == everything
    assert {run.name for run in ours} == set(OTHER_BASE)
    assert len({run.key for run in runs}) == len(runs)
    assert ours[1].key == "seed-0/countdown-large-two-0.2/vanilla"
    for run in ours:
        assert run.settings["base"]
        if run.name != BASE:
            drawn = configured(configs[run.world], run.demonstrations, run.seed)
            drawn = drawn.model_copy(update={"world": drawn.world.model_copy(update=SMALL)})
            member = quickstart.member(drawn, run.name, other_base.parent)
            start = other_base if run.after is None else other_base.parent / f"{run.after}/hf"
            assert member.model.path == str(start) and member.model.compute_dtype == "float32"


def test_other_weights_are_another_run(other_base):
    def settings_of():
        configs = settings.read_configs([str(LAPTOP)], [f"countdown={other_base}"])
        return [run.settings for run in plan(configs, ["table4"], 1) if "@" in run.world]

    before = settings_of()
    assert before == settings_of()
    path = other_base / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] *= 1.5
    save_file(weights, path, metadata={"format": "pt"})
    assert not any(old == new for old, new in zip(before, settings_of(), strict=True))


def test_a_worker_starts_from_the_other_base_model(other_base, tmp_path):
    configs = settings.read_configs([str(LAPTOP)], [f"countdown={other_base}"])
    small = {
        k: c.model_copy(update={"world": c.world.model_copy(update=SMALL)})
        for k, c in configs.items()
    }
    run = next(run for run in plan(small, ["table4"], 1) if "@" in run.world)
    (other_base / "model.safetensors").rename(other_base / "gone")
    assert "error" in answer(run, small, tmp_path)
    (other_base / "gone").rename(other_base / "model.safetensors")
    assert answer(run, small, tmp_path) == {"key": run.key}
    assert is_done(run, tmp_path)


def test_methods_are_chosen_with_their_control_and_their_start(config):
    runs = plan({"countdown": config}, ["table3"], 1, ["curio+grpo"])
    assert {run.name for run in runs} == {"base", "vanilla", "curio", "curio+grpo"}
    with pytest.raises(ConfigError, match="--methods: 'curios' is none of the runs; try curio"):
        plan({"countdown": config}, ["table3"], 1, ["curios"])


def test_the_settings_of_a_run_hold_all_that_its_numbers_depend_on(config):
    def of(changed):
        run = next(r for r in plan({"countdown": changed}, ["table1"], 1) if r.name == "vanilla")
        return run.settings

    world = config.world.model_copy(update={"hard_prompts": 9})
    assert of(config) == of(config)
    assert of(config) != of(config.model_copy(update={"world": world}))
    assert of(config) != of(config.model_copy(update={"steps": 7}))


# ---- the paper's own scale ----------------------------------------------------------------------


def test_every_command_of_the_papers_scale_is_a_valid_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = paper_runs(TARGETS, 1)
    assert len({(run.backbone, run.name) for run in runs}) == len(runs)
    for run in runs:
        train = run.train(Path("out"))
        if train is not None:
            words = shlex.split(train)
            assert words[:3] == ["python", "-m", "curiojax.train"]
            config = load_config(words[3], words[4:])
            assert config.output_dir == f"{run.folder(Path('out'))}/train"
            if run.after:
                assert config.model.path == f"{run.folder(Path('out'), run.after)}/train/hf"
        words = shlex.split(run.evaluate(Path("out")))
        settings = load_settings(Path(words[3]), words[4:])
        assert settings.output_dir == f"{run.folder(Path('out'))}/evaluation"


def test_expected_hours_follow_the_arithmetic():
    runs = {run.name: run for run in paper_runs(["table3"], 1)}
    # 3 x 45,600 records of 5,000 tokens, 6 FLOPs per weight (7.07e9 multiply a token) and the
    # attention of 28 layers of width 3584 over half of 5,000; at 0.35 of eight times 989e12.
    flops = 3 * 45_600 * 5000 * (6 * 7.07e9 + 3 * 4 * 2500 * 28 * 3584)
    evaluation = 35_000 * 3500 / (8 * 6000)
    assert hours(runs["vanilla"]) == pytest.approx(
        (flops / (0.35 * 8 * 989e12) + evaluation) / 3600, rel=0.01
    )
    assert hours(runs["base"]) == pytest.approx(evaluation / 3600)
    assert hours(runs["curio"]) > 1.2 * hours(runs["vanilla"])  # the teacher's forward pass


def test_memory_is_that_of_the_weights_and_their_copies():
    runs = {run.name: run for run in paper_runs(["table3"], 1)}
    weights = 7.615e9  # of Qwen2.5-Math-7B
    assert state_gigabytes(runs["vanilla"]) == pytest.approx(4 * 4 * weights / 8 / 1e9, rel=0.01)
    assert state_gigabytes(runs["curio"]) == pytest.approx(4 * 5 * weights / 8 / 1e9, rel=0.01)
    assert state_gigabytes(runs["curio+grpo"]) == pytest.approx(4 * 4 * weights / 4e9, rel=0.01)
    assert state_gigabytes(runs["base"]) is None
