"""Evidence that may be looked at whenever one likes: e-processes, a confidence sequence, the SPRT.

A test that is looked at each day and stopped at the first p < 0.05 rejects a fair market two times in five.  An
**e-process** is the capital of a gambler who bets against the hypothesis and cannot win if it holds; by Ville's
inequality (1939) the capital ever reaches 1/α with a chance of at most α, so looking costs nothing (Shafer 2021,
"Testing by betting"; Ramdas, Grünwald, Vovk & Shafer 2023).  Here, with X the net profit of a batch in dollars a
contract and λ in {0.02, 0.05, 0.1, 0.2, 0.4, 0.8}:

    for an edge   (H0: E X ≤ 0)       E = mean over λ of  Π (1 + λ X)
    against one   (H0: E X ≥ claim)   E = mean over λ of  Π (1 − λ (X − claim))

Three rules make it true of trades:

* **A batch is the entries of one day**, one factor a batch.  X is the mean over the day's events of the event's mean
  profit.  Legs of an event win and lose together, events of a day share its shocks: a factor each would multiply one
  piece of luck many times.  Batches are by day of *entry*: what settles early depends on the outcome.
* **Batches that overlap go into different streams.**  While a batch is open, the next one is no bet against a known
  past.  Batches go round-robin into L streams, so that a stream's next batch is entered after its last one closed;
  H0 is rejected when the largest stream reaches L/α (a union bound; a mean over streams would not do).
* **The weights in a batch are fixed at entry.**  A day in which entries were made after others of it had settled is
  marked `adaptive`: whoever doubles after a loss and stops after a win has a mean above zero in a fair market.

The **confidence sequence** is the hedged one of Waudby-Smith & Ramdas (2024, "Estimating means of bounded random
variables by betting"); the **SPRT** is Wald's (1945), for its two points only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.edge.schema import check_entries
from kalshilab.errors import EdgeError
from kalshilab.signals.engine.kernel import compiled
from kalshilab.tape.schema import TIME

__all__ = [
    "LAMBDAS",
    "ConfidenceSequence",
    "EProcess",
    "Sprt",
    "batch_mean",
    "day_batches",
    "log_e",
    "streams_needed",
]

Floats = npt.NDArray[np.float64]

LAMBDAS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares of a dollar a contract that are bet, each with a sixth of the capital."""
_GRID: Final = 400
_MOST: Final = 700.0
"""Logarithm up to which a number fits a float."""


def batch_mean(pnl: npt.ArrayLike, events: npt.ArrayLike | None = None) -> float:
    """X of a batch: the mean over its events of the event's mean, in the unit of `pnl`; NaN of nothing.

    Args:
        pnl: profits a contract of the batch's entries, 0 where there was no fill.
        events: the event of each; None: each its own.

    >>> batch_mean([0.3, 0.3, -0.6], ["a", "a", "b"])
    -0.15
    """
    values = np.atleast_1d(np.asarray(pnl, np.float64))
    if events is None:
        return float(values.mean()) if len(values) else math.nan
    _, codes = np.unique(np.asarray(events), return_inverse=True)
    if codes.shape != values.shape:
        raise EdgeError(f"{len(values)} profits of {codes.size} events: each entry needs its event")
    means = np.bincount(codes, values) / np.bincount(codes)
    return float(means.mean()) if len(means) else math.nan


def log_e(x: npt.ArrayLike, *, lambdas: Sequence[float] = LAMBDAS, claim: float | None = None) -> Floats:
    """The running logarithm of E along the last axis, one stream: for simulations; `EProcess` is its equal.

    Args:
        x: batch means in dollars a contract, of any shape.
        claim: cents; None asks for an edge above 0, a number against that claim.

    >>> round(float(log_e([0.2] * 40)[-1]), 2)
    4.22
    """
    score = _score(np.asarray(x, np.float64), lambdas, claim)
    total = np.full(score.shape, -np.inf)
    for bet in lambdas:
        total = np.logaddexp(total, np.cumsum(np.log1p(bet * score), axis=-1))
    return total - math.log(len(lambdas))


def _score(x: Floats, lambdas: Sequence[float], claim: float | None) -> Floats:
    """What is multiplied with λ: X, or claim − X, in dollars."""
    score = x if claim is None else claim / 100 - x
    if not np.isfinite(score).all():
        raise EdgeError("a batch's mean is not a finite number; score a batch when all of it has settled")
    if score.size and float(score.min()) * max(lambdas) <= -1:
        raise EdgeError(
            f"a batch at {float(score.min()):+.2f} dollars a contract would end the bet; dollars?"
        )
    return score


class EProcess:
    """Capital that bets on an edge, or against a claimed one; it may be looked at after each batch.

    `e` is in the units of a single stream: with L streams it is the largest stream's capital over L, so that
    1/α is the line for any number of streams.

    Args:
        lambdas: sizes of the bets, each above 0 and below 1.
        streams: L; how many batches are open at once, at most.  It is to be fixed before the outcomes.
        claim: cents; None: the hypothesis is "no edge", else "an edge of at least so much".
        alpha: the chance of ever rejecting a true hypothesis.

    >>> test = EProcess()
    >>> for day in range(60):
    ...     _ = test.update([0.27, 0.27, 0.27, -0.3])
    >>> test.confirmed, round(test.p, 3)
    (True, 0.016)
    """

    def __init__(
        self,
        lambdas: Sequence[float] = LAMBDAS,
        streams: int = 1,
        claim: float | None = None,
        alpha: float = 0.05,
    ) -> None:
        if not lambdas or not all(0 < bet < 1 for bet in lambdas):
            raise EdgeError(f"lambdas={tuple(lambdas)}: above 0 and below 1, at least one")
        if claim is not None and not -20 <= claim <= 100:
            raise EdgeError(f"claim={claim}: cents a contract, from -20 to 100")
        _check_streams(streams, alpha)
        self.lambdas, self.streams, self.claim, self.alpha = tuple(lambdas), streams, claim, alpha
        self._bets = np.asarray(lambdas, np.float64)
        self._wealth = np.zeros((streams, len(lambdas)))
        self._last = np.full(streams, -1, np.int64)
        self._log = np.zeros(streams)
        self.n = 0
        """Batches so far."""
        self.log_max = 0.0 if streams == 1 else -math.log(streams)
        """The largest `log_e` so far."""

    def update(
        self, pnl: npt.ArrayLike, events: npt.ArrayLike | None = None, *, batch: int | None = None
    ) -> float:
        """Score one batch and return `e`.

        Args:
            pnl: dollars a contract of all entries of the batch, all settled, 0 without a fill; or X itself.
            events: the event of each entry; None: each its own.
            batch: the batch's place in the order of entry, which decides its stream; None: the next one.  Streams
                whose batches close at different speeds are updated out of order, each in order in itself.

        Raises:
            EdgeError: no entries, a profit that is no number, a batch behind one of its stream's that was scored.
        """
        place = self.n if batch is None else batch
        stream = _stream_of(place, self._last)
        score = _score(np.atleast_1d(batch_mean(pnl, events)), self.lambdas, self.claim)
        self._last[stream] = place
        self._wealth[stream] += np.log1p(self._bets * score)
        self._log[stream] = np.logaddexp.reduce(self._wealth[stream]) - math.log(len(self.lambdas))
        self.n += 1
        self.log_max = max(self.log_max, self.log_e)
        return self.e

    @property
    def log_e(self) -> float:
        """Natural logarithm of `e`."""
        return float(self._log.max()) - math.log(self.streams)

    @property
    def e(self) -> float:
        """The largest stream's capital over the number of streams."""
        return math.exp(min(self.log_e, _MOST))

    @property
    def max(self) -> float:
        """The largest `e` so far."""
        return math.exp(min(self.log_max, _MOST))

    @property
    def p(self) -> float:
        """A p-value that holds at any time: 1 / max."""
        return min(1.0, math.exp(-self.log_max))

    @property
    def rejected(self) -> bool:
        """Whether the hypothesis is rejected; once rejected, it stays so."""
        return self.log_max >= -math.log(self.alpha)

    @property
    def confirmed(self) -> bool:
        """An edge above 0 is shown; never by a process against a claim."""
        return self.claim is None and self.rejected

    @property
    def refuted(self) -> bool:
        """The claim is shown to be too high; never by a process for an edge."""
        return self.claim is not None and self.rejected

    def __repr__(self) -> str:
        asks = "edge > 0" if self.claim is None else f"edge < {self.claim:g} c"
        return f"<EProcess {asks}: e={self.e:.3g} after {self.n} batches, max {self.max:.3g}>"


class ConfidenceSequence:
    """Bounds of the mean edge in cents that hold at all times at once, with a chance of 1 − alpha.

    It assumes one mean.  Where that has moved, `lower` may come to lie above `upper`.

    Args:
        alpha: the chance that the mean is ever outside.
        streams: as for `EProcess`; each stream has its own bounds at alpha / streams, and all must hold.

    >>> cs = ConfidenceSequence()
    >>> cs.update(np.random.default_rng(1).choice([0.3, -0.7], 500, p=[0.8, 0.2]))
    >>> cs.lower < 10 < cs.upper and cs.upper - cs.lower < 12
    True
    """

    def __init__(self, alpha: float = 0.05, streams: int = 1) -> None:
        _check_streams(streams, alpha)
        self.alpha, self.streams = alpha, streams
        self._line = math.log(2 * streams / alpha)
        self._last = np.full(streams, -1, np.int64)
        # A row a stream: observations, their sum, their squared deviations; capital at each mean of the grid.
        self._seen = np.zeros((streams, 3))
        self._above = np.zeros((streams, _GRID + 1))
        self._below = np.zeros((streams, _GRID + 1))
        self._bounds = np.array([[0.0, 1.0]] * streams)
        self.n = 0
        """Observations so far."""

    def update(self, x: npt.ArrayLike, *, batch: int | None = None) -> None:
        """Take one batch's mean, in dollars a contract from −1 to 1, or many in the order of entry.

        Args:
            x: batch means, or single trades where these are independent.
            batch: place of the first in the order of entry; None: the next.
        """
        values = np.atleast_1d(np.asarray(x, np.float64))
        # A fee on top of a price near a dollar can cost a little more than the dollar.
        if not (np.isfinite(values).all() and (np.abs(values) <= 1.05).all()):
            raise EdgeError("a confidence sequence takes dollars a contract, from -1 to 1")
        unit = np.clip((values + 1) / 2, 0.0, 1.0)
        first = self.n if batch is None else batch
        for offset in range(min(self.streams, len(unit))):
            stream = _stream_of(first + offset, self._last)
            mine = unit[offset :: self.streams]
            self._last[stream] = first + offset + self.streams * (len(mine) - 1)
            _bet(
                np.ascontiguousarray(mine),
                self._seen[stream],
                self._above[stream],
                self._below[stream],
                self._bounds[stream],
                self._line,
            )
        self.n += len(unit)

    @property
    def lower(self) -> float:
        """Cents a contract."""
        return 100 * (2 * float(self._bounds[:, 0].max()) - 1)

    @property
    def upper(self) -> float:
        """Cents a contract."""
        return 100 * (2 * float(self._bounds[:, 1].min()) - 1)

    def __repr__(self) -> str:
        return f"<ConfidenceSequence [{self.lower:+.2f}, {self.upper:+.2f}] c after {self.n}>"


@compiled
def _bet(x: Any, seen: Any, above: Any, below: Any, bounds: Any, line: float) -> None:
    """Let two gamblers bet on each mean of the grid, and move the bounds to where they are rich.

    Capital that bets on "more" falls with the mean it bets against, the other rises: what is kept is an interval,
    and the line is crossed once, between two points of the grid.
    """
    steps = len(above) - 1
    for value in x:
        t = seen[0] + 1
        spread = (0.25 + seen[2]) / t
        wish = np.sqrt(2 * line / (spread * t * np.log(1 + t)))
        for i in range(steps + 1):
            mean = i / steps
            above[i] += np.log1p(min(wish, 0.5 / mean if i else wish) * (value - mean))
            below[i] += np.log1p(-min(wish, 0.5 / (1 - mean) if i < steps else wish) * (value - mean))
        seen[0] = t
        seen[1] += value
        seen[2] += (value - (0.5 + seen[1]) / (t + 1)) ** 2
        i = steps
        while i >= 0 and above[i] < line:
            i -= 1
        if i == steps:
            bounds[0] = 1.0
        elif i >= 0:
            bounds[0] = max(bounds[0], (i + (above[i] - line) / (above[i] - above[i + 1])) / steps)
        i = 0
        while i <= steps and below[i] < line:
            i += 1
        if i == 0:
            bounds[1] = 0.0
        elif i <= steps:
            bounds[1] = min(bounds[1], (i - (below[i] - line) / (below[i] - below[i - 1])) / steps)


class Sprt:
    """Wald's sequential test of "wins with its cost" against "wins with its cost + edge", for independent trades.

    Fast, but only for its two points: in between it decides, and says nothing.  A cost so high that no chance of
    winning is left for the edge is tested against half of what is left.

    Args:
        edge: cents.
        alpha: the chance of "edge" where there is none.
        beta: the chance of "none" where there is that edge.

    >>> test = Sprt(5)
    >>> test.update([1, 1, 0, 1, 1] * 80, 0.70)
    >>> test.decision, test.decided_at
    ('edge', 152)
    """

    def __init__(self, edge: float = 5.0, alpha: float = 0.05, beta: float = 0.05) -> None:
        if not 0 < edge < 100 or not 0 < alpha < 0.5 or not 0 < beta < 0.5:
            raise EdgeError(f"Sprt({edge=}, {alpha=}, {beta=}): cents above 0, chances of error below a half")
        self.edge, self.alpha, self.beta = edge, alpha, beta
        self._up, self._down = math.log((1 - beta) / alpha), math.log(beta / (1 - alpha))
        self.llr, self.n = 0.0, 0
        self.decision: Literal["edge", "none"] | None = None
        self.decided_at: int | None = None
        """Trades at the decision; what comes later does not change it."""

    def update(self, value: npt.ArrayLike, cost: npt.ArrayLike) -> None:
        """Take trades in the order they settled: what they paid (0 to 1) and what they cost, in dollars."""
        paid, c = np.broadcast_arrays(
            np.atleast_1d(np.asarray(value, np.float64)), np.asarray(cost, np.float64)
        )
        if not (((c > 0) & (c < 1)).all() and ((paid >= 0) & (paid <= 1)).all()):
            raise EdgeError("Sprt: costs lie between 0 and 1 dollar, values from 0 to 1")
        more = np.minimum(self.edge / 100, (1 - c) / 2)
        # A scalar settlement counts in parts; by convexity that keeps alpha.
        steps = paid * np.log1p(more / c) + (1 - paid) * np.log1p(-more / (1 - c))
        path = self.llr + np.cumsum(steps)
        crossed = np.flatnonzero((path >= self._up) | (path <= self._down))
        if self.decision is None and len(crossed):
            self.decision = "edge" if path[crossed[0]] >= self._up else "none"
            self.decided_at = self.n + int(crossed[0]) + 1
        if len(path):
            self.llr = float(path[-1])
        self.n += len(path)

    def __repr__(self) -> str:
        return f"<Sprt +{self.edge:g} c or 0: {self.decision or 'open'}, llr={self.llr:+.2f} after {self.n}>"


def day_batches(
    entries: pl.DataFrame, *, horizon: float | None = None, as_of: datetime | None = None
) -> pl.DataFrame:
    """The batches of a table of entries, one row a day (UTC) with entries, in the order of entry.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`; an entry without a fill counts as 0, on the day of its fire.
        horizon: days after its day at which a batch is closed at the latest.  What has not settled by then is
            scored at its worst for whoever asks: at a loss in `low`, at a win in `high`, and stays so.  None: a batch
            waits for its last settlement.
        as_of: nothing later is known, inclusive; None: the latest instant in the table.

    Returns:
        `day`, `n` (entries), `events`, `low` and `high` (X in dollars a contract, null while open; they differ only
        where something was overdue), `entered` (first entry), `closed` (null while open), `overdue` (entries scored
        at their worst), `adaptive` (whether an entry was made after another of the day had settled).

    >>> from kalshilab.edge import simulated_entries
    >>> batches = day_batches(simulated_entries.entries(1_000, edge=5.0, hold=3.0, seed=1)[0])
    >>> batches.height, streams_needed(batches)
    (237, 4)

    Raises:
        EdgeError: these are no entries; one is settled and has no time of settlement.
    """
    check_entries(entries)
    if horizon is not None and not horizon >= 0:
        raise EdgeError(f"horizon={horizon}: days, from 0")
    timeless = entries.filter("filled", pl.col("pnl").is_not_null(), pl.col("settled_ts").is_null())
    if len(timeless):
        raise EdgeError(
            f"{timeless['ticker'][0]} is settled and has no settled_ts: when was its profit known?"
        )
    at = pl.coalesce("entry_ts", "ts")
    done = pl.when(~pl.col("filled")).then(at).when(pl.col("pnl").is_not_null()).then("settled_ts")
    frame = entries.select("event", "filled", "pnl", "cost", at.alias("at"), done.alias("done")).with_columns(
        pl.col("at").dt.date().alias("day"), pl.col("at").dt.truncate("1d").alias("midnight")
    )
    latest = pl.max_horizontal(pl.col("at").max(), pl.col("done").max())
    now = pl.lit(frame.select(latest).item() if as_of is None else as_of, TIME)
    frame = frame.filter(pl.col("at") <= now)
    until = pl.lit(None, TIME)
    if horizon is not None:
        until = pl.col("midnight") + timedelta(days=1 + horizon)
    known = (pl.col("done") <= pl.col("until").fill_null(pl.col("done"))) & (pl.col("done") <= now)
    frame = frame.with_columns(until=until).with_columns(known=known.fill_null(False))
    frame = frame.with_columns(
        low=pl.when("known").then("pnl").otherwise(-pl.col("cost")),
        high=pl.when("known").then("pnl").otherwise(1 - pl.col("cost")),
        closed=pl.min_horizontal("done", "until"),
    )
    by_event = frame.group_by("day", "event").agg(
        pl.len().alias("n"),
        pl.col("low", "high").mean(),
        pl.col("at").min().alias("entered"),
        pl.col("at").max().alias("latest"),
        pl.col("done").filter("filled", "known").min().alias("first_done"),
        pl.col("closed").max(),
        pl.col("closed").null_count().alias("open"),
        (~pl.col("known")).sum().alias("overdue"),
    )
    batches = by_event.group_by("day").agg(
        pl.col("n").sum(),
        pl.len().alias("events"),
        # In one order, so that the last digit does not depend on how groups were formed.
        pl.col("low", "high").sort_by("event").mean(),
        pl.col("entered").min(),
        pl.col("closed").max(),
        pl.col("open").sum(),
        pl.col("overdue").sum(),
        (pl.col("first_done").min() < pl.col("latest").max()).fill_null(False).alias("adaptive"),
    )
    is_open = (pl.col("open") > 0) | (pl.col("closed") > now)
    null = pl.lit(None)
    return batches.sort("day").select(
        "day",
        "n",
        "events",
        pl.when(is_open).then(null).otherwise("low").alias("low"),
        pl.when(is_open).then(null).otherwise("high").alias("high"),
        "entered",
        pl.when(is_open).then(null).otherwise("closed").alias("closed"),
        pl.when(is_open).then(0).otherwise("overdue").alias("overdue"),
        "adaptive",
    )


def streams_needed(batches: pl.DataFrame) -> int:
    """The fewest streams such that each stream's next batch is entered after its last one closed.

    Args:
        batches: as `day_batches` gives them; one that is open overlaps with all that came after it.

    For a test, fix it before the outcomes: with a `horizon` of h days, h + 1 streams are enough.
    """
    entered = batches["entered"].dt.epoch("us").to_numpy()
    closed = batches["closed"].dt.epoch("us").fill_null(np.iinfo(np.int64).max).to_numpy()
    # The first batch that is entered after (or when) this one closed may be in its stream.
    free = np.searchsorted(entered, closed, side="left")
    return int(max(1, (free - np.arange(len(entered))).max(initial=1)))


def _check_streams(streams: int, alpha: float) -> None:
    if streams < 1 or not 0 < alpha < 1:
        raise EdgeError(f"streams={streams}, alpha={alpha}: at least one stream, a chance between 0 and 1")


def _stream_of(place: int, last: npt.NDArray[np.int64]) -> int:
    """Whose turn a place in the order of entry is; each stream takes its batches in order."""
    stream = place % len(last)
    if place <= last[stream]:
        raise EdgeError(
            f"batch {place} comes after batch {last[stream]} of its stream was scored; order by entry"
        )
    return int(stream)
