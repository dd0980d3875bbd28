"""The one table of parameters: where each lives in our tree, on the mesh and in a checkpoint.

Sharding, loading and saving all derive from it. Layers are stacked on axis 0 of our arrays.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from curiojax.models.config import ModelConfig

Path = tuple[str, ...]
Kind = Literal["same", "flat", "input", "output"]


class Parameter(NamedTuple):
    """One parameter.

    Attributes:
      axes: logical axis of every dimension; "layers" comes first where the parameter is stacked.
      hf_name: name in a Hugging Face checkpoint; `{}` stands for the layer.
      kind: how the array (one layer's, where stacked) lies in the checkpoint. `same`: as it is.
        `flat`: in one dimension. `input`: a projection `[in, *out]`, stored as `[prod(out), in]`.
        `output`: a projection `[*in, out]`, stored as `[out, prod(in)]`.
    """

    axes: tuple[str | None, ...]
    hf_name: str
    kind: Kind = "same"

    @property
    def stacked(self) -> bool:
        return self.axes[0] == "layers"


def parameters(config: ModelConfig) -> dict[Path, Parameter]:
    """All parameters of a model, in the order in which a checkpoint lists them."""
    head, kv_head = ("heads", "head_dim"), ("kv_heads", "head_dim")
    table: dict[Path, Parameter] = {
        ("embed", "embedding"): Parameter(("vocab", "embed"), "model.embed_tokens.weight"),
    }

    def layer(path: str, axes: tuple[str | None, ...], hf: str, kind: Kind = "same") -> None:
        table["layers", *path.split("/")] = Parameter(
            ("layers", *axes), f"model.layers.{{}}.{hf}", kind
        )

    layer("input_norm/scale", (None,), "input_layernorm.weight")
    for name, axes in (("q", head), ("k", kv_head), ("v", kv_head)):
        source = f"self_attn.{name}_proj"
        layer(f"attention/{name}/kernel", ("embed", *axes), f"{source}.weight", "input")
        if config.attention_bias:
            layer(f"attention/{name}/bias", axes, f"{source}.bias", "flat")
    layer("attention/o/kernel", (*head, "embed"), "self_attn.o_proj.weight", "output")
    if config.qk_norm:
        layer("attention/q_norm/scale", ("head_dim",), "self_attn.q_norm.weight")
        layer("attention/k_norm/scale", ("head_dim",), "self_attn.k_norm.weight")
    layer("post_attention_norm/scale", (None,), "post_attention_layernorm.weight")
    layer("mlp/gate/kernel", ("embed", "mlp"), "mlp.gate_proj.weight", "input")
    layer("mlp/up/kernel", ("embed", "mlp"), "mlp.up_proj.weight", "input")
    layer("mlp/down/kernel", ("mlp", "embed"), "mlp.down_proj.weight", "output")

    table["final_norm", "scale"] = Parameter((None,), "model.norm.weight")
    if not config.tie_word_embeddings:
        table["lm_head", "kernel"] = Parameter(("vocab", "embed"), "lm_head.weight")
    return table


def param_axes(config: ModelConfig) -> dict[str, Any]:
    """The tree of parameters with every array replaced by the tuple of its logical axes."""
    return nest({path: entry.axes for path, entry in parameters(config).items()})


def nest(flat: dict[Path, Any]) -> dict[str, Any]:
    """Turns `{("a", "b"): x}` into `{"a": {"b": x}}`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return tree
