"""One expert response with what the model and its teacher made of every token."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from curiojax.data.pipeline import SupervisedData
from curiojax.sharding import named_sharding
from curiojax.training.passes import teacher_head, teacher_pass
from curiojax.training.recipe import Recipe
from curiojax.training.state import TrainState
from curiojax.training.step import summed_loss
from curiojax.training.teacher import weights_run

SHOWN = (
    "entropy",
    "tau",
    "weight",
    "log_prob",
    "teacher_log_prob",
    "teacher_entropy",
)


def token_view(
    recipe: Recipe, state: TrainState, data: SupervisedData, tokenizer: Any, index: int = 0
) -> dict[str, Any]:
    """Scores one training record with the final weights.

    Returns:
      {"title", "prompt", "tokens": [{"text", "entropy", "tau", "weight", "log_prob", ...}]}, with
      one entry per response token; quantities that the objective does not have are left out.
      Entropies and log-probs are in nats.
    """
    prompt, response = data.example(index)
    ids = np.concatenate([prompt, response]).astype(np.int32)
    rows = recipe.config.rows_per_microbatch
    arrays = {
        name: np.zeros((rows, recipe.config.row_length), np.dtype(dtype))
        for name, dtype in recipe.batch_dtypes.items()
    }
    length = len(ids) - 1
    arrays["tokens"][0, :length] = ids[:-1]
    arrays["labels"][0, :length] = ids[1:]
    arrays["positions"][0, :length] = np.arange(length)
    arrays["segment_ids"][0, :length] = 1
    arrays["loss_mask"][0, len(prompt) - 1 : length] = 1.0
    sharding = named_sharding(recipe.mesh, ("batch", "length"))

    def score(state: TrainState, batch):
        targets = None
        if recipe.teacher is not None:
            targets = teacher_pass(recipe, weights_run(state.teacher), batch)
            targets |= teacher_head(recipe, state.teacher.params)
        _, tokens = summed_loss(recipe, state.params, batch, targets)
        return tokens

    with jax.set_mesh(recipe.mesh):
        batch = {
            name: jax.make_array_from_callback(a.shape, sharding, lambda part, a=a: a[part])
            for name, a in arrays.items()
        }
        replicated = named_sharding(recipe.mesh, ())
        scores = jax.device_get(jax.jit(score, out_shardings=replicated)(state, batch))
    scores = {name: scores[name][0, len(prompt) - 1 : length] for name in SHOWN if name in scores}
    tokens = [
        {"text": tokenizer.decode([int(token)]), **{n: float(s[t]) for n, s in scores.items()}}
        for t, token in enumerate(response)
    ]
    return {
        "title": f"training record {index}",
        "prompt": tokenizer.decode(prompt),
        "tokens": tokens,
    }
