"""The numbers, frames and header sentence of a report card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from kalshilab.edge.entries import maker
from kalshilab.edge.entries.censoring import Cohort
from kalshilab.edge.entries.pnl import Role, sizes
from kalshilab.edge.entries.rules import Left
from kalshilab.edge.entries.terms import EntryTerms
from kalshilab.edge.lookahead.strategy import AuditedStrategy
from kalshilab.edge.report.statistical_verdict import Judgement
from kalshilab.edge.report.waterfall import waterfall
from kalshilab.edge.robustness import perturbations, price_matching
from kalshilab.edge.schema import event_means
from kalshilab.edge.sizing.kelly import drawdowns, stake
from kalshilab.edge.stats.inference import Inference
from kalshilab.edge.stats.multiplicity import deflated_sharpe, event_matrix, pbo, romano_wolf
from kalshilab.tape.tape import Tape

__all__ = [
    "as_of_fire",
    "deflated",
    "frames_of",
    "header_of",
    "look_ahead_gap",
    "numbers_of",
    "overfit",
    "resting_quotes",
    "sized_stake",
]

VARIANTS: Final = 10
"""Minimum number of settings for which overfitting is measured."""
MIN_EVENTS: Final = 16
"""Minimum number of common events for which overfitting is measured."""


def as_of_fire(entries: pl.DataFrame) -> float | None:
    """Return the edge in cents at the prices of the firing prints; None if nothing is settled."""
    known = entries.filter(pl.col("value").is_not_null())
    each = known.group_by("event").agg((pl.col("value") - pl.col("fired_at")).mean().alias("e")).sort("event")
    return 100 * float(each["e"].to_numpy().mean()) if each.height else None


def deflated(
    cells: Sequence[perturbations.GridCell], entries: pl.DataFrame, inference: Inference, trials: int
) -> float | None:
    """Return the deflated Sharpe ratio of the events for a number of trials; None if it cannot be computed."""
    own = event_means(entries)
    others = [event_means(cell.entries) for cell in cells]
    ratios = [x.mean() / x.std(ddof=1) for x in (own, *others[1:]) if len(x) > 1 and x.std(ddof=1) > 0]
    if len(own) < 2 or not own.std() > 0:
        return None
    return deflated_sharpe(own, ratios, trials=max(trials, len(ratios)), n_eff=inference.n_eff)


def look_ahead_gap(steps: pl.DataFrame) -> dict[str, float]:
    """Return the edge of the whole life less that as of the fire, in cents, and its standard error."""
    known = {row["step"]: row for row in steps.iter_rows(named=True)}
    whole, fired = known.get("whole life"), known.get("as of the fire")
    if whole is None or fired is None:
        return {}
    errors = [(row["upper"] - row["lower"]) / 3.92 for row in (whole, fired) if row["lower"] is not None]
    se = float(np.hypot(*errors)) if len(errors) == 2 else errors[0]
    return {"look_ahead_gap": whole["edge"] - fired["edge"], "look_ahead_gap_se": se}


def overfit(cells: Sequence[perturbations.GridCell]) -> tuple[float | None, int, float | None, float]:
    """Return the numbers of line 9.

    Returns:
        Fraction of the neighbouring settings with a positive edge (None: without neighbours); their number; the
        probability of backtest overfitting (None: too few settings or events); and the probability that the best
        setting of one half of the events loses in the other.
    """
    others = [perturbations.interval(c.entries).estimate for c in cells[1:]]
    known = [edge for edge in others if np.isfinite(edge)]
    share = sum(edge > 0 for edge in known) / len(known) if known else None
    if len(cells) < VARIANTS:
        return share, len(known), None, 1.0
    matrix, _ = event_matrix([c.entries for c in cells])
    if len(matrix) < MIN_EVENTS:
        return share, len(known), None, 1.0
    overfitting = pbo(matrix)
    return share, len(known), overfitting.pbo, overfitting.loss


def sized_stake(entries: pl.DataFrame, inference: Inference, seed: int) -> dict[str, float]:
    """Return the stake per bet and its drawdowns, as fractions of the bankroll.

    The stake is a quarter of the Kelly fraction at the lower 80 % bound of the shrunken edge, capped. The drawdown is the
    95 % quantile over resampled records, with the recorded edge and with the lower bound of the edge.
    """
    cost = float(entries.filter("filled")["cost"].mean())  # type: ignore[arg-type]
    share = stake(inference.edge, max(inference.se_event, inference.se_day), cost)
    if not share > 0:
        return {"stake": 0.0}
    quantiles = drawdowns(entries, share, lower_cents=inference.lower, seed=seed).frame
    worst = quantiles.filter(pl.col("quantile") == 0.95).row(0, named=True)
    return {"stake": share, "drawdown": worst["drawdown"], "drawdown_at_lower": worst["at_lower"]}


def frames_of(
    strategy: AuditedStrategy, entries: pl.DataFrame, pool: pl.DataFrame | None, cells: Sequence[perturbations.GridCell],
    tape: Tape, markets: pl.DataFrame, claim: float | None, judged: Judgement, seed: int,
) -> dict[str, pl.DataFrame]:  # fmt: skip
    """Return the frames that every card has, and the heatmap if there are neighbouring settings."""
    others = entries.head(0) if pool is None else pool
    matched = judged.excess
    frames = {
        "entries": entries,
        "pool": others,
        "waterfall": waterfall(
            strategy,
            entries,
            tape,
            markets,
            claim=claim,
            excess=None if matched is None else matched.edge,
            seed=seed,
        ),
        "calibration": price_matching.calibration(entries, others, seed=seed),
        "buckets": price_matching.buckets(entries, others, seed=seed)[0]
        if matched is None
        else matched.buckets,
        "concentration": perturbations.concentration(entries).curve,
        "categories": perturbations.by_category(entries),
        "blocks": perturbations.blocks(entries).frame,
    }
    if len(cells) > 1:
        rows = perturbations.summary(cells)
        stars = np.zeros(len(cells), np.bool_)
        if judged.inference is not None and len(cells) >= 2:
            matrix, _ = event_matrix([c.entries for c in cells])
            if len(matrix):
                stars = romano_wolf(matrix, resamples=499, seed=seed).rejected()
        frames["heatmap"] = rows.with_columns(pl.Series("star", stars))
    return frames


def resting_quotes(
    entries: pl.DataFrame, tape: Tape, markets: pl.DataFrame, terms: EntryTerms, seed: int,
) -> tuple[pl.DataFrame, dict[str, float]]:  # fmt: skip
    """Return the markouts of resting quotes, and as numbers their adverse selection and the edge in the "touch" book."""
    books = terms.books
    assert books is not None
    quotes = maker.joining(entries.rename({"fire": "row"}), books)
    rested = maker.rest(
        quotes, tape, books, contracts=terms.contracts, life_s=terms.window_s, latency_s=terms.latency_s
    )
    touch = maker.entries(rested, markets, book="touch", schedule=terms.schedule)
    return maker.markouts(rested, books, markets, seed=seed), {
        "adverse_selection": maker.selection(rested, markets).gap,
        "net_at_touch": perturbations.interval(touch).estimate,
    }


def numbers_of(
    judged: Judgement, left: Left, cohort: Cohort, trials: int, entries: pl.DataFrame, markets: pl.DataFrame,
    terms: EntryTerms,
) -> dict[str, Any]:  # fmt: skip
    """Return the numbers of the card up to line 8; edges are in cents, rates are fractions."""
    m, found = judged.measures, judged.inference
    enough = bool(judged.criteria[0].passed)
    role: Role = "maker" if terms.rule == "maker" else "taker"
    sized = sizes(entries, markets, schedule=terms.schedule, role=role) if m.n_filled else {}
    return {
        "fires": left.fires,
        "kept": cohort.kept,
        "filled": m.n_filled,
        "fill_rate": m.fill_rate,
        "events": m.n_events,
        "days": m.n_days,
        "losses": m.n_losses,
        "win_rate": m.win_rate,
        "break_even": m.break_even,
        "as_of_fire": as_of_fire(entries),
        "gross": m.gross,
        "net": m.edge,
        "lower": None if found is None else found.lower,
        "upper": None if found is None else found.upper,
        # The p-value of too small a sample would mislead.
        "p": found.p if found is not None and enough else None,
        "p_adjusted": min(1.0, found.p * trials) if found is not None and enough else None,
        "mde": None if found is None else found.mde_at(trials),
        "n_eff": None if found is None else found.n_eff,
        "trials": trials,
        "per_fire": m.edge_per_fire,
        "return_on_cost": m.edge_per_dollar,
        "annualised": m.annualised,
        "excess": None if judged.excess is None else judged.excess.edge.estimate,
        "excess_bucketed": None if judged.excess is None else judged.excess.bucketed.estimate,
        "censored": cohort.share,
        **{f"net_at_{size}": edge for size, edge in sized.items()},
    }


def header_of(
    strategy: AuditedStrategy,
    claim: float | None,
    verdict: str,
    numbers: Mapping[str, Any],
    trials: int,
    counted: str,
) -> str:
    """Return the header of the card: the verdict in one sentence."""
    parts = [] if claim is None else [f"claimed {claim:+.1f} c"]
    if numbers["as_of_fire"] is not None:
        parts.append(f"as of the fire {numbers['as_of_fire']:+.1f} c")
    if numbers["filled"]:
        parts.append(f"{numbers['per_fire']:+.1f} c per contract bought")
        interval = "" if numbers["lower"] is None else f" [{numbers['lower']:+.1f}, {numbers['upper']:+.1f}]"
        parts.append(f"net {numbers['net']:+.1f} c per fire{interval}")
    else:
        parts.append(f"{numbers['fires']:,} fires, none filled and settled")
    parts.append(verdict)
    parts.append(f"m = {trials:,} trial{'s' if trials != 1 else ''} ({counted})")
    if numbers["mde"] is not None and np.isfinite(numbers["mde"]):
        parts.append(f"this sample cannot detect less than {numbers['mde']:.1f} c")
    return f"{strategy.name.upper()}: {'; '.join(parts)}."
