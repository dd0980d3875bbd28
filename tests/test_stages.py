"""The two stages of a config: their defaults, presets, and what does not go together."""

import pytest

from curiojax.config import load_config, parse_config, to_yaml
from curiojax.errors import ConfigError


def test_the_rl_stage_has_the_papers_values():
    config = load_config(None, ["stage=grpo"])
    assert (config.steps, config.epochs) == (500, None)
    assert (config.prompts_per_step, config.rollouts_per_prompt) == (128, 8)
    assert config.prompts_per_update == 64 and config.updates_per_step == 2
    assert config.optimizer.learning_rate == 1e-6
    assert (config.optimizer.schedule, config.optimizer.warmup_steps) == ("constant", 0)
    assert (config.objective.name, config.objective.clip_high) == ("grpo", 0.28)
    assert (config.rollout.top_p, config.rollout.max_response_tokens) == (0.95, 8192)
    assert config.row_length == 1024 + 8192


def test_the_supervised_stage_keeps_its_defaults():
    config = load_config(None)
    assert (config.stage, config.objective.name, config.steps) == ("sft", "curio", None)
    assert (config.optimizer.schedule, config.optimizer.learning_rate) == ("cosine", 1e-5)


@pytest.mark.parametrize("text", ["", "objective: {clip_low: 0.1}\n"])
def test_the_released_preset_of_rl(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text("stage: grpo\npreset: released\n" + text)
    config = load_config(path)
    assert config.objective.name == "grpo_released"
    assert (config.prompts_per_update, config.rollout.top_p) == (32, 1.0)
    assert load_config(path, ["objective.name=grpo"]).objective.clip_high == 0.28


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_resolved_config_reads_back_equal(tmp_path, stage):
    config = load_config(None, [f"stage={stage}"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=grpo", "objective.name=sft"], "objective.name: sft is none of stage grpo"),
        (["objective.name=grpo"], "objective.name: grpo is none of stage sft"),
        (["stage=grpo", "epochs=2", "steps=null"], "epochs"),
        (["stage=grpo", "sequences_per_step=64"], "sequences_per_step: means nothing"),
        (["stage=grpo", "data.max_response_tokens=64"], "use rollout.max_response_tokens"),
        (["prompts_per_step=64"], "prompts_per_step: means nothing in stage sft"),
        (["rollout.temperature=0.5"], "rollout: means nothing in stage sft"),
        (["stage=grpo", "prompts_per_update=48"], "prompts_per_update: 48 does not divide"),
        (["stage=grpo", "objective.tis_cap=2.0"], "set rollout.top_p=1.0"),
        (["stage=grpo", "max_staleness=1"], "objective.tis_cap"),
        (["stage=grpo", "max_staleness=2"], "max_staleness"),
        (["stage=grpo", "rollout.engine=vllm"], "vllm_python"),
        (["stage=grpo", "rollout.min_tokens=9000"], "min_tokens"),
        (["stage=ppo"], "stage"),
        (["stage=grpo", "num_generations=4"], "rollouts_per_prompt"),
        (["stage=grpo", "ppo_mini_batch_size=64"], "prompts_per_update"),
        (["per_device_train_batch_size=1"], "rows_per_microbatch"),
        (["gradient_accumulation_steps=8"], "rows_per_microbatch"),
        (["stage=grpo", "max_completion_length=64"], "rollout.max_response_tokens"),
    ],
)
def test_what_does_not_go_together_is_one_line(overrides, message):
    with pytest.raises(ConfigError) as error:
        load_config(None, overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_stage_is_no_excuse_for_an_unknown_key():
    with pytest.raises(ConfigError, match="did you mean"):
        parse_config({"stage": "grpo", "rollout": {"temprature": 0.5}})
