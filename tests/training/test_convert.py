"""The conversion tool: both directions, verified, and refusals."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.training import project

TOOL = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"


def convert(*arguments):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    environment = {**os.environ, "XLA_FLAGS": ""}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


def test_a_checkpoint_of_a_run_becomes_the_runs_own_export(straight, tmp_path):
    done = convert("to-hf", straight, tmp_path / "hf")
    assert done.returncode == 0, done.stderr
    assert "logits identical" in done.stdout
    want = load_file(straight / "hf" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "hf" / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, want[name])
    assert (tmp_path / "hf" / "tokenizer.json").is_file()


def test_an_older_checkpoint_and_another_dtype(straight, tmp_path):
    done = convert("to-hf", straight, tmp_path / "hf", "--step", 5, "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    assert all(tensor.dtype == np.float32 for tensor in tensors.values())
    newest = load_file(straight / "hf" / "model.safetensors")
    name = "model.embed_tokens.weight"
    assert np.abs(tensors[name] - newest[name].astype(np.float32)).max() > 1e-3


def test_a_run_that_computed_in_bfloat16(folder, tmp_path):
    output = tmp_path / "run"
    done = project.run(folder, output, "model.compute_dtype=bfloat16", "steps=1")
    assert done.returncode == 0, done.stderr
    done = convert("to-hf", output, tmp_path / "hf")
    assert done.returncode == 0, done.stderr


def test_there_and_back_again_is_bit_exact(folder, tmp_path):
    there = convert("from-hf", folder / "base", tmp_path / "orbax")
    assert there.returncode == 0, there.stderr
    back = convert("to-hf", tmp_path / "orbax", tmp_path / "hf")
    assert back.returncode == 0, back.stderr
    want = load_file(folder / "base" / "model.safetensors")
    got = load_file(tmp_path / "hf" / "model.safetensors")
    assert got.keys() == want.keys()
    for name, tensor in got.items():
        np.testing.assert_array_equal(tensor, want[name], err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("to-hf", "missing", "new"), "neither a run directory"),
        (("to-hf", "STRAIGHT", "new", "--step", "7"), "no checkpoint 7"),
        (("from-hf", "STRAIGHT", "new"), "config.json"),
        (("to-hf", "STRAIGHT", "STRAIGHT"), "exists already"),
    ],
    ids=["no source", "no such step", "not a checkpoint", "target taken"],
)
def test_refusals_are_one_line(straight, tmp_path, arguments, word):
    paths = {"STRAIGHT": straight, "missing": tmp_path / "missing", "new": tmp_path / "new"}
    done = convert(*(paths.get(argument, argument) for argument in arguments))
    assert done.returncode == 2
    assert word in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_difference_is_noticed(straight, tmp_path, monkeypatch):
    """The comparison has teeth: weights changed on disk after writing fail it."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("convert_checkpoint", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    real = tool.models.save_pretrained

    def damaged(params, config, path, **options):
        real(params, config, path, **options)
        tensors = load_file(path / "model.safetensors")
        weight = tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.1.mlp.up_proj.weight"] = weight[::-1].copy()
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(tool.models, "save_pretrained", damaged)
    assert tool.to_hf(straight, tmp_path / "hf", None, None) > 1e-3
    shutil.rmtree(tmp_path / "hf")
