"""The charts of the RL stage; see `curiojax.reports.catalogue`."""

from __future__ import annotations

from curiojax.reports.catalogue import Chart, Group, Series

GROUPS = (
    Group(
        "reward",
        "Reward",
        "Over the completions that a step samples, with the weights from before its updates.",
        (
            Chart(
                "reward",
                "Reward",
                "share of completions",
                (
                    Series("reward", "reward"),
                    Series("accuracy", "right answer", "dashed", omit="reward"),
                    Series("format_rate", "format kept", "thin", omit=1.0),
                ),
                "The reward is 1 where the answer is right and in the form that is asked for, and "
                "0 elsewhere.",
                scale="percent",
            ),
            Chart(
                "groups",
                "Prompts that teach nothing",
                "share of prompts",
                (
                    Series("groups_all_0", "all completions 0"),
                    Series("groups_all_1", "all completions 1", "dashed"),
                ),
                "Rewards are compared within a prompt: where they are all the same, the advantage "
                "is 0.",
                scale="percent",
            ),
        ),
        stage="rl",
    ),
    Group(
        "completions",
        "Entropy and length of the completions",
        "Over the tokens of the model's own completions, so not to be compared with entropies on "
        "the expert's.",
        (
            Chart(
                "policy_entropy",
                "Entropy",
                "nats",
                (
                    Series("entropy", "all tokens"),
                    Series("entropy_top20", "highest 20\u00a0%", "dashed"),
                    Series("entropy_rest", "other 80\u00a0%", "thin"),
                ),
                "Mean over the step's tokens, and over the 20\u00a0% of them at which it is "
                "highest. Near 0 all completions of a prompt are alike.",
            ),
            Chart(
                "response_tokens",
                "Length",
                "tokens",
                (
                    Series("response_tokens", "mean"),
                    Series("response_tokens_max", "longest", "thin", reduce="max", smooth=False),
                ),
                "Tokens of a completion, the end of the sequence included.",
            ),
            Chart(
                "truncated_share",
                "Cut off",
                "share of completions",
                (Series("truncated_share", "cut off"),),
                "Completions that reached the greatest length allowed without an end.",
                scale="percent",
            ),
        ),
        stage="rl",
    ),
    Group(
        "movement",
        "How far the policy moves",
        "Shares and means over the tokens of all updates of a step. The first update starts from "
        "the policy that the others are compared with: it has a ratio of 1 and clips nothing.",
        (
            Chart(
                "clip_shares",
                "Clipped tokens",
                "share of tokens",
                (
                    Series("clipped_high", "upper bound", omit=0.0),
                    Series("clipped_low", "lower bound", "dashed", omit=0.0),
                    Series("dual_clipped", "dual clip", "thin", omit=0.0),
                ),
                "Tokens without a gradient: those already made likelier by more than the upper "
                "bound, or less likely by more than the lower one, as their advantage wants it.",
                scale="percent",
            ),
            Chart(
                "policy_ratio",
                "Probability ratio",
                "ratio",
                (
                    Series("ratio_mean", "mean", omit=1.0),
                    Series("ratio_max", "largest", "dashed", reduce="max", smooth=False, omit=1.0),
                ),
                "Probability of a sampled token now over that at the beginning of the step.",
                zero=False,
                scale="auto",
            ),
            Chart(
                "policy_kl",
                "Divergence from the reference",
                "nats per token",
                (
                    Series("kl_k3", "k3", omit=0.0),
                    Series("kl_k1", "k1", "thin", omit=0.0),
                ),
                "Two estimates of the Kullback-Leibler divergence from the model that the run "
                "started with; k1 may be negative.",
                zero=False,
            ),
        ),
        stage="rl",
    ),
    Group(
        "mismatch",
        "Sampler against trainer",
        "The sampler and the trainer give a token log-probabilities that differ by rounding, and "
        "by an update where the completions are one step old.",
        (
            Chart(
                "mismatch",
                "Difference of log-probabilities",
                "nats",
                (
                    Series("mismatch_abs", "mean"),
                    Series("mismatch_max", "largest", "dashed", reduce="max", smooth=False),
                ),
                "Absolute difference over the step's tokens. In float32 some 1e-6 is right; in "
                "bfloat16 a mean of some 1e-2 is.",
                scale="auto",
            ),
            Chart(
                "mismatch_k3",
                "Divergence of trainer from sampler",
                "nats per token",
                (Series("mismatch_k3", "k3", omit=0.0),),
                "k3 estimate of the Kullback-Leibler divergence between the two. It should stay "
                "where it is in the first steps.",
            ),
            Chart(
                "tis_weight",
                "Importance weight",
                "",
                (
                    Series("tis_weight", "mean weight", omit=1.0),
                    Series("ess_share", "effective share of tokens", "dashed", omit=1.0),
                ),
                "Mean of the weights that make up for the difference, truncated where the "
                "objective has a cap; and the share of tokens that, weighted alike, would vary as "
                "little.",
                zero=False,
            ),
            Chart(
                "tis_capped",
                "Weights at the cap",
                "share of tokens",
                (Series("tis_capped", "capped", omit=0.0),),
                "Tokens whose importance weight was cut.",
                scale="percent",
            ),
        ),
        stage="rl",
    ),
    Group(
        "time",
        "Time of a step",
        "Wall time of its parts. Completions that are sampled beside the updates of the step "
        "before count with their own time.",
        (
            Chart(
                "generated_tokens_per_second",
                "Sampling speed",
                "tokens per second",
                (Series("generated_tokens_per_second", "tokens per second"),),
                "Tokens of completions over the time that sampling takes.",
            ),
            Chart(
                "sync_gigabytes_per_second",
                "Handing the weights over",
                "GB per second",
                (Series("sync_gigabytes_per_second", "GB per second"),),
                "Size of the weights over the time until the sampler has them.",
            ),
        ),
        stage="rl",
    ),
)
