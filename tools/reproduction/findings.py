"""What was found, in words and numbers: `summary.md`, the README's section, and `results.md`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from reproduction import statistics
from reproduction.figures import HEADINGS, caption
from reproduction.methods import data_title, title
from reproduction.paper_tables import BY_STEPS, EQUAL, seeds_of
from reproduction.plan import (
    AFTER_SFT,
    BEYOND,
    COUNTDOWN,
    HYBRIDS,
    LOW_LR,
    OTHER_SETS,
    RIVALS,
    TABLE2,
    VANILLA,
    WARM_UP,
    with_grpo,
)
from reproduction.records import Data, Groups, score
from reproduction.statistics import FEWEST_SEEDS, Difference
from reproduction.tables import Column, Table, text

AT_EQUAL = "at equal ID pass@1"
RL_CONTROLS = (f"{VANILLA}+grpo", f"{LOW_LR}+grpo")
SAME_START = f"{WARM_UP}+grpo"  # the control of the single-stage methods
CONTROLS = (VANILLA, LOW_LR, *RL_CONTROLS, SAME_START)
POINTS = "Percentage points, mean over seeds of the difference within a seed, 95 % t interval."
READINGS = {1: "higher", 0: "not told apart", -1: "lower"}
PICTURES = ("table2", "figure1")  # that a README has room for
SHORT = {  # the columns of a table that a README has room for
    "table1": ("method", "ID pass@", "hard pass@", "entropy", "paper", "seeds"),
    "table2": ("method", "ID pass@", "hard pass@", "entropy", "at equal ID", "paper", "seeds"),
    "table3": ("method", "ID pass@", "hard pass@", "paper", "seeds"),
    "table4": ("method", "ID pass@", "hard pass@", "longer pass@", "entropy", "seeds"),
}


class Finding(NamedTuple):
    """One score of one method against one control, within a seed."""

    data: str
    method: str
    control: str
    score: str
    difference: Difference


def findings(data: Data) -> list[Finding]:
    """Every comparison that is read; listed here once, so that their number is known."""
    found: list[Finding] = []
    for world in data.worlds:
        for name in data.sets(world):
            groups, where = data.groups(world, name), data_title(world, name)
            for method in (*TABLE2[1:], *BEYOND):
                found += _changes(groups, method, VANILLA, where, data)
                found += _at_equal(groups, method, VANILLA, where, data)
                found += _at_equal(groups, method, LOW_LR, where, data)
            for control in RL_CONTROLS:
                for method in ("grpo", *HYBRIDS, *with_grpo((WARM_UP, *AFTER_SFT))):
                    if (method, control) == RL_CONTROLS:
                        continue  # the other way round it is there already
                    found += _changes(groups, method, control, where, data, rl=True)
            for method in HYBRIDS:  # the same start, prompts and steps, without demonstrations
                found += _changes(groups, method, SAME_START, where, data)
            for method, rivals in RIVALS.items():
                for rival in rivals:
                    if rival not in (VANILLA, *RL_CONTROLS):  # those are above
                        found += _changes(groups, method, rival, where, data)
    return found


def _changes(
    groups: Groups, method: str, control: str, where: str, data: Data, *, rl: bool = False
) -> Iterable[Finding]:
    """At the end of both runs; what was rewarded may also have been guessed, hence the steps."""
    if method in groups and control in groups and method != control:
        k = data.samples
        scores = {"id_pass1": "ID pass@1", f"hard_pass{k}": f"hard pass@{k}"}
        if rl:
            scores |= {"hard_pass1": "hard pass@1", f"search_hard_pass{k}": BY_STEPS.format(k=k)}
        for key, label in scores.items():
            change = statistics.compare(groups[method], groups[control], score(key))
            if change is not None:
                yield Finding(where, title(method), title(control), label, change)


def _at_equal(
    groups: Groups, method: str, control: str, where: str, data: Data
) -> Iterable[Finding]:
    """Where the control had the method's accuracy, strictly and by the search."""
    if method in groups and control in groups and method != control:
        for search in (False, True):
            change = statistics.at_equal(
                groups[method], groups[control], data.samples, search=search
            )
            label = f"hard pass@{data.samples} {AT_EQUAL}{', search' if search else ''}"
            if change is not None:
                yield Finding(where, title(method), title(control), label, change)


class Words(NamedTuple):
    """The two texts.

    Attributes:
      summary: how the results were made, what may be said, the short tables, folded.
      results: the same, open, and all comparisons.
      lead: the paragraphs that both begin with.
      told: the tables of what may be said.
    """

    summary: str
    results: str
    lead: Sequence[str]
    told: Sequence[Table]


class Asked(NamedTuple):
    """What the runs belong to.

    Attributes:
      command: that makes them.
      planned: how many runs it asks for; some may not be finished.
      sizes: of the base model of each world, in parameters.
    """

    command: str
    planned: int
    sizes: Mapping[str, int]


def in_words(
    data: Data,
    tables: Sequence[tuple[str, Table]],
    asked: Asked,
    pictures: Collection[str] = (),
) -> Words:
    """What is written of finished runs, of whose targets there are `pictures`."""
    found = findings(data)
    runs = (
        f"{len(data.runs)} runs"
        if len(data.runs) == asked.planned
        else f"{len(data.runs)} of {asked.planned} runs"
    )
    lead = [f"Made by `{asked.command}`: {runs}. {_scope(data, asked.sizes)}"]
    told: list[Table] = []
    most = max((f.difference.count for f in found), default=0)
    if most < FEWEST_SEEDS:
        lead.append(
            f"**With {seeds_of([most])} nothing is claimed**; {FEWEST_SEEDS} are the least for "
            "that. The numbers below are what was measured."
        )
    else:
        lead.append(_how_many(found))
        told = _told(found, data.samples)
    drawn = [
        f"![{HEADINGS[target]}]({target}.png)\n\n*{caption(target)}*"
        for target in PICTURES
        if target in pictures
    ]
    parts = [*lead, *drawn, *(table.markdown() for table in told)]
    others = [data_title(COUNTDOWN, name) for name in OTHER_SETS]
    short = [
        _short(target, table)
        for target, table in tables
        if target in SHORT and not table.heading.endswith(tuple(others))
    ]
    every = [_comparisons(found, data)] if found else []
    return Words(
        _joined([*parts, *(table.markdown(folded=True) for table in short)]),
        _joined([*parts, *(table.markdown() for table in (*short, *every))]),
        lead,
        told,
    )


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _scope(data: Data, sizes: Mapping[str, int]) -> str:
    millions = {world: f"{sizes[world] / 1e6:.1f}" for world in data.worlds if world in sizes}
    shipped = dict.fromkeys(size for world, size in millions.items() if "@" not in world)
    said = " and ".join(shipped) or "unknown"
    for world, size in millions.items():
        if "@" in world:
            said += f" ({world.replace('@', ' from ')}: {size})"
    return (
        "A seed is a draw of the demonstrations, an order of the batches and a draw of evaluation "
        "problems and samples, which all methods share; the base model of a world is one and the "
        f"same. Models of {said} million parameters: nothing here says what a language model does. "
        "The paper's numbers stand beside ours for the order of the methods only."
    )


def _how_many(found: Sequence[Finding]) -> str:
    """How many comparisons leave out zero."""
    enough = [f for f in found if f.difference.count >= FEWEST_SEEDS]
    clear = [f for f in enough if f.difference.sign]
    return (
        f"Of the {len(enough)} comparisons that have {FEWEST_SEEDS} seeds or more (95 % t "
        f"intervals), {len(clear)} leave out zero; about {max(1, round(0.05 * len(enough)))} "
        "would by chance, if nothing differed. Which comparisons there are is fixed in the code; "
        "none is corrected for the others."
    )


def _told(found: Sequence[Finding], samples: int) -> list[Table]:
    """What may be said: comparisons with enough seeds, by stage."""
    told = [f for f in found if f.difference.count >= FEWEST_SEEDS and _is_told(f)]
    after_sft = [f for f in told if AT_EQUAL in f.score]
    after_rl = [f for f in told if AT_EQUAL not in f.score]
    said = f"What {FEWEST_SEEDS} seeds say of"
    tables = [
        _side_by_side(
            f"{said} the supervised stage", after_sft, f"{POINTS} {EQUAL.format(k=samples)}"
        ),
        _side_by_side(f"{said} RL", after_rl, POINTS),
    ]
    return [table for table in tables if table.rows]


def _side_by_side(heading: str, told: Sequence[Finding], below: str) -> Table:
    """A row for each comparison, a column for each set of demonstrations."""
    places = list(dict.fromkeys(f.data for f in told))
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for f in told:
        rows.setdefault((f.method, f.control, f.score), {})[f.data] = _with_reading(f)
    order = {name: i for i, name in enumerate(dict.fromkeys(f.method for f in told))}
    controls = {name: i for i, name in enumerate(map(title, CONTROLS))}
    columns = [Column(name) for name in ("method", "control", "score", *places)]
    cells = [
        [*key, *(found.get(place) for place in places)]
        for key, found in sorted(
            rows.items(), key=lambda row: (order[row[0][0]], controls[row[0][1]])
        )
    ]
    return Table(heading, columns, cells, below)


def _is_told(f: Finding) -> bool:
    """Whether it compares CurioSFT, base-support KL or a single-stage method with its control."""
    after_sft = {title("curio"), title("base-kl")}
    after_rl = {title("curio+grpo"), title("base-kl+grpo")}
    if f.method in after_sft:
        return AT_EQUAL in f.score
    if f.control == title(SAME_START):
        return True
    return f.method in after_rl and f.control in map(title, RL_CONTROLS)


def _with_reading(f: Finding) -> str:
    return f"{_number(f.difference)}, {_reading(f.difference)}"


def _reading(value: Difference) -> str:
    if value.count < FEWEST_SEEDS:
        return f"too few seeds ({value.count})"
    return READINGS[value.sign]


def _number(value: Difference) -> str:
    return text(value, Column(""))


def _comparisons(found: Sequence[Finding], data: Data) -> Table:
    columns = [Column(name) for name in ("data", "method", "control", "score", "difference")]
    columns.append(Column("seeds", 1.0, 0))
    claims = any(f.difference.count >= FEWEST_SEEDS for f in found)
    if claims:
        columns.append(Column("reading"))
    rows = []
    for f in found:
        row = [f.data, f.method, f.control, f.score, f.difference, str(f.difference.count)]
        if claims:
            row.append(_reading(f.difference))
        rows.append(row)
    return Table("All comparisons", columns, rows, f"{POINTS} {EQUAL.format(k=data.samples)}")


def _short(target: str, table: Table) -> Table:
    """The table with the columns that a README has room for."""
    kept = [
        i
        for i, column in enumerate(table.columns)
        if any(column.title.startswith(name) for name in SHORT[target])
        and column.title not in ("ID pass@16", "hard pass@1")
        and (target == "table3" or " - " not in column.title)
    ]
    rows = [[row[i] for i in kept] for row in table.rows]
    return Table(table.heading, [table.columns[i] for i in kept], rows, table.caption)
