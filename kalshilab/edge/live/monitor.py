"""Monitor live trading against the validated edge: five states, each with its evidence.

Paper or real trades are scored in daily batches (`kalshilab.edge.stats.sequential`), and two null hypotheses are tested
at any time: E0, "there is no edge", and E1, "the edge is at least the *lower* end of the validated interval".

============== ============== ==================================================================
E0 ≥ 1/α       E1 ≥ 1/α       state
============== ============== ==================================================================
no             no             ACCRUING: evidence is still being collected
yes            no             LIVE_CONFIRMED
no             yes            LIVE_REFUTED: stop
yes            yes            LIVE_WEAKER: real, but smaller; resize to the confidence sequence
yes, earlier   –              DECAYED: confirmed once, but the mean has fallen since
============== ============== ==================================================================

**Decay** is a change in the mean, so it has a separate test: a CUSUM (Page 1954) of 1 − λ (X − reference), which runs
from the day the edge was confirmed and restarts at 0 whenever it would be negative. The reference is the validated
lower end and, once that is refuted, the lower bound that live trading itself had reached until then. It is an
e-detector (Shin, Ramdas & Rinaldo 2024, "E-detectors"): while the mean stays at or above the reference, the expected
time to a false alarm is at least `arl` batches, and the probability of one within T batches is at most T / arl. E0
over windows of 90 days, started each month, detects whether the edge has recovered.

`kalshilab.edge.live.replay_gap` compares trades one by one with a replay, which detects a shortfall of one cent long
before the profit does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec
import numpy as np
import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.live.replay_gap import ReplayGap, replay_gap
from kalshilab.edge.schema import Criterion, Floats
from kalshilab.edge.stats.sequential import (
    LAMBDAS,
    ConfidenceSequence,
    EProcess,
    Sprt,
    day_batches,
    streams_needed,
)
from kalshilab.errors import EdgeError
from kalshilab.lazy import renamed

__all__ = ["STATES", "Cusum", "LiveState", "ReplayGap", "State", "monitor", "replay_gap"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

State = Literal["ACCRUING", "LIVE_CONFIRMED", "LIVE_REFUTED", "LIVE_WEAKER", "DECAYED"]
STATES: Final[tuple[State, ...]] = ("ACCRUING", "LIVE_CONFIRMED", "LIVE_REFUTED", "LIVE_WEAKER", "DECAYED")

_FRAME: Final = {
    "day": pl.Date,
    "n": pl.Int64,
    "log_e0": pl.Float64,
    "log_e1": pl.Float64,
    "cs_low": pl.Float64,
    "cs_high": pl.Float64,
    "log_cusum": pl.Float64,
}
_WINDOWS: Final = {
    "start": pl.Date,
    "stop": pl.Date,
    "batches": pl.Int64,
    "log_e0": pl.Float64,
    "confirmed_on": pl.Date,
}
_MIN_BATCHES: Final = 10
"""Fewest batches from which their variance is estimated."""


class LiveState(msgspec.Struct, frozen=True, kw_only=True):
    """State of live trading relative to the validated edge. Edges are in cents per contract."""

    state: State
    reason: str
    """The state in one sentence."""
    claim_lower: float
    """Lower end of the validated interval."""
    edge: float
    """Mean over the scored batches; NaN before the first one."""
    cs_low: float
    """Lower end of the confidence sequence."""
    cs_high: float
    """Upper end of the confidence sequence."""
    e0: float
    """Largest e-value so far against "no edge"."""
    e1: float
    """Largest e-value so far against "the edge is at least `claim_lower`"."""
    n: int
    """Entries in scored batches."""
    batches: int
    """Scored batches."""
    waiting: int
    """Entries in batches that have not closed."""
    overdue: int
    """Entries that were scored at their bounds because they had not settled in time."""
    needed: int | None
    """Approximate entries after which an edge of `claim_lower` is confirmed; None if it cannot be estimated."""
    streams: int
    """Number of streams: the largest number of batches that were open at once, or as given."""
    adaptive: int
    """Days on which an entry followed the settlement of another; their weights may depend on outcomes."""
    decayed_on: date | None
    """Day of the decay alarm; None while there is no alarm."""
    sprt: str | None
    """Secondary: decision of the SPRT of `claim_lower` against 0 with one trade per event; None while open."""
    frame: pl.DataFrame
    """One row per day on which batches closed: `day, n, log_e0, log_e1, cs_low, cs_high, log_cusum`.

    `cs_low` and `cs_high` are in cents. The logarithms are natural and in units of one stream (the threshold for
    α = 0.05 is log 20).
    """
    windows: pl.DataFrame
    """E0 over windows of entry days, one started each month: `start, stop, batches, log_e0, confirmed_on`."""

    def criterion(self) -> Criterion:
        """Return line 13 of a report card; it is not examined while evidence accrues."""
        passed = {"ACCRUING": None, "LIVE_CONFIRMED": True, "LIVE_WEAKER": True}.get(self.state, False)
        value = (
            f"E0 {self.e0:.3g}, E1 {self.e1:.3g}, [{self.cs_low:+.1f}, {self.cs_high:+.1f}] c, n = {self.n:,}"
        )
        return Criterion(13, "live", value, "E0 >= 20 and no decay", passed, self.state, self.reason)

    def __repr__(self) -> str:
        return f"<LiveState {self.state}: {self.reason}>"


class Cusum:
    """Change detector for a mean that falls below a reference.

    Args:
        arl: average run length: expected number of batches before a false alarm, at least; above 1.
        streams: number of streams, as in `EProcess`.

    >>> alarm = Cusum(arl=1000)
    >>> for x in [0.05] * 300 + [-0.10] * 100:
    ...     alarm.update(x, 2.0)
    >>> alarm.alarmed, alarm.n
    (True, 400)
    """

    def __init__(self, arl: float = 1000.0, streams: int = 1) -> None:
        if arl <= 1:
            raise EdgeError(f"arl must be above 1 batch, got {arl}")
        if streams < 1:
            raise EdgeError(f"streams must be at least 1, got {streams}")
        self.arl, self.streams, self.n = arl, streams, 0
        self._bets = np.asarray(LAMBDAS)
        self.restart()

    def restart(self) -> None:
        """Reset the statistic and the alarm; the count `n` is kept."""
        self._log = np.zeros((self.streams, len(self._bets)))
        self._peak = 0.0

    @renamed_keywords(reference="reference_cents")
    def update(self, x: float, reference_cents: float, stream: int = 0) -> None:
        """Add the mean of one batch.

        Args:
            x: mean profit of the batch in dollars per contract.
            reference_cents: reference mean in cents per contract; it must not depend on this batch or later ones.
            stream: index of the batch's stream.
        """
        score = np.log1p(self._bets * (reference_cents / 100 - x))
        self._log[stream] = np.maximum(self._log[stream], 0.0) + score
        self._peak = max(self._peak, self.log_value)
        self.n += 1

    @property
    def log_value(self) -> float:
        """Natural logarithm of the largest stream's statistic; the threshold is log(arl)."""
        return float(np.logaddexp.reduce(self._log, axis=1).max()) - math.log(len(self._bets))

    @property
    def alarmed(self) -> bool:
        """Whether the threshold was reached since the last restart."""
        return self._peak >= math.log(self.arl)


class _ClosedBatch(NamedTuple):
    """A batch that has closed; `place` modulo the number of streams is its stream."""

    closed: datetime
    entered: datetime
    place: int
    low: float
    high: float
    n: int


@renamed_keywords(horizon="horizon_days", slow="series_horizon_days", window="window_days")
def monitor(
    entries: pl.DataFrame,
    claim_lower: float,
    *,
    alpha: float = 0.05,
    horizon_days: float | None = None,
    series_horizon_days: Mapping[str, float] | None = None,
    streams: int | None = None,
    as_of: datetime | None = None,
    window_days: int = 90,
    arl: float = 1000.0,
) -> LiveState:
    """Test live entries against the validated edge; it may be called at any time and any number of times.

    Args:
        entries: all live entries from the first day on, settled or not (`kalshilab.edge.ENTRIES_SCHEMA`).
        claim_lower: lower end of the validated interval in cents per contract, not its middle.
        alpha: probability that E0 ever rejects a true null hypothesis, and the same for E1.
        horizon_days: days after which a batch is closed, with unsettled entries at their bounds; to be fixed
            beforehand. None: a batch stays open until its last settlement, and the streams follow from the longest
            wait.
        series_horizon_days: horizons of series whose markets are held longer, by series. Each such horizon has
            separate batches and streams, so that long holds do not delay the others.
        streams: number of streams of all other series. None: as the horizon requires, or without a horizon as the
            batches require.
        as_of: time of the information, inclusive: later events are ignored. None: the latest instant in the entries.
        window_days: length of the windows that detect whether a decayed edge has recovered.
        arl: expected number of batches before a false alarm of decay, at least.

    >>> from kalshilab.edge import simulated_entries
    >>> paper, _ = simulated_entries.entries(1_500, edge=8.0, hold_days=0.3, days=500, seed=2)
    >>> monitor(paper, 3.0).state
    'LIVE_CONFIRMED'

    Raises:
        EdgeError: `entries` is not a table of entries, an argument is out of range, or `streams` is too small for
            the batches that overlap.
    """
    if not 0 < alpha < 1:
        raise EdgeError(f"alpha must be a probability between 0 and 1, got {alpha}")
    if window_days < 1:
        raise EdgeError(f"window_days must be at least 1 day, got {window_days}")
    tables, total = _assign_streams(entries, horizon_days, series_horizon_days or {}, streams, as_of)
    scored = sorted(_closed_batches(tables), key=lambda b: (b.closed, b.entered, b.place))
    e0, e1 = EProcess(streams=total, alpha=alpha), EProcess(streams=total, claim=claim_lower, alpha=alpha)
    # Overdue entries count as losses in the lower bound and as wins in the upper bound.
    below, above = ConfidenceSequence(alpha, total), ConfidenceSequence(alpha, total)
    cusum = Cusum(arl, total)
    windows = _windows(scored, total, window_days, alpha)
    rows: list[tuple[date | float, ...]] = []
    n, decayed_on = 0, None
    for b in scored:
        n += b.n
        if decayed_on is not None and _has_recovered(windows, decayed_on, b.closed.date()):
            decayed_on = None
            cusum.restart()
        if e0.rejected and decayed_on is None:
            cusum.update(b.high, max(below.lower, 0.0) if e1.rejected else claim_lower, b.place % total)
            decayed_on = b.closed.date() if cusum.alarmed else None
        refuted = e1.rejected
        e0.update(b.low, batch=b.place)
        e1.update(b.high, batch=b.place)
        below.update(b.low, batch=b.place)
        above.update(b.high, batch=b.place)
        if e1.rejected and not refuted:
            cusum.restart()
        row = (b.closed.date(), n, e0.log_e, e1.log_e, below.lower, above.upper, cusum.log_value)
        if rows and rows[-1][0] == row[0]:
            rows.pop()
        rows.append(row)
    state = _state(e0.rejected, e1.rejected, decayed_on is not None)
    x = np.array([b.low for b in scored])
    needed = _needed(x, n, claim_lower, total, alpha)
    edge = 100 * float(x.mean()) if len(x) else math.nan
    counts = pl.concat(tables)
    return LiveState(
        state=state,
        reason=_reason(state, edge, claim_lower, n, needed, (below.lower, above.upper), decayed_on),
        claim_lower=claim_lower,
        edge=edge,
        cs_low=below.lower,
        cs_high=above.upper,
        e0=e0.max,
        e1=e1.max,
        n=n,
        batches=len(scored),
        waiting=int(counts.filter(pl.col("closed").is_null())["n"].sum()),
        overdue=int(counts["overdue"].sum()),
        needed=needed,
        streams=total,
        adaptive=int(counts["adaptive"].sum()),
        decayed_on=decayed_on,
        sprt=_sprt(entries, claim_lower, as_of),
        frame=pl.DataFrame(rows, _FRAME, orient="row"),
        windows=windows,
    )


def _assign_streams(
    entries: pl.DataFrame,
    horizon_days: float | None,
    series_horizon_days: Mapping[str, float],
    streams: int | None,
    as_of: datetime | None,
) -> tuple[list[pl.DataFrame], int]:
    """Return the batches of each horizon with their places, and the total number of streams."""
    if as_of is None:
        as_of = entries.select(pl.max_horizontal(pl.col("ts", "entry_ts", "settled_ts").max())).item()
    groups: list[tuple[pl.DataFrame, int]] = []
    for days in [None, *sorted(set(series_horizon_days.values()))]:
        if days is None:
            selected = ~pl.col("series").is_in(list(series_horizon_days)).fill_null(False)
        else:
            selected = pl.col("series").is_in([s for s, d in series_horizon_days.items() if d == days])
        horizon = horizon_days if days is None else days
        batches = day_batches(entries.filter(selected), horizon_days=horizon, as_of=as_of)
        required = streams_needed(batches)
        available = required if horizon is None else math.ceil(horizon) + 1
        if days is None and streams is not None:
            available = streams
        if available < required:
            raise EdgeError(
                f"streams must be at least {required}, the number of batches that were open at once, got {available}; "
                f"pass streams={required}, or a horizon_days="
            )
        if len(batches) or days is None:
            groups.append((batches, available))
    total = sum(available for _, available in groups)
    placed, offset = [], 0
    for batches, available in groups:
        i = pl.int_range(pl.len(), dtype=pl.Int64)
        placed.append(batches.with_columns(place=(i // available) * total + offset + i % available))
        offset += available
    return placed, total


def _closed_batches(tables: list[pl.DataFrame]) -> Iterator[_ClosedBatch]:
    for table in tables:
        for row in table.filter(pl.col("closed").is_not_null()).iter_rows(named=True):
            yield _ClosedBatch(row["closed"], row["entered"], row["place"], row["low"], row["high"], row["n"])


def _windows(scored: list[_ClosedBatch], total: int, window_days: int, alpha: float) -> pl.DataFrame:
    """Compute E0 for the batches entered within `window_days` days from the first of each month."""
    rows: list[tuple[date, date, int, float, date | None]] = []
    if scored:
        first, last = min(b.entered for b in scored).date(), max(b.entered for b in scored).date()
        start = first.replace(day=1)
        while start <= last:
            stop = start + timedelta(days=window_days)
            test = EProcess(streams=total, alpha=alpha)
            confirmed_on = None
            for b in scored:
                if start <= b.entered.date() < stop:
                    test.update(b.low, batch=b.place)
                    confirmed_on = b.closed.date() if test.rejected and confirmed_on is None else confirmed_on
            rows.append((start, stop, test.n, test.log_e, confirmed_on))
            start = (start + timedelta(days=32)).replace(day=1)
    return pl.DataFrame(rows, _WINDOWS, orient="row")


def _has_recovered(windows: pl.DataFrame, decayed_on: date, today: date) -> bool:
    """Return whether a window that started after the alarm has confirmed an edge by today."""
    return windows.filter(pl.col("start") > decayed_on, pl.col("confirmed_on") <= today).height > 0


def _state(confirmed: bool, refuted: bool, decayed: bool) -> State:
    if decayed:
        return "DECAYED"
    if confirmed:
        return "LIVE_WEAKER" if refuted else "LIVE_CONFIRMED"
    return "LIVE_REFUTED" if refuted else "ACCRUING"


def _needed(x: Floats, n: int, claim_lower: float, streams: int, alpha: float) -> int | None:
    """Return the entries at which the expected logarithm of E0 reaches its threshold if the edge is `claim_lower`."""
    if len(x) < _MIN_BATCHES or claim_lower <= 0 or not np.ptp(x):
        return None
    bets, mean = np.asarray(LAMBDAS), claim_lower / 100
    growth = bets * mean - bets**2 * (float(x.var(ddof=1)) + mean**2) / 2
    batches = np.arange(1, 200_001)
    # Each of the L streams gets an equal part of the batches.
    capital = np.logaddexp.reduce(np.multiply.outer(batches / streams, growth), axis=1) - math.log(len(bets))
    reached = np.searchsorted(np.maximum.accumulate(capital), math.log(streams / alpha))
    return None if reached == len(batches) else math.ceil(int(batches[reached]) * n / len(x))


def _sprt(entries: pl.DataFrame, claim_lower: float, as_of: datetime | None) -> str | None:
    """Return the decision of the SPRT on the first trade of each event, in order of settlement; None while open."""
    known = entries.filter(
        "filled", pl.col("value").is_not_null(), pl.col("cost").is_between(0, 1, closed="none")
    )
    if as_of is not None:
        known = known.filter(pl.col("settled_ts") <= as_of)
    if claim_lower <= 0 or known.is_empty():
        return None
    single = known.sort("entry_ts", "fire").unique("event", keep="first", maintain_order=True)
    single = single.sort("settled_ts", "fire")
    test = Sprt(claim_lower)
    test.update(single["value"].to_numpy(), single["cost"].to_numpy())
    return test.decision


def _reason(
    state: State,
    edge: float,
    claim_lower: float,
    n: int,
    needed: int | None,
    bounds: tuple[float, float],
    decayed_on: date | None,
) -> str:
    interval = f"[{bounds[0]:+.1f}, {bounds[1]:+.1f}] c"
    if state == "ACCRUING":
        enough = "" if needed is None else f", about {needed:,} needed"
        shown = "" if math.isnan(edge) else f"; so far {edge:+.2f} c {interval}"
        return f"{n:,} entries{enough}{shown}"
    sentence = {
        "LIVE_CONFIRMED": f"{edge:+.2f} c {interval} after {n:,} entries, consistent with {claim_lower:+.1f} c",
        "LIVE_REFUTED": f"{edge:+.2f} c {interval} after {n:,} entries: not the {claim_lower:+.1f} c validated; stop",
        "LIVE_WEAKER": f"real, but below {claim_lower:+.1f} c: {edge:+.2f} c {interval}; size for the lower end",
        "DECAYED": f"confirmed once, but below its earlier level since {decayed_on}; {n:,} entries",
    }
    return sentence[state]
