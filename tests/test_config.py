"""The config tree: defaults from the paper, presets, overrides, and errors a user can act on."""

from pathlib import Path

import pytest
import yaml

from curiojax.config import load_config, parse_config, parse_objective, to_yaml
from curiojax.errors import ConfigError
from curiojax.objectives import OBJECTIVES, Curio, Entropy, Gem, Kl, Psft, Sft

CONFIGS = sorted(
    path
    for path in Path(__file__).parents[1].glob("configs/**/*.yaml")
    if path.name != "evaluate.yaml"
)
# What the configs with vLLM leave to the command line.
VLLM = ["rollout.vllm_python=/opt/vllm/bin/python"]


def test_defaults_are_the_papers():
    config = load_config(None)
    assert (config.epochs, config.sequences_per_step, config.rows_per_microbatch) == (3, 256, 16)
    assert config.row_length == 1024 + 8192
    assert (config.data.template, config.data.overlong, config.data.packing) == (
        "curio",
        "drop",
        True,
    )
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.warmup_steps) == (1e-5, 60)
    assert (optimizer.betas, optimizer.eps, optimizer.weight_decay) == ((0.9, 0.999), 1e-8, 0.01)
    assert (config.teacher.step_size, config.teacher.every) == (0.99, 5)
    objective = config.objective
    assert isinstance(objective, Curio)
    assert (objective.alpha, objective.entropy_pivot, objective.gamma) == (1.0, 1.2, 2.0)
    assert (objective.tau_min, objective.tau_max, objective.top_k) == (1.1, 1.5, 512)
    assert (objective.search, objective.search_steps, objective.gate_entropy) == (
        "bisect",
        15,
        0.03,
    )


def test_presets_differ_where_the_paper_and_the_code_do():
    paper, released = load_config(None, ["preset=paper"]), load_config(None, ["preset=released"])
    assert paper.objective.gate_entropy is None and released.objective.gate_entropy == 0.03
    assert (paper.objective.search_steps, released.objective.search_steps) == (15, 20)
    assert paper.optimizer.lr_horizon_multiplier == 1
    assert released.optimizer.lr_horizon_multiplier == 4
    assert (paper.data.overlong, released.data.overlong) == ("drop", "truncate")
    assert paper.loss.normalizer == "global_token_mean"
    assert released.loss.normalizer == "pair_token_mean"


def test_what_is_said_wins_over_the_preset():
    config = load_config(None, ["preset=released", "objective.search_steps=7"])
    assert config.objective.search_steps == 7
    assert load_config(None, ["preset=paper", "objective.name=sft"]).objective == Sft()
    assert load_config(None, ["preset=released", "objective.fixed_tau=1.3"]).objective.fixed_tau


def test_steps_replace_epochs():
    config = load_config(None, ["steps=10"])
    assert config.steps == 10 and config.epochs is None


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.parent.name + "/" + p.name))
def test_shipped_configs_load_and_say_what_they_are(path):
    with_vllm = path.stem == "grpo" or "grpo.yaml" in path.read_text()
    load_config(path, VLLM if with_vllm else [])
    head = path.read_text().splitlines()[:16]
    for word in ("Reproduces", "Command:", "Hardware:"):
        assert any(word in line for line in head), word


@pytest.mark.parametrize("overrides", [[], ["objective.fixed_tau=1.5"], ["steps=3"]])
def test_resolved_config_reads_back_equal(overrides):
    config = load_config(None, overrides)
    assert parse_config(yaml.safe_load(to_yaml(config))) == config


def test_another_objective_in_an_override_replaces_the_files(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("objective: {name: curio, alpha: 2}\n")
    assert load_config(file, ["objective.name=sft"]).objective == Sft()
    assert load_config(file, ["objective.top_k=64"]).objective == Curio(alpha=2, top_k=64)
    # In any order, and also where the file leaves the default name unsaid.
    for overrides in (["objective.name=gem", "objective.beta=0.5"],) * 2:
        overrides.reverse()
        assert load_config(file, overrides).objective == Gem(beta=0.5)
    file.write_text("objective: {alpha: 2}\n")
    assert load_config(file, ["objective.name=sft"]).objective == Sft()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective.alpa=1", ["objective.alpa", "objective.alpha"]),
        ("optimizer.lerning_rate=1", ["optimizer.lerning_rate", "optimizer.learning_rate"]),
        ("alpha=3", ["alpha", "objective.alpha"]),
        ("lr=1e-5", ["lr", "did you mean"]),
        ("objective.name=foo", ["objective", "foo", "curio"]),
        ("optimizer.learning_rate=fast", ["optimizer.learning_rate", "fast"]),
        ("preset=x", ["preset", "released"]),
        ("mesh.data=0", ["mesh", "data"]),
        ("model.remat=part", ["model.remat", "dots"]),
        ("model.attention=cudnn", ["model.attention", "data.packing"]),
        ("objective.tau_max=1.05", ["objective", "tau_min", "tau_max"]),
        ("objective={name: gem, beta: 0}", ["objective.beta", "greater than 0"]),
        ("objective={name: gem, alpha: 1}", ["objective.alpha", "objective.beta"]),
        ("objective={name: entropy, top_fraction: 2}", ["objective.top_fraction", "1"]),
        ("objective={name: kl, estimator: k4}", ["objective.estimator", "forward_full"]),
        ("objective={name: kl, exempt_tokens: [-1]}", ["objective.exempt_tokens"]),
        ("objective={name: psft, updates_per_snapshot: 0}", ["objective.updates_per_snapshot"]),
        ("objective.divergence=js", ["objective.divergence", "reverse_kl"]),
        ("nonsense", ["nonsense", "key=value"]),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_a_remedy(override, words):
    with pytest.raises(ConfigError) as error:
        load_config(None, [override])
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["steps=1", "epochs=2"], "epochs and steps"),
        (["epochs=null"], "epochs and steps"),
        (["objective.fixed_tau=1.3", "objective.gate_entropy=0.03"], "gate_entropy"),
        (["data.suppressed_path=wrong.parquet"], "suppressed_path"),
    ],
)
def test_contradictions_are_refused(overrides, word):
    with pytest.raises(ConfigError, match=word):
        load_config(None, overrides)


def test_files_that_are_not_configs(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="key: value"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "broken.yaml")


def test_a_file_extends_another(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text(
        "steps: 5\nepochs: null\nobjective: {name: curio, alpha: 2}"
    )
    file = tmp_path / "sub" / "gem.yaml"
    file.write_text("extends: ../base.yaml\nobjective: {name: gem, beta: 0.5}\n")
    config = load_config(file, ["seed=3"])
    assert config.objective == Gem(beta=0.5) and (config.steps, config.seed) == (5, 3)
    assert parse_config(yaml.safe_load(to_yaml(config))) == config
    (tmp_path / "base.yaml").write_text("extends: sub/gem.yaml")
    with pytest.raises(ConfigError, match="extends itself"):
        load_config(file)
    file.write_text("extends: missing.yaml")
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(file)
    file.write_text("extends: [a]")
    with pytest.raises(ConfigError, match="extends: must be the path"):
        load_config(file)


def test_the_baselines_differ_in_nothing_but_the_objective():
    """One base, one objective each, no two alike."""
    root = Path(__file__).parents[1] / "configs"
    base = load_config(root / "qwen2.5-math-7b" / "sft.yaml")
    files = sorted([*(root / "baselines").glob("*.yaml"), *(root / "beyond").glob("*.yaml")])
    files = [file for file in files if "grpo.yaml" not in file.read_text()]
    assert len(files) >= 11
    objectives = []
    for file in files:
        config = load_config(file)
        objectives.append(config.objective)
        same = {"objective": base.objective, "output_dir": base.output_dir}
        if config.objective.name == "oxa":  # its own mean
            assert config.loss.normalizer == "sequence_token_mean"
            same["loss"] = base.loss
        assert config.model_copy(update=same) == base, file.name
        assert config.output_dir.endswith(file.stem)
    assert len(set(objectives)) == len(files)


def test_the_single_stage_baselines_start_from_the_base_model():
    """The RL stage's run with another objective, and the model of the supervised stage."""
    root = Path(__file__).parents[1] / "configs"
    sft = load_config(root / "qwen2.5-math-7b" / "sft.yaml")
    grpo = load_config(root / "qwen2.5-math-7b" / "grpo.yaml", [*VLLM, "rollout.top_p=1.0"])
    files = [f for f in (root / "baselines").glob("*.yaml") if "grpo.yaml" in f.read_text()]
    assert {"luffy", "rl_plus", "srft", "hpt", "sft_rl"} <= {file.stem for file in files}
    for file in files:
        config = load_config(file, VLLM)
        assert config.objective.name == file.stem and config.objective.needs_demonstrations
        assert (config.model, config.data) == (sft.model, sft.data), file.name
        # What the methods' own scripts share.
        assert (config.objective.entropy_coef, config.objective.normalize_std) == (0.001, False)
        assert config.optimizer.learning_rate == (5e-6 if file.stem == "hpt" else 1e-6)
        same = {name: getattr(grpo, name) for name in ("objective", "output_dir", "model")}
        same["optimizer"] = grpo.optimizer
        assert config.model_copy(update=same) == grpo, file.name
        assert config.output_dir.endswith(file.stem)


@pytest.mark.parametrize("name", ["qwen2.5-math-7b", "qwen3-4b", "llama3.1-8b"])
def test_the_rl_configs_are_the_papers_and_follow_their_supervised_stage(name):
    folder = Path(__file__).parents[1] / "configs" / name
    sft, rl = load_config(folder / "sft.yaml"), load_config(folder / "grpo.yaml", VLLM)
    assert rl.model.path == f"{sft.output_dir}/hf"
    assert (rl.data.template, rl.row_length) == (sft.data.template, sft.row_length)
    # Table 6.
    assert (rl.steps, rl.prompts_per_step, rl.rollouts_per_prompt) == (500, 128, 8)
    assert (rl.prompts_per_update, rl.optimizer.learning_rate) == (64, 1e-6)
    assert (rl.optimizer.schedule, rl.optimizer.warmup_steps) == ("constant", 0)
    sampling = rl.rollout
    assert (sampling.temperature, sampling.top_p, sampling.max_response_tokens) == (1, 0.95, 8192)
    objective = rl.objective
    assert (objective.name, objective.clip_low, objective.clip_high) == ("grpo", 0.2, 0.28)
    assert (objective.kl_coef, objective.entropy_coef) == (0, 0)
    assert (rl.reward.verifier, rl.reward.format) == ("math", "strict")
    assert sampling.engine == "vllm" and sampling.devices == (4, 5, 6, 7)
    assert rl.rows_per_microbatch % (8 - len(sampling.devices)) == 0

    released = load_config(folder / "grpo.yaml", [*VLLM, "preset=released"])
    assert (released.objective.name, released.prompts_per_update) == ("grpo_released", 32)
    assert (released.rollout.top_p, released.reward.verifier) == (1.0, "released")
    with pytest.raises(ConfigError, match="vllm_python"):
        load_config(folder / "grpo.yaml")


def test_parse_objective():
    assert parse_objective({"name": "curio", "alpha": 0.5}) == Curio(alpha=0.5)
    assert parse_objective({"name": "sft"}) == Sft()
    assert parse_objective({"name": "gem"}) == Gem(beta=0.7, h="logsigmoid")
    assert parse_objective({"name": "entropy"}) == Entropy(
        coef=0.06, top_fraction=1.0, scope="batch"
    )
    base = {"name": "kl", "estimator": "forward_full", "exempt_tokens": [5, 7]}
    assert parse_objective(base).exempt_tokens == (5, 7)
    with pytest.raises(ConfigError, match=r"objective\.beta: unknown key"):
        parse_objective({"name": "curio", "beta": 1})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective=sft", ["objective", "section", "objective.name"]),
        ("model=/a/folder", ["model", "model.path"]),
        ("teacher=ema", ["teacher", "section"]),
        ("preset=[1]", ["preset"]),
        ("seed=99999999999", ["seed"]),
        ("optimizer.betas=[2, 3]", ["betas"]),
        ("optimizer.learning_rate=.inf", ["optimizer.learning_rate"]),
        ("epochs=true", ["epochs"]),
        ("epochs=1.5", ["epochs"]),
        ("checkpoint.keep_every=1000", ["keep_every", "178"]),
        ("world.name=countdown", ["world", "compare"]),
        ("lr=1", ["optimizer.learning_rate"]),
        ("optimizer.lr=1", ["optimizer.learning_rate"]),
        ("batch_size=1", ["sequences_per_step"]),
    ],
)
def test_plausible_mistakes_are_explained(override, words):
    with pytest.raises(ConfigError) as error:
        load_config(None, [override])
    for word in words:
        assert word in str(error.value)


def test_an_empty_section_is_its_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("model:\noptimizer:\n")
    assert load_config(tmp_path / "c.yaml") == load_config(None)


def test_real_configs_take_steps_for_a_smoke_test():
    path = next(path for path in CONFIGS if "qwen2.5" in str(path) and path.stem == "sft")
    assert load_config(path, ["steps=10"]).steps == 10


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_one_name_away(name, tmp_path):
    config = load_config(None, [f"objective.name={name}"])
    assert config.objective == OBJECTIVES[name]() == parse_objective({"name": name})
    assert parse_config(yaml.safe_load(to_yaml(config))) == config
    hash(config.objective)
    # Presets are about CurioSFT and leave the others alone.
    for preset in ("paper", "released"):
        set_by = load_config(None, [f"preset={preset}", f"objective.name={name}"])
        assert name == "curio" or set_by.objective == config.objective


def test_only_what_needs_a_second_model_keeps_one():
    needs = {name for name, model in OBJECTIVES.items() if model().needs_teacher}
    assert needs == {"curio", "kl", "psft"}
    for without in (Kl(coef=0), Psft(updates_per_snapshot=1), Curio(alpha=0)):
        assert not without.needs_teacher
    logits = Kl(estimator="forward_full"), Curio(divergence="forward_kl")
    assert all(o.needs_teacher_logits for o in logits)
    assert not any(model().needs_teacher_logits for model in OBJECTIVES.values())
    assert not Curio(divergence="forward_kl", teacher="self").needs_teacher_logits


def test_warnings_of_objectives():
    assert not any(model().warnings for model in OBJECTIVES.values())
    for objective in (Psft(updates_per_snapshot=1), Kl(estimator="k1"), Entropy(coef=0.1)):
        (warning,) = objective.warnings
        assert warning.startswith("objective.")


def test_a_run_of_an_extended_comparison_can_be_left_out(tmp_path):
    (tmp_path / "base.yaml").write_text("world: {}\ncompare: {a: {}, b: {}}\n")
    path = tmp_path / "mine.yaml"
    path.write_text("extends: base.yaml\ncompare: {b: null, c: {}}\n")
    assert list(load_config(path).compare or {}) == ["a", "c"]
