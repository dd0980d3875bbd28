"""Perplexities against transformers, and whatever must not change them."""

import json
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from curiojax import models
from curiojax.config import Data
from curiojax.data import build_dataset
from curiojax.data.tokenizer import load_tokenizer
from curiojax.errors import ConfigError
from curiojax.evaluation import perplexity
from curiojax.evaluation.scores import ScoreFile
from curiojax.sharding import make_mesh
from tests.data.conftest import make_tokenizer
from tests.training import project


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return project.make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(base):
    return load_tokenizer(str(base))


@pytest.fixture(scope="module")
def data(base, tokenizer, tmp_path_factory):
    path = project.make_data(tmp_path_factory.mktemp("data") / "train.parquet")
    config = Data(path=str(path), template="qwen")
    return build_dataset(config, tokenizer, seed=0, sequences_per_step=1, rows_per_microbatch=1)


@pytest.fixture(scope="module")
def scored(base, data, tokenizer):
    """Scores the records; keeps what was loaded for each mesh."""
    loaded = {}

    def run(path, context, mesh=(1, 1, 1), batch_tokens=4096):
        devices = jax.devices()[: math.prod(mesh)]
        if mesh not in loaded:
            loaded[mesh] = models.load_pretrained(
                base,
                dtype=jnp.float32,
                mesh=make_mesh(*mesh, devices=devices),
                overrides={"compute_dtype": "float32", "remat": "none"},
            )
        model, params = loaded[mesh]
        responses = perplexity.Responses(data, tokenizer, context)
        with ScoreFile(path, {"context": context}, len(responses)) as scores:
            perplexity.score(
                params,
                model,
                responses,
                scores,
                make_mesh(*mesh, devices=devices),
                batch_tokens=batch_tokens,
                chunk_tokens=100,
            )
        return scores

    return run


@pytest.fixture(scope="module", params=["none", "prompt"])
def case(request, scored, tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "scores.jsonl"
    return request.param, scored(path, request.param)


@pytest.fixture(scope="module")
def reference(base):
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def test_as_transformers_computes_it(case, reference, data, tokenizer):
    context, scores = case
    assert scores.known.all() and len(scores.known) == project.RECORDS
    for index in range(data.num_examples):
        prompt, response = data.example(index)
        if context == "prompt":
            ids, labels = prompt + response, [-100] * len(prompt) + response
        else:
            text = tokenizer.decode(response, skip_special_tokens=True)
            ids = labels = tokenizer(text).input_ids
        with torch.no_grad():
            loss = reference(torch.tensor([ids]), labels=torch.tensor([labels])).loss
        want = math.exp(loss.item())
        assert scores.perplexity()[index] == pytest.approx(want, rel=1e-5)
        assert scores.tokens[index] == sum(label >= 0 for label in labels[1:])


@pytest.mark.parametrize(("mesh", "batch_tokens"), [((1, 1, 1), 300), ((2, 2, 2), 1)])
def test_neither_batch_nor_mesh_matters(case, scored, tmp_path, mesh, batch_tokens):
    context, want = case
    path = tmp_path / "scores.jsonl"
    got = scored(path, context, mesh, batch_tokens)
    np.testing.assert_allclose(got.nll, want.nll, rtol=1e-5)
    assert got.tokens.tolist() == want.tokens.tolist()


def test_going_on_ends_with_the_same_bytes(scored, tmp_path):
    whole = tmp_path / "whole.jsonl"
    scored(whole, "none", batch_tokens=1000)
    content = whole.read_bytes()
    lines = content.splitlines(keepends=True)
    assert json.loads(lines[1]).keys() == {"record", "tokens", "nll", "perplexity"}
    # Torn within the header, after it, within a batch's lines, within a line, before the last.
    for cut in (10, len(lines[0]), len(b"".join(lines[:14])), len(content) // 2, len(content) - 1):
        torn = tmp_path / f"torn{cut}.jsonl"
        torn.write_bytes(content[:cut])
        scored(torn, "none", batch_tokens=1000)
        assert torn.read_bytes() == content


def test_logits_of_all_tokens_never_exist():
    vocab = 8192
    config = models.ModelConfig("qwen2", vocab, 32, 2, 4, 2, 8, 64)
    names = ("tokens", "labels", "positions", "segment_ids")
    batch = {name: jnp.zeros((4, 256), jnp.int32) for name in names}
    batch["loss_mask"] = jnp.ones((4, 256), jnp.float32)
    run = partial(perplexity.token_log_probs, config=config, chunk_tokens=64, num_shards=1)
    program = str(jax.make_jaxpr(run)(models.abstract_params(config), batch))
    shapes = [text.split(",") for text in re.findall(r"\w\[([\d,]+)\]", program)]
    sizes = {math.prod(map(int, shape)) for shape in shapes}
    assert 64 * vocab in sizes  # one chunk's
    assert max(sizes) < 4 * 256 * vocab // 2


def test_what_is_known_is_not_computed_again(scored, tmp_path, monkeypatch):
    path = tmp_path / "scores.jsonl"
    scored(path, "none")
    monkeypatch.setattr(perplexity, "compute", lambda *_: pytest.fail("computed again"))
    scored(path, "none")


def test_scores_of_something_else_or_damaged_are_refused(tmp_path):
    path = tmp_path / "scores.jsonl"
    with ScoreFile(path, {"model": "a"}, 3) as scores:
        scores.append(np.array([2, 0]), np.array([0.5, np.nan]), np.array([4, 0]))
    content = path.read_bytes()
    for identity, count in (({"model": "b"}, 3), ({"model": "a"}, 4), ({}, 3)):
        with pytest.raises(ConfigError, match=r"scores.jsonl was made with"):
            ScoreFile(path, identity, count)
    assert path.read_bytes() == content
    with ScoreFile(path, {"model": "a"}, 3) as again:
        assert again.known.tolist() == [True, False, True]
        np.testing.assert_array_equal(again.perplexity(), [np.nan, np.nan, math.exp(0.5)])
    path.write_bytes(content + b"garbage\n")
    with pytest.raises(ConfigError, match="line 4 is damaged"):
        ScoreFile(path, {"model": "a"}, 3)


def test_the_plan_holds_every_record_once_in_few_shapes():
    rng = np.random.default_rng(0)
    lengths = np.append(rng.integers(1, 3000, 500), [1, 2, 33, 34, 3000])
    for shards in (1, 3, 8):
        batches = list(perplexity.plan(lengths, 8192, shards))
        assert sorted(np.concatenate([b.records for b in batches])) == list(range(len(lengths)))
        assert len({(b.rows, b.length) for b in batches}) <= 14
        for batch in batches:
            assert batch.rows % shards == 0 and len(batch.records) <= batch.rows
            assert batch.rows * batch.length <= 8192 or batch.rows == shards
            assert (np.maximum(lengths[batch.records] - 1, 1) <= batch.length).all()
        assert [b.length for b in batches] == sorted((b.length for b in batches), reverse=True)
    assert perplexity.row_lengths(200) == [32, 48, 64, 96, 128, 192, 256]
    assert list(perplexity.plan(np.zeros(0, int), 100)) == []


def test_a_tokenizer_that_opens_texts_lets_the_first_token_be_scored(tmp_path):
    llama = make_tokenizer(chatml=False, bos=True)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "Hi", "response": "step by step"}))
    config = Data(path=str(path), template="plain", cache_dir=str(tmp_path / "cache"))
    data = build_dataset(config, llama, seed=0, sequences_per_step=1, rows_per_microbatch=1)
    tokens = perplexity.Responses(data, llama, "none")[0]
    assert tokens.ids.tolist() == llama("step by step").input_ids
    assert tokens.first == 1 and tokens.ids[0] == llama.bos_token_id
    whole = perplexity.Responses(data, llama, "prompt")[0]
    assert whole.ids.tolist() == [*llama("Hi").input_ids, *tokens.ids[1:], llama.eos_token_id]
