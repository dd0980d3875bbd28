"""The charts of runs that learn from demonstrations and completions at once."""

from __future__ import annotations

from curiojax.reports.catalogue import Chart, Group, Series

GROUPS = (
    Group(
        "demonstrations",
        "Demonstrations and the model's own completions",
        "Means over the tokens of either kind. Entropy and reward of the model's own completions "
        "are in the parts above.",
        (
            Chart(
                "demonstration_loss",
                "The two losses",
                "loss per token",
                (
                    Series("policy_loss", "own completions"),
                    Series("given_loss", "demonstrations", "dashed"),
                ),
                "Before they are weighed against one another.",
                zero=False,
            ),
            Chart(
                "given_prob",
                "Probability of the demonstrations' tokens",
                "probability",
                (Series("given_prob", "demonstrations"),),
                "1 would be a demonstration known by heart.",
            ),
            Chart(
                "given_entropy",
                "Entropy on demonstrations",
                "nats",
                (Series("given_entropy", "demonstrations"),),
                "At the positions of their tokens, over the whole vocabulary.",
            ),
            Chart(
                "given_share",
                "What is learnt from",
                "share",
                (
                    Series("given_share", "tokens of demonstrations"),
                    Series("switched_share", "prompts learnt by SFT alone", "dashed"),
                ),
                "HPT drops the completions of a prompt that it cannot solve, and learns the "
                "demonstration instead.",
                scale="percent",
            ),
            Chart(
                "srft_weights",
                "SRFT's weights",
                "weight",
                (
                    Series("sft_weight", "demonstrations"),
                    Series("positive_weight", "own right answers", "dashed"),
                ),
                "They follow the mean entropy of each sequence: the higher it is, the less a "
                "demonstration counts and the more a right answer.",
            ),
        ),
        stage="rl",
        only="demonstration_share",
    ),
)
