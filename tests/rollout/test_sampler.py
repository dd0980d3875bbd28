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
from curiojax.models import (
    ModelConfig,
    abstract_params,
    forward,
    logits,
    param_axes,
    save_pretrained,
)
from curiojax.rollout import JaxSampler, Sampling, sample, schedule, slots
from curiojax.sharding import make_mesh, tree_shardings

CONFIG = ModelConfig(
    model_type="qwen3",
    vocab_size=20,
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
        "batch_size": 24,
    }
    return sample(params(), CONFIG, prompts, **settings | changes)


@functools.partial(jax.jit, static_argnums=1)
def run(params, config, tokens):
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    return logits(params, config, forward(params, config, tokens, positions, positions * 0 + 1))


def scores_of(prompt, completion):
    """Our own full forward pass over prompt + completion: the scores of the completion, float64."""
    tokens = np.zeros((1, 64), np.int32)
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
    # Rows for less than one prompt's samples, and a longer neighbour with its wider cache.
    long = list(range(1, 19)) * 2
    assert_same(draw(batch_size=2), whole)
    assert_same(draw([*PROMPTS, long])[:4], whole)
    assert_same(draw(PROMPTS[:1], samples_per_prompt=3, batch_size=2), [whole[0][:3]])


def test_draws_differ():
    whole = draw(stop_ids=[0])
    assert len({tuple(c.tokens) for c in whole[0]}) == 5
    other = draw(stop_ids=[0], seed=4)
    assert all(a.tokens != b.tokens for a, b in zip(whole[0], other[0], strict=True))
    twins = draw([[1, 2, 3]] * 4, stop_ids=[0])
    assert len({tuple(c.tokens) for c in chain(*twins)}) == 20


def test_frequencies_follow_the_distribution():
    groups = draw([[1, 2, 3]] * 4, max_new_tokens=1, samples_per_prompt=1000, batch_size=512)
    drawn = list(chain(*groups))
    assert len(drawn) == 4000
    counts = np.bincount([c.tokens[0] for c in drawn], minlength=20)
    probs = np.exp(log_softmax(scores_of([1, 2, 3], drawn[0])))[0]
    error = (counts - 4000 * probs) / np.sqrt(4000 * probs * (1 - probs) + 1)
    assert np.abs(error).max() < 4.5 and probs.max() < 0.9


def test_progress_and_empty_input():
    calls = []
    draw(batch_size=2, progress=lambda done, total: calls.append((done, total)))
    done = [done for done, _ in calls]
    assert done == sorted(set(done)) and len(done) >= 10 and done[-1] == 20
    assert {total for _, total in calls} == {20}
    assert draw([]) == []


SAMPLING = Sampling(max_tokens=12, stop_ids=(0, 7), n=5)


def generate(prompts=PROMPTS, seed=3, num_slots=24, **changes):
    sampler = JaxSampler(params(), CONFIG, num_slots=num_slots)
    return sampler.generate(prompts, dataclasses.replace(SAMPLING, **changes), seed)


@pytest.mark.parametrize("num_slots", [1, 7])
def test_number_of_slots_does_not_matter(num_slots):
    assert_same(generate(num_slots=num_slots), draw())


@pytest.fixture
def small(monkeypatch):
    """Rings so short, and programs so brief, that all the machinery has work to do."""
    monkeypatch.setattr(schedule, "SHORT_RING", 32)
    monkeypatch.setattr(schedule, "MAX_STEPS", 4)
    monkeypatch.setattr(schedule, "PREFILL_TOKENS", 32)
    changes = []
    grow, select = slots.grow, slots.select
    monkeypatch.setattr(slots, "grow", lambda c, n: changes.append(n) or grow(c, n))
    monkeypatch.setattr(slots, "select", lambda c, r: changes.append(len(r)) or select(c, r))
    return changes


def many_prompts(count=25):
    random = np.random.default_rng(5)
    return [random.integers(1, 19, n).tolist() for n in random.integers(1, 12, count)]


def test_rows_outlive_the_ring(small, monkeypatch):
    """Refills at every age, rings that wrap around and grow, and a last row on its own."""
    settings = {"prompts": many_prompts(), "max_tokens": 50, "n": 3}
    got = generate(num_slots=4, **settings)
    assert small == [64, 1]
    lengths = {len(c.tokens) for c in chain(*got)}
    assert len(lengths) > 10 and max(lengths) > 30
    for prompt, completions in zip(settings["prompts"], got, strict=True):
        for completion in completions:
            log_probs = log_softmax(scores_of(prompt, completion))
            want = log_probs[np.arange(len(completion.tokens)), completion.tokens]
            np.testing.assert_allclose(completion.log_probs, want, atol=1e-5)
    monkeypatch.undo()
    assert_same(generate(num_slots=75, **settings), got)
    assert small == [64, 1]


@pytest.mark.filterwarnings("ignore")
def test_greedy_is_what_transformers_generates(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    save_pretrained(params(), CONFIG, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    prompts = many_prompts(9)

    def theirs(prompt, **changes):
        inputs = torch.tensor([prompt])
        settings = {"do_sample": False, "max_new_tokens": 40, "pad_token_id": 0} | changes
        out = model.generate(inputs, attention_mask=torch.ones_like(inputs), **settings)
        return out[0, len(prompt) :].tolist()

    model.generation_config.eos_token_id = None
    endless = [theirs(prompt) for prompt in prompts]

    def lengths(stop_id):
        return {tokens.index(stop_id, 4) for tokens in endless if stop_id in tokens[4:]}

    stop_id = max(range(20), key=lambda i: len(lengths(i)))
    want = [theirs(prompt, eos_token_id=stop_id, min_new_tokens=5) for prompt in prompts]
    assert len({len(tokens) for tokens in want}) > 2
    settings = {"max_tokens": 40, "temperature": 0.0, "n": 1, "min_tokens": 5}
    got = generate(prompts, num_slots=2, stop_ids=(stop_id,), **settings)
    assert [c.tokens for [c] in got] == want


def test_long_prompts_are_run_in_pieces():
    config = dataclasses.replace(CONFIG, max_position_embeddings=2048)
    prompt = np.random.default_rng(1).integers(1, 19, 700).tolist()
    sampling = Sampling(max_tokens=4, n=2)
    [completions] = JaxSampler(params(), config).generate([prompt], sampling, 0)
    for completion in completions:
        tokens = np.asarray([prompt + completion.tokens], np.int32)
        scores = np.asarray(run(params(), config, tokens), np.float64)[0, 699:-1]
        want = log_softmax(scores)[np.arange(4), completion.tokens]
        np.testing.assert_allclose(completion.log_probs, want, atol=1e-5)


def test_min_tokens():
    plain = list(chain(*draw()))
    assert min(len(c.tokens) for c in plain) < 5
    for prompt, completions in zip(PROMPTS, generate(min_tokens=5), strict=True):
        for completion in completions:
            assert len(completion.tokens) >= 5
            assert not {0, 7} & set(completion.tokens[:4])
            # Raw log-probs: what was forbidden still has its share of the probability.
            log_probs = log_softmax(scores_of(prompt, completion))
            want = log_probs[np.arange(len(completion.tokens)), completion.tokens]
            np.testing.assert_allclose(completion.log_probs, want, atol=1e-5)


def test_top_k_one_is_greedy():
    greedy = generate(temperature=0.0)
    for sampled in (generate(top_k=1), generate(top_p=1e-6)):
        assert [c.tokens for c in chain(*sampled)] == [c.tokens for c in chain(*greedy)]


def test_groups_are_handed_out_as_they_complete(small):
    calls = []
    sampler = JaxSampler(params(), CONFIG, num_slots=4, version=8)
    prompts = many_prompts(12)
    whole = sampler.generate(
        prompts, SAMPLING, 3, on_group=lambda i, group: calls.append((i, list(group)))
    )
    assert sorted(i for i, _ in calls) == list(range(12))
    for i, group in calls:
        assert group == whole[i] and len(group) == 5
        assert {c.version for c in group} == {8}
    with pytest.raises(ZeroDivisionError):
        sampler.generate(prompts, SAMPLING, 3, on_group=lambda i, group: 1 / 0)
    assert sampler.generate(prompts, SAMPLING, 3) == whole


def test_draws_follow_the_keys():
    sampler = JaxSampler(params(), CONFIG, num_slots=6)
    keys = [5, 2**31 - 1, 0, 77]
    whole = sampler.generate(PROMPTS, SAMPLING, 3, keys=keys)
    some = sampler.generate([PROMPTS[3], PROMPTS[1]], SAMPLING, 3, keys=[77, 2**31 - 1])
    assert_same(some, [whole[3], whole[1]])
    assert_same(sampler.generate(PROMPTS, SAMPLING, 3, keys=range(4)), generate())
    assert whole[0] != generate()[0]


PROGRAMS = (slots.prefill, slots.insert, slots.advance, slots._new_cache)


def test_nothing_is_recompiled():
    """Neither for other lengths, settings and numbers of prompts, nor for new weights."""
    sampler = JaxSampler(params(), CONFIG, num_slots=24)

    def generate(count, first, **changes):
        prompts = [list(range(1, 2 + (first + i) % 8)) for i in range(count)]
        return sampler.generate(prompts, dataclasses.replace(SAMPLING, **changes), first)

    generate(20, 0)
    before = [program._cache_size() for program in PROGRAMS]
    for count, first, temperature in ((17, 3, 0.7), (30, 5, 1.3)):
        generate(count, first, temperature=temperature, max_tokens=11, stop_ids=(3,))
    sampler.sync(jax.tree.map(lambda x: x * 1.1, params()), 1)
    generate(20, 2)
    assert [program._cache_size() for program in PROGRAMS] == before


def test_sync_changes_the_weights_and_keeps_a_copy():
    sampler = JaxSampler(params(), CONFIG, num_slots=24)
    old = sampler.generate(PROMPTS, SAMPLING, 3)
    theirs = jax.tree.map(lambda x: x * 0.9, params())
    want = sample(
        theirs, CONFIG, PROMPTS, max_new_tokens=12, seed=3, stop_ids=[0, 7], samples_per_prompt=5
    )
    report = sampler.sync(theirs, 4)
    size = sum(x.nbytes for x in jax.tree.leaves(theirs))
    assert (report.version, report.num_bytes) == (4, size) and report.gigabytes_per_second > 0
    # The trainer donates its arrays to the next update.
    for x in jax.tree.leaves(theirs):
        x.delete()
    new = sampler.generate(PROMPTS, SAMPLING, 3)
    assert_same(new, want)
    assert {c.version for c in chain(*new)} == {4}
    assert [c.tokens for c in chain(*new)] != [c.tokens for c in chain(*old)]
    with pytest.raises(ValueError, match="shape"):
        sampler.sync({"embed": params()["embed"]}, 5)
    sampler.close()
    with pytest.raises(RuntimeError, match="closed"):
        sampler.generate(PROMPTS, SAMPLING, 3)


def test_half_precision_weights_are_cast_once():
    config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    sampler = JaxSampler(params(), config, num_slots=6)
    copy, _ = sampler._in_use()
    kinds = jax.tree.map(lambda x: x.dtype.name, copy)
    assert kinds["layers"]["attention"]["q"]["kernel"] == kinds["embed"]["embedding"] == "bfloat16"
    assert kinds["final_norm"]["scale"] == "float32"
    got = sampler.generate(PROMPTS, SAMPLING, 3)
    uncast = sample(
        params(),
        config,
        PROMPTS,
        max_new_tokens=12,
        seed=3,
        stop_ids=[0, 7],
        samples_per_prompt=5,
        batch_size=6,
    )
    assert [c.tokens for c in chain(*got)] == [c.tokens for c in chain(*uncast)]


@pytest.mark.parametrize(("shape", "top_p"), [((2, 2, 2), 0.8), ((4, 1, 2), 1.0)])
def test_on_a_mesh(shape, top_p, monkeypatch):
    prompts = [*PROMPTS, *PROMPTS]
    want = draw(prompts, top_p=top_p)
    monkeypatch.setattr(schedule, "MAX_STEPS", 4)
    mesh = make_mesh(*shape)
    split = jax.device_put(params(), tree_shardings(mesh, param_axes(CONFIG)))
    sampler = JaxSampler(split, CONFIG, num_slots=24, mesh=mesh)
    got = sampler.generate(prompts, dataclasses.replace(SAMPLING, top_p=top_p), 3)
    assert_same(got, want)
    copy, _ = sampler._in_use()
    for mine, theirs in zip(jax.tree.leaves(copy), jax.tree.leaves(split), strict=True):
        assert mine.sharding.is_equivalent_to(theirs.sharding, mine.ndim)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"max_new_tokens": 60}, "max_tokens: 67 tokens exceed"),
        ({"max_new_tokens": 0}, "max_tokens: 0"),
        ({"temperature": -1.0}, "temperature: -1.0"),
        ({"top_p": 0.0}, "top_p: 0.0"),
        ({"samples_per_prompt": 0}, "n: 0"),
        ({"batch_size": 0}, "num_slots: 0"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ConfigError, match=message):
        draw(**changes)


@pytest.mark.parametrize("changes", [{"top_k": -1}, {"min_tokens": 13}, {"temperature": np.nan}])
def test_refused_settings(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        dataclasses.replace(SAMPLING, **changes)
