"""Sleeping and waking with the real vLLM: its routes and its scheduler, not its memory.

On CPUs vLLM refuses `--enable-sleep-mode`, and its workers keep their memory through `/sleep`. The
rest is as on a GPU: the engine counts as asleep, what is asked of it waits, it wakes half by half,
and the weights travel while it is half awake. Where the interpreter is, see `test_vllm_real.py`.
"""

from __future__ import annotations

import pytest
from test_vllm_real import (
    CONFIG,
    checkpoint,  # noqa: F401  (a fixture)
    jax_greedy,
    random_params,
    settings,
    vllm_greedy,
)

from curiojax.rollout import vllm_server
from curiojax.rollout.vllm import VllmRollout
from curiojax.rollout.vllm_client import RequestTimeout

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def rollout(checkpoint, tmp_path_factory):  # noqa: F811
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_server, "_sharing", lambda share: ())
        shared = settings(tmp_path_factory.mktemp("logs"), memory_share=0.4)
        with VllmRollout(CONFIG, checkpoint, shared) as engine:
            yield engine


def test_asleep_it_lets_requests_wait_and_wakes_with_new_weights(rollout):
    assert vllm_greedy(rollout) == jax_greedy(3)
    endpoint = rollout._endpoints[0]
    for version in (4, 3):
        rollout.sleep()
        client = endpoint.client
        assert client.get("/is_sleeping", timeout=5) == {"is_sleeping": True}
        with pytest.raises(RequestTimeout):  # which is why nothing is asked of it
            client.post("/v1/completions", {"model": "policy", "prompt": [1]}, timeout=2)
        rollout.sync(random_params(version), version)
        assert rollout.last_sync["ways"] == ["transfer"]
        assert client.get("/is_sleeping", timeout=5) == {"is_sleeping": False}
        assert vllm_greedy(rollout) == jax_greedy(version)
    assert endpoint.epoch == 0  # by the routes, and not by starting it anew


def test_without_a_sync_it_wakes_with_the_weights_in_use(rollout):
    rollout.sync(random_params(4), 4)
    rollout.sleep()
    assert vllm_greedy(rollout) == jax_greedy(4)
    assert rollout._endpoints[0].epoch == 0
