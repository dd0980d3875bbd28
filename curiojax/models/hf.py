"""Checkpoints in Hugging Face's format: safetensors in, safetensors out, bit for bit.

Weights are read slice by slice, so that a device receives just its share and the host holds one
stacked parameter at a time; they are written one file at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (teaches numpy, and through it safetensors, the name "bfloat16")
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, SingleDeviceSharding
from safetensors.numpy import save_file

from curiojax.errors import ConfigError
from curiojax.models.config import ModelConfig, apply_overrides, config_from_hf, config_to_hf
from curiojax.models.decoder import Params, abstract_params
from curiojax.models.files import (
    INDEX_FILE,
    WEIGHTS_FILE,
    WeightFiles,
    copy_tokenizer,
    find_checkpoint,
    make_readable,
    read_json,
    replace_directory,
)
from curiojax.models.layout import Kind, Parameter, nest, parameters
from curiojax.sharding import check_divisible, named_sharding

DTYPES = ("float32", "bfloat16", "float16")
MAX_FILE_BYTES = 5_000_000_000


def load_pretrained(
    path: str | Path,
    *,
    dtype: Any,
    mesh: Mesh | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[ModelConfig, Params]:
    """Reads a checkpoint from a directory or, by its id, from the Hugging Face hub.

    Args:
      path: a directory with `config.json` and safetensors, or a hub id such as `Qwen/Qwen3-4B`.
      dtype: dtype of the parameters; None keeps the checkpoint's (that of its embedding).
      mesh: where the parameters go, split as `param_axes` says; None: the default device.
      overrides: fields of `ModelConfig` to replace, such as `rope_theta`; None values do nothing.

    Raises:
      ConfigError: when there is no such checkpoint, it is not one we implement, its tensors do not
        match its `config.json`, or it does not divide over the mesh.
    """
    directory = find_checkpoint(path)
    config = read_config(directory, overrides=overrides)
    table = parameters(config)
    if mesh is not None:
        check_mesh(config, mesh)
    shapes = _flat_shapes(config)
    with WeightFiles(directory) as files:
        _check_tensors(files, config, shapes)
        stored = files.dtype(table["embed", "embedding"].hf_name)
        config = dataclasses.replace(config, checkpoint_dtype=stored)
        target = np.dtype(_dtype_name(dtype if dtype is not None else stored))
        default = SingleDeviceSharding(jax.devices()[0])
        params = {}
        for name, entry in table.items():
            sharding = default if mesh is None else named_sharding(mesh, entry.axes)
            params[name] = _load(files, entry, shapes[name], target, sharding)
    return config, nest(params)


def read_config(path: str | Path, *, overrides: dict[str, Any] | None = None) -> ModelConfig:
    """The architecture of a checkpoint, without its weights; see `load_pretrained`.

    Raises:
      ConfigError: when there is no such checkpoint or it is not one we implement.
    """
    directory = find_checkpoint(path, weights=False)
    return apply_overrides(config_from_hf(read_json(directory / "config.json")), overrides)


def inspect_pretrained(
    path: str | Path, *, overrides: dict[str, Any] | None = None
) -> tuple[ModelConfig, str]:
    """Checks a checkpoint without loading it, after downloading it if need be.

    Returns:
      Its architecture, as `load_pretrained` would return it, and a fingerprint: a hash of the
      architecture, of the names, shapes and dtypes of the tensors, and of a sample of the weights
      (norms, and some rows of embedding and last layer), which training would have changed.

    Raises:
      ConfigError: as `load_pretrained`.
    """
    directory = find_checkpoint(path)
    config = read_config(directory, overrides=overrides)
    with WeightFiles(directory) as files:
        _check_tensors(files, config, _flat_shapes(config))
        stored = files.dtype(parameters(config)["embed", "embedding"].hf_name)
        config = dataclasses.replace(config, checkpoint_dtype=stored)
        plain = dataclasses.replace(config, compute_dtype=None, remat="none", attention="auto")
        digest = hashlib.sha256(repr(plain).encode())
        for name in sorted(files.names()):
            digest.update(f"{name} {files.shape(name)} {files.dtype(name)}".encode())
        last = f"model.layers.{config.num_layers - 1}"
        for name in ("model.norm.weight", f"{last}.input_layernorm.weight"):
            digest.update(files.slice(name)[:].tobytes())
        for name in ("model.embed_tokens.weight", f"{last}.mlp.down_proj.weight"):
            digest.update(files.slice(name)[:16].tobytes())
    return config, digest.hexdigest()[:16]


def save_pretrained(
    params: Params,
    config: ModelConfig,
    path: str | Path,
    *,
    tokenizer_from: str | Path | None = None,
    dtype: Any = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> None:
    """Writes a checkpoint that transformers 4, transformers 5 and vLLM load.

    The directory appears when it is complete. With several processes all of them call this; the
    first writes.

    Args:
      path: the directory. An earlier export there is replaced; anything else is refused.
      tokenizer_from: directory or hub id whose tokenizer files and `generation_config.json` are
        copied.
      dtype: dtype of the tensors written; None keeps the arrays'.
      max_file_bytes: above this, the weights are split over several files with an index.

    Raises:
      ConfigError: when `path` holds something else, or `tokenizer_from` has no tokenizer.
    """
    path = Path(path)
    embedding = params["embed"]["embedding"]
    target = np.dtype(_dtype_name(dtype if dtype is not None else embedding.dtype))
    table = parameters(config)
    shapes = _flat_shapes(config)
    sizes = {
        name: math.prod(_hf_shape(entry.kind, _inner(entry, shapes[key]))) * target.itemsize
        for name, key, entry, _ in _hf_tensors(table, config)
    }
    plan = _split(sizes, max_file_bytes)
    tensors = _export(params, config, table, target)
    with replace_directory(path) as folder:
        writes = jax.process_index() == 0
        for file, names in plan.items():
            content = {}
            for name in names:
                tensor = next(tensors)  # all processes take part, in the same order
                if writes:
                    content[name] = tensor
            if writes:
                save_file(content, folder / file, metadata={"format": "pt", "producer": "curiojax"})
                make_readable(folder / file)
        if writes:
            if len(plan) > 1:
                weight_map = {name: file for file, names in plan.items() for name in names}
                index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
                _write_json(folder / INDEX_FILE, index)
            if tokenizer_from is not None:
                copy_tokenizer(tokenizer_from, folder)
            _write_json(folder / "config.json", config_to_hf(config, target.name))


def check_mesh(config: ModelConfig, mesh: Mesh | AbstractMesh) -> None:
    """Raises a `ConfigError` for a model whose sizes do not divide over the mesh."""
    for field, size, axis in (
        ("num_attention_heads", config.num_heads, "heads"),
        ("num_key_value_heads", config.num_kv_heads, "kv_heads"),
        ("intermediate_size", config.intermediate_size, "mlp"),
        ("vocab_size", config.vocab_size, "vocab"),
        ("hidden_size", config.hidden_size, "embed"),
    ):
        check_divisible(field, size, mesh, axis)


def _flat_shapes(config: ModelConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    leaves, _ = jax.tree.flatten_with_path(abstract_params(config))
    return {tuple(key.key for key in path): leaf.shape for path, leaf in leaves}


def _inner(entry: Parameter, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if entry.stacked else shape


def _hf_shape(kind: Kind, shape: tuple[int, ...]) -> tuple[int, ...]:
    match kind:
        case "input":
            return (math.prod(shape[1:]), shape[0])
        case "output":
            return (shape[-1], math.prod(shape[:-1]))
        case "flat":
            return (math.prod(shape),)
        case "same":
            return shape


def _hf_tensors(table: dict, config: ModelConfig) -> Iterator[tuple[str, Any, Parameter, int]]:
    """Names in the checkpoint's order, with our path, the table's entry and the layer."""
    stacked = [(key, entry) for key, entry in table.items() if entry.stacked]
    done = False
    for key, entry in table.items():
        if not entry.stacked:
            yield entry.hf_name, key, entry, 0
        elif not done:
            done = True
            for layer in range(config.num_layers):
                for layer_key, layer_entry in stacked:
                    yield layer_entry.hf_name.format(layer), layer_key, layer_entry, layer


def _check_tensors(files: WeightFiles, config: ModelConfig, shapes: dict) -> None:
    table = parameters(config)
    expected = {
        name: _hf_shape(entry.kind, _inner(entry, shapes[key]))
        for name, key, entry, _ in _hf_tensors(table, config)
    }
    found = files.names()
    missing = [name for name in expected if name not in found]
    if missing:
        remedy = "the checkpoint is incomplete or config.json does not belong to it"
        if missing == ["lm_head.weight"]:
            remedy = "if the model ties its embeddings, set tie_word_embeddings in config.json"
        raise ConfigError(f"{files.directory}: missing tensors {_some(missing)}; {remedy}")
    # Older exports list the rotary frequencies, which follow from config.json.
    extra = [n for n in found if n not in expected and not n.endswith("rotary_emb.inv_freq")]
    if config.tie_word_embeddings and "lm_head.weight" in extra:
        if not files.equal("lm_head.weight", "model.embed_tokens.weight"):
            raise ConfigError(
                f"{files.directory}: config.json ties the embeddings, but lm_head.weight differs "
                "from model.embed_tokens.weight; set tie_word_embeddings: false in config.json"
            )
        extra.remove("lm_head.weight")
    if extra:
        raise ConfigError(
            f"{files.directory}: unexpected tensors {_some(extra)}; "
            "the checkpoint is of another architecture than config.json says"
        )
    for name, shape in expected.items():
        if files.shape(name) != shape:
            raise ConfigError(
                f"{files.directory}: {name} has shape {list(files.shape(name))}, config.json asks "
                f"for {list(shape)}; use the config.json that belongs to the weights"
            )
        if files.dtype(name) not in DTYPES:
            raise ConfigError(
                f"{files.directory}: {name} has dtype {files.dtype(name)}; "
                f"convert the checkpoint to one of {', '.join(DTYPES)}"
            )


def _load(files, entry: Parameter, shape, dtype: np.dtype, sharding) -> jax.Array:
    pieces: dict[str, np.ndarray] = {}  # replicas ask for the same piece: read it once

    def piece(index: Any) -> np.ndarray:
        key = str(index)
        if key not in pieces:
            pieces[key] = _read(files, entry, shape, index, dtype)
        return pieces[key]

    array = jax.make_array_from_callback(shape, sharding, piece)
    # Transfers are asynchronous: wait, or the host would hold many parameters at once.
    return jax.block_until_ready(array)


def _read(files, entry: Parameter, shape, index: tuple[slice, ...], dtype) -> np.ndarray:
    """One piece, given by its slices in our layout."""
    spans = [range(*part.indices(size)) for part, size in zip(index, shape, strict=True)]
    if not entry.stacked:
        return _read_one(files, entry.hf_name, entry.kind, shape, spans).astype(dtype)
    out = np.empty([len(span) for span in spans], dtype)
    for i, layer in enumerate(spans[0]):
        name = entry.hf_name.format(layer)
        out[i] = _read_one(files, name, entry.kind, shape[1:], spans[1:])
    return out


def _read_one(files, name: str, kind: Kind, shape, spans: list[range]) -> np.ndarray:
    def merged(sizes, parts) -> slice:
        """The slice, in one merged dimension, of dimensions of which only the first is split."""
        rest = math.prod(sizes[1:])
        return slice(parts[0].start * rest, parts[0].stop * rest)

    size = [len(span) for span in spans]
    view = files.slice(name)
    match kind:
        case "input":
            block = view[merged(shape[1:], spans[1:]), merged(shape[:1], spans[:1])]
            return block.T.reshape(size)
        case "output":
            block = view[merged(shape[-1:], spans[-1:]), merged(shape[:-1], spans[:-1])]
            return block.T.reshape(size)
        case "flat":
            return view[merged(shape, spans)].reshape(size)
        case "same":
            return view[tuple(slice(span.start, span.stop) for span in spans)]


@jax.jit
def _layer(stacked: jax.Array, layer: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False)


def _export(params: Params, config: ModelConfig, table: dict, dtype) -> Iterator[np.ndarray]:
    """The tensors of the checkpoint, one at a time, in the order of `_hf_tensors`."""
    for _, key, entry, layer in _hf_tensors(table, config):
        array: Any = params
        for part in key:
            array = array[part]
        if entry.stacked:
            host = isinstance(array, np.ndarray)
            array = array[layer] if host else _layer(array, jnp.int32(layer))
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            array = multihost_utils.process_allgather(array, tiled=True)
        array = np.asarray(array).astype(dtype)
        match entry.kind:
            case "input":
                array = array.reshape(array.shape[0], -1).T
            case "output":
                array = array.reshape(-1, array.shape[-1]).T
            case "flat":
                array = array.reshape(-1)
        # safetensors writes the buffer as it lies in memory, whatever the strides say.
        yield np.ascontiguousarray(array)


def _split(sizes: dict[str, int], limit: int) -> dict[str, list[str]]:
    """Assigns tensors to files of at most `limit` bytes, in order."""
    groups: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if groups[-1] and used + size > limit:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    if len(groups) == 1:
        return {WEIGHTS_FILE: groups[0]}
    return {
        f"model-{i:05d}-of-{len(groups):05d}.safetensors": names
        for i, names in enumerate(groups, start=1)
    }


def _dtype_name(dtype: Any) -> str:
    name = jnp.dtype(dtype).name
    if name not in DTYPES:
        raise ConfigError(f"dtype: {name!r} is not one of {', '.join(DTYPES)}; choose one of them")
    return name


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
