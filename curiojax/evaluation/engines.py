"""The engine that an evaluation samples with, and the JAX weights, each only when needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from curiojax import models, progress
from curiojax.errors import ConfigError
from curiojax.evaluation.entropy import EntropyFile, measure
from curiojax.evaluation.settings import EvaluationConfig
from curiojax.models import ModelConfig
from curiojax.rollout.base import Rollout, RolloutError
from curiojax.rollout.memory import device_memory, num_bytes, sampler_memory
from curiojax.sharding import num_batch_shards


class Call(NamedTuple):
    """What is asked of an engine at a time.

    Attributes:
      completions: in all.
      longest_prompt: in tokens.
    """

    completions: int
    longest_prompt: int


class Weights:
    """The weights of the JAX model, read when they are first asked for.

    Until then no device is touched, so that vLLM's servers find the memory of all GPUs free.
    """

    def __init__(self, config: EvaluationConfig, path: str, model: ModelConfig):
        self._config, self._path, self._model = config, path, model
        self._mesh: Mesh | None = None
        self._loaded: tuple[Any, Mesh] | None = None

    @property
    def mesh(self) -> Mesh:
        """The devices, which are looked for now.

        Raises:
          ConfigError: the mesh, the model and the devices do not go together.
        """
        if self._mesh is None:
            from curiojax.sharding import make_mesh

            mesh = make_mesh(**self._config.mesh.model_dump())
            models.check_mesh(self._model, mesh)
            self._mesh = mesh
        return self._mesh

    def load(self) -> tuple[Any, Mesh]:
        """Parameters in float32, and the mesh that they lie on."""
        if self._loaded is None:
            mesh, overrides = self.mesh, self._config.model_overrides
            with progress.status("reading the weights"):
                _, params = models.load_pretrained(
                    self._path, dtype=np.float32, mesh=mesh, overrides=overrides
                )
            self._loaded = params, mesh
        return self._loaded

    def measure(self, file: EntropyFile, title: str) -> None:
        """Measures the entropies that a file lacks, behind a bar of that title."""
        if file.known.all():
            return
        params, mesh = self.load()
        with progress.LazyBar(f"{title}: entropies") as bar:
            measure(
                params,
                self._model,
                file,
                mesh,
                batch_tokens=self._config.batch_tokens,
                progress=bar,
            )

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *exception: object) -> None:
        self._loaded = None


def check_memory(config: EvaluationConfig, model: ModelConfig, mesh: Mesh, call: Call) -> None:
    """Holds what the JAX sampler will need against the devices' memory, where that is known.

    Counted are the float32 weights, the sampler's own copy and its keys and values at their
    largest; the last decide, and grow with `batch_size`.

    Raises:
      ConfigError: it is more than JAX may use.
    """
    limit = device_memory()
    if limit is None:
        return

    def needed(rows: int) -> tuple[int, int]:
        copy, cache = sampler_memory(
            model,
            mesh,
            rows=rows,
            completions=call.completions,
            longest_prompt=call.longest_prompt,
            max_tokens=config.max_response_tokens,
        )
        params = models.abstract_params(model)
        kept = jax.tree.map(
            lambda x, on: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on.sharding), params, copy
        )
        return num_bytes(kept) + num_bytes(copy), num_bytes(cache)

    weights, cache = needed(config.batch_size)
    if weights + cache <= limit:
        return
    shards = num_batch_shards(mesh)
    fitting = (limit - weights) // needed(shards)[1] * shards
    remedy = (
        f"batch_size={fitting} fits"
        if fitting > 0
        else "not even one per device fits: lower max_response_tokens, use more devices, or vLLM"
    )
    raise ConfigError(
        f"batch_size: {config.batch_size} completions of up to {config.max_response_tokens} tokens "
        f"and the weights need at least {(weights + cache) / 1e9:.1f} GB per device, where JAX may "
        f"use {limit / 1e9:.1f} GB (XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 in the environment raises "
        f"that); {remedy}"
    )


def start_engine(
    config: EvaluationConfig,
    path: str,
    model: ModelConfig,
    weights: Weights,
    call: Call,
    directory: Path,
) -> Rollout:
    """An engine with the model's weights.

    Args:
      call: the largest call of `generate`.
      directory: vLLM's logs go to `vllm` in it.

    Raises:
      ConfigError: what a user can mend: see `curiojax.rollout.vllm.VllmRollout`.
    """
    if config.engine == "sampler":
        from curiojax.rollout.sampler import JaxSampler

        check_memory(config, model, weights.mesh, call)
        params, mesh = weights.load()
        return JaxSampler(params, model, num_slots=config.batch_size, mesh=mesh)
    from curiojax.rollout.vllm import VllmRollout, VllmSettings

    try:
        settings = VllmSettings(
            max_model_len=call.longest_prompt + config.max_response_tokens,
            log_dir=directory / "vllm",
            vllm_python=config.vllm_python,
            base_urls=config.base_urls,
            num_servers=config.num_servers,
            devices=config.devices,
            dtype=model.compute_dtype or "float32",
            temperature=config.temperature,
            need_log_probs=False,
            extra_args=config.extra_args,
            weights_dir=None,
            request_timeout_seconds=config.timeout_seconds,
        )
        return VllmRollout(model, path, settings)
    except ConfigError as error:
        raise ConfigError(str(error).replace("rollout.", "")) from error
    except RolloutError as error:  # of servers that run already
        raise ConfigError(f"base_urls: {error}; see the servers' logs") from error
