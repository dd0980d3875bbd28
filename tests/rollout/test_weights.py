"""Weights written for an engine: the same bits as a checkpoint's, complete or not there."""

from __future__ import annotations

import dataclasses
import fcntl
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from curiojax.errors import ConfigError
from curiojax.models import ModelConfig, init_params, load_pretrained, param_axes, save_pretrained
from curiojax.rollout import weights
from curiojax.rollout.weights import NotFinite, WeightStore
from curiojax.sharding import make_mesh, tree_shardings

QWEN2 = ModelConfig(
    model_type="qwen2",
    vocab_size=24,
    hidden_size=16,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    intermediate_size=20,
    max_position_embeddings=64,
    attention_bias=True,
    tie_word_embeddings=True,
)
QWEN3 = dataclasses.replace(
    QWEN2, model_type="qwen3", attention_bias=False, qk_norm=True, tie_word_embeddings=False
)


def random_params(config, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + random.standard_normal(x.shape, dtype=np.float32),
        init_params(jax.random.key(0), config),
    )


def tensors(folder: Path):
    found = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    assert sum(map(len, found)) == len({name for part in found for name in part})
    return {name: x for part in found for name, x in part.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("config", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
@pytest.mark.parametrize("mesh", [None, (2, 2, 2)], ids=["one device", "mesh"])
def test_the_bits_are_those_of_an_export(config, dtype, mesh, tmp_path):
    params = random_params(config)
    save_pretrained(params, config, tmp_path / "export", dtype=dtype)
    if mesh is not None:
        params = jax.device_put(params, tree_shardings(make_mesh(*mesh), param_axes(config)))
    store = WeightStore(tmp_path, config, dtype)
    written = store.write(params, 7)
    ours, theirs = tensors(written), tensors(tmp_path / "export")
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        assert ours[name].dtype == x.dtype == jnp.dtype(dtype)
        assert ours[name].shape == x.shape and ours[name].tobytes() == x.tobytes(), name
    assert store.num_bytes == sum(x.nbytes for x in ours.values())
    # And as a whole it is a checkpoint, which a server can be started with.
    reread, _ = load_pretrained(written, dtype=None)
    assert reread == dataclasses.replace(config, checkpoint_dtype=dtype)
    store.close()
    assert not store.folder.exists()


def test_two_versions_are_kept(tmp_path):
    params = random_params(QWEN2)
    store = WeightStore(tmp_path, QWEN2, "bfloat16")
    folders = [store.write(params, version) for version in (1, 2, 3, 3)]
    assert [folder.exists() for folder in folders] == [False, False, True, True]
    store.discard(folders[3])
    again = store.write(params, 4)
    assert folders[2].exists() and again.exists() and not folders[3].exists()
    store.close()


def test_a_failed_write_leaves_the_version_before(tmp_path, monkeypatch):
    params = random_params(QWEN2)
    store = WeightStore(tmp_path, QWEN2, "bfloat16")
    good = store.write(params, 1)
    broken = params | {"final_norm": {"scale": params["final_norm"]["scale"].at[0].set(jnp.inf)}}
    with pytest.raises(NotFinite, match="finite"):
        store.write(broken, 2)
    layers = jax.tree.map(lambda x: x, params["layers"])
    layers["mlp"]["up"]["kernel"] = layers["mlp"]["up"]["kernel"].at[2, 1, 1].set(jnp.nan)
    with pytest.raises(NotFinite, match=r"model.layers.2\."):
        store.write(params | {"layers": layers}, 2)

    def full(content, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "_save", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(params, 2)
    assert sorted(p.name for p in store.folder.iterdir()) == sorted([good.name, "lock"])
    store.close()


def test_room_is_checked_first(tmp_path, monkeypatch):
    store = WeightStore(tmp_path, QWEN2, "bfloat16")
    monkeypatch.setattr(weights, "_free_bytes", lambda directory: 1 << 20)
    with pytest.raises(ConfigError, match=r"has 0.00 GB free, 1 version\(s\) .* --shm-size"):
        store.write(random_params(QWEN2), 1)
    with pytest.raises(ConfigError, match=r"rollout.weights_dir: .* 2 version\(s\)"):
        WeightStore(tmp_path, QWEN2, "bfloat16")
    store.close()
    assert not list(tmp_path.iterdir())


def test_leftovers_of_dead_owners_are_removed_and_others_kept(tmp_path):
    dead = tmp_path / "curiojax-weights-dead"
    dead.mkdir()
    (dead / "lock").touch()
    living = tmp_path / "curiojax-weights-living"
    living.mkdir()
    with (living / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        store = WeightStore(tmp_path, QWEN2, "bfloat16")
    assert not dead.exists() and living.exists() and store.folder.exists()
    assert os.stat(store.folder).st_mode & 0o077 == 0
    store.close()
