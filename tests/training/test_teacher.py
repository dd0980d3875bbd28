"""The EMA teacher follows the paper's Algorithm 1 literally."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.training.teacher import ema_teacher, relative_distance


def test_moves_after_every_fifth_update_towards_the_student():
    teacher = ema_teacher(step_size=0.99, every=5)
    params = {"w": jnp.zeros((3,))}
    state = teacher.init(params)
    update = jax.jit(teacher.update)
    expected = np.zeros(3, np.float32)
    for step in range(1, 13):
        params = {"w": jnp.full((3,), float(step))}
        state = update(params, state)
        if step % 5 == 0:
            expected = (1 - 0.99) * expected + 0.99 * step
        np.testing.assert_allclose(state.params["w"], expected, rtol=1e-6)


def test_a_small_move_survives_bfloat16_students():
    teacher = ema_teacher(step_size=0.01, every=1)
    state = teacher.init({"w": jnp.ones((1,), jnp.bfloat16)})
    assert state.params["w"].dtype == jnp.float32
    state = teacher.update({"w": jnp.full((1,), 1.0078125, jnp.bfloat16)}, state)
    np.testing.assert_allclose(state.params["w"], 1 + 0.01 * 0.0078125, rtol=1e-7)


def test_init_copies():
    params = {"w": jnp.ones((2,))}
    state = ema_teacher().init(params)
    params["w"].delete()  # as donation does
    np.testing.assert_array_equal(state.params["w"], 1.0)


def test_distance():
    student, teacher = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([3.0, 3.0])}
    assert float(relative_distance(student, teacher)) == pytest.approx(0.2)


@pytest.mark.parametrize("bad", [{"step_size": 1.5}, {"every": 0}])
def test_refuses_nonsense(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ema_teacher(**bad)
