"""Qwen2.5-Math-7B on eight GPUs, compiled for them without one.

tools/setup_aot.sh ~/aot
CURIOJAX_AOT_PYTHON=~/aot/bin/python pytest -m aot tests/planning
pytest -m slow tests/planning/test_7b.py          # on virtual CPU devices, less exact
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKENS = 8192  # of a device, in rows_per_microbatch=8 rows
VOCAB, CHUNK = 152_064, 1024


@functools.cache
def plan(python, target, *overrides):
    command = [
        *(python, str(ROOT / "tools" / "plan_memory.py"), "configs/qwen2.5-math-7b/sft.yaml"),
        *("rows_per_microbatch=8", f"data.row_length={TOKENS}", *overrides),
        *("--devices", "8", "--target", target, "--json"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def for_h100():
    python = os.environ.get("CURIOJAX_AOT_PYTHON")
    if not python:
        pytest.skip("needs the CUDA plug-in: tools/setup_aot.sh DIR, then set CURIOJAX_AOT_PYTHON")

    def planned(*overrides):
        found = plan(python, "h100", *overrides)
        assert found["target"]["exact"], "the environment has no CUDA plug-in"
        return found

    return planned


def head_and_vocabulary(found):
    """The teacher's head runs once and not again in the backward pass; no sort, no [T, V]."""
    teacher, accumulate = found["programs"]["teacher_pass"], found["programs"]["accumulate"]
    assert teacher["head_passes"] == 1
    assert accumulate["head_passes"] == 3  # the student's scores and the gradient's two products
    assert 0 < teacher["widest_sort"] < VOCAB / 10
    assert accumulate["widest_sort"] == 0
    assert teacher["logits_at_once"] == accumulate["logits_at_once"] == CHUNK


@pytest.mark.aot
@pytest.mark.parametrize("remat, limit", [("full", 40e9), ("dots", 60e9)])
def test_fits_eighty_gigabytes(for_h100, remat, limit):
    found = for_h100(f"model.remat={remat}")
    assert found["peak_bytes"] < limit
    assert found["fits"] == {"h100": True, "h200": True}
    assert found["bytes_per_device"]["parameters"] == 3_808_974_848
    # Inputs of 28 layers in bfloat16; and q, k, v, o, gate and up (nothing needs down's result).
    widths = {"full": 3584, "dots": 3584 + 2 * 3584 + 2 * 512 + 2 * 18_944}[remat]
    assert found["bytes_per_device"]["activations"] == 28 * TOKENS * widths * 2


@pytest.mark.aot
def test_without_rematerialisation_it_does_not(for_h100):
    """What is asserted above can fail."""
    found = for_h100("model.remat=none")
    assert found["peak_bytes"] > 80e9 and not found["fits"]["h100"]


@pytest.mark.aot
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_head_and_vocabulary(for_h100, remat):
    head_and_vocabulary(for_h100(f"model.remat={remat}"))


@pytest.mark.aot
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_gradients_are_scattered(for_h100, remat):
    found = for_h100(f"model.remat={remat}")["programs"]
    traffic = found["accumulate"]["collectives"]
    # Every weight's gradient once: 2 bytes each, the head's float32 sums 4; the embedding's takes
    # the other way, as tokens to the devices that hold their columns.
    weights, head = 7_615_616_512 - 333_312, VOCAB * 3584
    assert traffic["reduce-scatter"]["bytes"] == 2 * (weights - 2 * head) + 4 * head
    # What is summed over all devices are norms, biases and statistics.
    assert traffic["all-reduce"]["bytes"] < 4 * 10 * 333_312
    assert traffic["all-reduce"]["largest"] < 100_000
    assert set(found["update"]["collectives"]) == {"all-reduce"}
    assert found["update"]["collectives"]["all-reduce"]["bytes"] < 1000


@pytest.mark.aot
def test_weights_are_gathered_in_the_compute_dtype(for_h100):
    found = for_h100("model.remat=full")["programs"]
    weights = 7_615_616_512 - 333_312
    assert found["teacher_pass"]["collectives"]["all-gather"]["bytes"] == 2 * weights
    # The layers once more in the backward pass; beside them the token ids, for the embedding.
    head = VOCAB * 3584
    again = found["accumulate"]["collectives"]["all-gather"]["bytes"] - 2 * weights
    assert 0 <= again - 2 * (weights - 2 * head) < 1e6


@pytest.mark.aot
def test_flops_have_a_closed_form(for_h100):
    """Blocked attention looks at all pairs; what is rematerialised is the trunk, once."""
    found = for_h100("model.remat=full")["programs"]
    head = 2 * TOKENS * VOCAB * 3584
    layers = 2 * TOKENS * 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18_944)
    scores = 2 * TOKENS * TOKENS * 3584 * 28  # and as many for their product with the values
    assert found["teacher_pass"]["flops"] == head + layers + 2 * scores
    extra = found["accumulate"]["flops"] - 3 * (head + layers + 2 * scores)
    assert layers <= extra <= layers + 4 * scores


@pytest.mark.aot
def test_communication_is_beside_computation(for_h100):
    """Without any flag. The rest is each layer's first gather, and the head with its gradient."""
    found = for_h100("model.remat=full")["programs"]
    for name in ("teacher_pass", "accumulate"):
        overlap, traffic = found[name]["overlap"], found[name]["collectives"]
        assert overlap["bytes"] == sum(kind["bytes"] for kind in traffic.values())
        assert overlap["asynchronous"] == overlap["bytes"]
        assert overlap["behind_products"] > 0.7 * overlap["bytes"]


@pytest.mark.aot
@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_a_teacher_in_eight_bits(for_h100, precision):
    plain = for_h100("model.remat=full")
    found = for_h100("model.remat=full", f"teacher.precision={precision}")
    layers = 7_615_616_512 - 333_312 - 2 * VOCAB * 3584
    outputs = 28 * (2 * 3584 + 2 * 512 + 2 * 18_944 + 3584)
    teacher, before = (x["programs"]["teacher_pass"] for x in (found, plain))
    # The layers' products are those of eight-bit numbers; attention and the head are not.
    assert teacher["flops"] == before["flops"]
    assert teacher["eight_bit_flops"] == 2 * TOKENS * layers and not before["eight_bit_flops"]
    # They are gathered as they are kept: a byte each, and the scales of what is split by output.
    gathered = teacher["collectives"]["all-gather"]["bytes"]
    assert 0 <= gathered - layers - 2 * 2 * VOCAB * 3584 < 4 * outputs
    # Kept beside the float32 weights, and made once per step at most.
    assert 0 < found["bytes_per_device"]["quantised"] - layers / 8 <= 4 * outputs
    assert found["bytes_per_device"]["teacher"] == plain["bytes_per_device"]["teacher"]
    assert found["peak_bytes"] - plain["peak_bytes"] < 1.1 * layers / 8
    assert found["programs"]["requantise"]["aliased_bytes"] > layers / 8
    assert found["programs"]["accumulate"] == plain["programs"]["accumulate"]


@pytest.mark.aot
@pytest.mark.parametrize(
    ("precision", "call"), [("fp8", "__cublas$lt$matmul$f8"), ("int8", "__cublas$lt$matmul")]
)
def test_eight_bit_products_are_ones_of_a_library(precision, call):
    """With XLA's own kernels off; on a GPU it takes whichever of the two is faster there."""
    script = (
        "import jax, jax.numpy as jnp\n"
        "from curiojax.models.quantised import FORMATS, quantised_product\n"
        "from curiojax.planning.target import make_target\n"
        "from jax.sharding import SingleDeviceSharding\n"
        "[device] = make_target('h100', 1).devices\n"
        "def given(dtype, *shape):\n"
        "    on = SingleDeviceSharding(device)\n"
        "    return jax.ShapeDtypeStruct(shape, dtype, sharding=on)\n"
        f"values = given(FORMATS['{precision}'][0], 18944, 3584)\n"
        "weights = {'values': values, 'scale': given(jnp.float32, 18944)}\n"
        "run = jax.jit(lambda x, w: quantised_product(x, w, ('embed', 'mlp'), 1))\n"
        "print(run.lower(given(jnp.bfloat16, 1, 8192, 3584), weights).compile().as_text())\n"
    )
    python = os.environ.get("CURIOJAX_AOT_PYTHON")
    if not python:
        pytest.skip("needs the CUDA plug-in: tools/setup_aot.sh DIR, then set CURIOJAX_AOT_PYTHON")
    flags = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [python, "-c", script],
        env=environment | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [product] = [line for line in done.stdout.splitlines() if f'"{call}"' in line]
    assert {"fp8": "bf16[8192,18944]", "int8": "s32[8192,18944]"}[precision] in product
    # The weights lie as the library wants them.
    eight = {"fp8": "f8e4m3fn", "int8": "s8"}[precision]
    turned = [line for line in done.stdout.splitlines() if f"= {eight}[" in line]
    assert not any(" transpose(" in line or " copy(" in line for line in turned)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_on_virtual_cpu_devices(remat):
    found = plan(sys.executable, "cpu", f"model.remat={remat}")
    assert not found["target"]["exact"]
    assert found["bytes_per_device"]["parameters"] == 3_808_974_848
    # What is bfloat16 on a GPU is held as float32 here, twice over where products are saved.
    assert found["peak_bytes"] < {"full": 40e9, "dots": 90e9}[remat]
    head_and_vocabulary(found)
