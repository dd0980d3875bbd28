"""The config of an evaluation: files, overrides, presets, and what the shipped ones say."""

from pathlib import Path

import pytest

from curiojax.config import load_config
from curiojax.errors import ConfigError
from curiojax.evaluation.benchmarks import parse_entries
from curiojax.evaluation.settings import load_settings, parse_settings, to_yaml

SHIPPED = sorted(Path(__file__).parents[2].glob("configs/*/evaluate.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_shipped_configs(path):
    config = load_settings(path, ["vllm_python=/opt/vllm/bin/python"])
    assert len(parse_entries(config.benchmarks)) == 9
    assert (config.temperature, config.top_p, config.max_response_tokens) == (0.6, 0.95, 8192)
    # The prompt is the one that the model was trained on, and the model is where training left it.
    assert config.template == load_config(path.with_name("sft.yaml")).data.template
    assert config.model.path == f"{load_config(path.with_name('grpo.yaml'), RL).output_dir}/hf"
    with pytest.raises(ConfigError, match="vllm_python"):
        load_settings(path)


RL = ["rollout.vllm_python=/opt/vllm/bin/python"]


def test_presets():
    assert parse_settings({}).top_p == 0.95 and parse_settings({}).verifier is None
    released = parse_settings({"preset": "released"})
    assert released.top_p == 1.0 and released.verifier == "released_whole_text"
    assert parse_settings({"preset": "released", "top_p": 0.5}).top_p == 0.5
    with pytest.raises(ConfigError, match="preset"):
        parse_settings({"preset": "papr"})


def test_the_model_in_short_and_in_full(tmp_path):
    config = load_settings(None, ["model.rope_theta=40000", "model=some/dir"])
    assert config.model.path == "some/dir" and config.model.rope_theta == 40000
    (tmp_path / "a.yaml").write_text("model: a/dir\nbenchmarks: math500\n")
    config = load_settings(tmp_path / "a.yaml", ["model.compute_dtype=float32"])
    assert config.model.path == "a/dir" and config.model.compute_dtype == "float32"
    assert config.benchmarks == ("math500",)
    (tmp_path / "b.yaml").write_text(to_yaml(config))
    assert load_settings(tmp_path / "b.yaml") == config


@pytest.mark.parametrize(
    "path, name", [("runs/mine/hf", "mine"), ("Qwen/Qwen3-4B", "Qwen3-4B"), ("hf", "hf")]
)
def test_the_name_in_tables(path, name):
    assert parse_settings({"model": path}).label == name
    assert parse_settings({"model": path, "name": "other"}).label == "other"


@pytest.mark.parametrize(
    "values, words",
    [
        ({"benchmarks": 3}, "benchmarks"),
        ({"benchmarks": []}, "benchmarks"),
        ({"top_p": 0}, "top_p"),
        ({"samples": True}, "samples"),
        ({"model": {"pth": "x"}}, "model.pth: unknown key; did you mean model.path"),
        ({"max_tokens": 5}, "did you mean max_response_tokens"),
        ({"expert_data": {"groups": "fixed"}}, "expert_data.*base"),
    ],
)
def test_wrong_values_are_named(values, words):
    with pytest.raises(ConfigError, match=words) as error:
        parse_settings(values)
    assert "\n" not in str(error.value)
