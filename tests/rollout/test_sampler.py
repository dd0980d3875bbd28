"""The sampler: its probabilities are the model's, and nothing depends on the batch."""

from __future__ import annotations

import dataclasses
import functools
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.errors import ConfigError
from curiojax.models import ModelConfig, abstract_params, forward, logits
from curiojax.rollout import sample
from curiojax.rollout.sampler import _generate
from curiojax.sharding import make_mesh

CONFIG = ModelConfig(
    model_type="qwen3",
    vocab_size=19,
    hidden_size=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    intermediate_size=24,
    max_position_embeddings=64,
    qk_norm=True,
)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13]]


@functools.cache
def params():
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(random.normal(size=x.shape) * 0.4 + (x.ndim < 3), x.dtype),
        abstract_params(CONFIG),
    )


def draw(prompts=PROMPTS, **changes):
    settings = {
        "max_new_tokens": 12,
        "seed": 3,
        "stop_ids": [0, 7],
        "samples_per_prompt": 5,
        "batch_size": 64,
    }
    return sample(params(), CONFIG, prompts, **settings | changes)


@functools.partial(jax.jit, static_argnums=1)
def run(params, config, tokens):
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    return logits(params, config, forward(params, config, tokens, positions, positions * 0 + 1))


def scores_of(prompt, completion):
    """Our own full forward pass over prompt + completion: the scores of the completion, float64."""
    tokens = np.zeros((1, 24), np.int32)
    ids = [*prompt, *completion.tokens]
    tokens[0, : len(ids)] = ids
    scores = np.asarray(run(params(), CONFIG, tokens), np.float64)[0]
    return scores[len(prompt) - 1 : len(ids) - 1]


def log_softmax(scores):
    scores = scores - scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.6, "top_p": 0.8}, {"temperature": 0.0}],
    ids=["plain", "nucleus", "greedy"],
)
def test_log_probs_and_entropies_are_the_models(settings):
    for prompt, completions in zip(PROMPTS, draw(**settings), strict=True):
        assert len(completions) == 5
        for completion in completions:
            scores = scores_of(prompt, completion)
            at_one = log_softmax(scores)
            log_probs = log_softmax(scores / (settings.get("temperature", 1.0) or 1.0))
            steps = np.arange(len(completion.tokens))
            np.testing.assert_allclose(
                completion.log_probs, log_probs[steps, completion.tokens], atol=1e-5
            )
            np.testing.assert_allclose(
                completion.entropies, -(np.exp(at_one) * at_one).sum(-1), atol=1e-5
            )
            if settings.get("temperature") == 0.0:
                assert completion.tokens == scores.argmax(-1).tolist()
            if "top_p" in settings:
                for row, token in zip(log_probs, completion.tokens, strict=True):
                    more_likely = np.exp(row[row > row[token]]).sum()
                    assert more_likely < settings["top_p"] + 1e-6


def test_stopping():
    reasons = set()
    for completion in chain(*draw()):
        reasons.add(completion.finish_reason)
        stops = [token in (0, 7) for token in completion.tokens]
        assert not any(stops[:-1])
        assert stops[-1] == (completion.finish_reason == "stop")
        if completion.finish_reason == "length":
            assert len(completion.tokens) == 12
        assert len(completion.tokens) == len(completion.log_probs) == len(completion.entropies)
    assert reasons == {"stop", "length"}
    assert {len(c.tokens) for c in chain(*draw(stop_ids=[]))} == {12}


def assert_same(got, want):
    for a, b in zip(chain(*got), chain(*want), strict=True):
        assert (a.tokens, a.finish_reason) == (b.tokens, b.finish_reason)
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)
        np.testing.assert_allclose(a.entropies, b.entropies, atol=1e-5)


def test_batch_composition_does_not_matter():
    whole = draw()
    # A batch per prompt and pair of samples, and a longer neighbour with its wider cache.
    long = list(range(1, 19)) * 2
    assert_same(draw(batch_size=2), whole)
    assert_same(draw([*PROMPTS, long])[:4], whole)
    assert_same(draw(PROMPTS[:1], samples_per_prompt=3), [whole[0][:3]])


def test_draws_differ():
    whole = draw(stop_ids=[0])
    assert len({tuple(c.tokens) for c in whole[0]}) == 5
    other = draw(stop_ids=[0], seed=4)
    assert all(a.tokens != b.tokens for a, b in zip(whole[0], other[0], strict=True))
    twins = draw([[1, 2, 3]] * 4, stop_ids=[0])
    assert len({tuple(c.tokens) for c in chain(*twins)}) == 20


def test_frequencies_follow_the_distribution():
    drawn = [
        completion
        for seed in range(200)
        for completion in chain(*draw([[1, 2, 3]] * 4, max_new_tokens=1, seed=seed))
    ]
    assert len(drawn) == 4000
    counts = np.bincount([c.tokens[0] for c in drawn], minlength=19)
    probs = np.exp(log_softmax(scores_of([1, 2, 3], drawn[0])))[0]
    error = (counts - 4000 * probs) / np.sqrt(4000 * probs * (1 - probs) + 1)
    assert np.abs(error).max() < 4.5 and probs.max() < 0.9


def test_no_recompilation_within_a_bucket():
    draw()
    before = _generate._cache_size()
    draw([[1, 2], [3], [4, 5, 6], [8]], max_new_tokens=9, seed=11, temperature=0.7)
    assert _generate._cache_size() == before


def test_progress_and_empty_input():
    calls = []
    draw(batch_size=2, progress=lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == [2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19, 20]
    assert {total for _, total in calls} == {20}
    assert draw([]) == []


def test_on_a_mesh():
    with jax.set_mesh(make_mesh(4, 1, 2)):
        split = draw(PROMPTS[:3])
    assert_same(split, draw()[:3])


def test_mixed_precision_traces():
    """Strict promotion refuses a forgotten cast while tracing."""
    config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    ids = jnp.zeros((2, 16), jnp.int32)
    one = jnp.ones((2,), jnp.int32)
    out = jax.eval_shape(
        functools.partial(_generate, config=config, capacity=16, greedy=False, nucleus=True),
        *(params(), ids, one, one, one, np.uint32(0), 4, np.float32(1), np.float32(0.9), one),
    )
    assert [x.dtype.name for x in out] == ["int32", "float32", "float32", "int32"]
    assert [x.shape for x in out] == [(2, 2, 16)] * 3 + [(2, 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"max_new_tokens": 60}, "67 tokens exceed"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0"),
        ({"temperature": -1.0}, "temperature: -1.0"),
        ({"top_p": 0.0}, "top_p: 0.0"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ConfigError, match=message):
        draw(**changes)
