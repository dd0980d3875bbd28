"""Trains the tiny base model of an embedded world from scratch, on random ways to solve problems.

    python tools/train_world_base.py --world countdown [--output-dir DIR]

The data are random trajectories without an answer, drawn anew for every step, so the model knows
how to work and reaches results but has never seen the answer format. The loss is cross-entropy on
the response tokens; predicting the prompt would only teach it the distribution of problems.

Without `--output-dir` the checkpoint that ships with the package is replaced. Measured on two CPU
cores: see `quality.json` beside the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from transformers import AutoTokenizer

from curiojax.data.worlds import WORLDS, embedded_world
from curiojax.data.worlds.base_data import BaseData, base_data
from curiojax.errors import exit_on_config_error
from curiojax.evaluation.worlds import evaluate_world
from curiojax.models import ModelConfig, forward, init_params, logits, save_pretrained
from curiojax.progress import bar, print_pairs

# The usual 0.02 suits models far wider than these, whose 1 / sqrt(64) is 0.125; starting five
# times higher saves about a third of the steps.
KERNEL_STDDEV = 0.1
STEPS = {"countdown": 1100, "modchain": 2400}
BATCH_SIZE = {"countdown": 256, "modchain": 128}
PROMPTS = {
    "countdown": {"id": 256, "hard": 768},
    "modchain": {"id": 256, "hard": 768, "longer": 256},
}


def model_config(data: BaseData) -> ModelConfig:
    """About 0.17M parameters, a third of them in attention."""
    return ModelConfig(
        model_type="qwen2",
        vocab_size=len(data.vocabulary),
        hidden_size=64,
        num_layers=3,
        num_heads=4,
        num_kv_heads=4,
        head_dim=16,
        intermediate_size=192,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        attention_bias=True,
        eos_token_ids=(data.eos_id,),
    )


def loss_fn(
    params, config: ModelConfig, first: int, tokens: jax.Array, is_response: jax.Array
) -> jax.Array:
    """Mean cross-entropy of the response tokens, in nats.

    Args:
      first: no token before this one is response.
      tokens, is_response: [B, T] int32 and bool; what follows a response is padding.
    """
    inputs, labels, weights = tokens[:, :-1], tokens[:, first:], is_response[:, first:]
    positions = jnp.broadcast_to(jnp.arange(inputs.shape[1]), inputs.shape)
    hidden = forward(params, config, inputs, positions, jnp.ones_like(inputs))
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits(params, config, hidden[:, first - 1 :]), labels
    )
    return losses.mean(where=weights)


def initial_params(config: ModelConfig, seed: int):
    """Random parameters, with the matrices of the layers drawn at `KERNEL_STDDEV`."""
    params = init_params(jax.random.key(seed), config)
    scaled = jax.tree.map_with_path(
        lambda path, x: x * (KERNEL_STDDEV / 0.02) if path[-1].key == "kernel" else x,
        params["layers"],
    )
    return params | {"layers": scaled}


def train(
    data: BaseData, *, steps: int, batch_size: int, learning_rate: float, seed: int
) -> tuple[dict, float]:
    """Trains from scratch and returns the parameters and the mean loss of the last 50 steps."""
    config = model_config(data)
    optimizer = optax.adamw(
        optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(30, steps // 2), steps),
        weight_decay=0.01,
    )

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, tokens, is_response):
        loss, gradients = jax.value_and_grad(loss_fn)(
            params, config, data.shortest_prompt, tokens, is_response
        )
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = initial_params(config, seed)
    state = optimizer.init(params)
    rng = np.random.default_rng([seed, 0])
    losses = []
    with bar("training the base model", total=steps) as progress:
        for step in range(1, steps + 1):
            params, state, loss = update(params, state, *data.draw(rng, batch_size))
            losses.append(float(loss))
            progress.update(step, loss=losses[-1])
    return params, float(np.mean(losses[-50:]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=WORLDS, required=True)
    parser.add_argument("--output-dir", type=Path, help="default: where the package has it")
    parser.add_argument("--steps", type=int, help="default: 1100, for modchain 2400")
    parser.add_argument("--batch-size", type=int, help="default: 256, for modchain 128")
    parser.add_argument("--learning-rate", type=float, default=6e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    world, data = embedded_world(args.world), base_data(args.world)
    output = args.output_dir or world.base_model
    steps = args.steps or STEPS[world.name]
    batch_size = args.batch_size or BATCH_SIZE[world.name]

    start = time.perf_counter()
    params, loss = train(
        data,
        steps=steps,
        batch_size=batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    seconds = time.perf_counter() - start
    # Everything else in the folder is part of the export, which replaces an earlier one as a whole.
    (output / "quality.json").unlink(missing_ok=True)
    config = model_config(data)
    with tempfile.TemporaryDirectory() as folder:
        data.save_tokenizer(folder)
        save_pretrained(params, config, output, tokenizer_from=folder)
    tokenizer = AutoTokenizer.from_pretrained(output)
    scores = evaluate_world(world, params, config, tokenizer, prompts=PROMPTS[world.name])
    quality = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "loss": round(loss, 4),
        "evaluation": {k: round(v, 4) if isinstance(v, float) else v for k, v in scores.items()},
    }
    (output / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    print_pairs(f"{world.title} base model", quality["evaluation"] | {"training seconds": seconds})
    print(f"written to {output}")


if __name__ == "__main__":
    exit_on_config_error(main)
