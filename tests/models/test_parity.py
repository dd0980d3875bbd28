"""The decoder against transformers, in float32, on random checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_checkpoints import FAMILIES, build
from transformers import AutoModelForCausalLM

from curiojax.models import load_pretrained, save_pretrained
from curiojax.models.rope import inverse_frequencies
from curiojax.rollout import sample

LENGTH = 80


def reference_logits(model, tokens):
    with torch.no_grad():
        return model(torch.as_tensor(np.asarray(tokens), dtype=torch.long)).logits.float().numpy()


def assert_close(got, want, tolerance=1e-4):
    assert np.abs(got - want).max() <= tolerance * max(1.0, np.abs(want).max())


def random_tokens(config, rows=3, length=LENGTH, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, length))


@pytest.mark.parametrize("name", FAMILIES)
def test_logits(name, checkpoint, score):
    _, model, config, params = checkpoint(name)
    tokens = random_tokens(config)
    want = reference_logits(model, tokens)
    assert np.abs(want).max() > 1  # a test on vanishing logits would pass with a wrong model
    assert_close(score(params, config, tokens), want)


def test_llama3_frequencies(checkpoint):
    _, model, config, _ = checkpoint("llama3")
    want = model.model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(inverse_frequencies(config), want, rtol=3e-7)
    ratio = 500.0 ** -(np.arange(0, 14, 2) / 14) / want
    assert ratio[0] == pytest.approx(1) and 1.1 < ratio[1] < 7.9  # kept, interpolated ...
    np.testing.assert_allclose(ratio[2:], 8, rtol=1e-5)  # ... and stretched


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_decoding(name, checkpoint, score):
    _, model, config, params = checkpoint(name)
    prompts = [random_tokens(config, 1, length, seed=length)[0].tolist() for length in (5, 11)]
    completions = sample(
        params, config, prompts, max_new_tokens=64, temperature=0.0, seed=0, stop_ids=[]
    )
    model.generation_config.eos_token_id = None
    rows = random_tokens(config)
    for i, (prompt, [completion]) in enumerate(zip(prompts, completions, strict=True)):
        inputs = torch.tensor([prompt])
        generated = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            max_new_tokens=64,
            pad_token_id=0,
        )
        assert completion.tokens == generated[0, len(prompt) :].tolist()
        rows[i, : len(prompt) + 64] = prompt + completion.tokens
    # The full forward pass takes the same token after every prefix.
    best = score(params, config, rows).argmax(-1)
    for row, prompt, [completion] in zip(best, prompts, completions, strict=False):
        assert row[len(prompt) - 1 : len(prompt) + 63].tolist() == completion.tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_loads_the_export(name, checkpoint, tmp_path):
    _, model, config, params = checkpoint(name)
    save_pretrained(params, config, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.dtype == torch.float32
    assert again.config.rope_parameters == model.config.rope_parameters
    tokens = random_tokens(config)
    np.testing.assert_array_equal(reference_logits(again, tokens), reference_logits(model, tokens))


def test_overrides_reach_the_model_and_the_export(checkpoint, score, tmp_path):
    directory, _, _, _ = checkpoint("qwen2_untied")
    overrides = {"rope_theta": 40_000.0, "max_position_embeddings": 512, "remat": None}
    config, params = load_pretrained(directory, dtype="float32", overrides=overrides)
    assert (config.rope_theta, config.max_position_embeddings) == (40_000.0, 512)
    model = build("qwen2_untied")
    changed = type(model)(
        type(model.config)(
            **model.config.to_dict()
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 40_000.0}}
        )
    )
    changed.load_state_dict(model.state_dict())
    tokens = random_tokens(config)
    assert_close(score(params, config, tokens), reference_logits(changed.eval(), tokens))
    assert np.abs(reference_logits(changed, tokens) - reference_logits(model, tokens)).max() > 0.01

    save_pretrained(params, config, tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.config.max_position_embeddings == 512
    assert_close(score(params, config, tokens), reference_logits(again, tokens))


def test_bfloat16_compute_is_near_float32(checkpoint, score):
    directory, model, _, params = checkpoint("qwen3")
    config, _ = load_pretrained(directory, dtype=None, overrides={"compute_dtype": "bfloat16"})
    tokens = random_tokens(config)
    error = np.abs(score(params, config, tokens) - reference_logits(model, tokens))
    assert 1e-3 < error.mean() < 0.15  # bfloat16 was used, and did no more harm than it does
