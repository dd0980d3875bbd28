"""The learning-rate schedule and the optimiser against independent implementations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.config import Optimizer
from curiojax.training.optimizer import learning_rate, make_optimizer


def factor(config, steps, step):
    rate = jax.jit(lambda s: learning_rate(config, steps, s))(jnp.int32(step))
    return float(rate) / config.learning_rate


@pytest.mark.parametrize(
    ("step", "want"),
    [(0, 1e-4), (1, 0.0168), (59, 0.9833), (60, 1.0), (300, 0.9674), (533, 0.8773)],
)
def test_schedule_of_the_released_code(step, want):
    config = Optimizer(lr_horizon_multiplier=4)
    assert factor(config, 534, step) == pytest.approx(want, abs=6e-5)


def test_schedule_reaches_its_floor_and_stays_there():
    config = Optimizer(warmup_steps=10)
    assert factor(config, 100, 55) == pytest.approx(0.5 * (1 + 1e-4), rel=1e-5)
    assert factor(config, 100, 100) == pytest.approx(1e-4, rel=1e-3)
    assert factor(config, 100, 1000) == pytest.approx(1e-4, rel=1e-3)


def test_schedule_without_warmup_or_shorter_than_it():
    assert factor(Optimizer(warmup_steps=0), 10, 0) == pytest.approx(1.0)
    assert factor(Optimizer(warmup_steps=60), 10, 9) == pytest.approx(1e-4 + 0.9999 * 9 / 60)


def test_update_is_torch_adamw():
    torch = pytest.importorskip("torch")
    config = Optimizer(max_grad_norm=0.5, weight_decay=0.1, eps=1e-6)
    rng = np.random.default_rng(0)
    start = rng.normal(size=(7, 3)).astype(np.float32)
    gradients = rng.normal(size=(6, 7, 3)).astype(np.float32)

    weight = torch.nn.Parameter(torch.tensor(start))
    reference = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.1, eps=1e-6)
    optimizer = make_optimizer(config)
    params, state = jnp.asarray(start), optimizer.init(jnp.asarray(start))
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_([weight], 0.5)
        reference.step()
        update, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = params - 0.01 * update
    np.testing.assert_allclose(params, weight.detach().numpy(), rtol=2e-5, atol=1e-6)


def test_constant_schedule_stays_at_its_peak():
    config = Optimizer(schedule="constant", warmup_steps=4)
    assert factor(config, 100, 2) == pytest.approx(1e-4 + 0.9999 * 0.5)
    assert factor(config, 100, 4) == factor(config, 100, 99) == pytest.approx(1.0)
    without = Optimizer(schedule="constant", warmup_steps=0)
    assert factor(without, 100, 0) == pytest.approx(1.0)
