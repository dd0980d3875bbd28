"""Trains the tiny base model of the embedded Countdown world, and measures it.

    python tools/train_countdown_base.py [--output-dir DIR] [--steps 1100] [--seed 0]

The model (Qwen2 architecture, 0.17M parameters) learns from random legal trajectories of the
training multisets, freshly drawn for every step: a mixture of all strategies, which knows the rules
and reaches targets but has never seen the answer format. The loss is cross-entropy on the response
tokens; predicting the prompt would only teach it the distribution of problems.

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

from curiojax.data.worlds import BASE_MODEL, embedded_world, vocabulary
from curiojax.data.worlds.countdown import PROMPT_TOKENS
from curiojax.data.worlds.trajectories import random_trajectories
from curiojax.errors import exit_on_config_error
from curiojax.evaluation.worlds import evaluate_world
from curiojax.models import ModelConfig, forward, init_params, logits, save_pretrained
from curiojax.progress import bar, print_pairs

CONFIG = ModelConfig(
    model_type="qwen2",
    vocab_size=vocabulary.VOCABULARY_SIZE,
    hidden_size=64,
    num_layers=3,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    intermediate_size=192,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    attention_bias=True,
    eos_token_ids=(vocabulary.token_ids()["<eos>"],),
)


# The usual 0.02 suits models far wider than this one, whose 1 / sqrt(64) is 0.125; starting five
# times higher saves about a third of the steps.
KERNEL_STDDEV = 0.1


def loss_fn(params, tokens: jax.Array) -> jax.Array:
    """Mean cross-entropy of the response tokens, in nats. tokens [B, T] int32, equal lengths."""
    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    positions = jnp.broadcast_to(jnp.arange(inputs.shape[1]), inputs.shape)
    hidden = forward(params, CONFIG, inputs, positions, jnp.ones_like(inputs))
    response = hidden[:, PROMPT_TOKENS - 1 :]
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits(params, CONFIG, response), labels[:, PROMPT_TOKENS - 1 :]
    )
    return losses.mean()


def initial_params(seed: int):
    """Random parameters, with the matrices of the layers drawn at `KERNEL_STDDEV`."""
    params = init_params(jax.random.key(seed), CONFIG)
    scaled = jax.tree.map_with_path(
        lambda path, x: x * (KERNEL_STDDEV / 0.02) if path[-1].key == "kernel" else x,
        params["layers"],
    )
    return params | {"layers": scaled}


def train(*, steps: int, batch_size: int, learning_rate: float, seed: int):
    """Trains from scratch and returns the parameters and the mean loss of the last 50 steps."""
    optimizer = optax.adamw(
        optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(30, steps // 2), steps),
        weight_decay=0.01,
    )

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, tokens):
        loss, gradients = jax.value_and_grad(loss_fn)(params, tokens)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = initial_params(seed)
    state = optimizer.init(params)
    rng = np.random.default_rng([seed, 0])
    losses = []
    with bar("training the base model", total=steps) as progress:
        for step in range(1, steps + 1):
            params, state, loss = update(params, state, random_trajectories(rng, batch_size))
            losses.append(float(loss))
            progress.update(step, loss=losses[-1])
    return params, float(np.mean(losses[-50:]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-dir", type=Path, default=BASE_MODEL)
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=6e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    start = time.perf_counter()
    params, loss = train(
        steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    seconds = time.perf_counter() - start
    # Everything else in the folder is part of the export, which replaces an earlier one as a whole.
    (args.output_dir / "quality.json").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary.save_tokenizer(folder)
        save_pretrained(params, CONFIG, args.output_dir, tokenizer_from=folder)
    tokenizer = AutoTokenizer.from_pretrained(args.output_dir)
    world, prompts = embedded_world("countdown"), {"id": 256, "hard": 768}
    scores = evaluate_world(world, params, CONFIG, tokenizer, prompts=prompts)
    quality = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "steps": args.steps,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "loss": round(loss, 4),
        "evaluation": {k: round(v, 4) if isinstance(v, float) else v for k, v in scores.items()},
    }
    (args.output_dir / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    print_pairs("Countdown base model", quality["evaluation"] | {"training seconds": seconds})
    print(f"written to {args.output_dir}")


if __name__ == "__main__":
    exit_on_config_error(main)
