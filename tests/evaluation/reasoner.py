"""A very small model that has learnt, not quite, to answer the made-up benchmark questions.

Run as a script it writes the model and the benchmark files into a folder, to try things out:

    python -m tests.evaluation.reasoner FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from curiojax import models
from curiojax.data.encoding import encode_prompt, encode_text
from curiojax.evaluation.benchmarks import load_benchmark, parse_entries
from tests.data.conftest import make_tokenizer
from tests.evaluation.benchmark_files import ANSWERS, write_benchmark_files

TEMPLATE = "plain"
LEARNT = ["math", "arc_challenge"]
# Heads of a size that vLLM on CPUs takes.
CONFIG = models.ModelConfig(
    model_type="qwen2",
    vocab_size=512,
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    intermediate_size=128,
    attention_bias=True,
    max_position_embeddings=1024,
    compute_dtype="float32",
)


def response(answer, number):
    thought = ["Let me think.", "Okay.", "Wait, let us verify."][number % 3]
    return f"{thought}\n</think>\nThe answer is \\boxed{{{answer}}}"


def write(folder, steps=140):
    """Writes `model` and `benchmarks` into a folder; returns their paths."""
    files, model = Path(folder) / "benchmarks", Path(folder) / "model"
    write_benchmark_files(files)
    tokenizer = make_tokenizer(pad="<|endoftext|>")
    texts = []
    for entry in parse_entries(LEARNT):
        questions = load_benchmark(entry, directory=files).questions
        answers = ANSWERS[entry.name]
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            prompt = encode_prompt(TEMPLATE, question.messages, tokenizer)
            reply = encode_text(tokenizer, [response(answer, number)])[0]
            texts.append((prompt, [*reply, tokenizer.eos_token_id]))
    params = fit(*arrays(texts), steps)
    tokenizer.save_pretrained(Path(folder) / "tokenizer")
    models.save_pretrained(params, CONFIG, model, tokenizer_from=Path(folder) / "tokenizer")
    return model, files


def arrays(texts):
    length = max(len(prompt) + len(reply) for prompt, reply in texts)
    ids = np.zeros((len(texts), length), np.int32)
    segments, mask = np.zeros_like(ids), np.zeros(ids.shape, np.float32)
    for row, (prompt, reply) in enumerate(texts):
        size = len(prompt) + len(reply)
        ids[row, :size] = [*prompt, *reply]
        segments[row, :size], mask[row, len(prompt) : size] = 1, 1
    return ids, segments, mask


def fit(ids, segments, mask, steps):
    positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    optimizer = optax.adamw(1e-2)

    def loss(params):
        hidden = models.forward(params, CONFIG, ids, positions, segments)
        scores = models.logits(params, CONFIG, hidden)[:, :-1].astype(jnp.float32)
        nll = optax.softmax_cross_entropy_with_integer_labels(scores, ids[:, 1:])
        return (nll * mask[:, 1:]).sum() / mask[:, 1:].sum()

    @jax.jit
    def run(params):
        def step(carry, _):
            value, grads = jax.value_and_grad(loss)(carry[0])
            updates, state = optimizer.update(grads, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)

    # optax mixes Python floats and arrays.
    with jax.numpy_dtype_promotion("standard"):
        (params, _), losses = run(models.init_params(jax.random.key(0), CONFIG))
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.3f}")
    return params


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tests.evaluation.reasoner FOLDER")
    model, files = write(Path(sys.argv[1]))
    print(f"try: python -m curiojax.evaluate model={model} benchmarks_dir={files} \\")
    print("         template=plain max_response_tokens=64")
