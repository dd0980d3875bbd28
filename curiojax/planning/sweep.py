"""Which rematerialisation and which micro-batch: all are compiled, the best that fits wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from curiojax.config import RunConfig
from curiojax.models import ModelConfig
from curiojax.models.config import REMAT_POLICIES
from curiojax.planning.plan import Plan, make_plan, make_recipe
from curiojax.planning.target import Target
from curiojax.sharding import make_mesh, num_batch_shards

Setting = tuple[str, int]  # remat, rows_per_microbatch


def default_rows(config: RunConfig, target: Target) -> list[int]:
    """The config's own number of rows, and one, two and four per device."""
    mesh = make_mesh(**config.mesh.model_dump(), devices=target.devices)
    shards = num_batch_shards(mesh)
    return sorted({config.rows_per_microbatch, *(shards * n for n in (1, 2, 4))})


def sweep(
    config: RunConfig,
    model: ModelConfig,
    target: Target,
    rows: Sequence[int],
    *,
    known: Sequence[Plan] = (),
    progress: Callable[..., None] = lambda *_, **__: None,
) -> list[Plan]:
    """Plans of all policies times all micro-batches, but for what cannot fit.

    Larger micro-batches are left out once a smaller one did not fit the target under the policy.

    Args:
      rows: values of `rows_per_microbatch`.
      known: plans of this config that need not be compiled again.
      progress: `(done, total, **stats)`, called after every compilation.
    """
    ready = {setting_of(plan): plan for plan in known}
    rows = sorted(set(rows))
    total, done = len(REMAT_POLICIES) * len(rows), 0
    found: list[Plan] = []
    for remat in REMAT_POLICIES:
        for position, count in enumerate(rows):
            plan = ready.get((remat, count)) or make_plan(
                changed(config, remat, count), replace(model, remat=remat), target
            )
            found.append(plan)
            done += 1
            full = not plan.fits(target.chip.memory)
            if full:
                done += len(rows) - position - 1
            progress(done, total, remat=remat, rows=count, GB=round(plan.peak / 1e9, 1))
            if full:
                break
    return found


def check_rows(config: RunConfig, model: ModelConfig, target: Target, rows: Sequence[int]) -> None:
    """Raises a `ConfigError` for a number of rows that the mesh cannot split."""
    for count in rows:
        make_recipe(changed(config, model.remat, count), model, target)


def changed(config: RunConfig, remat: str, rows: int) -> RunConfig:
    """The config with another policy and micro-batch."""
    section = config.model.model_copy(update={"remat": remat})
    return config.model_copy(update={"model": section, "rows_per_microbatch": rows})


def setting_of(plan: Plan) -> Setting:
    return plan.config.model.remat, plan.config.rows_per_microbatch


def suggest(plans: Sequence[Plan], memory: float) -> Plan | None:
    """The plan with the most tokens per second among those that fit; None where none does.

    Within two percent the smallest micro-batch wins: the last one of a step is half empty on
    average, which costs more than that.
    """
    fitting = [plan for plan in plans if plan.fits(memory)]
    if not fitting:
        return None
    best = max(plan.tokens_per_second for plan in fitting)
    return min(
        (plan for plan in fitting if plan.tokens_per_second >= 0.98 * best),
        key=lambda plan: (plan.config.rows_per_microbatch, plan.peak),
    )
