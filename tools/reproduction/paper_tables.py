"""Tables 1 to 4 from finished runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from curiojax.evaluation.comparison import estimate
from reproduction import paper
from reproduction.methods import data_title, title
from reproduction.paper import PaperTable
from reproduction.plan import (
    AFTER_SFT,
    BACKBONES,
    BASE,
    BEYOND,
    COUNTDOWN,
    HYBRIDS,
    LOW_LR,
    MAIN,
    MODCHAIN,
    RIVALS,
    TABLE1,
    TABLE2,
    VANILLA,
    WARM_UP,
    with_grpo,
)
from reproduction.records import Data, Finished, Groups, score
from reproduction.statistics import at_equal, compare
from reproduction.tables import Cell, Column, Table, mean

Of = Callable[[str], Cell]  # a cell, by the method
Columns = list[tuple[Column, Of]]

PERCENT = (
    "Accuracies in percent, mean ± standard error over {seeds}; in brackets 95 % t "
    "intervals of differences within a seed."
)
EQUAL = (
    "At equal ID: hard pass@{k} above the checkpoints of the control where they have the same ID "
    "pass@1 (straight lines between them); -: their range does not reach that accuracy. Search: "
    "both judged by the steps, not the format, which a control that has not learnt it yet lacks."
)
BY_STEPS = "hard pass@{k} by the steps"
STEPS = (
    "By the steps: the way to the answer is right; an answer alone may be a guess, of which "
    "mod-chain has ten."
)
ABOVE = (
    "Percentage points, mean over seeds of the difference within a seed, 95 % t interval; the "
    "paper's are differences between its single runs."
)
ENTROPY = "Entropy: nats per token of the model's own samples on ID problems."


def build(target: str, data: Data) -> list[Table]:
    """The tables of a target, without those that nothing was run for."""
    makers = {"table1": table1, "table2": table2, "table3": table3, "table4": table4}
    return [table for table in makers[target](data) if table.rows]


def table1(data: Data) -> Iterable[Table]:
    """Entropy regularisation and what it does out of distribution."""
    for world in (COUNTDOWN, MODCHAIN):
        for name in data.sets(world):
            groups = data.groups(world, name)
            columns = [*scores(groups, data), *against(groups, VANILLA, data)]
            columns += printed(paper.TABLE1, {"Avg.": "paper: OOD avg."})
            heading = f"Table 1: {data_title(world, name)}"
            yield table(heading, groups, (BASE, *TABLE1), columns, ENTROPY)


def table2(data: Data) -> Iterable[Table]:
    """The supervised stage."""
    shown = {
        "ID avg.": "paper: ID avg.",
        "OOD avg.": "paper: OOD avg.",
        "Entropy": "paper: entropy",
        "Speed": "paper: s/step",
    }
    for name in data.sets(COUNTDOWN):
        groups = data.groups(COUNTDOWN, name)
        columns = [*scores(groups, data), *against(groups, VANILLA, data)]
        columns += equal(groups, VANILLA, data, "at equal ID vs vanilla")
        columns += equal(groups, LOW_LR, data, "at equal ID vs 0.4 x lr")
        columns += equal(groups, VANILLA, data, "search, at equal ID vs vanilla", search=True)
        columns += [speed(groups), *printed(paper.TABLE2, shown)]
        caption = (
            f"{EQUAL.format(k=data.samples)} {ENTROPY} s/step: median; runs share the machine's "
            "cores, so only large ratios mean anything."
        )
        made = table(
            f"Table 2: {data_title(COUNTDOWN, name)}",
            groups,
            (BASE, *TABLE2, *BEYOND),
            columns,
            caption,
        )
        yield Table(made.heading, made.columns, [*made.rows, *hotter(groups, made)], made.caption)
        if name == MAIN:
            yield above("Table 2", groups, "curio", paper.TABLE2, data)


def table3(data: Data) -> Iterable[Table]:
    """The RL stage, from every start, and the single-stage methods."""
    groups = data.groups(COUNTDOWN, MAIN)
    control = f"{VANILLA}+grpo"
    columns = [*scores(groups, data), *against(groups, control, data, accuracy=True)]
    columns += printed(paper.TABLE3, {"ID avg.": "paper: ID avg.", "OOD avg.": "paper: OOD avg."})
    names = ("grpo", *HYBRIDS, *with_grpo((WARM_UP, *AFTER_SFT)))
    caption = f"{ENTROPY} Differences are to {title(control)}. "
    caption += f"Single-stage methods start from {title(WARM_UP)}: the base model has never seen "
    caption += "the answer's format, and demonstration gradients in proportion to the probability "
    caption += f"cannot teach it. They, and their control {title(WARM_UP + '+grpo')}, see all easy "
    caption += "problems of the SFT stage beside the hard ones, and take twice the steps."
    yield table(f"Table 3: {data_title(COUNTDOWN, MAIN)}", groups, names, columns, caption)
    yield above("Table 3", groups, "curio+grpo", paper.TABLE3, data)


def table4(data: Data) -> Iterable[Table]:
    """Other base models."""
    starts = (VANILLA, LOW_LR, *BACKBONES[1:])
    names = [BASE, *(name for start in starts for name in (start, f"{start}+grpo")), "base-kl-0.3"]
    for world in data.worlds:
        for name in data.sets(world):
            groups = data.groups(world, name)
            if world == COUNTDOWN and name != MAIN:
                continue
            by_steps = Column(
                BY_STEPS.format(k=data.samples), key=f"search_hard_pass{data.samples}"
            )
            columns = [*scores(groups, data), (by_steps, _mean_of(groups, by_steps.key or ""))]
            columns += [*against(groups, VANILLA, data)]
            columns += equal(groups, VANILLA, data, "at equal ID vs vanilla")
            for model, printed_table in paper.TABLE4.items():
                columns += printed(printed_table, {"ID avg.": f"paper: {model} avg."})
            heading = f"Table 4: {data_title(world, name)}"
            yield table(heading, groups, names, columns, f"{STEPS} {ENTROPY}")


def above(name: str, groups: Groups, method: str, source: PaperTable, data: Data) -> Table:
    """The claim of one of the paper's tables: what its method has more than each of the others.

    Args:
      name: of the table.
      method: the paper's, a key of `RIVALS`.
      source: the paper's own numbers.
    """
    keys = {"id_pass1": "ID pass@1", f"hard_pass{data.samples}": f"hard pass@{data.samples}"}
    averages = ("ID avg.", "OOD avg.")

    def printed_difference(other: str, column: str) -> Cell:
        ours, theirs = source.value(method, column), source.value(other, column)
        return None if ours is None or theirs is None else round(ours - theirs, 1)

    rows: list[list[Cell]] = []
    for other in RIVALS[method]:
        if method in groups and other in groups:
            found = [compare(groups[method], groups[other], score(key)) for key in keys]
            seeds = len(groups[method].by_seed.keys() & groups[other].by_seed.keys())
            theirs = [printed_difference(other, column) for column in averages]
            rows.append([title(other), *found, *theirs, seeds])
    columns = [Column("method"), *(Column(heading, key=key) for key, heading in keys.items())]
    columns += [Column(f"paper: {column}", signed=True) for column in averages]
    heading = f"{name}, what {title(method)} has more: {data_title(COUNTDOWN, MAIN)}"
    return Table(heading, [*columns, Column("seeds", 1.0, 0)], rows, ABOVE)


# ---- columns ------------------------------------------------------------------------------------


def table(
    heading: str, groups: Groups, names: Sequence[str], columns: Columns, caption: str
) -> Table:
    """A row for each of the methods that were run; columns without any value are left out."""
    present = [name for name in names if name in groups]
    counts = {len(groups[name]) for name in present}
    if len(counts) > 1:
        columns = [*columns, (Column("seeds", 1.0, 0), lambda name: len(groups[name]))]
    full = [(column, of) for column, of in columns if any(of(n) is not None for n in present)]
    rows = [[title(name), *(of(name) for _, of in full)] for name in present]
    headings = [Column("method"), *(column for column, _ in full)]
    return Table(heading, headings, rows, f"{PERCENT.format(seeds=seeds_of(counts))} {caption}")


def scores(groups: Groups, data: Data) -> Columns:
    """What every table shows of a method."""
    keys = {}
    for kind, name in (("id", "ID"), ("hard", "hard"), ("longer", "longer")):
        for k in dict.fromkeys((1, data.samples)):
            keys[f"{kind}_pass{k}"] = f"{name} pass@{k}"
    columns = [Column(heading, key=key) for key, heading in keys.items()]
    columns.append(Column("entropy", scale=1.0, decimals=3, key="entropy"))
    return [(column, _mean_of(groups, column.key or "")) for column in columns]


def _mean_of(groups: Groups, key: str) -> Of:
    return lambda name: mean(groups.get(name), key)


def against(groups: Groups, control: str, data: Data, *, accuracy: bool = False) -> Columns:
    """Paired differences to a control."""
    keys = [f"hard_pass{data.samples}", *(["id_pass1"] if accuracy else [])]

    def of(key: str) -> Of:
        def cell(name: str) -> Cell:
            if name in (control, BASE) or control not in groups or name not in groups:
                return None
            return compare(groups[name], groups[control], score(key))

        return cell

    labels = {"id_pass1": "ID pass@1"}
    return [
        (Column(f"{labels.get(key, f'hard pass@{data.samples}')} - {title(control)}"), of(key))
        for key in keys
    ]


def equal(
    groups: Groups, control: str, data: Data, heading: str, *, search: bool = False
) -> Columns:
    """What is kept beyond a control at equal accuracy."""

    def cell(name: str) -> Cell:
        if name in (control, BASE) or control not in groups or name not in groups:
            return None
        return at_equal(groups[name], groups[control], data.samples, search=search)

    return [(Column(heading), cell)]


def speed(groups: Groups) -> tuple[Column, Of]:
    def seconds(run: Finished) -> float | None:
        return run.seconds_per_step

    return Column("s/step", 1.0, 3), lambda name: mean(groups.get(name), seconds)


def printed(source: PaperTable, columns: Mapping[str, str]) -> Columns:
    """Numbers of the paper, under our headings."""
    return [
        (Column(ours, decimals=2 if theirs == "Entropy" else 1), _value_of(source, theirs))
        for theirs, ours in columns.items()
    ]


def _value_of(source: PaperTable, column: str) -> Of:
    return lambda name: source.value(name, column)


def hotter(groups: Groups, shape: Table) -> list[list[Cell]]:
    """Rows of plain SFT sampled at higher temperatures, in the shape of a table."""
    vanilla = groups.get(VANILLA)
    temperatures = [t for run in vanilla or () for t in run.extras.get("decoding", {})]
    rows: list[list[Cell]] = []
    for t in dict.fromkeys(temperatures):
        row: list[Cell] = [f"control: {title(VANILLA)} sampled at T = {t}"]
        for column in shape.columns[1:]:
            decoded = [run.extras.get("decoding", {}).get(t, {}) for run in vanilla or ()]
            row.append(estimate(scores.get(column.key) for scores in decoded))
        rows.append(row)
    return rows


def seeds_of(counts: Collection[int]) -> str:
    """`1 seed`, `5 seeds`, `1 to 5 seeds`."""
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low} to {high} seeds" if low < high else f"{high} seed{'' if high == 1 else 's'}"
