"""Converts checkpoints between this program's format (Orbax) and Hugging Face's (safetensors).

    python tools/convert_checkpoint.py to-hf   SRC DST [--step N] [--dtype bfloat16]
    python tools/convert_checkpoint.py from-hf SRC DST

`to-hf` takes a run directory (its newest checkpoint, or --step) or a folder written by `from-hf`,
and writes a folder that transformers and vLLM load. `from-hf` takes a Hugging Face folder or hub
id and writes the weights as an Orbax tree, with config and tokenizer beside it.

Both read back what they wrote, run it, and compare logits with those of the source; any difference
ends with exit code 1. Runs export `hf/` by themselves at their end; this is for the checkpoints in
between.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from curiojax import models, progress
from curiojax.config import load_config
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.models.config import config_to_hf
from curiojax.models.files import copy_tokenizer
from curiojax.sharding import make_mesh, tree_shardings
from curiojax.training.checkpoint import load_params, restore_params, save_params
from curiojax.training.setup import read_model

PARAMS = "params"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("direction", choices=("to-hf", "from-hf"))
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("target", metavar="DST", type=Path)
    parser.add_argument("--step", type=int, help="which checkpoint of a run; default: the newest")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the exported tensors; default: that of the checkpoint the run started from",
    )
    arguments = parser.parse_args()
    if arguments.target.exists() and (
        not arguments.target.is_dir() or any(arguments.target.iterdir())
    ):
        raise ConfigError(f"DST: {arguments.target} exists already; name a new folder")
    if arguments.direction == "to-hf":
        difference = to_hf(
            Path(arguments.source), arguments.target, arguments.step, arguments.dtype
        )
    else:
        difference = from_hf(arguments.source, arguments.target)
    if difference:
        raise SystemExit(
            f"error: {arguments.target}: logits differ from the source's by up to {difference:g}; "
            "do not use it"
        )
    print(f"{arguments.target}: written, read back, logits identical")


def to_hf(source: Path, target: Path, step: int | None, dtype: str | None) -> float:
    """Writes `target`; returns the largest logit difference after reading it back."""
    if (source / PARAMS).is_dir():
        model = models.read_config(source)
        params = load_params(source / PARAMS, _abstract(model))
        tokenizer = source
    elif (source / "config.yaml").is_file():
        config = load_config(source / "config.yaml")
        tokenizer = config.model.path
        model, _ = read_model(config)
        params, step = restore_params(source / "checkpoints", _abstract(model), step)
        print(f"{source}: checkpoint of step {step}")
    else:
        raise ConfigError(
            f"SRC: {source} is neither a run directory (config.yaml, checkpoints/) nor a folder "
            "written by from-hf"
        )
    dtype = dtype or model.checkpoint_dtype or "float32"
    with progress.status(f"writing {target}"):
        models.save_pretrained(params, model, target, tokenizer_from=tokenizer, dtype=dtype)
    # What is exported is the rounded weights: rounding is asked for, anything else is a defect.
    round_trip = jax.jit(lambda p: p.astype(dtype).astype(jnp.float32), donate_argnums=0)
    rounded = jax.tree.map(round_trip, params)
    del params
    return _compare(rounded, target, model)


def from_hf(source: str, target: Path) -> float:
    """Writes `target`; returns the largest logit difference after reading it back."""
    model, params = models.load_pretrained(source, dtype=jnp.float32, mesh=_mesh())
    temporary = target.with_name(target.name + ".tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    with progress.status(f"writing {target}"):
        temporary.mkdir(parents=True)
        save_params(temporary / PARAMS, params)
        (temporary / "config.json").write_text(json.dumps(config_to_hf(model), indent=2))
        copy_tokenizer(source, temporary)
    if target.is_dir():
        target.rmdir()
    temporary.rename(target)
    reread = load_params(target / PARAMS, _abstract(models.read_config(target)))
    return _largest_difference(params, reread, model)


def _compare(params, target: Path, model: models.ModelConfig) -> float:
    reread_model, reread = models.load_pretrained(target, dtype=jnp.float32, mesh=_mesh())
    return _largest_difference(params, reread, model, reread_model)


def _largest_difference(ours, theirs, model, their_model=None) -> float:
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (2, 32)).astype(np.int32)
    positions = np.broadcast_to(np.arange(32, dtype=np.int32), tokens.shape)
    segments = np.ones_like(tokens)

    # In float32 throughout, whatever a run computes in: the comparison is of the weights.
    plain = {"compute_dtype": "float32", "remat": "none", "attention": "auto"}

    def logits(params, config):
        hidden = models.forward(params, config, tokens, positions, segments)
        return models.logits(params, config, hidden)

    run = jax.jit(logits, static_argnums=1)
    a = run(ours, dataclasses.replace(model, **plain))
    b = run(theirs, dataclasses.replace(their_model or model, **plain))
    largest = float(jnp.max(jnp.abs(a - b)))
    return largest if np.isfinite(largest) else float("inf")


def _mesh():
    return make_mesh()


def _abstract(model: models.ModelConfig):
    shapes = models.abstract_params(model, jnp.float32)
    shardings = tree_shardings(_mesh(), models.param_axes(model))
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        shapes,
        shardings,
    )


if __name__ == "__main__":
    exit_on_config_error(main)
