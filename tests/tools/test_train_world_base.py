"""tools/train_world_base.py: the shipped shape, other shapes, and what it leaves."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax import models
from curiojax.data.worlds import WORLDS, embedded_world
from curiojax.data.worlds.base_data import base_data
from curiojax.errors import exit_on_config_error

TOOL = Path(__file__).parents[2] / "tools/train_world_base.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("train_world_base", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("world", WORLDS)
def test_the_default_shape_is_that_of_the_shipped_model(tool, world):
    shipped = models.read_config(embedded_world(world).base_model)
    ours = tool.model_config(base_data(world))
    for key in ("model_type", "vocab_size", "hidden_size", "num_layers", "num_heads", "head_dim"):
        assert getattr(ours, key) == getattr(shipped, key)
    assert models.abstract_params(ours, jnp.float32) == models.abstract_params(shipped, jnp.float32)


def test_matrices_of_every_width_are_drawn_alike(tool):
    for width in (64, 256):
        config = tool.model_config(base_data("countdown"), "qwen3", width, 1)
        params = tool.initial_params(config, 0)
        drawn = np.asarray(params["layers"]["mlp"]["up"]["kernel"])
        assert drawn.std() * width**0.5 == pytest.approx(0.8, rel=0.15)


@pytest.mark.parametrize("model_type", ["qwen3", "llama"])
def test_another_shape_is_trained_and_can_be_loaded(tool, model_type, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "PROMPTS", {"countdown": {"id": 4, "hard": 4}})
    shape = ["--model-type", model_type, "--hidden-size", "32", "--num-layers", "1"]
    few = ["--steps", "3", "--batch-size", "8", "--output-dir", str(tmp_path / "base")]
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats with its step count
        tool.main(["--world", "countdown", *shape, *few])
    config, params = models.load_pretrained(tmp_path / "base", dtype=jnp.float32)
    assert (config.model_type, config.hidden_size, config.num_layers) == (model_type, 32, 1)
    assert (
        config.eos_token_ids
        == models.read_config(embedded_world("countdown").base_model).eos_token_ids
    )
    quality = json.loads((tmp_path / "base/quality.json").read_text())
    assert quality["world"] == "countdown" and quality["model_type"] == model_type
    assert quality["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert quality["learning_rate"] == 6e-3 * 64 / 32


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--hidden-size", "128"], "error: --hidden-size: the shipped model keeps its shape; name"),
        (["--hidden-size", "40", "--output-dir", "x"], "error: --hidden-size: must be a multiple"),
    ],
)
def test_wrong_input_is_one_line(tool, arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        exit_on_config_error(lambda: tool.main(["--world", "countdown", *arguments]))
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith(line) and said.count("\n") == 1
    assert not (tmp_path / "x").exists()
