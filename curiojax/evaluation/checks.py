"""What can go wrong after hours of sampling, looked at before it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jax.sharding import AbstractMesh

from curiojax import models
from curiojax.errors import ConfigError
from curiojax.evaluation import folder
from curiojax.evaluation.entropy import check_entropies
from curiojax.evaluation.generation import check_completions, check_room
from curiojax.evaluation.grading import check_grades
from curiojax.evaluation.settings import EvaluationConfig
from curiojax.evaluation.work import Subject, Work
from curiojax.models import ModelConfig
from curiojax.rewards.pool import RewardPool
from curiojax.rewards.verifiers import VERIFIERS
from curiojax.sharding import AXES, mesh_shape


def check_prompts(config: EvaluationConfig, subject: Subject, work: Sequence[Work]) -> None:
    """Raises a `ConfigError` when the model cannot be asked these questions."""
    vocabulary, context = subject.config.vocab_size, subject.config.max_position_embeddings
    for item in work:
        for question, prompt in item.prompts.items():
            if max(prompt) >= vocabulary:
                raise ConfigError(
                    f"model: question {question} of {item.benchmark.name} has token ids outside "
                    f"its vocabulary of {vocabulary}; does the tokenizer belong to the model?"
                )
        check_room(item.benchmark, item.prompts, config.max_response_tokens, context)


def check_files(config: EvaluationConfig, directory: Path, work: Sequence[Work]) -> None:
    """Raises a `ConfigError` when the folder's files belong to something else; writes nothing."""
    for item in work:
        name, identity = item.benchmark.name, item.identity
        check_completions(folder.completion_path(directory, name), identity, item.samples)
        if config.entropy:
            check_entropies(folder.entropy_path(directory, name), identity)
        for verifier in item.verifiers:
            check_grades(directory, name, verifier, identity)


def check_own_verifiers(work: Sequence[Work]) -> None:
    """Has a worker import the verifiers that are a user's own.

    Raises:
      ConfigError: one of them cannot be imported.
    """
    names = [name for item in work for name in item.verifiers if name not in VERIFIERS]
    if names:
        try:
            RewardPool(names[0], "none", workers=1, preload=names[1:]).close()
        except ConfigError as error:
            raise ConfigError(str(error).removeprefix("reward.")) from None


def check_devices(config: EvaluationConfig, model: ModelConfig) -> None:
    """Checks that the mesh fits the devices, and the model the mesh.

    The devices are counted by another process, since this one may not touch them as long as they
    are needed by others.

    Raises:
      ConfigError: they do not, or JAX finds none.
    """
    program = [sys.executable, "-c", "import jax; print(jax.device_count())"]
    env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(program, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(
            f"entropy: JAX, which measures it, does not start ({last}); mend that, or set "
            "entropy=false"
        )
    shape = mesh_shape(**config.mesh.model_dump(), count=int(done.stdout.split()[-1]))
    models.check_mesh(model, AbstractMesh(shape, AXES))
