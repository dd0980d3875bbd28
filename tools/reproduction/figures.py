"""Figures 1, 2, 4 and 5 from finished runs, and a picture of Table 2."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from curiojax.evaluation.comparison import estimate
from reproduction import paper
from reproduction.methods import title
from reproduction.plan import (
    ALPHAS,
    BASE,
    BEYOND,
    COUNTDOWN,
    CURVES,
    ENTROPIES,
    LOW_LR,
    MAIN,
    PIVOTS,
    TABLE2,
    TAUS,
    VANILLA,
)
from reproduction.records import Data, Finished, Group, Groups, Value, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADINGS = {
    "table2": "Table 2 as a picture: what is kept at which accuracy",
    "figure1": "Figure 1: entropy and accuracy over SFT, then RL",
    "figure2": "Figure 2: entropy coefficients",
    "figure4": "Figure 4: accuracy against diversity",
    "figure5": "Figure 5: pivot, alpha and fixed temperature",
}
PLANE = (
    "Marks: the end of each method's runs, mean and standard error over seeds; lines: the "
    "checkpoints of plain SFT at both learning rates on their way. The height above the lines is "
    "what counts. Strictly, plain SFT climbs for as long as it is learning the answer's format."
)
Point = tuple[float, float, float]  # x, mean, standard error (0 for one seed)
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
WINDOW = 9  # steps that a curve of training metrics is smoothed over


def caption(target: str) -> str:
    """What is to be seen, or what the paper says is to be seen."""
    return paper.FIGURES.get(target, PLANE)


def draw(target: str, data: Data) -> Figure | None:
    """The picture of a target, or None where there is none or nothing was run for it."""
    groups = data.groups(COUNTDOWN, MAIN)
    makers: dict[str, Callable[[Groups, int], Figure | None]] = {
        "table2": table2,
        "figure1": figure1,
        "figure2": figure2,
        "figure4": figure4,
        "figure5": figure5,
    }
    return makers[target](groups, data.samples) if target in makers else None


def table2(groups: Groups, k: int) -> Figure | None:
    """Where each method ends, and the way of plain SFT there."""
    names = [name for name in (*TABLE2, *BEYOND) if name in groups]
    if VANILLA not in names:
        return None
    figure, axes = _panels(1, 2, width=5.6, height=4.2)
    for axis, search in zip(axes, ("", "search_"), strict=True):
        keys = f"{search}id_pass1", f"{search}hard_pass{k}"
        for number, name in enumerate(names):
            colour, marker = _look(number)
            x, y = (_mean(groups[name], score(key)) for key in keys)
            if name in (VANILLA, LOW_LR):
                path = [
                    tuple(_mean(groups[name], _at(step, key))[0] for key in keys)
                    for step in _steps(groups[name])
                ]
                axis.plot(*zip(*path, strict=True), color=colour, linewidth=1, marker=".")
            _cross(axis, x, y, colour, marker, title(name))
        said = ", judged by the steps alone" if search else ""
        axis.set(xlabel=f"ID pass@1{said}", ylabel=f"hard pass@{k}{said}")
    _legend_beside(figure, axes[0])
    return figure


def figure1(groups: Groups, k: int) -> Figure | None:
    """Entropy and accuracy over the supervised stage, then RL."""
    names = [name for name in CURVES if name in groups]
    if not names:
        return None
    figure, axes = _panels(1, 3)
    panels = {
        "entropy": "entropy of own samples (nats)",
        "id_pass1": "ID pass@1",
        f"hard_pass{k}": f"hard pass@{k}",
    }
    for axis, (key, label) in zip(axes, panels.items(), strict=True):
        for colour, name in zip(COLOURS, names, strict=False):
            sft, rl = groups[name], groups.get(f"{name}+grpo")
            path = [*_at_base(groups, key), *_path(sft, key)]
            _line(axis, path, colour, title(name))
            if rl:
                last = max(run.step for run in sft)
                after = [path[-1], *((last + x, y, e) for x, y, e in _path(rl, key))]
                _line(axis, after, colour, None, style="--")
                axis.axvline(last, color="0.6", linewidth=0.8)
        axis.set(xlabel="step: SFT, then GRPO (dashed)", ylabel=label)
    _legend(figure, axes[0])
    return figure


def figure2(groups: Groups, k: int) -> Figure | None:
    """Expert-token entropy and pass@k over the supervised stage, by entropy coefficient."""
    names = [name for name in (VANILLA, *ENTROPIES, "curio") if name in groups]
    if len(names) < 2:
        return None
    figure, axes = _panels(1, 3)
    for axis, key, label in (
        (axes[0], "entropy_top20", "expert-token entropy, top 20 % (nats)"),
        (axes[1], "entropy_rest", "expert-token entropy, the rest (nats)"),
    ):
        for colour, name in zip(COLOURS, names, strict=False):
            _line(axis, _training(groups[name], key), colour, title(name), marker="")
        axis.set(xlabel="step", ylabel=label, yscale="log")
        _plain_numbers(axis)
    for colour, name in zip(COLOURS, names, strict=False):
        _line(axes[2], _path(groups[name], f"hard_pass{k}"), colour, title(name))
    axes[2].set(xlabel="step", ylabel=f"hard pass@{k}")
    _legend(figure, axes[0])
    return figure


def figure4(groups: Groups, k: int) -> Figure | None:
    """Accuracy against the n-gram diversity of own samples."""
    names = [name for name in (*TABLE2, *BEYOND) if name in groups]
    if not names:
        return None
    figure, axes = _panels(1, 2, width=5.6)
    for axis, key, label in (
        (axes[0], "id_pass1", "ID pass@1"),
        (axes[1], f"hard_pass{k}", f"hard pass@{k}"),
    ):
        for number, name in enumerate(names):
            x, y = _mean(groups[name], diversity), _mean(groups[name], score(key))
            _cross(axis, x, y, *_look(number), title(name))
        axis.set(xlabel="4-gram diversity of samples, ID problems", ylabel=label)
    _legend_beside(figure, axes[0])
    return figure


def figure5(groups: Groups, k: int) -> Figure | None:
    """How much the pivot, alpha and a fixed temperature matter."""
    sweeps = (
        ("entropy pivot (nats)", _sweep((*PIVOTS, "curio"), "curio-pivot", 1.2)),
        ("alpha", _sweep((*ALPHAS, "curio"), "curio-alpha", 1.0)),
        ("fixed tau", _sweep(TAUS, "curio-tau", 0.0)),
    )
    if not any(name in groups for name in PIVOTS):
        return None
    figure, axes = _panels(2, 3, height=2.7)
    for row, (key, label) in enumerate(
        (("id_pass1", "ID pass@1"), (f"hard_pass{k}", f"hard pass@{k}"))
    ):
        for column, (name, values) in enumerate(sweeps):
            axis = axes[row * 3 + column]
            points = []
            for run, x in sorted(values.items(), key=lambda item: item[1]):
                if run in groups:
                    points.append((x, *_mean(groups[run], score(key))))
            _line(axis, points, COLOURS[1], "CurioSFT")
            if VANILLA in groups:
                y, error = _mean(groups[VANILLA], score(key))
                axis.axhline(y, color=COLOURS[0], label=title(VANILLA))
                axis.axhspan(y - error, y + error, color=COLOURS[0], alpha=0.12, linewidth=0)
            axis.set(xlabel=name, ylabel=label)
    _legend(figure, axes[0])
    return figure


# ---- parts --------------------------------------------------------------------------------------


def diversity(run: Finished) -> float | None:
    """Of 4-grams."""
    return run.extras.get("diversity", {}).get("ngram", {}).get("4")


def _sweep(names: Iterable[str], prefix: str, published: float) -> dict[str, float]:
    """The value of each run of a sweep; `curio` has the published one."""
    return {n: published if n == "curio" else float(n.removeprefix(prefix)) for n in names}


def _panels(rows: int, columns: int, *, width: float = 4.2, height: float = 3.3) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes: Sequence[Axes] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Figure, axis: Axes) -> None:
    """One for all panels, above them."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9
    )


def _legend_beside(figure: Figure, axis: Axes) -> None:
    """For more names than fit above."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)


def _look(number: int) -> tuple[str, str]:
    """Colour and mark of one of many methods."""
    return COLOURS[number % len(COLOURS)], "os^D"[number // len(COLOURS) % 4]


def _cross(
    axis: Axes,
    x: tuple[float, float],
    y: tuple[float, float],
    colour: str,
    marker: str,
    label: str,
) -> None:
    """A mark at two means, with their standard errors."""
    axis.errorbar(
        x[0],
        y[0],
        xerr=x[1] or None,
        yerr=y[1] or None,
        color=colour,
        marker=marker,
        linestyle="none",
        capsize=2,
        label=label,
    )


def _plain_numbers(axis: Axes) -> None:
    """0.05 rather than 5 x 10^-2 along a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")


def _line(
    axis: Axes,
    points: Sequence[Point],
    colour: str,
    label: str | None,
    *,
    style: str = "-",
    marker: str = "o",
) -> None:
    xs, ys, errors = ([point[i] for point in points] for i in range(3))
    axis.plot(xs, ys, style, color=colour, label=label, marker=marker, markersize=3.5)
    low = [y - e for y, e in zip(ys, errors, strict=True)]
    high = [y + e for y, e in zip(ys, errors, strict=True)]
    axis.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)


def _mean(group: Group, value: Value) -> tuple[float, float]:
    found = estimate(group.values(value).values())
    return (float("nan"), 0.0) if found is None else (found.mean, found.error or 0.0)


def _path(group: Group, key: str) -> list[Point]:
    """A score over the evaluated checkpoints."""
    return [(step, *_mean(group, _at(step, key))) for step in _steps(group)]


def _steps(group: Group) -> list[int]:
    return sorted({step for run in group for step in run.evaluations})


def _at(step: int, key: str) -> Value:
    return lambda run: run.evaluations.get(step, {}).get(key)


def _at_base(groups: Groups, key: str) -> list[Point]:
    return [(0, *_mean(groups[BASE], score(key)))] if BASE in groups else []


def _training(group: Group, key: str) -> list[Point]:
    """A training metric over the steps, smoothed."""
    by_step: dict[int, list[float]] = {}
    for run in group:
        values = [(row["step"], row[key]) for row in run.metrics if row.get(key) is not None]
        for place in range(len(values)):
            window = values[max(0, place - WINDOW // 2) : place + WINDOW // 2 + 1]
            mean = sum(value for _, value in window) / len(window)
            by_step.setdefault(values[place][0], []).append(mean)
    found = []
    for step, values in sorted(by_step.items()):
        known = estimate(values)
        if known is not None:
            found.append((step, known.mean, known.error or 0.0))
    return found
