"""Trains the tiny base model of an embedded world from scratch, on random ways to solve problems.

    python tools/train_world_base.py --world countdown
    python tools/train_world_base.py --world countdown --output-dir runs/bases/wide \\
        --model-type qwen3 --hidden-size 128 --num-layers 4

The data are random trajectories without an answer, drawn anew for every step, so the model knows
how to work and reaches results but has never seen the answer format. The loss is cross-entropy on
the response tokens; predicting the prompt would only teach it the distribution of problems.

Without `--output-dir` the checkpoint that ships with the package is replaced. `quality.json` beside
a checkpoint says what it can do. A model of another shape serves as `model.path` of a comparison,
or as `--base countdown=runs/bases/wide` of tools/reproduce.py.
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
from curiojax.errors import ConfigError, exit_on_config_error
from curiojax.evaluation.worlds import evaluate_world
from curiojax.models import ModelConfig, forward, init_params, logits, save_pretrained
from curiojax.models.config import FAMILIES
from curiojax.progress import bar, print_pairs

# The usual 0.02 suits models far wider than 64, whose 1 / sqrt(64) is 0.125; starting five times
# higher saves about a third of the steps. Other widths get the same share of 1 / sqrt(width).
KERNEL_GAIN = 0.8
WIDTH, HEAD_DIM, LEARNING_RATE = 64, 16, 6e-3
STEPS = {"countdown": 1100, "modchain": 2400}
BATCH_SIZE = {"countdown": 256, "modchain": 128}
PROMPTS = {
    "countdown": {"id": 256, "hard": 768},
    "modchain": {"id": 256, "hard": 768, "longer": 256},
}


def model_config(
    data: BaseData, model_type: str = "qwen2", hidden_size: int = WIDTH, num_layers: int = 3
) -> ModelConfig:
    """As shipped: about 0.17M parameters, a third of them in attention.

    Raises:
      ConfigError: the width is no multiple of a head's.
    """
    heads, rest = divmod(hidden_size, HEAD_DIM)
    if rest or heads < 1:
        raise ConfigError(f"--hidden-size: must be a multiple of {HEAD_DIM}, not {hidden_size}")
    family = FAMILIES[model_type]
    return ModelConfig(
        model_type=model_type,
        vocab_size=len(data.vocabulary),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=HEAD_DIM,
        intermediate_size=3 * hidden_size,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        attention_bias=family.attention_bias,
        qk_norm=family.qk_norm,
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
    """Random parameters, with the matrices of the layers drawn as `KERNEL_GAIN` says."""
    params = init_params(jax.random.key(seed), config)
    larger = KERNEL_GAIN / config.hidden_size**0.5 / 0.02
    scaled = jax.tree.map_with_path(
        lambda path, x: x * larger if path[-1].key == "kernel" else x,
        params["layers"],
    )
    return params | {"layers": scaled}


def train(
    data: BaseData,
    config: ModelConfig,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> tuple[dict, float]:
    """Trains from scratch and returns the parameters and the mean loss of the last 50 steps."""
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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=WORLDS, required=True)
    parser.add_argument("--output-dir", type=Path, help="default: where the package has it")
    parser.add_argument("--steps", type=int, help="default: 1100, for modchain 2400")
    parser.add_argument("--batch-size", type=int, help="default: 256, for modchain 128")
    parser.add_argument("--learning-rate", type=float, help="default: 6e-3 * 64 / hidden size")
    parser.add_argument("--model-type", choices=FAMILIES, default="qwen2")
    parser.add_argument("--hidden-size", type=int, default=WIDTH, help="default: 64; heads of 16")
    parser.add_argument("--num-layers", type=int, default=3, help="default: 3")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    shape = {key: getattr(args, key) for key in ("model_type", "hidden_size", "num_layers")}
    changed = [key for key, value in shape.items() if value != parser.get_default(key)]
    if changed and args.output_dir is None:
        option = changed[0].replace("_", "-")
        raise ConfigError(f"--{option}: the shipped model keeps its shape; name an --output-dir")
    world, data = embedded_world(args.world), base_data(args.world)
    output = args.output_dir or world.base_model
    steps = args.steps or STEPS[world.name]
    batch_size = args.batch_size or BATCH_SIZE[world.name]

    config = model_config(data, **shape)
    learning_rate = args.learning_rate or LEARNING_RATE * WIDTH / args.hidden_size

    start = time.perf_counter()
    params, loss = train(
        data,
        config,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=args.seed,
    )
    seconds = time.perf_counter() - start
    # Everything else in the folder is part of the export, which replaces an earlier one as a whole.
    (output / "quality.json").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        data.save_tokenizer(folder)
        save_pretrained(params, config, output, tokenizer_from=folder)
    tokenizer = AutoTokenizer.from_pretrained(output)
    scores = evaluate_world(world, params, config, tokenizer, prompts=PROMPTS[world.name])
    quality = {
        "world": world.name,
        **shape,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": args.seed,
        "loss": round(loss, 4),
        "evaluation": {k: round(v, 4) if isinstance(v, float) else v for k, v in scores.items()},
    }
    (output / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    print_pairs(f"{world.title} base model", quality["evaluation"] | {"training seconds": seconds})
    print(f"written to {output}")


if __name__ == "__main__":
    exit_on_config_error(main)
