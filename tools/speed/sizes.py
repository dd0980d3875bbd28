"""What is measured: shapes of models and batches, and the floating-point work in them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from curiojax.models import ModelConfig
from curiojax.training.plan import count_parameters


@dataclass(frozen=True)
class Size:
    """Shapes of one benchmark.

    Attributes:
      name: as on the command line.
      model: the architecture, with compute dtype and attention set; rematerialisation is varied.
      rows, row_length, microbatches: a step trains on `microbatches` x `rows` x `row_length` slots.
      chunk_tokens: tokens whose logits are held at once.
      search_tokens: tokens of the temperature search alone.
      decode_rows, decode_prompt, decode_tokens: completions at a time, their prompt and length.
      gain: what the random matrices of the layers are multiplied with, and eight times that the
        head, so that distributions are not flat where results are compared; None: drawn plainly,
        by each framework for itself.
    """

    name: str
    model: ModelConfig
    rows: int
    row_length: int
    microbatches: int
    chunk_tokens: int = 1024
    search_tokens: int = 1024
    decode_rows: int = 256
    decode_prompt: int = 128
    decode_tokens: int = 256
    gain: float | None = None

    @property
    def slots(self) -> int:
        """Tokens of a step, padding included."""
        return self.microbatches * self.rows * self.row_length

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def from_json(values: dict[str, Any]) -> Size:
    """The inverse of `Size.to_json`."""
    model = {**values["model"], "eos_token_ids": tuple(values["model"]["eos_token_ids"])}
    return Size(**{**values, "model": ModelConfig(**model)})


def _qwen(vocab, hidden, layers, heads, kv_heads, head_dim, mlp, *, tied, dtype) -> ModelConfig:
    return ModelConfig(
        model_type="qwen2",
        vocab_size=vocab,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=mlp,
        tie_word_embeddings=tied,
        attention_bias=True,
        rope_theta=1e6,
        compute_dtype=dtype,
    )


def _real(name: str, *shape: int, tied: bool) -> Size:
    return Size(name, _qwen(*shape, tied=tied, dtype="bfloat16"), 1, 8192, 4)


# Toy: float32, since XLA gains nothing from bfloat16 on a CPU. The others: Qwen2.5's shapes.
SIZES = {
    "toy": Size(
        "toy",
        _qwen(8192, 128, 2, 4, 2, 32, 384, tied=False, dtype="float32"),
        rows=4,
        row_length=256,
        microbatches=2,
        chunk_tokens=256,
        search_tokens=256,
        decode_rows=32,
        decode_prompt=16,
        decode_tokens=32,
        gain=3.0,
    ),
    "0.5b": _real("0.5b", 151_936, 896, 24, 14, 2, 64, 4864, tied=True),
    "1.5b": _real("1.5b", 151_936, 1536, 28, 12, 2, 128, 8960, tied=True),
    "7b": _real("7b", 152_064, 3584, 28, 28, 4, 128, 18_944, tied=False),
}
NAMES = (*SIZES, "fit")


def with_layers(size: Size, layers: int) -> Size:
    """The same widths with another number of layers."""
    model = dataclasses.replace(size.model, num_layers=layers)
    whole = layers == size.model.num_layers
    return dataclasses.replace(
        size, model=model, name=size.name if whole else f"{size.name}, {layers} layers"
    )


def forward_flops(size: Size, tokens: int, trained: int, pairs: int) -> float:
    """Floating-point operations of the matrix products of one forward pass.

    Args:
      tokens: that belong to records.
      trained: those that the LM head is needed for.
      pairs: of a query and a key that it sees.
    """
    m = size.model
    head = m.vocab_size * m.hidden_size
    heads = (2 * m.num_heads + 2 * m.num_kv_heads) * m.head_dim * m.hidden_size
    layer = heads + 3 * m.hidden_size * m.intermediate_size
    attention = 4 * m.num_layers * m.num_heads * m.head_dim * pairs
    return 2.0 * (tokens * m.num_layers * layer + trained * head) + attention


# Model work of a step in forward passes: three for the student, one more for a second model. What
# rematerialisation repeats is no model work.
PASSES = {"sft": 3, "self": 3, "curio": 4, "fp8": 4}


def describe(size: Size) -> dict[str, Any]:
    """The size as the results file has it."""
    return size.to_json() | {"parameters": count_parameters(size.model), "slots": size.slots}
