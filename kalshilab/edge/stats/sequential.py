"""Anytime-valid inference: e-processes, a confidence sequence and the SPRT.

A test that is checked daily and stopped at the first p < 0.05 rejects a fair market two times in five. An
**e-process** is the capital of a gambler who bets against the hypothesis and gains nothing on average if it holds. By
Ville's inequality (1939), the capital ever reaches 1/α with probability at most α, so checking is free (Shafer 2021,
"Testing by betting"; Ramdas, Grünwald, Vovk & Shafer 2023). With X the net profit of a batch in dollars per contract
and λ in {0.02, 0.05, 0.1, 0.2, 0.4, 0.8}:

    for an edge   (H0: E X ≤ 0)       E = mean over λ of  Π (1 + λ X)
    against one   (H0: E X ≥ claim)   E = mean over λ of  Π (1 − λ (X − claim))

Three rules make this valid for trades:

* **A batch is the entries of one day**, with one factor per batch. X is the mean over the day's events of the event's
  mean profit. Legs of an event win and lose together, and events of a day share its shocks: one factor per trade
  would count the same luck many times. Batches are by day of *entry*, because the time of settlement can depend on
  the outcome.
* **Overlapping batches go into different streams.** While a batch is open, its outcome is unknown to the next bet.
  Batches are assigned round-robin to L streams, so that a stream's next batch is entered after its last one closed.
  H0 is rejected when the largest stream reaches L/α (a union bound; a mean over streams would not be valid).
* **The weights in a batch are fixed at entry.** A day on which entries were made after others had settled is marked
  `adaptive`: doubling after a loss and stopping after a win gives a mean above zero in a fair market.

The **confidence sequence** is the hedged one of Waudby-Smith & Ramdas (2024, "Estimating means of bounded random
variables by betting"); the **SPRT** is Wald's (1945), for its two points only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from kalshilab.edge.schema import Floats, Integers
from kalshilab.edge.stats.batching import batch_mean, day_batches, streams_needed
from kalshilab.errors import EdgeError
from kalshilab.signals.engine.kernel import compiled

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

LAMBDAS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Bet sizes in capital per dollar of profit a contract; each gets an equal part of the initial capital."""
_GRID: Final = 400
_MAX_LOG: Final = 700.0
"""Largest logarithm whose exponential fits in a float."""


def log_e(x: npt.ArrayLike, *, lambdas: Sequence[float] = LAMBDAS, claim: float | None = None) -> Floats:
    """Return the running logarithm of E along the last axis, for one stream.

    This is the vectorised form of `EProcess`, for simulations.

    Args:
        x: batch means in dollars per contract, of any shape.
        lambdas: bet sizes, each above 0 and below 1.
        claim: edge in cents to test against; None: test for an edge above 0.

    >>> round(float(log_e([0.2] * 40)[-1]), 2)
    4.22
    """
    score = _score(np.asarray(x, np.float64), lambdas, claim)
    total = np.full(score.shape, -np.inf)
    for bet in lambdas:
        total = np.logaddexp(total, np.cumsum(np.log1p(bet * score), axis=-1))
    return total - math.log(len(lambdas))


def _score(x: Floats, lambdas: Sequence[float], claim: float | None) -> Floats:
    """Return the factor of λ in dollars: X, or claim − X."""
    score = x if claim is None else claim / 100 - x
    if not np.isfinite(score).all():
        raise EdgeError(
            "the mean of a batch must be finite; score a batch after all its entries have settled"
        )
    if score.size and float(score.min()) * max(lambdas) <= -1:
        raise EdgeError(
            f"the mean of a batch must be dollars per contract, got a score of {float(score.min()):+.2f}, "
            "which would exhaust the capital; divide cents by 100"
        )
    return score


class EProcess:
    """Anytime-valid test for an edge, or against a claimed edge, by betting.

    It may be checked after each batch. `e` is in units of a single stream: with L streams it is the largest stream's
    capital divided by L, so that 1/α is the threshold for any number of streams.

    Args:
        lambdas: bet sizes, each above 0 and below 1.
        streams: L, the largest number of batches that are open at once; to be fixed before any outcome is known.
        claim: edge in cents per contract. None: the null hypothesis is "no edge"; else it is "the edge is at least
            the claim".
        alpha: probability of ever rejecting a true null hypothesis.

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
            raise EdgeError(
                f"lambdas must hold at least one bet size, each above 0 and below 1, got {tuple(lambdas)}"
            )
        if claim is not None and not -20 <= claim <= 100:
            raise EdgeError(f"claim must be cents per contract from -20 to 100, got {claim}")
        _check_streams(streams, alpha)
        self.lambdas, self.streams, self.claim, self.alpha = tuple(lambdas), streams, claim, alpha
        self._bets = np.asarray(lambdas, np.float64)
        self._wealth = np.zeros((streams, len(lambdas)))
        self._last = np.full(streams, -1, np.int64)
        self._log = np.zeros(streams)
        self.n = 0
        """Number of batches scored so far."""
        self.log_max = 0.0 if streams == 1 else -math.log(streams)
        """The largest `log_e` so far."""

    def update(
        self, pnl: npt.ArrayLike, events: npt.ArrayLike | None = None, *, batch: int | None = None
    ) -> float:
        """Score one batch and return `e`.

        Args:
            pnl: profit in dollars per contract of each entry of the batch, all settled, 0 if unfilled; or X itself.
            events: event of each entry; None: every entry is a separate event.
            batch: index of the batch in order of entry, which determines its stream; None: the next one. Streams may
                be updated out of order, but the batches of one stream must be in order.

        Raises:
            EdgeError: the batch is empty, a profit is not finite, or a later batch of the stream was already scored.
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
        return math.exp(min(self.log_e, _MAX_LOG))

    @property
    def max(self) -> float:
        """The largest `e` so far."""
        return math.exp(min(self.log_max, _MAX_LOG))

    @property
    def p(self) -> float:
        """Anytime-valid p-value: 1 / max."""
        return min(1.0, math.exp(-self.log_max))

    @property
    def rejected(self) -> bool:
        """Whether the null hypothesis was rejected at any time; it then stays rejected."""
        return self.log_max >= -math.log(self.alpha)

    @property
    def confirmed(self) -> bool:
        """Whether an edge above 0 is shown; always False for a process against a claim."""
        return self.claim is None and self.rejected

    @property
    def refuted(self) -> bool:
        """Whether the claim is shown to be too high; always False for a process for an edge."""
        return self.claim is not None and self.rejected

    def __repr__(self) -> str:
        alternative = "edge > 0" if self.claim is None else f"edge < {self.claim:g} c"
        return f"<EProcess {alternative}: e={self.e:.3g} after {self.n} batches, max {self.max:.3g}>"


class ConfidenceSequence:
    """Bounds of the mean edge in cents that hold at all times simultaneously, with probability 1 − alpha.

    A constant mean is assumed. If it has moved, `lower` may end up above `upper`.

    Args:
        alpha: probability that the mean is ever outside the bounds.
        streams: as in `EProcess`; each stream has separate bounds at alpha / streams, and their intersection counts.

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
        # One row per stream: count, sum and squared deviations of the observations; capital at each mean of the grid.
        self._seen = np.zeros((streams, 3))
        self._above = np.zeros((streams, _GRID + 1))
        self._below = np.zeros((streams, _GRID + 1))
        self._bounds = np.array([[0.0, 1.0]] * streams)
        self.n = 0
        """Number of observations so far."""

    def update(self, x: npt.ArrayLike, *, batch: int | None = None) -> None:
        """Add the mean of one batch, or of several in order of entry.

        Args:
            x: batch means in dollars per contract from −1 to 1, or single trades if these are independent.
            batch: index of the first one in order of entry; None: the next one.
        """
        values = np.atleast_1d(np.asarray(x, np.float64))
        # With the fee, a contract priced near a dollar can cost slightly more than the dollar.
        if not (np.isfinite(values).all() and (np.abs(values) <= 1.05).all()):
            wrong = values[~(np.abs(values) <= 1.05)][0]
            raise EdgeError(f"x must be dollars per contract from -1 to 1, got {wrong}")
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
        """Lower bound in cents per contract."""
        return 100 * (2 * float(self._bounds[:, 0].max()) - 1)

    @property
    def upper(self) -> float:
        """Upper bound in cents per contract."""
        return 100 * (2 * float(self._bounds[:, 1].min()) - 1)

    def __repr__(self) -> str:
        return f"<ConfidenceSequence [{self.lower:+.2f}, {self.upper:+.2f}] c after {self.n}>"


@compiled
def _bet(x: Floats, seen: Floats, above: Floats, below: Floats, bounds: Floats, line: float) -> None:
    """Update the capital of two gamblers at each mean of the grid, and the bounds where it reaches the threshold.

    The capital of the gambler who bets on a higher mean falls with the mean that is tested, the other one's rises. The
    means that are not rejected therefore form an interval, and each bound lies between two points of the grid.
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
    """Wald's sequential test of P(win) = cost against P(win) = cost + edge, for independent trades.

    It is fast, but valid only at its two hypotheses: for an edge in between it still decides, without any guarantee.
    If cost + edge would reach a dollar, the alternative is halfway between the cost and a dollar.

    Args:
        edge: edge under the alternative, in cents per contract.
        alpha: probability of deciding "edge" if the edge is 0.
        beta: probability of deciding "none" if the edge is `edge`.

    >>> test = Sprt(5)
    >>> test.update([1, 1, 0, 1, 1] * 80, 0.70)
    >>> test.decision, test.decided_at
    ('edge', 152)
    """

    def __init__(self, edge: float = 5.0, alpha: float = 0.05, beta: float = 0.05) -> None:
        if not 0 < edge < 100:
            raise EdgeError(f"edge must be cents per contract between 0 and 100, got {edge}")
        for name, rate in (("alpha", alpha), ("beta", beta)):
            if not 0 < rate < 0.5:
                raise EdgeError(f"{name} must be an error probability between 0 and 0.5, got {rate}")
        self.edge, self.alpha, self.beta = edge, alpha, beta
        self._up, self._down = math.log((1 - beta) / alpha), math.log(beta / (1 - alpha))
        self.llr, self.n = 0.0, 0
        self.decision: Literal["edge", "none"] | None = None
        self.decided_at: int | None = None
        """Number of trades at the decision; later trades do not change it. None while undecided."""

    def update(self, value: npt.ArrayLike, cost: npt.ArrayLike) -> None:
        """Add trades in order of settlement.

        Args:
            value: payout of each trade in dollars per contract, from 0 to 1.
            cost: cost of each trade in dollars per contract, fee included, between 0 and 1.
        """
        paid, c = np.broadcast_arrays(
            np.atleast_1d(np.asarray(value, np.float64)), np.asarray(cost, np.float64)
        )
        if not (((c > 0) & (c < 1)).all() and ((paid >= 0) & (paid <= 1)).all()):
            raise EdgeError("cost must be between 0 and 1 dollar and value from 0 to 1 dollar")
        shift = np.minimum(self.edge / 100, (1 - c) / 2)
        # A scalar settlement counts fractionally; by convexity alpha still holds.
        steps = paid * np.log1p(shift / c) + (1 - paid) * np.log1p(-shift / (1 - c))
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


def _check_streams(streams: int, alpha: float) -> None:
    if streams < 1:
        raise EdgeError(f"streams must be at least 1, got {streams}")
    if not 0 < alpha < 1:
        raise EdgeError(f"alpha must be a probability between 0 and 1, got {alpha}")


def _stream_of(place: int, last: Integers) -> int:
    """Return the stream of the batch at `place` in order of entry, if no later batch of that stream was scored."""
    stream = place % len(last)
    if place <= last[stream]:
        raise EdgeError(
            f"batches of a stream must be scored in order of entry, got batch {place} after batch {last[stream]}"
        )
    return int(stream)
