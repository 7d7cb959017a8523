"""The statistical part of a verdict: what settled entries alone can say, lines 3 to 8 of the report card.

Apart from `kalshilab.edge.report.validate` so that it can be tried on made entries by the hundred: how often it
passes worlds without an edge, and how often it finds one that is there.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Final

import msgspec
import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.entries.pnl import Measures, measure
from kalshilab.edge.report import criteria
from kalshilab.edge.robustness.perturbations import blocks, concentration
from kalshilab.edge.robustness.price_matching import Excess, excess
from kalshilab.edge.schema import Criterion, check_entries, settled
from kalshilab.edge.stats.inference import Inference, infer
from kalshilab.edge.stats.multiplicity import fewest_b

__all__ = ["Judgement", "judge", "resamples_for"]

MOST: Final = 50_000
"""Resamples at most; a family with more trials than they can tell apart needs a lockbox."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What entries say."""

    criteria: tuple[Criterion, ...]
    """Lines 3 to 8."""
    measures: Measures
    inference: Inference | None
    """None without a single settled entry."""
    excess: Excess | None
    """None where there was nothing to compare with."""

    @property
    def verdict(self) -> str:
        """The verdict if these lines were all."""
        return criteria.verdict_of(self.criteria)


def resamples_for(trials: int, resamples: int) -> int:
    """Return a number of resamples that can reject at so many trials: at least `resamples`, and twice the minimum."""
    return min(MOST, max(resamples, 2 * fewest_b(trials)))


@renamed_keywords(b="resamples")
def judge(
    entries: pl.DataFrame,
    pool: pl.DataFrame | None,
    *,
    trials: int = 1,
    walk_forward: float | None = None,
    resamples: int = 1999,
    seed: int = 0,
    executor: Executor | None = None,
) -> Judgement:
    """Judge entries by lines 3 to 8.

    Args:
        entries: what the signal bought (`kalshilab.edge.ENTRIES_SCHEMA`).
        pool: entries by the same rule without the signal, to compare prices with; None: line 6 is not examined.
        trials: hypotheses tried in the family, this one included.
        walk_forward: pooled edge in cents of the folds of a walk-forward, if there was one.
        resamples: minimum number of resamples.
        executor: who draws them; None: this process.

    >>> from kalshilab.edge import simulated_entries
    >>> judge(*simulated_entries.entries(1_000, edge=5.0, seed=1), resamples=199, walk_forward=4.0).verdict
    'VALID'

    Raises:
        EdgeError: not entries, or a market without an event.
    """
    check_entries(entries)
    known = settled(entries)
    measures = measure(entries)
    if not known["filled"].any():
        line = criteria.sample(events=0, days=0, losses=0, mde=float("inf"))
        rest = [criteria.unexamined(n, "nothing was bought and settled") for n in range(4, 9)]
        return Judgement(criteria=(line, *rest), measures=measures, inference=None, excess=None)
    drawn = resamples_for(trials, resamples)
    inference = infer(entries, b=drawn, seed=seed, executor=executor)
    size = criteria.sample(
        events=inference.n_events, days=inference.n_days, losses=inference.n_losses, mde=inference.mde
    )
    if not size.passed:
        why = "the sample is too small"
        rest = [criteria.unexamined(n, why) for n in range(4, 9)]
        return Judgement(criteria=(size, *rest), measures=measures, inference=inference, excess=None)
    compared = None if pool is None else excess(entries, pool, seed=seed)
    concentrated = concentration(entries)
    blocked = blocks(entries)
    lines = (
        size,
        criteria.direction(inference.lower, inference.upper),
        criteria.net_edge(
            p=inference.p, trials=trials, lower=inference.lower, mde=inference.mde, resamples=drawn
        ),
        criteria.unexamined(6, "no pool to compare prices with")
        if compared is None
        else criteria.price_proxy(
            excess=compared.edge.estimate, lower975=compared.lower975, bucketed=compared.bucketed.estimate
        ),
        criteria.concentration(
            top_share=concentrated.top_share,
            without_top=concentrated.without_top,
            without=concentrated.without_category,
            estimands={
                "per event": measures.edge,
                "per fire": measures.edge_per_fire,
                "per dollar": measures.edge_per_dollar * 100,
            },
        ),
        criteria.time(blocked.edges, walk_forward),
    )
    return Judgement(criteria=lines, measures=measures, inference=inference, excess=compared)
