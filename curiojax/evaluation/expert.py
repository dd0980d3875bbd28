"""Entropy of a model along an expert's text: the paper's Figure 2, of one checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from curiojax import progress
from curiojax.data.pipeline import SupervisedData, build_dataset
from curiojax.errors import ConfigError
from curiojax.evaluation.engines import Weights
from curiojax.evaluation.entropy import EntropyFile, check_entropies
from curiojax.evaluation.expert_tokens import expert_tokens
from curiojax.evaluation.perplexity import Tokens
from curiojax.evaluation.settings import EvaluationConfig
from curiojax.evaluation.work import Subject
from curiojax.models import ModelConfig
from curiojax.sections import Data

FILE = "entropies/expert.jsonl"


class Demonstrations(NamedTuple):
    """Texts of an expert, and what their numbers depend on.

    Attributes:
      texts: by name, in the order of the data.
      identity: of the model and the data.
      reference: entropies of the same tokens under the base model, nats [N], if it decides about
        the groups.
    """

    texts: dict[str, Tokens]
    identity: dict[str, Any]
    reference: np.ndarray | None


def read_expert(
    config: EvaluationConfig, subject: Subject, directory: Path
) -> Demonstrations | None:
    """Reads what `measure_expert` needs; None without `expert_data.path`.

    Raises:
      ConfigError: unreadable data, a `base` that did not measure the same demonstrations, or a
        folder that has the entropies of others.
    """
    section = config.expert_data
    if section.path is None:
        return None
    data = read_demonstrations(config, subject.config, subject.tokenizer)
    texts = {
        str(index): Tokens(data.ids(index), int(data.prompt_lengths[index]))
        for index in range(data.num_examples)
    }
    identity = {"data": data.fingerprint, **subject.identity}
    check_entropies(directory / FILE, identity)
    reference = None
    if section.base is not None:
        reference = read_entropies(Path(section.base).expanduser() / FILE, identity, texts)
    return Demonstrations(texts, identity, reference)


def measure_expert(
    config: EvaluationConfig,
    demonstrations: Demonstrations,
    directory: Path,
    weights: Weights,
) -> dict[str, Any]:
    """Mean entropy of the tokens of demonstrations, in the top 20 % of tokens and in the rest.

    Returns:
      As `curiojax.evaluation.expert_tokens` has it, in nats.
    """
    texts, identity, reference = demonstrations
    with EntropyFile(directory / FILE, identity, texts) as file:
        weights.measure(file, "demonstrations")
        entropies, log_probs = _joined(file.entropies, texts), _joined(file.log_probs, texts)
    groups = config.expert_data.groups
    return expert_tokens(entropies, np.exp(log_probs), groups=groups, reference_entropies=reference)


def read_demonstrations(
    config: EvaluationConfig, model: ModelConfig, tokenizer: Any
) -> SupervisedData:
    """The first records of the data, tokenised as for training."""
    section = config.expert_data
    half = model.max_position_embeddings // 2
    data_config = Data(
        path=section.path,
        format=section.format,
        split=section.split,
        limit=section.limit,
        template=config.template,
        max_prompt_tokens=half,
        max_response_tokens=half,
        packing=False,
    )
    with progress.LazyBar("demonstrations: tokenising") as bar:
        try:
            data = build_dataset(
                data_config,
                tokenizer,
                seed=0,
                sequences_per_step=1,
                rows_per_microbatch=1,
                progress=bar,
            )
        except ConfigError as error:
            raise ConfigError(str(error).replace("data.", "expert_data.", 1)) from None
    if data.drops:
        progress.print_pairs("demonstrations dropped", data.drops)
    return data


def read_entropies(path: Path, ours: Mapping[str, Any], texts: Mapping[str, Tokens]) -> np.ndarray:
    """Entropies of the same texts under another model, nats [N]."""
    try:
        with path.open(encoding="utf-8") as stream:
            header, *lines = map(json.loads, stream)
        data, found = header["data"], {line["text"]: line["entropies"] for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"expert_data.base: {path} cannot be read ({type(error).__name__}); evaluate the base "
            "model with the same expert_data first, and name its output_dir"
        ) from None
    if data != ours["data"]:
        raise ConfigError(
            f"expert_data.base: {path} holds other demonstrations; evaluate the base model with "
            "the same expert_data and template"
        )
    if lacking := len(texts.keys() - found.keys()):
        raise ConfigError(
            f"expert_data.base: {path} lacks {lacking} of {len(texts)} demonstrations; run the "
            "base model's evaluation to its end"
        )
    return _joined(found, texts)


def _joined(values: Mapping[str, Sequence[float]], texts: Mapping[str, Tokens]) -> np.ndarray:
    return np.concatenate([np.asarray(values[name], np.float64) for name in texts])
