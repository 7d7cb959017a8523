"""Waterfall from the claimed edge to the audited one, each step with a more realistic entry than the one before.

======================== ==============================================================================
step                     entry
======================== ==============================================================================
claimed                  as published
whole life               markets with a fire, at the mean of all their prices; for reverse line
                         movement with the published filter, which needs the last price. Neither is
                         known at the fire: the step shows the size of the look-ahead
as of the fire           price of the firing print
mid                      half a spread from that price
bought                   price of the entry rule, without unfilled fires
after fees               the same after fees
fills missed             the same, with zero profit for unfilled fires: the edge that is judged
price-matched            excess over entries at the same prices without the signal
======================== ==============================================================================
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import polars as pl

from kalshilab.edge.lookahead.strategy import AuditedStrategy
from kalshilab.edge.lookahead.whole_life import whole_life_edge
from kalshilab.edge.report.claims import WATERFALL_SCHEMA
from kalshilab.edge.schema import Interval, settled
from kalshilab.edge.stats.inference import bootstrap
from kalshilab.signals.builtin.rlm import Rlm
from kalshilab.tape.tape import Tape
from kalshilab.units import PRICE

__all__ = ["life_mean", "waterfall"]

RESAMPLES: Final = 499
MIN_GAP_SE: Final = 3.0
"""Number of standard errors from which a gap between the whole life and the fire is reported."""


class _WaterfallStep(NamedTuple):
    """A row of the waterfall."""

    step: str
    edge: float
    lower: float | None
    upper: float | None
    n: int | None
    note: str


def life_mean(entries: pl.DataFrame, tape: Tape) -> pl.Series:
    """Return our side's mean price over all prints of each entry's market, in dollars.

    .. warning:: Later prints are included, so this looks ahead. It serves the waterfall only.
    """
    prints = tape.lazy()
    means = (
        prints.select(pl.col("ticker").cast(pl.String), "price")
        .filter(pl.col("ticker").is_in(entries["ticker"].unique().implode()))
        .group_by("ticker")
        .agg((pl.col("price").cast(pl.Float64).mean() / PRICE).alias("mean"))
        .collect()
    )
    joined = entries.select("ticker", "side").join(means, on="ticker", how="left", maintain_order="left")
    return joined.select(
        pl.when(pl.col("side") == "yes").then("mean").otherwise(1 - pl.col("mean"))
    ).to_series()


def waterfall(
    strategy: AuditedStrategy,
    entries: pl.DataFrame,
    tape: Tape,
    markets: pl.DataFrame,
    *,
    claim: float | None,
    excess: Interval | None,
    seed: int = 0,
) -> pl.DataFrame:
    """Return the steps as a frame: `step, edge, lower, upper` (cents; 95 % interval over events), `n`, `note`.

    Args:
        strategy: strategy that fired.
        entries: entries that are judged, with fees.
        tape: the tape.
        markets: the markets table.
        claim: claimed edge in cents; None: the step is left out.
        excess: price-matched excess; None: the step is left out.
        seed: seed of the resamples.
    """
    known = settled(entries)
    filled = known.filter("filled")
    # The steps before the entry measure the information of the signal, so they include unfilled fires.
    valued = entries.filter(pl.col("value").is_not_null())
    steps: list[_WaterfallStep | None] = []
    if claim is not None:
        steps.append(_WaterfallStep("claimed", claim, None, None, None, "as published"))
    steps += _flagged(
        _whole_life(strategy, valued, tape, markets, seed),
        _step(
            "as of the fire",
            _edge(valued, valued["value"] - valued["fired_at"], seed),
            "price of the firing print",
        ),
    )
    steps += [
        _step("mid", _edge(valued, valued["value"] - valued["mid"], seed), "half a spread from that price"),
        _step(
            "bought",
            _edge(filled, filled["value"] - filled["price"], seed),
            "price of the entry rule, filled fires only",
        ),
        _step("after fees", _edge(filled, filled["pnl"], seed), "filled fires only"),
    ]
    if filled.height < known.height:
        steps.append(
            _step(
                "fills missed", _edge(known, known["pnl"], seed), "judged edge: unfilled fires earn nothing"
            )
        )
    steps.append(_step("price-matched", excess, "excess over the same prices without the signal"))
    return pl.DataFrame([step for step in steps if step is not None], schema=WATERFALL_SCHEMA, orient="row")


def _whole_life(
    strategy: AuditedStrategy, valued: pl.DataFrame, tape: Tape, markets: pl.DataFrame, seed: int
) -> _WaterfallStep | None:
    """Return the step that looks ahead, by the published method if the signal has one; None without fires."""
    rule = strategy.signal
    if isinstance(rule, Rlm) and rule.parameters.get("side", "no") == "no" and tape.in_memory:
        parameters = {k: rule.parameters[k] for k in ("yes_threshold", "min_trades", "min_drop")}
        whole = whole_life_edge(tape, markets, **parameters)
        note = "looks ahead: filter and entry over the whole life"
        return _WaterfallStep("whole life", whole.edge, None, None, whole.n, note) if whole.n else None
    if not valued.height:
        return None
    edge = _edge(valued, valued["value"] - life_mean(valued, tape), seed)
    return _step("whole life", edge, "looks ahead: mean of all prices, later ones included")


def _step(name: str, edge: Interval | None, note: str) -> _WaterfallStep | None:
    """Return a step with its edge; None without an edge."""
    return None if edge is None else _WaterfallStep(name, edge.estimate, edge.lower, edge.upper, edge.n, note)


def _edge(frame: pl.DataFrame, pnl: pl.Series, seed: int) -> Interval | None:
    """Return the mean profit over events with its interval; None for fewer than two events."""
    events = pl.DataFrame({"event": frame["event"], "pnl": pnl}).group_by("event", maintain_order=True).mean()
    if events.height < 2:
        return None
    found = bootstrap(events["pnl"].to_numpy(), np.arange(events.height), resamples=RESAMPLES, seed=seed)
    return Interval(found.estimate, found.lower, found.upper, found.p, frame.height, events.height)


def _flagged(
    whole: _WaterfallStep | None, fired: _WaterfallStep | None
) -> tuple[_WaterfallStep | None, _WaterfallStep | None]:
    """Return both steps; the note of the whole life states a gap to the fire above three standard errors."""
    if whole is None or fired is None or fired.lower is None or fired.upper is None:
        return whole, fired
    gap = whole.edge - fired.edge
    if gap / max((fired.upper - fired.lower) / 3.92, 1e-12) > MIN_GAP_SE:
        whole = whole._replace(note=whole.note.replace("looks ahead", f"looks ahead by {gap:+.1f} c", 1))
    return whole, fired
