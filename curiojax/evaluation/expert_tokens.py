"""How a model sees the tokens of expert responses: its entropy there, and their probability."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from curiojax.errors import ConfigError
from curiojax.evaluation.plain_values import plain

TOP_SHARE = 0.2


def expert_tokens(
    entropies: ArrayLike,
    probs: ArrayLike,
    *,
    groups: Literal["moving", "fixed"] = "moving",
    reference_entropies: ArrayLike | None = None,
) -> dict[str, Any]:
    """Mean entropy of expert tokens, apart for the fifth with the highest entropy and the rest.

    Args:
      entropies: [N] nats, of the model's distribution at each token of the expert's responses, at
        temperature 1.
      probs: [N], the probability of that token.
      groups: `moving`: the top group are the tokens whose entropy is at least the 80th percentile
        of `entropies`; it consists of other tokens in every model. `fixed`: those at or above the
        80th percentile of `reference_entropies`, the same tokens in every model. The paper's
        Figure 2 does not say which; its batches suggest `moving`.
      reference_entropies: [N], those of the base model at the same tokens; for `fixed` only.

    Returns:
      `groups`, `tokens`: N; `entropy`, `entropy_top20`, `entropy_rest`: means in nats (the last is
      None where all tokens are in the top group, as with equal entropies); `threshold`: the
      percentile, nats; `probability`: mean of `probs`.

    Raises:
      ConfigError: for arrays of other shapes or with values that are not finite, without a token,
        or when `reference_entropies` does not go with `groups`.
    """
    if groups not in ("moving", "fixed"):
        raise ConfigError(f"groups: {groups!r} is unknown; it is moving or fixed")
    if (groups == "fixed") != (reference_entropies is not None):
        raise ConfigError(
            f"reference_entropies: groups={groups} needs "
            f"{'those of the base model' if groups == 'fixed' else 'none; leave them out'}"
        )
    arrays = {"entropies": entropies, "probs": probs, "reference_entropies": reference_entropies}
    values = {k: np.asarray(v, np.float64) for k, v in arrays.items() if v is not None}
    current = values["entropies"]
    for name, array in values.items():
        if array.ndim != 1 or array.shape != current.shape or not array.size:
            raise ConfigError(
                f"{name}: has the shape {array.shape}, entropies {current.shape}; give one value "
                "per expert token, for at least one"
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"{name}: not all are finite; look for NaN in the model's output")
    grouping = values.get("reference_entropies", current)
    threshold = np.quantile(grouping, 1 - TOP_SHARE)
    top = grouping >= threshold
    return plain(
        {
            "groups": groups,
            "tokens": current.size,
            "entropy": float(current.mean()),
            "entropy_top20": float(current[top].mean()),
            "entropy_rest": None if top.all() else float(current[~top].mean()),
            "threshold": float(threshold),
            "probability": float(values["probs"].mean()),
        }
    )
