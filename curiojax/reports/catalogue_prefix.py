"""The charts of rollouts that continue a demonstration; see `curiojax.reports.catalogue`."""

from __future__ import annotations

from curiojax.reports.catalogue import Chart, Group, Series

GROUPS = (
    Group(
        "prefixes",
        "Guided rollouts",
        "One completion of a prompt continues the beginning of its demonstration. The other charts "
        "are of completions that the model drew from the first token on.",
        (
            Chart(
                "prefix_ratio",
                "What is given",
                "share of the demonstration",
                (
                    Series("prefix_ratio", "given"),
                    Series("prefix_ratio_low", "least that is drawn", "thin", smooth=False),
                    Series("prefix_ratio_high", "most that is drawn", "thin", smooth=False),
                ),
                "Mean over the prompts of the tokens given, over those of the demonstration.",
                scale="percent",
            ),
            Chart(
                "guided_accuracy",
                "Right answers",
                "share of completions",
                (
                    Series("guided_accuracy", "with a beginning given"),
                    Series("accuracy", "without", "dashed"),
                ),
                "How far the beginning helps: where the lines meet it does no more.",
                scale="percent",
            ),
            Chart(
                "given_advantage",
                "Advantage of what is given",
                "",
                (Series("given_advantage", "mean"),),
                "Mean over its tokens: the reward of its continuation less the mean reward of the "
                "completions without a beginning.",
                zero=False,
            ),
            Chart(
                "given_kept",
                "Given tokens that are learnt",
                "share of given tokens",
                (
                    Series("given_kept", "learnt"),
                    Series("given_clipped", "learnt, but clipped", "dashed", omit=0.0),
                ),
                "Those at which the model is least certain.",
                scale="percent",
            ),
            Chart(
                "given_loss",
                "Loss of either part",
                "",
                (
                    Series("given_loss", "given tokens"),
                    Series("policy_loss", "own tokens", "dashed"),
                ),
                "Mean over the tokens of each part, penalty and bonus aside.",
                zero=False,
            ),
        ),
        stage="rl",
        only="prefix_ratio",
    ),
)
