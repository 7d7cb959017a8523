"""From what was claimed to what is left: the steps of an edge, each a little more honest than the one before.

======================== ==============================================================================
step                     entry
======================== ==============================================================================
claimed                  whatever the claim was made of
whole life               the markets that ever fired, at the mean of all their prices; for reverse line
                         movement the published filter too, which asks for the last price.  Nobody can
                         know either: the step is drawn to show what it is worth
as of the fire           the price of the firing print
mid                      half a spread from it
bought                   the price of the entry rule, fires without a fill left out
after fees               what a contract earned that was bought
fills missed             a fire without a fill counts as nothing: what is judged
price-matched            over what others paid who bought at such prices without the signal
======================== ==============================================================================
"""

from __future__ import annotations

from typing import Any, Final

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

DRAWS: Final = 499
GAP: Final = 3.0
"""Standard errors from which on a gap between the whole life and the fire is told."""


def life_mean(entries: pl.DataFrame, tape: Tape) -> pl.Series:
    """Our side's mean price over all prints of each entry's market, later ones included, in dollars.

    .. warning:: Looks ahead.  For the waterfall only.
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


def _flagged(rows: list[dict[str, Any]]) -> None:
    """Where the whole life shows more than the moment of the fire by over three standard errors, its note says so."""
    known = {row["step"]: row for row in rows}
    whole, fired = known.get("whole life"), known.get("as of the fire")
    if whole is None or fired is None or fired["lower"] is None:
        return
    errors = (whole["edge"] - fired["edge"]) / max((fired["upper"] - fired["lower"]) / 3.92, 1e-12)
    if errors > GAP:
        gap = whole["edge"] - fired["edge"]
        whole["note"] = whole["note"].replace("looks ahead", f"looks ahead by {gap:+.1f} c", 1)


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
    """The steps as a frame: `step, edge, lower, upper` (cents; 95 % interval over events), `n`, `note`.

    Args:
        entries: as judged, with fees.
        claim: cents, or None.
        excess: the price-matched step, or None.
    """
    known = settled(entries)
    # Whatever was filled or not: the steps before the entry ask what the signal knew, not what could be bought.
    free = entries.filter(pl.col("value").is_not_null())
    rows: list[dict[str, Any]] = []

    def step(name: str, edge: Interval | None, note: str) -> None:
        if edge is not None:
            rows.append(
                {
                    "step": name,
                    "edge": edge.estimate,
                    "lower": edge.lower,
                    "upper": edge.upper,
                    "n": edge.n,
                    "note": note,
                }
            )

    def of(frame: pl.DataFrame, pnl: pl.Series) -> Interval | None:
        events = (
            pl.DataFrame({"event": frame["event"], "pnl": pnl}).group_by("event", maintain_order=True).mean()
        )
        if events.height < 2:
            return None
        found = bootstrap(events["pnl"].to_numpy(), np.arange(events.height), resamples=DRAWS, seed=seed)
        return Interval(found.estimate, found.lower, found.upper, found.p, frame.height, events.height)

    if claim is not None:
        rows.append(
            {
                "step": "claimed",
                "edge": claim,
                "lower": None,
                "upper": None,
                "n": None,
                "note": "as published",
            }
        )
    rule = strategy.signal
    if isinstance(rule, Rlm) and rule.parameters.get("side", "no") == "no" and tape.in_memory:
        parameters = {k: rule.parameters[k] for k in ("yes_threshold", "min_trades", "min_drop")}
        whole = whole_life_edge(tape, markets, **parameters)
        if whole.n:
            rows.append(
                {
                    "step": "whole life",
                    "edge": whole.edge,
                    "lower": None,
                    "upper": None,
                    "n": whole.n,
                    "note": "looks ahead: filter and entry over the whole life",
                }
            )
    elif free.height:
        step(
            "whole life",
            of(free, free["value"] - life_mean(free, tape)),
            "looks ahead: mean of all prices, later ones too",
        )
    step("as of the fire", of(free, free["value"] - free["fired_at"]), "the firing print's price")
    _flagged(rows)
    step("mid", of(free, free["value"] - free["mid"]), "half a spread from it")
    filled = known.filter("filled")
    step("bought", of(filled, filled["value"] - filled["price"]), "a price that could be paid")
    step("after fees", of(filled, filled["pnl"]), "of those that were bought")
    if filled.height < known.height:
        step("fills missed", of(known, known["pnl"]), "what is judged: no fill, no profit")
    step("price-matched", excess, "over the same prices without the signal")
    return pl.DataFrame(rows, schema=WATERFALL_SCHEMA)
