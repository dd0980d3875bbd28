"""The parts of a program that decide whether it is fast: collectives, matrix products, sorts."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from itertools import combinations
from typing import NamedTuple

from curiojax.planning.hlo import Array, Operation, Program

COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


class Traffic(NamedTuple):
    """Attributes:
    count: how many arrays are communicated; several may share one call.
    bytes: of the whole array on one side: what a gather ends with, what a reduction starts from.
    largest: bytes of the largest of them.
    """

    count: int
    bytes: int
    largest: int


def collectives(program: Program) -> dict[str, Traffic]:
    """Communication of one device in one run, by kind; those kinds that occur."""
    found: dict[str, list[tuple[int, int]]] = {}
    for operation, computation, times in program.operations():
        kind = operation.kind.removesuffix("-start")
        if kind in COLLECTIVES:
            sizes = payload(operation, program.inputs(operation, computation))
            found.setdefault(kind, []).extend((size, times) for size in sizes)
    return {
        kind: Traffic(
            sum(times for _, times in found[kind]),
            sum(size * times for size, times in found[kind]),
            max(size for size, _ in found[kind]),
        )
        for kind in COLLECTIVES
        if kind in found
    }


def payload(operation: Operation, inputs: list[tuple[Array, ...]]) -> list[int]:
    """Bytes of each array that is sent: the larger of what goes in and what comes out."""
    given = [array.bytes for arrays in inputs for array in arrays]
    made = [array.bytes for array in operation.result]
    # A started operation may list its inputs before its outputs.
    made = made[-len(given) :] if len(made) >= len(given) else given
    return [max(pair) for pair in zip(given, made, strict=True)]


class Product(NamedTuple):
    """A matrix product of two operands of these shapes, and how often it runs.

    Attributes:
      eight_bit: both operands are numbers of eight bits.
    """

    flops: int
    times: int
    left: tuple[int, ...]
    right: tuple[int, ...]
    eight_bit: bool = False

    def has_axis(self, size: int) -> bool:
        """An operand has it, or both do where the compiler has cut the contracted axis in parts."""
        if size in self.left + self.right:
            return True
        cut = [{a * b for a, b in combinations(shape, 2)} for shape in (self.left, self.right)]
        return size in cut[0] & cut[1]


def products(program: Program) -> Iterator[Product]:
    """Every matrix product; inside fused kernels too, but not those of a library's kernel."""
    for operation, computation, times in program.operations("dot"):
        inputs = program.inputs(operation, computation)
        if len(inputs) < 2 or not inputs[0] or not inputs[1]:
            continue
        left, right = inputs[0][0].shape, inputs[1][0].shape
        eight_bit = all(given[0].bytes == math.prod(given[0].shape) for given in inputs[:2])
        axes = _numbers(r"lhs_contracting_dims=\{([\d,]*)\}", operation.text)
        size = math.prod(operation.result[0].shape)
        flops = 2 * size * math.prod(left[axis] for axis in axes)
        yield Product(flops, times, left, right, eight_bit)


def executed_flops(program: Program, *, eight_bit: bool = False) -> int:
    """FLOPs of all matrix products in one run, on one device; or of those of eight-bit numbers."""
    found = (p for p in products(program) if p.eight_bit or not eight_bit)
    return sum(product.flops * product.times for product in found)


def head_passes(program: Program, vocab: int, hidden: int, tokens: int) -> float:
    """How often the product of all tokens with the LM head is taken, its gradients included.

    Args:
      vocab, hidden: sizes of the head as one device uses it.
      tokens: those of one device.
    """
    head = [p for p in products(program) if p.has_axis(vocab)]
    return sum(p.flops * p.times for p in head) / (2 * tokens * vocab * hidden)


def widest_sort(program: Program) -> int:
    """Length of the longest axis that is sorted (or searched for a top k); 0 without any."""
    widths = [0]
    for operation, computation, _ in program.operations("sort", "custom-call", "topk"):
        inputs = [array for given in program.inputs(operation, computation) for array in given]
        if operation.kind == "sort":
            axes = _numbers(r"dimensions=\{(\d+)\}", operation.text)
            widths += [array.shape[axes[0]] for array in inputs if axes]
        elif operation.kind == "topk" or "topk" in operation.text.lower():
            widths += [array.shape[-1] for array in inputs if array.shape]
    return max(widths)


def logits_at_once(program: Program, vocab: int, weights: Collection[int]) -> int:
    """Of how many tokens there are ever scores over the vocabulary in one array.

    Args:
      vocab: as one device holds it.
      weights: sizes that the other axis has in the embedding and in the head.
    """
    found = 0
    for operation, _, _ in program.operations():
        for array in operation.result:
            if vocab in array.shape:
                rows = math.prod(array.shape) // vocab
                found = max(found, 0 if rows in weights else rows)
    return found


def _numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    return [int(n) for n in found[1].split(",") if n] if found else []


def saved_activations(program: Program, layers: int, tokens: Collection[int]) -> int:
    """Bytes that the loop over the layers keeps of every layer for the backward pass.

    They are the arrays `[layers, ...]` that it carries and that have an axis of tokens.

    Args:
      tokens: sizes of such an axis: tokens of a row, and of all rows of a device.
    """
    found = [0]
    for operation, _, _ in program.operations("while"):
        kept = [
            array.bytes
            for array in operation.result
            if len(array.shape) > 1 and array.shape[0] == layers and {*array.shape[1:]} & {*tokens}
        ]
        found.append(sum(kept))
    return max(found)
