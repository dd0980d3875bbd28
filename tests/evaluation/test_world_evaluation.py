import numpy as np
import pytest

from curiojax.data.worlds import BASE_MODEL, countdown
from curiojax.data.worlds.demonstrations import COUNTDOWN, demonstrations, evaluation_problems
from curiojax.evaluation.worlds import evaluate_world, grade, sample_problems, world_tokenizer
from curiojax.models import load_pretrained
from curiojax.rollout.sampler import Completion


@pytest.fixture(scope="module")
def base():
    return load_pretrained(BASE_MODEL, dtype="float32")


def base_tokenizer():
    return world_tokenizer(BASE_MODEL)


def _completion(text, *, stop=True):
    tokenizer = base_tokenizer()
    ids = tokenizer(text).input_ids + [tokenizer.eos_token_id] * stop
    return Completion(ids, [0.0] * len(ids), "stop" if stop else "length")


def test_completions_are_graded_with_their_ending():
    item = demonstrations(count=1)[0]
    search = countdown.response_text(item.steps, with_answer=False)
    rows = [
        [
            _completion(item.response),
            _completion(item.response, stop=False),
            _completion(search),
        ]
    ]
    verdicts = grade(COUNTDOWN, base_tokenizer(), [item.problem], rows)[0]
    assert [v.correct for v in verdicts] == [True, False, False]
    assert [v.search_correct for v in verdicts] == [True, True, True]
    assert [v.failure for v in verdicts] == [None, "unfinished", "format"]


def test_the_shipped_base_searches_but_has_no_format(base):
    config, params = base
    result = evaluate_world(COUNTDOWN, params, config, prompts={"id": 64, "hard": 64}, seed=1)
    assert result["id_pass1"] == result["hard_pass1"] == 0.0
    assert result["id_pass16"] == result["hard_pass16"] == 0.0
    # 64 problems each: four standard errors around quality.json.
    assert 0.2 < result["search_id_pass1"] < 0.5
    assert result["search_id_pass16"] > 0.88
    assert 0.02 < result["search_hard_pass1"] < 0.16
    assert 0.22 < result["search_hard_pass16"] < 0.75
    assert 0.5 < result["entropy"] < 0.85
    assert result["id_failures"]["format"] > 0
    assert sum(result["hard_failures"].values()) == 64 * 16


def test_scores_agree_with_the_graded_samples(base):
    config, params = base
    settings, prompts = {"samples": 4, "seed": 3}, {"id": 12, "hard": 12}
    result = evaluate_world(COUNTDOWN, params, config, prompts=prompts, **settings)
    problems = evaluation_problems("id", 12, seed=3)
    tokenizer = base_tokenizer()
    completions = sample_problems(
        params, config, tokenizer, problems, max_new_tokens=13, **settings
    )
    verdicts = grade(COUNTDOWN, tokenizer, problems, completions)
    search = np.asarray([[v.search_correct for v in row] for row in verdicts])
    assert result["search_id_pass1"] == pytest.approx(search.mean())
    assert result["search_id_pass4"] == pytest.approx(search.any(axis=1).mean())
    entropies = [e for row in completions for c in row for e in c.entropies]
    assert result["entropy"] == pytest.approx(np.mean(entropies))
    again = evaluate_world(COUNTDOWN, params, config, prompts=prompts, **settings)
    assert again == result


def test_the_shipped_base_is_small_and_plain():
    files = {path.name: path.stat().st_size for path in BASE_MODEL.iterdir()}
    assert sum(files.values()) < 1_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "quality.json"} <= set(files)


@pytest.mark.filterwarnings("ignore")
def test_transformers_loads_the_shipped_base(base):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    import curiojax.models as models

    config, params = base
    reference = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32)
    ids = np.asarray([base_tokenizer()("7 3 5 2 : 24").input_ids], np.int32)
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids).long()).logits.numpy()
    positions = np.arange(ids.shape[1], dtype=np.int32)[None, :]
    hidden = models.forward(params, config, ids, positions, np.ones_like(ids))
    got = np.asarray(models.logits(params, config, hidden))
    assert np.abs(got - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())
