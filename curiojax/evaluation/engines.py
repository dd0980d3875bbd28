"""The engine that an evaluation samples with, and the JAX weights, each only when needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from curiojax import models, progress
from curiojax.errors import ConfigError
from curiojax.evaluation.entropy import EntropyFile, measure
from curiojax.evaluation.settings import EvaluationConfig
from curiojax.models import ModelConfig
from curiojax.rollout.base import Rollout, RolloutError


class Weights:
    """The weights of the JAX model, read when they are first asked for.

    Until then no device is touched, so that vLLM's servers find the memory of all GPUs free.
    """

    def __init__(self, config: EvaluationConfig, path: str, model: ModelConfig):
        self._config, self._path, self._model = config, path, model
        self._loaded: tuple[Any, Mesh] | None = None

    def load(self) -> tuple[Any, Mesh]:
        """Parameters in float32, and the mesh that they lie on."""
        if self._loaded is None:
            from curiojax.sharding import make_mesh

            mesh = make_mesh(**self._config.mesh.model_dump())
            models.check_mesh(self._model, mesh)
            overrides = self._config.model_overrides
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


def start_engine(
    config: EvaluationConfig,
    path: str,
    model: ModelConfig,
    weights: Weights,
    longest: int,
    directory: Path,
) -> Rollout:
    """An engine with the model's weights.

    Args:
      longest: tokens of the longest prompt and its response.
      directory: vLLM's logs go to `vllm` in it.

    Raises:
      ConfigError: what a user can mend: see `curiojax.rollout.vllm.VllmRollout`.
    """
    if config.engine == "sampler":
        from curiojax.rollout.sampler import JaxSampler

        params, mesh = weights.load()
        return JaxSampler(params, model, num_slots=config.batch_size, mesh=mesh)
    from curiojax.rollout.vllm import VllmRollout, VllmSettings

    try:
        settings = VllmSettings(
            max_model_len=longest,
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
