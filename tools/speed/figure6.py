"""The temperature search of the paper's Figure 6, in PyTorch, as it is described there.

Top k once, then 15 halvings of [tau_min, tau_max] over all tokens together (arXiv 2602.02244,
Eq. 7-8 and 17). For comparison only.
"""

from __future__ import annotations

import torch


@torch.no_grad()
def figure6(
    logits: torch.Tensor,
    *,
    tau_min: float = 1.1,
    tau_max: float = 1.5,
    top_k: int = 512,
    steps: int = 15,
    pivot: float = 1.2,
    gamma: float = 2.0,
    max_increment: float = 0.5,
) -> torch.Tensor:
    """Tau [N] of logits [N, V], in their dtype."""
    values = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values

    def entropy(tau: torch.Tensor) -> torch.Tensor:
        log_probs = torch.log_softmax(values / tau[:, None], dim=-1)
        return -(log_probs.exp() * log_probs).sum(dim=-1)

    one = torch.ones_like(values[:, 0])
    now = entropy(one)
    low, high = tau_min * one, tau_max * one
    target = now + max_increment * torch.sigmoid(gamma * (now - pivot))
    target = target.clamp(min=entropy(low), max=entropy(high))
    for _ in range(steps):
        middle = (low + high) / 2
        too_low = entropy(middle) < target
        low = torch.where(too_low, middle, low)
        high = torch.where(too_low, high, middle)
    return (low + high) / 2
