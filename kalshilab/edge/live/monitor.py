"""Is live what was validated?  Five states, each with the evidence that put it there.

Paper or real trades are scored by day batches (`kalshilab.edge.stats.sequential`), and two questions are asked of them at
any time: E0, "is there no edge?", and E1, "is the edge at least the *lower* end of the validated interval?".

============== ============== ==================================================================
E0 ≥ 1/α       E1 ≥ 1/α       state
============== ============== ==================================================================
no             no             ACCRUING: so many entries, about so many needed
yes            no             LIVE_CONFIRMED
no             yes            LIVE_REFUTED: stop
yes            yes            LIVE_WEAKER: real, but smaller; resize to the confidence sequence
was            –              DECAYED: confirmed once, and no longer
============== ============== ==================================================================

**Decay** is a change, so it needs its own test: a CUSUM (Page 1954) of 1 − λ (X − reference), which starts anew
whenever it has nothing to say, from the day the edge was confirmed.  The reference is the validated lower end, and
once that is refuted the level that live itself had shown until then.  An e-detector (Shin, Ramdas & Rinaldo 2024,
"E-detectors"): while the mean stays at the reference or above, the expected time to a false alarm is at least `arl`
batches, and the chance of one within T batches at most T / arl.  E0 over 90 days, restarted each month, says whether
the edge is back.

`kalshilab.edge.live.replay_gap` compares trade by trade with a replay, which shows a cent of shortfall long before profit does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import polars as pl

from kalshilab.edge.live.replay_gap import Gap, replay_gap
from kalshilab.edge.schema import Criterion
from kalshilab.edge.stats.sequential import (
    LAMBDAS,
    ConfidenceSequence,
    EProcess,
    Sprt,
    day_batches,
    streams_needed,
)
from kalshilab.errors import EdgeError

__all__ = ["STATES", "Cusum", "Gap", "LiveState", "State", "monitor", "replay_gap"]

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
_FEW: Final = 10
"""Batches below which their spread is not judged."""


class LiveState(msgspec.Struct, frozen=True, kw_only=True):
    """Where live trading stands against what was validated.  Edges are cents a contract."""

    state: State
    reason: str
    """The state in one sentence."""
    claim_lower: float
    """Lower end of the validated interval."""
    edge: float
    """Mean over the scored batches; NaN before the first."""
    cs_low: float
    """Lower end of the confidence sequence."""
    cs_high: float
    """Upper end of the confidence sequence."""
    e0: float
    """Evidence for an edge: the largest so far."""
    e1: float
    """Evidence against the validated one: the largest so far."""
    n: int
    """Entries in scored batches."""
    batches: int
    """Scored batches."""
    waiting: int
    """Entries in batches that have not closed."""
    overdue: int
    """Entries that were scored at their worst, because they had not settled in time."""
    needed: int | None
    """Entries after which an edge at `claim_lower` is confirmed, about; None while nothing can be said."""
    streams: int
    """Batches that were open at once, at most."""
    adaptive: int
    """Days on which an entry followed another's settlement; their weights may depend on outcomes."""
    decayed_on: date | None
    """Day of the alarm, while it stands."""
    sprt: str | None
    """Secondary: the SPRT's decision between no edge and `claim_lower`, one trade an event; None while open."""
    frame: pl.DataFrame
    """A row for each day on which batches closed: `day, n, log_e0, log_e1, cs_low, cs_high, log_cusum`, natural
    logarithms in units of one stream (the line of α = 0.05 is log 20)."""
    windows: pl.DataFrame
    """E0 over 90 days of entries, started each month: `start, stop, batches, log_e0, confirmed_on`."""

    def criterion(self) -> Criterion:
        """Line 13 of a report card; not examined while evidence accrues."""
        passed = {"ACCRUING": None, "LIVE_CONFIRMED": True, "LIVE_WEAKER": True}.get(self.state, False)
        value = (
            f"E0 {self.e0:.3g}, E1 {self.e1:.3g}, [{self.cs_low:+.1f}, {self.cs_high:+.1f}] c, n = {self.n:,}"
        )
        return Criterion(13, "live", value, "E0 >= 20 and no decay", passed, self.state, self.reason)

    def __repr__(self) -> str:
        return f"<LiveState {self.state}: {self.reason}>"


class Cusum:
    """Alarm that a mean has fallen below a reference which it had held.

    Args:
        arl: batches that pass on average before a false alarm, at least.
        streams: as for `EProcess`.

    >>> alarm = Cusum(arl=1000)
    >>> for x in [0.05] * 300 + [-0.10] * 100:
    ...     alarm.update(x, 2.0)
    >>> alarm.alarmed, alarm.n
    (True, 400)
    """

    def __init__(self, arl: float = 1000.0, streams: int = 1) -> None:
        if arl <= 1 or streams < 1:
            raise EdgeError(f"Cusum({arl=}, {streams=}): more than one batch, at least one stream")
        self.arl, self.streams, self.n = arl, streams, 0
        self._bets = np.asarray(LAMBDAS)
        self.restart()

    def restart(self) -> None:
        """Forget everything."""
        self._log = np.zeros((self.streams, len(self._bets)))
        self._peak = 0.0

    def update(self, x: float, reference: float, stream: int = 0) -> None:
        """Take a batch's mean in dollars a contract; `reference` in cents is to be known before it."""
        self._log[stream] = np.maximum(self._log[stream], 0.0) + np.log1p(self._bets * (reference / 100 - x))
        self._peak = max(self._peak, self.log_value)
        self.n += 1

    @property
    def log_value(self) -> float:
        """Natural logarithm of the largest stream's statistic; the line is log(arl)."""
        return float(np.logaddexp.reduce(self._log, axis=1).max()) - math.log(len(self._bets))

    @property
    def alarmed(self) -> bool:
        """Whether the line was reached since the last restart."""
        return self._peak >= math.log(self.arl)


class _Batch(NamedTuple):
    """A closed batch and its place: `place` modulo the streams is its stream."""

    closed: datetime
    entered: datetime
    place: int
    low: float
    high: float
    n: int


def monitor(
    entries: pl.DataFrame,
    claim_lower: float,
    *,
    alpha: float = 0.05,
    horizon: float | None = None,
    slow: Mapping[str, float] | None = None,
    streams: int | None = None,
    as_of: datetime | None = None,
    window: int = 90,
    arl: float = 1000.0,
) -> LiveState:
    """Judge live entries against what was validated; it may be called as often as one likes.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`, settled or not; all of them, from the first day on.
        claim_lower: cents; the lower end of the validated interval, not its middle.
        alpha: the chance that E0, or E1, ever errs.
        horizon: days after which a batch is closed with what has not settled at its worst; to be fixed beforehand.
            None: batches wait for their last settlement, and the streams follow from the longest wait.
        slow: horizons in days of series whose markets are held longer; each such horizon has its own batches and
            streams, so that long holds do not slow the others.
        streams: for what is not `slow`; None: what the horizon needs, or without one what the batches needed.
        as_of: nothing later is known, inclusive; None: the latest instant in the entries.
        window: days of the windows that say whether an edge is back.
        arl: batches before a false alarm of decay, on average at least.

    >>> from kalshilab.edge import simulated_entries
    >>> paper, _ = simulated_entries.entries(1_500, edge=8.0, hold=0.3, days=500, seed=2)
    >>> monitor(paper, 3.0).state
    'LIVE_CONFIRMED'

    Raises:
        EdgeError: these are no entries; `streams` is too small for batches that overlap.
    """
    if not 0 < alpha < 1 or window < 1:
        raise EdgeError(f"monitor({alpha=}, {window=}): a chance between 0 and 1, at least a day")
    tables, total = _lots(entries, horizon, slow or {}, streams, as_of)
    scored = sorted(_placed(tables, total), key=lambda b: (b.closed, b.entered, b.place))
    e0, e1 = EProcess(streams=total, alpha=alpha), EProcess(streams=total, claim=claim_lower, alpha=alpha)
    # What was overdue is at its worst for either bound.
    below, above = ConfidenceSequence(alpha, total), ConfidenceSequence(alpha, total)
    cusum = Cusum(arl, total)
    windows = _windows(scored, total, window, alpha)
    rows: list[tuple[Any, ...]] = []
    n, decayed_on = 0, None
    for b in scored:
        n += b.n
        if decayed_on is not None and _is_back(windows, decayed_on, b.closed.date()):
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


def _lots(
    entries: pl.DataFrame,
    horizon: float | None,
    slow: Mapping[str, float],
    streams: int | None,
    as_of: datetime | None,
) -> tuple[list[pl.DataFrame], int]:
    """The batches of each horizon with their places, and how many streams there are in all."""
    if as_of is None:
        as_of = entries.select(pl.max_horizontal(pl.col("ts", "entry_ts", "settled_ts").max())).item()
    usual = entries.filter(~pl.col("series").is_in(list(slow)).fill_null(False))
    lots: list[tuple[pl.DataFrame, int]] = []
    for days in [None, *sorted(set(slow.values()))]:
        mine = (
            usual
            if days is None
            else entries.filter(pl.col("series").is_in([s for s in slow if slow[s] == days]))
        )
        wait = horizon if days is None else days
        batches = day_batches(mine, horizon=wait, as_of=as_of)
        need = streams_needed(batches)
        have = need if wait is None else math.ceil(wait) + 1
        if days is None and streams is not None:
            have = streams
        if have < need:
            raise EdgeError(
                f"streams={have}: up to {need} batches were open at once; give streams={need}, or a horizon="
            )
        if len(batches) or days is None:
            lots.append((batches, have))
    total = sum(have for _, have in lots)
    placed, offset = [], 0
    for batches, have in lots:
        i = pl.int_range(pl.len(), dtype=pl.Int64)
        placed.append(batches.with_columns(place=(i // have) * total + offset + i % have))
        offset += have
    return placed, total


def _placed(tables: list[pl.DataFrame], total: int) -> Iterator[_Batch]:
    for table in tables:
        for row in table.filter(pl.col("closed").is_not_null()).iter_rows(named=True):
            yield _Batch(row["closed"], row["entered"], row["place"], row["low"], row["high"], row["n"])


def _windows(scored: list[_Batch], total: int, window: int, alpha: float) -> pl.DataFrame:
    """E0 of the batches entered within `window` days of the first of each month."""
    rows: list[tuple[date, date, int, float, date | None]] = []
    if scored:
        first, last = min(b.entered for b in scored).date(), max(b.entered for b in scored).date()
        start = first.replace(day=1)
        while start <= last:
            stop = start + timedelta(days=window)
            test = EProcess(streams=total, alpha=alpha)
            confirmed_on = None
            for b in scored:
                if start <= b.entered.date() < stop:
                    test.update(b.low, batch=b.place)
                    confirmed_on = b.closed.date() if test.rejected and confirmed_on is None else confirmed_on
            rows.append((start, stop, test.n, test.log_e, confirmed_on))
            start = (start + timedelta(days=32)).replace(day=1)
    return pl.DataFrame(rows, _WINDOWS, orient="row")


def _is_back(windows: pl.DataFrame, decayed_on: date, today: date) -> bool:
    """Whether a window that began after the alarm has confirmed an edge by today."""
    return windows.filter(pl.col("start") > decayed_on, pl.col("confirmed_on") <= today).height > 0


def _state(confirmed: bool, refuted: bool, decayed: bool) -> State:
    if decayed:
        return "DECAYED"
    if confirmed:
        return "LIVE_WEAKER" if refuted else "LIVE_CONFIRMED"
    return "LIVE_REFUTED" if refuted else "ACCRUING"


def _needed(x: Any, n: int, claim_lower: float, streams: int, alpha: float) -> int | None:
    """Entries at which E0's expected logarithm reaches its line if the edge is `claim_lower`."""
    if len(x) < _FEW or claim_lower <= 0 or not np.ptp(x):
        return None
    bets, mean = np.asarray(LAMBDAS), claim_lower / 100
    growth = bets * mean - bets**2 * (float(x.var(ddof=1)) + mean**2) / 2
    batches = np.arange(1, 200_001)
    # The best stream of L has its share of the batches.
    capital = np.logaddexp.reduce(np.multiply.outer(batches / streams, growth), axis=1) - math.log(len(bets))
    reached = np.searchsorted(np.maximum.accumulate(capital), math.log(streams / alpha))
    return None if reached == len(batches) else math.ceil(int(batches[reached]) * n / len(x))


def _sprt(entries: pl.DataFrame, claim_lower: float, as_of: datetime | None) -> str | None:
    """One trade an event, the first, in the order in which they settled."""
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
        "DECAYED": f"confirmed once, fallen below what it had shown since {decayed_on}; {n:,} entries",
    }
    return sentence[state]
