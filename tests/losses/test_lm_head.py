from __future__ import annotations

import math
import re
from functools import cache, partial

import float64_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curiojax.losses import per_token_loss
from curiojax.losses.lm_head import chunked_loss, entropy_pass, teacher_pass
from curiojax.losses.tokens import top_share
from curiojax.objectives import Curio, Dft, Entropy, Gem, Kl, Oxa, Psft, Sft
from curiojax.sharding import make_mesh, named_sharding

B, T, D, V, CHUNK = 8, 13, 32, 2000, 8
OBJECTIVES = {
    "sft": Sft(),
    "curio": Curio(top_k=64),
    "self": Curio(top_k=64, teacher="self"),
    "curio_forward": Curio(top_k=64, divergence="forward_kl"),
    "curio_reverse": Curio(top_k=64, divergence="reverse_kl"),
    "entropy": Entropy(),
    "entropy_top20": Entropy(top_fraction=0.2),
    "kl": Kl(),
    "kl_reverse": Kl(estimator="reverse_full"),
    "kl_forward": Kl(estimator="forward_full", coef=1.0, min_base_prob=1e-4),
    "gem": Gem(),
    "dft": Dft(),
    "psft": Psft(),
    "psft_alone": Psft(updates_per_snapshot=1),
    "oxa": Oxa(ul_weight=0.3),
}


@pytest.fixture(scope="module")
def arrays() -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 6)
    head, hidden = jax.random.normal(keys[0], (V, D)), jax.random.normal(keys[1], (B, T, D))
    return {
        "head": head / 2,
        "hidden": hidden,
        "labels": jax.random.randint(keys[2], (B, T), 0, V),
        "mask": jax.random.bernoulli(keys[3], 0.7, (B, T)).astype(jnp.float32),
        "teacher_head": head / 2 + 0.05 * jax.random.normal(keys[4], (V, D)),
        "teacher_hidden": hidden + 0.05 * jax.random.normal(keys[5], (B, T, D)),
    }


def suppressed(labels):
    return (labels % 3 == 0).astype(jnp.float32)


def total(objective, head, hidden, labels, mask, teacher_head, teacher_hidden, **options):
    sizes = {k: v for k, v in options.items() if k != "reference"}
    targets, teacher = None, None
    if objective.needs_teacher_logits:
        teacher = teacher_head, teacher_hidden
    elif objective.needs_teacher:
        targets = teacher_pass(objective, teacher_head, teacher_hidden, labels, mask, **sizes)
    elif objective.name == "entropy" and objective.selects_tokens:
        found = entropy_pass(head, hidden, mask, **sizes)
        targets = {"selected": top_share(found, mask > 0, objective.top_fraction).astype(float)}
    elif objective.name == "oxa":
        targets = {"suppressed": suppressed(labels)}
    loss, metrics = chunked_loss(
        objective, head, hidden, labels, mask, targets, teacher=teacher, **options
    )
    return loss, {**(targets or {}), **metrics}


def dense(objective, head, hidden, labels, mask, teacher_head, teacher_hidden):
    """The same with all logits at once and automatic differentiation."""

    def logits(head, hidden):
        return (hidden.astype(jnp.float32) @ head.astype(jnp.float32).T).reshape(-1, len(head))

    loss, metrics = per_token_loss(
        objective,
        logits(head, hidden),
        labels.reshape(-1),
        teacher_logits=logits(teacher_head, teacher_hidden) if objective.needs_teacher else None,
        suppressed=suppressed(labels.reshape(-1)) if objective.name == "oxa" else None,
        mask=mask.reshape(-1),
    )
    loss = (loss * mask.reshape(-1)).sum()
    return loss, {k: x.reshape(mask.shape) for k, x in metrics.items()}


DIFFERENTIATED = ("head", "hidden", "teacher_head", "teacher_hidden")


@cache
def jitted(function, objective, **options):
    def loss(parts, rest):
        return function(objective, **parts, **rest, **options)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def split(arrays):
    rest = {k: x for k, x in arrays.items() if k not in DIFFERENTIATED}
    return {k: arrays[k] for k in DIFFERENTIATED}, rest


def value_and_gradients(function, objective, arrays, **options):
    return jitted(function, objective, **options)(*split(arrays))


def assert_close(got, want, tolerance=1e-5):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert x.shape == y.shape
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert np.abs(x - y).max() <= tolerance * max(np.abs(y).max(), 1e-3)


@pytest.fixture(scope="module")
def expected(arrays):
    return {name: value_and_gradients(dense, o, arrays) for name, o in OBJECTIVES.items()}


@pytest.mark.parametrize(
    ("name", "reference"),
    [*((name, False) for name in OBJECTIVES), ("curio", True), ("kl_forward", True)],
)
def test_chunked_is_dense(arrays, expected, name, reference):
    got = value_and_gradients(
        total, OBJECTIVES[name], arrays, chunk_tokens=CHUNK, reference=reference
    )
    assert_close(got, expected[name])
    assert got[0][0].dtype == jnp.float32
    for teacher in ("teacher_head", "teacher_hidden"):
        np.testing.assert_array_equal(got[1][teacher], 0)


# Less than a row, whole rows, everything at once; T = 13 is divisible by none of them.
@pytest.mark.parametrize(("chunk_tokens", "num_shards"), [(3, 1), (40, 4), (4096, 8)])
def test_chunk_and_shard_sizes_do_not_matter(arrays, expected, chunk_tokens, num_shards):
    options = {"chunk_tokens": chunk_tokens, "num_shards": num_shards}
    got = value_and_gradients(total, OBJECTIVES["curio"], arrays, **options)
    assert_close(got, expected["curio"])


def test_value_without_gradient(arrays, expected):
    got = jax.jit(partial(total, OBJECTIVES["curio"], chunk_tokens=CHUNK))(**arrays)
    assert_close(got, expected["curio"][0])


def test_selected_tokens_have_to_be_given(arrays):
    inputs = [arrays[k] for k in ("head", "hidden", "labels", "mask")]
    with pytest.raises(ValueError, match="selected"):
        chunked_loss(Entropy(top_fraction=0.2), *inputs)


def test_rows_must_divide_over_the_shards(arrays):
    with pytest.raises(ValueError, match="batch of 8 rows is not a multiple of num_shards=3"):
        total(Sft(), **arrays, num_shards=3)


GOLDEN = {
    "sft": Sft(),
    "curio_released": Curio(search_steps=24),
    "entropy_0.06": Entropy(),
    "entropy_top20_0.06": Entropy(top_fraction=0.2),
    "kl_k3_0.1": Kl(),
    "gem_logsigmoid_0.7": Gem(),
    "dft": Dft(),
}


@pytest.mark.parametrize("vocab_size", [61, 700])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_through_the_head(vocab_size, name):
    """Hidden states are unit vectors, so that the head's columns are the golden logits."""
    data = oracle.golden(vocab_size)
    rows = len(data["labels"])
    as_float = partial(jnp.asarray, dtype=jnp.float32)
    unit = as_float(np.eye(rows).reshape(2, rows // 2, rows))
    arrays = {
        "head": as_float(data["student_logits"].T),
        "hidden": unit,
        "labels": jnp.asarray(data["labels"].reshape(2, -1), jnp.int32),
        "mask": as_float(data["mask"].reshape(2, -1)),
        "teacher_head": as_float(data["teacher_logits"].T),
        "teacher_hidden": unit,
    }
    options = {"chunk_tokens": CHUNK}
    (loss, _), gradients = value_and_gradients(total, GOLDEN[name], arrays, **options)
    assert loss == pytest.approx((data["mask"] * data[f"loss/{name}"]).sum(), rel=1e-5)
    assert_close(gradients["head"].T, data[f"grad/{name}"])


def test_cotangent_scales_and_mask_weighs(arrays):
    @jax.jit
    def gradients(head, hidden, scale, of_metrics, mask):
        def scaled(head, hidden):
            parts = {**arrays, "head": head, "hidden": hidden, "mask": mask}
            value, metrics = total(Sft(), **parts, chunk_tokens=CHUNK)
            return scale * value + of_metrics * metrics["log_prob"].sum()

        return jax.grad(scaled, argnums=(0, 1))(head, hidden)

    run = partial(gradients, arrays["head"], arrays["hidden"])
    plain = run(1.0, 0.0, arrays["mask"])
    # Metrics are constants, however they are used.
    assert_close(run(-2.5, 7.0, arrays["mask"]), jax.tree.map(lambda g: -2.5 * g, plain), 1e-6)
    assert_close(run(1.0, 0.0, 0.25 * arrays["mask"]), jax.tree.map(lambda g: g / 4, plain), 1e-6)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("curio", False), ("curio", True), ("kl_forward", False), ("gem", False)],
)
def test_masked_positions_may_hold_anything(arrays, expected, name, reference):
    kept = arrays["mask"][..., None] == 1
    hidden, teacher_hidden = (
        jnp.where(kept, arrays[name], jnp.nan) for name in ("hidden", "teacher_hidden")
    )
    labels = jnp.where(kept[..., 0], arrays["labels"], -100)
    spoilt = {
        **arrays, "hidden": hidden, "teacher_hidden": teacher_hidden, "labels": labels
    }  # fmt: skip
    options = {"chunk_tokens": CHUNK, "reference": reference}
    got = value_and_gradients(total, OBJECTIVES[name], spoilt, **options)
    assert_close(got, expected[name])
    nothing = {**spoilt, "mask": jnp.zeros((B, T))}
    got = value_and_gradients(total, OBJECTIVES[name], nothing, **options)
    for x in jax.tree.leaves(got):
        np.testing.assert_array_equal(x, 0)


def test_bfloat16_products_float32_head_gradient(arrays, expected):
    """A float32 head meets bfloat16 hidden states: its gradient is summed and left in float32."""
    half = {k: arrays[k].astype(jnp.bfloat16) for k in ("hidden", "teacher_hidden")}
    got = value_and_gradients(total, OBJECTIVES["curio"], {**arrays, **half}, chunk_tokens=CHUNK)
    assert got[1]["head"].dtype == jnp.float32
    assert got[1]["hidden"].dtype == jnp.bfloat16
    assert {x.dtype for x in got[0][1].values()} == {jnp.dtype("float32")}
    want = value_and_gradients(
        dense,
        OBJECTIVES["curio"],
        {
            **arrays,
            **half,
            "head": arrays["head"].astype(jnp.bfloat16),
            "teacher_head": arrays["teacher_head"].astype(jnp.bfloat16),
        },
    )
    assert_close(got[0], want[0])
    assert_close(got[1]["head"], want[1]["head"], 1e-2)
    assert_close(got[1]["hidden"], want[1]["hidden"], 1e-2)


def shapes(text: str) -> list[tuple[int, ...]]:
    found = re.findall(r"\b(?:f32|bf16|s32|pred|u32)\[([\d,]+)\]", text)
    return [tuple(map(int, dims.split(","))) for dims in found]


@cache
def compiled(objective, chunk_tokens) -> str:
    parts = {
        **{k: jax.ShapeDtypeStruct((V, D), jnp.float32) for k in ("head", "teacher_head")},
        **{k: jax.ShapeDtypeStruct((B, T, D), jnp.float32) for k in ("hidden", "teacher_hidden")},
        "labels": jax.ShapeDtypeStruct((B, T), jnp.int32),
        "mask": jax.ShapeDtypeStruct((B, T), jnp.float32),
    }
    function = jitted(total, objective, chunk_tokens=chunk_tokens)
    return function.lower(*split(parts)).compile().as_text()


@pytest.mark.parametrize("name", ["curio", "self", "entropy_top20", "kl_forward", "gem"])
def test_no_buffer_holds_the_logits_of_all_tokens(name):
    text = compiled(OBJECTIVES[name], CHUNK)
    over_vocabulary = [s for s in shapes(text) if math.prod(s) % V == 0]
    assert max(math.prod(s) for s in over_vocabulary) <= V * max(D, CHUNK)
    # The check can fail: everything in one chunk.
    text = compiled(OBJECTIVES[name], B * T)
    assert max(math.prod(s) for s in shapes(text)) >= V * B * T


@pytest.mark.parametrize("name", ["curio", "self"])
def test_no_sort_over_the_vocabulary(name):
    text = compiled(OBJECTIVES[name], CHUNK)
    ordering = [line for line in text.splitlines() if " sort(" in line or "TopK" in line]
    assert ordering
    assert max(size for line in ordering for s in shapes(line) for size in s) < V / 2


def test_number_of_products_with_the_head(arrays):
    """Three for the student, one for a model of its own or to find the tokens, none beyond."""

    def count(name, reference=False):
        def loss(head, hidden):
            parts = {**arrays, "head": head, "hidden": hidden}
            return total(OBJECTIVES[name], **parts, chunk_tokens=CHUNK, reference=reference)[0]

        gradient = jax.grad(loss, argnums=(0, 1))
        return str(jax.make_jaxpr(gradient)(arrays["head"], arrays["hidden"])).count("dot_general[")

    four = {name for name, o in OBJECTIVES.items() if o.needs_teacher} | {"entropy_top20"}
    assert {"curio", "curio_forward", "kl", "kl_forward", "psft"} < four
    assert {name: count(name) for name in OBJECTIVES} == {
        name: 3 + (name in four) for name in OBJECTIVES
    }
    assert count("sft", reference=True) == 4


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("curio", (1, 8, 1)),
        ("curio", (4, 2, 1)),
        ("curio", (2, 2, 2)),
        ("kl_forward", (2, 2, 2)),
        ("entropy_top20", (2, 2, 2)),
        ("gem", (2, 2, 2)),
    ],
    ids=str,
)
def test_sharded_over_devices(arrays, expected, name, sizes):
    """Same numbers, and no sum over devices of a head gradient inside the loop over chunks."""
    mesh = make_mesh(*sizes)
    over_vocabulary = named_sharding(mesh, ("vocab", "embed"))
    by_row = named_sharding(mesh, ("batch", "length"))
    placement = {
        "head": over_vocabulary,
        "teacher_head": over_vocabulary,
        **{k: by_row for k in ("hidden", "teacher_hidden", "labels", "mask")},
    }
    options = {"chunk_tokens": CHUNK, "num_shards": sizes[0] * sizes[1]}

    def loss(parts, rest):
        return total(OBJECTIVES[name], **parts, **rest, **options)

    parts, rest = split(jax.device_put(arrays, {k: placement[k] for k in arrays}))
    gradients = {k: placement[k] for k in parts}
    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(loss, has_aux=True), out_shardings=(None, gradients))
        program = step.lower(parts, rest).compile()
        got = program(parts, rest)
    assert_close(got, expected[name])

    in_loops, outside = [], []
    entry = False
    for line in program.as_text().splitlines():
        if not line.startswith(" "):
            entry = line.startswith("ENTRY")
        if re.search(r" (all-reduce|reduce-scatter)(-start)?\(", line):
            result = line.split(" = ")[1].split(" all-reduce")[0].split(" reduce-scatter")[0]
            (outside if entry else in_loops).extend(map(math.prod, shapes(result)))
    head_size = V * D // sizes[2]
    assert sum(size >= head_size // 8 for size in outside) == 1
    assert max(in_loops, default=0) < head_size // 8


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_gpu_agrees_with_cpu(arrays, dtype):
    half = {k: arrays[k].astype(dtype) for k in ("hidden", "teacher_hidden")}
    results = []
    for platform in ("cpu", "gpu"):
        placed = jax.device_put({**arrays, **half}, jax.devices(platform)[0])
        with jax.default_matmul_precision("highest"):
            results.append(
                value_and_gradients(total, OBJECTIVES["curio"], placed, chunk_tokens=CHUNK)
            )
    exact = dtype == jnp.float32
    assert_close(results[1][0], results[0][0], 2e-5 if exact else 1e-3)
    assert_close(results[1][1], results[0][1], 2e-5 if exact else 1e-2)
