"""Entropies of given texts against NumPy in float64, and the files they are kept in."""

import json

import jax
import numpy as np
import pytest

from curiojax import models
from curiojax.errors import ConfigError
from curiojax.evaluation.entropy import EntropyFile, measure
from curiojax.evaluation.perplexity import Tokens
from curiojax.rollout.base import Sampling
from curiojax.rollout.sampler import JaxSampler
from curiojax.sharding import make_mesh
from tests.evaluation.reasoner import CONFIG


@pytest.fixture(scope="module")
def params():
    found = models.init_params(jax.random.key(3), CONFIG)
    return jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, found)


@pytest.fixture(scope="module")
def texts():
    random = np.random.default_rng(0)
    sizes = [(5, 9), (1, 1), (40, 30), (12, 0), (3, 60)]
    return {
        f"q/{i}": Tokens(random.integers(0, 500, prompt + reply).astype(np.int32), prompt)
        for i, (prompt, reply) in enumerate(sizes)
    }


def by_hand(params, ids, first):
    """Entropy and log-prob of every token from `first` on, in float64."""
    tokens = np.asarray(ids, np.int32)[None]
    positions, segments = np.arange(len(ids), dtype=np.int32)[None], np.ones_like(tokens)
    hidden = models.forward(params, CONFIG, tokens, positions, segments)
    scores = np.asarray(models.logits(params, CONFIG, hidden)[0], np.float64)
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    return entropy[first - 1 : -1], log_p[np.arange(len(ids) - 1), ids[1:]][first - 1 :]


def test_they_are_those_of_the_full_softmax(params, texts, tmp_path):
    mesh = make_mesh(data=4, fsdp=2)
    with EntropyFile(tmp_path / "e.jsonl", {"data": "x"}, texts) as file:
        measure(params, CONFIG, file, mesh, batch_tokens=256, chunk_tokens=24)
        assert file.known.all() and file.entropies["q/3"] == []
        for name, (ids, first) in texts.items():
            if name != "q/3":
                entropy, log_probs = by_hand(params, ids, first)
                np.testing.assert_allclose(file.entropies[name], entropy, atol=6e-5)
                np.testing.assert_allclose(file.log_probs[name], log_probs, atol=6e-5)
    # Two are lost: they are measured again, to the same bytes.
    whole = (tmp_path / "e.jsonl").read_bytes()
    kept = whole.splitlines(keepends=True)
    (tmp_path / "e.jsonl").write_bytes(b"".join(kept[:-2]) + kept[-2][:20])
    with EntropyFile(tmp_path / "e.jsonl", {"data": "x"}, texts) as file:
        assert not file.known.all()
        measure(params, CONFIG, file, mesh, batch_tokens=256, chunk_tokens=24)
    assert (tmp_path / "e.jsonl").read_bytes() == whole


def test_they_are_what_the_sampler_saw(params, tmp_path):
    sampler = JaxSampler(params, CONFIG, num_slots=4)
    [group] = sampler.generate([[5, 6, 7]], Sampling(12, temperature=0.7, n=3), 0)
    texts = {str(i): Tokens(np.asarray([5, 6, 7, *c.tokens]), 3) for i, c in enumerate(group)}
    with EntropyFile(tmp_path / "e.jsonl", {}, texts) as file:
        measure(params, CONFIG, file, make_mesh(), batch_tokens=128)
    for i, completion in enumerate(group):
        np.testing.assert_allclose(file.entropies[str(i)], completion.entropies, atol=6e-5)


def test_other_texts_are_refused(texts, tmp_path):
    path = tmp_path / "e.jsonl"
    EntropyFile(path, {"model": "a"}, texts).close()
    with pytest.raises(ConfigError, match="model = 'a'"):
        EntropyFile(path, {"model": "b"}, texts)
    line = {"text": "q/0", "entropies": [0.0], "log_probs": [0.0]}
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        EntropyFile(path, {"model": "a"}, texts)
