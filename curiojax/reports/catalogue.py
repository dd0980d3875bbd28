"""Which charts a training report has, and what each of them says about itself.

The words here are definitions. What a run's curves mean is for the notes of its report.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """One metric in a chart, drawn in every run's colour.

    Attributes:
      style: `solid`, `thin` (dotted), `dashed`, or `band` (first its lower, then its upper edge).
      reduce: how steps are joined where there are more than a chart can show: mean, min or max.
      smooth: whether the reader's smoothing applies.
      omit: where the metric is this number all along in all runs, or equals this other metric, it
        says nothing and is left out.
    """

    key: str
    label: str
    style: str = "solid"
    reduce: str = "mean"
    smooth: bool = True
    omit: float | str | None = None


@dataclass(frozen=True)
class Chart:
    """A chart: one or more series of every run over the steps.

    Attributes:
      zero: whether the vertical axis starts at 0.
      scale: `linear`, `percent` or `auto` (logarithmic where the values span a factor of 50).
      points: whether every value is marked, where there are few.
    """

    identifier: str
    title: str
    unit: str
    series: tuple[Series, ...]
    caption: str
    zero: bool = True
    scale: str = "linear"
    points: bool = False


@dataclass(frozen=True)
class Group:
    """Charts that belong together.

    Attributes:
      stage: `sft` or `rl`, or None where both have them.
      only: drawn from the steps that have this metric; None: from all of them.
    """

    identifier: str
    title: str
    intro: str
    charts: tuple[Chart, ...]
    large: bool = False
    stage: str | None = None
    only: str | None = None


GROUPS = (
    Group(
        "entropy",
        "Entropy on the expert's tokens",
        "Entropy of the model's next-token distribution over the whole vocabulary, at the "
        "positions of the expert responses it is trained on (not of its own samples). At every "
        "step the tokens are split into the 20\u00a0% with the highest entropy and the others. The "
        "teacher's tokens are split by the teacher's own entropy, which is taken before its "
        "temperature is applied.",
        (
            Chart(
                "entropy_top20",
                "Highest 20\u00a0% of tokens",
                "nats",
                (
                    Series("entropy_top20", "model"),
                    Series("teacher_entropy_top20", "teacher", "thin"),
                ),
                "Mean over the 20\u00a0% of the step's tokens at which the entropy is highest.",
            ),
            Chart(
                "entropy_rest",
                "Other 80\u00a0% of tokens",
                "nats",
                (
                    Series("entropy_rest", "model"),
                    Series("teacher_entropy_rest", "teacher", "thin"),
                ),
                "Mean over all other tokens. The vertical scales of these charts differ.",
            ),
            Chart(
                "entropy_all",
                "All tokens",
                "nats",
                (Series("entropy", "model"), Series("teacher_entropy", "teacher", "thin")),
                "Mean over all trained tokens of the step.",
            ),
        ),
        large=True,
        stage="sft",
    ),
    Group(
        "loss",
        "Loss",
        "Means over all trained tokens of a step.",
        (
            Chart(
                "sft_nll",
                "Cross-entropy",
                "nats per token",
                (Series("sft_nll", "cross-entropy"),),
                "Negative log-probability of the expert's token: the whole loss in plain SFT, and "
                "the same quantity for every method.",
            ),
            Chart(
                "sed_k2",
                "Self-exploratory distillation",
                "per token",
                (Series("sed_k2", "distillation"),),
                "Half the squared difference between the log-probabilities that the model and the "
                "teacher, at its temperature, give the expert's token.",
            ),
            Chart(
                "sed_kl",
                "Distillation over the vocabulary",
                "nats per token",
                (Series("sed_kl", "divergence"),),
                "Kullback-Leibler divergence between the model and the teacher at its temperature, "
                "in the direction that the configuration names.",
            ),
            Chart(
                "kl",
                "Divergence from the base model",
                "nats per token",
                (Series("kl", "penalty"), Series("kl_k3", "k3, all tokens", "thin")),
                "The penalty without its coefficient, 0 at tokens that are not held; and the k3 "
                "estimate of it at all expert tokens.",
            ),
            Chart(
                "unlikelihood",
                "Unlikelihood of suppressed tokens",
                "nats per token",
                (Series("unlikelihood", "unlikelihood"),),
                "Mean of -log(1 - p) over the tokens of wrong samples.",
            ),
            Chart(
                "loss",
                "Loss",
                "per token",
                (Series("loss", "loss"),),
                "What the optimiser minimises: in CurioSFT, cross-entropy plus alpha times the "
                "distillation term. Its level compares only between runs with the same objective.",
            ),
        ),
        stage="sft",
    ),
    Group(
        "temperature",
        "Teacher temperature",
        "At each token the teacher's logits are divided by a temperature tau. Unless it is fixed, "
        "it is chosen so that the teacher's entropy rises by a given increment, within the limits "
        "that the configuration sets.",
        (
            Chart(
                "tau",
                "Temperature over steps",
                "tau",
                (
                    Series("tau_p10", "10 to 90\u00a0% of tokens", "band"),
                    Series("tau_p90", "", "band"),
                    Series("tau_p50", "median"),
                    Series("tau_mean", "mean", "dashed"),
                ),
                "Median and mean over the step's tokens, and the range of the middle 80\u00a0%.",
                zero=False,
            ),
            Chart(
                "entropy_increment",
                "Entropy increment asked for",
                "nats",
                (Series("entropy_increment", "increment"),),
                "Mean rise of the teacher's entropy that the temperature is meant to bring about.",
            ),
            Chart(
                "gated",
                "Gated tokens",
                "share of tokens",
                (Series("gated", "gated"),),
                "Tokens at which the teacher is so certain that its temperature is not searched "
                "but set to the lower limit.",
                scale="percent",
            ),
            Chart(
                "at_floor",
                "At the lower limit",
                "share of tokens",
                (Series("at_floor", "at the lower limit"),),
                "Tokens whose entropy rises by the increment or more already at the lowest "
                "temperature allowed. Gated tokens are not counted.",
                scale="percent",
            ),
            Chart(
                "at_cap",
                "At the upper limit",
                "share of tokens",
                (Series("at_cap", "at the upper limit"),),
                "Tokens whose entropy rises by no more than the increment even at the highest "
                "temperature allowed. Gated tokens are not counted.",
                scale="percent",
            ),
        ),
        stage="sft",
    ),
    Group(
        "weight",
        "Token weight",
        "The gradient of CurioSFT is that of cross-entropy with every token multiplied by "
        "w = 1 + alpha (log p_teacher \u2212 log p_model), both of the expert's token; other "
        "methods that only weigh tokens have a w of their own. Where w is below 1 a token is "
        "learnt less strongly than in plain SFT, above 1 more strongly; below 0 it is made less "
        "likely.",
        (
            Chart(
                "weight_mean",
                "Mean weight",
                "w",
                (Series("weight_mean", "mean"),),
                "Mean of w over the step's tokens; in plain SFT it would be 1.",
                zero=False,
            ),
            Chart(
                "weight_range",
                "Smallest and largest weight",
                "w",
                (
                    Series("weight_max", "largest", reduce="max", smooth=False),
                    Series("weight_min", "smallest", "dashed", reduce="min", smooth=False),
                ),
                "The extremes of w among the step's tokens.",
                zero=False,
            ),
            Chart(
                "weight_shares",
                "Tokens with a low weight",
                "share of tokens",
                (
                    Series("weight_below_0.9", "w < 0.9"),
                    Series("weight_negative", "w < 0", "dashed"),
                ),
                "Tokens that are held back by more than a tenth, and tokens made less likely.",
                scale="percent",
            ),
        ),
        stage="sft",
    ),
    Group(
        "method",
        "The method's own quantities",
        "Shares and means over the trained tokens of a step.",
        (
            Chart(
                "kl_held",
                "Tokens held to the base model",
                "share of tokens",
                (Series("kl_held", "held"),),
                "Tokens that are not exempt and that the base model itself finds likely enough.",
                scale="percent",
            ),
            Chart(
                "clipped",
                "Clipped tokens",
                "share of tokens",
                (Series("clipped", "clipped"),),
                "Tokens without a gradient, since their probability has already risen by more than "
                "the clipping range since the snapshot.",
                scale="percent",
            ),
            Chart(
                "ratio",
                "Probability ratio",
                "ratio",
                (
                    Series("ratio_mean", "mean"),
                    Series("ratio_max", "largest", "dashed", reduce="max", smooth=False),
                ),
                "Probability of the expert's token now over that at the snapshot.",
                zero=False,
                scale="auto",
            ),
            Chart(
                "gem_s",
                "GEM's pull",
                "S",
                (Series("gem_s", "S"), Series("gem_q_max", "largest q", "thin")),
                "Total weight of the tokens that are pushed down, and the largest probability of "
                "the sharpened distribution.",
            ),
            Chart(
                "suppressed_prob",
                "Probability of suppressed tokens",
                "probability",
                (Series("suppressed_prob", "probability"),),
                "Mean probability that the model gives the tokens of wrong samples.",
            ),
        ),
        stage="sft",
    ),
    Group(
        "optimiser",
        "Optimiser and speed",
        "",
        (
            Chart(
                "learning_rate",
                "Learning rate",
                "",
                (Series("learning_rate", "learning rate", smooth=False),),
                "The rate of the step's update.",
            ),
            Chart(
                "grad_norm",
                "Gradient norm",
                "",
                (Series("grad_norm", "gradient norm"),),
                "Global norm of the gradient before clipping.",
                scale="auto",
            ),
            Chart(
                "teacher_distance",
                "Distance to the teacher",
                "relative",
                (Series("teacher_distance", "distance"),),
                "Norm of the difference between the parameters of model and teacher, divided by "
                "the norm of the model's.",
            ),
            Chart(
                "tokens_per_second",
                "Throughput",
                "tokens per second",
                (Series("tokens_per_second", "tokens per second"),),
                "Tokens of prompts and responses, without padding, over wall time.",
            ),
            Chart(
                "tokens",
                "Trained tokens",
                "per step",
                (Series("tokens", "tokens"),),
                "Response tokens that the step's loss is the mean of.",
            ),
            Chart(
                "padding_share",
                "Padding",
                "share of positions",
                (Series("padding_share", "padding"),),
                "Positions of the step's batch that hold no token.",
                scale="percent",
            ),
        ),
    ),
)
