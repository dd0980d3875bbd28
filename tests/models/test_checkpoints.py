"""Loading and saving: bit-exact round trips, meshes, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_checkpoints import FAMILIES, write

from curiojax.errors import ConfigError
from curiojax.models import (
    abstract_params,
    init_params,
    load_pretrained,
    param_axes,
    save_pretrained,
)
from curiojax.sharding import make_mesh, named_sharding


def read_tensors(directory):
    tensors = {}
    for file in directory.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def assert_same_tensors(got, want):
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype
        assert got[name].shape == want[name].shape
        assert torch.equal(got[name], want[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_round_trip_is_bit_exact(name, dtype, tmp_path):
    write(name, tmp_path / "in", dtype)
    config, params = load_pretrained(tmp_path / "in", dtype=None)
    spelled = str(dtype).removeprefix("torch.")
    assert config.checkpoint_dtype == spelled
    assert {str(x.dtype) for x in jax.tree.leaves(params)} == {spelled}

    save_pretrained(params, config, tmp_path / "out")
    assert_same_tensors(read_tensors(tmp_path / "out"), read_tensors(tmp_path / "in"))
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == spelled
    again, _ = load_pretrained(tmp_path / "out", dtype=None)
    assert again == config

    # Through float32 master weights and back.
    _, wide = load_pretrained(tmp_path / "in", dtype="float32")
    save_pretrained(wide, config, tmp_path / "out", dtype=config.checkpoint_dtype)
    assert_same_tensors(read_tensors(tmp_path / "out"), read_tensors(tmp_path / "in"))


def test_several_files_with_an_index(checkpoint, tmp_path):
    directory, _, config, params = checkpoint("qwen3")
    save_pretrained(params, config, tmp_path / "out", max_file_bytes=60_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all((tmp_path / "out" / file).stat().st_size < 65_000 for file in files)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    want = read_tensors(directory)
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in want.values())
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, framework="np") as handle:
            assert name in handle.keys()
    _, again = load_pretrained(tmp_path / "out", dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, again, params)

    (tmp_path / "out" / files[1]).unlink()
    with pytest.raises(ConfigError, match=files[1]):
        load_pretrained(tmp_path / "out", dtype="float32")


@pytest.mark.parametrize("name", ["even", "llama3"])
def test_trees_agree(name, checkpoint):
    _, _, config, params = checkpoint(name)
    abstract = abstract_params(config)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), abstract)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), params)
    fused = dataclasses.replace(config, attention="cudnn", compute_dtype="bfloat16", remat="full")
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract_params(fused)) == shapes
    jax.tree.map(
        lambda leaf, axes: pytest.fail(str(axes)) if len(axes) != leaf.ndim else None,
        abstract,
        param_axes(config),
    )


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 8, 1), (4, 1, 2)])
def test_loading_onto_a_mesh(shape, checkpoint):
    directory, _, _, params = checkpoint("even")
    mesh = make_mesh(*shape)
    config, split = load_pretrained(directory, dtype="float32", mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, split, params)

    def check(leaf, axes):
        assert leaf.sharding == named_sharding(mesh, axes)

    jax.tree.map(check, split, param_axes(config))
    kernel = split["layers"]["mlp"]["down"]["kernel"]
    _, fsdp, tensor = shape
    assert kernel.addressable_shards[0].data.shape == (2, 48 // tensor, 32 // fsdp)


def test_export_of_split_parameters(checkpoint, tmp_path):
    directory, _, _, _ = checkpoint("even")
    config, split = load_pretrained(directory, dtype="float32", mesh=make_mesh(2, 2, 2))
    save_pretrained(split, config, tmp_path / "out")
    assert_same_tensors(read_tensors(tmp_path / "out"), read_tensors(directory))


def test_each_device_reads_its_share(checkpoint, monkeypatch):
    from curiojax.models import files

    directory, _, _, params = checkpoint("even")
    read = []

    class Counting:
        def __init__(self, view):
            self.view = view

        def __getattr__(self, name):
            return getattr(self.view, name)

        def __getitem__(self, index):
            block = self.view[index]
            read.append(block.size)
            return block

    plain = files.WeightFiles.slice
    monkeypatch.setattr(files.WeightFiles, "slice", lambda self, name: Counting(plain(self, name)))
    load_pretrained(directory, dtype="float32", mesh=make_mesh(2, 2, 2))
    assert sum(read) == sum(x.size for x in jax.tree.leaves(params))


def test_mesh_that_does_not_divide(checkpoint):
    directory, *_ = checkpoint("qwen3")
    with pytest.raises(ConfigError, match="num_key_value_heads: 3 cannot be split"):
        load_pretrained(directory, dtype="float32", mesh=make_mesh(1, 4, 2))


def test_tokenizer_files_are_copied(checkpoint, tmp_path):
    _, _, config, params = checkpoint("even")
    source = tmp_path / "tokenizer"
    source.mkdir()
    with pytest.raises(ConfigError, match="no tokenizer files"):
        save_pretrained(params, config, tmp_path / "out", tokenizer_from=source)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]  # nothing half-written
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "notes.txt"):
        (source / name).write_text(name)
    save_pretrained(params, config, tmp_path / "out", tokenizer_from=source)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_overwriting(checkpoint, tmp_path):
    directory, _, config, params = checkpoint("even")
    out = tmp_path / "out"
    out.mkdir()
    save_pretrained(params, config, out)  # empty: fine
    doubled = jax.tree.map(lambda x: 2 * x, params)
    save_pretrained(doubled, config, out)  # ours: replaced
    _, again = load_pretrained(out, dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, again, doubled)
    (out / "thesis.tex").write_text("years of work")
    foreign = tmp_path / "foreign"
    shutil.copytree(directory, foreign)
    for path in (out, foreign):
        before = sorted(path.iterdir())
        with pytest.raises(ConfigError, match="not an export of ours"):
            save_pretrained(params, config, path)
        assert sorted(path.iterdir()) == before


def edit(directory, tmp_path, change):
    """A copy of a checkpoint with its tensors changed by `change(tensors)`."""
    copy = tmp_path / "edited"
    shutil.copytree(directory, copy)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "missing.*layers.1.mlp.up_proj"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected tensors extra"),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(33)}),
            r"model.norm.weight has shape \[33\], config.json asks for \[32\]",
        ),
        (lambda t: t.pop("lm_head.weight"), "tie_word_embeddings"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)}), "dtype I8"),
    ],
)
def test_tensors_that_do_not_match(change, message, checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load_pretrained(edit(checkpoint("even")[0], tmp_path, change), dtype="float32")


def test_tied_checkpoint_that_lists_its_head(checkpoint, tmp_path):
    directory, _, _, params = checkpoint("qwen2_tied")
    embedding = "model.embed_tokens.weight"
    copy = edit(directory, tmp_path, lambda t: t.update({"lm_head.weight": t[embedding].clone()}))
    _, again = load_pretrained(copy, dtype="float32")
    jax.tree.map(np.testing.assert_array_equal, again, params)
    shutil.rmtree(copy)
    copy = edit(directory, tmp_path, lambda t: t.update({"lm_head.weight": t[embedding] + 1}))
    with pytest.raises(ConfigError, match="ties the embeddings, but lm_head"):
        load_pretrained(copy, dtype="float32")


def test_what_is_no_checkpoint(checkpoint, tmp_path):
    directory, *_ = checkpoint("even")
    (tmp_path / "pickled").mkdir()
    shutil.copy(directory / "config.json", tmp_path / "pickled")
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    shutil.copytree(directory, tmp_path / "torn")
    whole = (tmp_path / "torn/model.safetensors").read_bytes()
    (tmp_path / "torn/model.safetensors").write_bytes(whole[: len(whole) // 2])
    for path, message in (
        (tmp_path / "pickled", "convert them to safetensors"),
        (tmp_path / "empty", "config.json: not found"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "torn", "unreadable"),
        (tmp_path / "absent", "no directory"),
        ("some-one/no-such-model", "could not be fetched from the hub"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            load_pretrained(path, dtype="float32")
        assert "\n" not in str(error.value)


def test_unknown_dtype(checkpoint):
    with pytest.raises(ConfigError, match="float64"):
        load_pretrained(checkpoint("even")[0], dtype=np.float64)


def test_init_params_statistics(checkpoint):
    config = checkpoint("qwen2_tied")[2]
    params = init_params(jax.random.key(1), config, jnp.bfloat16)
    assert {str(x.dtype) for x in jax.tree.leaves(params)} == {"bfloat16"}
    attention = params["layers"]["attention"]
    assert float(jnp.std(attention["q"]["kernel"].astype(jnp.float32))) == pytest.approx(0.02, 0.05)
    assert not attention["q"]["bias"].any()
    assert (params["final_norm"]["scale"] == 1).all()
    kernel = np.asarray(attention["q"]["kernel"], np.float32)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01  # layers are not copies of each other


READ_WITH_TRANSFORMERS_4 = """
import sys, numpy, torch, transformers
assert transformers.__version__.startswith("4."), transformers.__version__
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
tokens = torch.from_numpy(numpy.load(sys.argv[2]))
with torch.no_grad():
    numpy.save(sys.argv[3], model(tokens).logits.float().numpy())
"""


@pytest.mark.transformers4
@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_4_loads_the_export(name, checkpoint, score, tmp_path):
    python = os.environ.get("CURIOJAX_TRANSFORMERS4_PYTHON")
    if not python:
        pytest.skip("set CURIOJAX_TRANSFORMERS4_PYTHON to a Python with transformers 4 and torch")
    _, _, config, params = checkpoint(name)
    save_pretrained(params, config, tmp_path / "out")
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 70))
    np.save(tmp_path / "tokens.npy", tokens)
    command = [python, "-c", READ_WITH_TRANSFORMERS_4]
    paths = [str(tmp_path / file) for file in ("out", "tokens.npy", "logits.npy")]
    subprocess.run([*command, *paths], check=True, timeout=300)
    want = np.load(tmp_path / "logits.npy")
    got = score(params, config, tokens)
    assert np.abs(got - want).max() <= 1e-4 * max(1.0, np.abs(want).max())
