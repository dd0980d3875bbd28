"""Programs are read right: a text worked through by hand, and compiled ones with a closed form."""

# ruff: noqa: E501  (lines of a program)

import jax
import jax.numpy as jnp
import pytest

from curiojax.planning import anatomy
from curiojax.planning.hlo import Array, parse
from curiojax.sharding import make_mesh, named_sharding

# A loop of 28 over one gather of two arrays and one product, inside a fusion; then a reduction of
# the loop's result to shards, a sort, and a computation that nothing calls.
BY_HAND = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_dot (p.0: bf16[16,64], p.1: bf16[64,32]) -> f32[16,32] {
  %p.0 = bf16[16,64]{1,0} parameter(0)
  %p.1 = bf16[64,32]{1,0} parameter(1)
  ROOT %dot.1 = f32[16,32]{1,0} dot(%p.0, %p.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%never (q: bf16[16,64]) -> bf16[128,64] {
  %q = bf16[16,64]{1,0} parameter(0)
  ROOT %all-gather.9 = bf16[128,64]{1,0} all-gather(%q), dimensions={0}
}

%body (carry: (s32[], bf16[16,64])) -> (s32[], bf16[16,64]) {
  %carry = (s32[], bf16[16,64]{1,0}) parameter(0)
  %x = bf16[16,64]{1,0} get-tuple-element(%carry), index=1
  %w = bf16[8,32]{1,0} constant({...})
  %v = f32[4]{0} constant({...})
  %start = ((bf16[8,32]{1,0}, f32[4]{0}), (bf16[64,32]{1,0}, /*index=1*/f32[32]{0})) all-gather-start(%w, %v), dimensions={0}
  %done = (bf16[64,32]{1,0}, f32[32]{0}) all-gather-done(%start)
  %whole = bf16[64,32]{1,0} get-tuple-element(%done), index=0
  %product = f32[16,32]{1,0} fusion(%x, %whole), kind=kCustom, calls=%fused_dot
  %i = s32[] get-tuple-element(%carry), index=0
  ROOT %next = (s32[], bf16[16,64]{1,0}) tuple(%i, %x)
}

%condition (carry.1: (s32[], bf16[16,64])) -> pred[] {
  %carry.1 = (s32[], bf16[16,64]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (arg: (s32[], bf16[16,64])) -> f32[128,32] {
  %arg = (s32[], bf16[16,64]{1,0}) parameter(0)
  %loop = (s32[], bf16[16,64]{1,0}) while(%arg), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"28"}}
  %wide = f32[1024,32]{1,0} constant({...})
  %shard = f32[128,32]{1,0} reduce-scatter(%wide), dimensions={0}, to_apply=%add
  %keys = f32[16,512]{1,0} constant({...})
  %sorted = (f32[16,512]{1,0}, s32[16,512]{1,0}) sort(%keys, %keys), dimensions={1}, to_apply=%add
  ROOT %reduced = f32[128,32]{1,0} all-reduce(%shard), to_apply=%add
}
"""


def test_a_program_worked_through_by_hand():
    program = parse(BY_HAND)
    assert program.times["main"] == 1 and program.times["body"] == 28
    assert "never" not in program.times
    assert anatomy.executed_flops(program) == 28 * 2 * 16 * 64 * 32
    found = anatomy.collectives(program)
    assert found["all-gather"] == (2 * 28, 28 * (64 * 32 * 2 + 32 * 4), 64 * 32 * 2)
    assert found["reduce-scatter"] == (1, 1024 * 32 * 4, 1024 * 32 * 4)
    assert found["all-reduce"] == (1, 128 * 32 * 4, 128 * 32 * 4)
    assert set(found) == {"all-gather", "reduce-scatter", "all-reduce"}
    assert anatomy.widest_sort(program) == 512


def test_products_with_a_head_are_counted_in_passes():
    program = parse(BY_HAND)
    # 28 products of 16 tokens with a head [32, 64].
    assert anatomy.head_passes(program, vocab=32, hidden=64, tokens=16) == 28
    assert anatomy.head_passes(program, vocab=32, hidden=64, tokens=16 * 28) == 1
    assert anatomy.head_passes(program, vocab=31, hidden=64, tokens=16) == 0


def test_a_head_whose_contraction_is_cut_in_parts():
    """On a GPU the hidden states' gradient [S, V] x [V, D] may become two products of V / 2."""
    program = parse(
        """\
ENTRY %main (p.0: bf16[64,2,48], p.1: bf16[2,48,16]) -> f32[2,64,16] {
  %p.0 = bf16[64,2,48]{2,1,0} parameter(0)
  %p.1 = bf16[2,48,16]{2,1,0} parameter(1)
  ROOT %dot = f32[2,64,16]{2,1,0} dot(%p.0, %p.1), lhs_batch_dims={1}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}
}
"""
    )
    assert anatomy.executed_flops(program) == 2 * 64 * 96 * 16
    assert anatomy.head_passes(program, vocab=96, hidden=16, tokens=64) == 1


def test_scores_are_told_from_weights():
    program = parse(BY_HAND)
    assert anatomy.logits_at_once(program, 32, weights={64, 8}) == 1024
    assert anatomy.logits_at_once(program, 32, weights={64, 8, 1024, 128}) == 16


@pytest.mark.parametrize(
    "dtype, size", [("f32", 4), ("bf16", 2), ("pred", 1), ("s8", 1), ("f8e4m3fn", 1), ("u4", 0.5)]
)
def test_bytes_of_an_array(dtype, size):
    assert Array(dtype, (6, 4)).bytes == 24 * size
    assert Array(dtype, ()).bytes == int(size)


def compiled(function, *arguments, **options):
    return parse(jax.jit(function, **options).lower(*arguments).compile().as_text())


def test_a_scan_counts_as_often_as_it_runs():
    x = jax.ShapeDtypeStruct((256, 64), jnp.float32)
    weights = jax.ShapeDtypeStruct((5, 64, 64), jnp.float32)

    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    assert anatomy.executed_flops(compiled(layers, x, weights)) == 5 * 2 * 256 * 64 * 64
    gradient = jax.grad(lambda x, w: layers(x, w).sum(), argnums=1)
    # Forward, and backward for the weights and for the inputs (of all layers, the first included).
    assert anatomy.executed_flops(compiled(gradient, x, weights)) == 3 * 5 * 2 * 256 * 64 * 64


def test_what_layers_save_is_told_from_their_weights():
    layers, tokens, width = 5, 256, 64
    x = jax.ShapeDtypeStruct((tokens, width), jnp.float32)
    weights = jax.ShapeDtypeStruct((layers, width, width), jnp.float32)

    @jax.checkpoint
    def layer(x, w):
        return jnp.tanh(jnp.tanh(x @ w) @ w), None

    def loss(x, weights):
        return jax.lax.scan(layer, x, weights)[0].sum()

    program = compiled(jax.grad(loss, argnums=1), x, weights)
    # Everything is rematerialised from the layers' inputs.
    assert anatomy.saved_activations(program, layers, {tokens}) == layers * tokens * width * 4
    assert anatomy.saved_activations(compiled(loss, x, weights), layers, {tokens}) == 0


def test_communication_of_a_split_product():
    """Both operands are split over the contracted axis: every device has a partial sum of all."""
    mesh = make_mesh(1, 8, 1)
    left, right = (
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=named_sharding(mesh, axes))
        for shape, axes in (((48, 64), (None, "embed")), ((64, 80), ("embed", None)))
    )
    program = compiled(jnp.matmul, left, right, out_shardings=named_sharding(mesh, ()))
    assert anatomy.collectives(program) == {"all-reduce": (1, 48 * 80 * 4, 48 * 80 * 4)}
    assert anatomy.executed_flops(program) == 2 * 48 * (64 // 8) * 80


def test_a_dense_head_and_a_full_sort_are_seen():
    tokens, vocab, hidden = 40, 96, 16
    head = jax.ShapeDtypeStruct((vocab, hidden), jnp.float32)
    states = jax.ShapeDtypeStruct((tokens, hidden), jnp.float32)

    def dense(head, states):
        logits = jnp.sort(states @ head.T, axis=-1)
        return jax.nn.logsumexp(logits[:, -8:] * 1.5, axis=-1)

    program = compiled(dense, head, states)
    assert anatomy.logits_at_once(program, vocab, {hidden}) == tokens
    assert anatomy.widest_sort(program) == vocab

    @jax.checkpoint
    def again(head, states):
        return jnp.sum(jax.nn.logsumexp(states @ head.T, axis=-1))

    program = compiled(jax.grad(again, argnums=(0, 1)), head, states)
    # The scores, and the gradient's two products.
    assert anatomy.head_passes(program, vocab, hidden, tokens) == 3
