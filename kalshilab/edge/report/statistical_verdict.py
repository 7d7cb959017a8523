"""The statistical part of a verdict: lines 3 to 8 of the report card, which need settled entries only.

It is separate from `kalshilab.edge.report.validate` so that simulated entries can test it by the hundred: how often it
passes a world without an edge, and how often it finds a planted one.
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
from kalshilab.edge.robustness.price_matching import PriceMatchedExcess, excess
from kalshilab.edge.schema import Criterion, check_entries, settled
from kalshilab.edge.stats.inference import Inference, infer
from kalshilab.edge.stats.multiplicity import fewest_b

__all__ = ["Judgement", "judge", "resamples_for"]

MAX_RESAMPLES: Final = 50_000
"""Maximum number of resamples; a family with more trials than they can resolve needs a lockbox."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """Lines 3 to 8 of a report card and the results behind them."""

    criteria: tuple[Criterion, ...]
    """Lines 3 to 8, in order."""
    measures: Measures
    """Averages of the entries."""
    inference: Inference | None
    """Edge with its interval and p-value; None if no settled entry was filled."""
    excess: PriceMatchedExcess | None
    """Price-matched excess; None if the sample is too small or there is too little to compare with."""

    @property
    def verdict(self) -> str:
        """The verdict from these lines alone."""
        return criteria.verdict_of(self.criteria)


def resamples_for(trials: int, resamples: int) -> int:
    """Return the number of resamples for a number of trials.

    It is at least `resamples` and twice the smallest number that can reject at `trials`, and at most 50,000.
    """
    return min(MAX_RESAMPLES, max(resamples, 2 * fewest_b(trials)))


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
    """Judge entries by lines 3 to 8 of the report card.

    Args:
        entries: entries of the signal (`kalshilab.edge.ENTRIES_SCHEMA`).
        pool: entries by the same rule without the signal, to compare prices with; None: line 6 is not examined.
        trials: number of hypotheses tried in the family, this one included.
        walk_forward: pooled edge in cents of the folds of a walk-forward; None: without a walk-forward.
        resamples: minimum number of resamples.
        seed: seed of the resamples.
        executor: executor that resamples; None: this process. The result is the same.

    >>> from kalshilab.edge import simulated_entries
    >>> judge(*simulated_entries.entries(1_000, edge=5.0, seed=1), resamples=199, walk_forward=4.0).verdict
    'VALID'

    Raises:
        EdgeError: `entries` or `pool` lacks columns of entries, or a market has no event.
    """
    check_entries(entries)
    known = settled(entries)
    measures = measure(entries)
    if not known["filled"].any():
        line = criteria.sample(events=0, days=0, losses=0, mde=float("inf"))
        rest = [criteria.unexamined(n, "no entry was filled and settled") for n in range(4, 9)]
        return Judgement(criteria=(line, *rest), measures=measures, inference=None, excess=None)
    drawn = resamples_for(trials, resamples)
    inference = infer(entries, resamples=drawn, seed=seed, executor=executor)
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
        criteria.unexamined(6, "there are too few entries to compare prices with")
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
