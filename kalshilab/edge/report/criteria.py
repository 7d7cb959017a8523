"""The criteria of a report card, in order: each line has a threshold, and a label for the verdict if it fails.

The first line that fails gives the verdict. Two things only cap it at PROVISIONAL: doubtful data (line 2), and lines
that could not be examined. If the sample is too small (line 3), no later line is examined: the card then shows no
p-value, only the smallest edge that such a sample could detect.

== ============= ============================================================== ==================
#  name          passes when                                                    fails as
== ============= ============================================================== ==================
1  look-ahead    every audit passes                                             INVALID_LOOKAHEAD
2  data          at most 2 % of fires censored, all in known markets            capped PROVISIONAL
3  sample        200 events, 30 days, 30 losses                                 INSUFFICIENT
4  direction     the interval of the net edge is not entirely below 0           REJECTED
5  net edge      p, adjusted for trials, <= 0.05 and lower bound > 0            UNPROVEN
6  price proxy   97.5 % bound of the price-matched excess > 0                   PRICE_PROXY
7  concentration top event <= 10 % of P&L; > 0 without the top 1 % of events    FRAGILE
                 and without each category; same sign under each weighting
8  time          3 of 4 blocks of 30 days positive; walk-forward > 0            FRAGILE
9  robustness    80 % of neighbouring settings net > 0; PBO <= 0.2, or the      FRAGILE
                 best of one half loses in the other in at most 5 % of splits
10 execution     > 0 at a price one tick worse                                  FRAGILE
11 economics     yearly return above that of cash                               UNECONOMIC
12 confirmation  registered before the data, or a lockbox                       PROVISIONAL
== ============= ============================================================== ==================

Line 2 also reports fills, gaps and days without prints, for information; they cannot make it fail.
Line 13, live, is judged by `kalshilab.edge.live.monitor` on paper trades; `kalshilab.edge.live.monitor.STATES` lists its
labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from kalshilab.edge.schema import Criterion

__all__ = [
    "LABELS",
    "Audited",
    "concentration",
    "confirmation",
    "data",
    "direction",
    "economics",
    "execution",
    "look_ahead",
    "net_edge",
    "price_proxy",
    "robustness",
    "sample",
    "time",
    "unconfirmed",
    "unexamined",
    "verdict_live",
    "verdict_of",
]

LABELS: Final = (
    "INVALID_LOOKAHEAD",
    "INSUFFICIENT",
    "REJECTED",
    "UNPROVEN",
    "PRICE_PROXY",
    "FRAGILE",
    "UNECONOMIC",
    "PROVISIONAL",
    "VALID",
)
"""Verdicts, from worst to best."""

LIVE: Final = 13
"""Number of the line that paper trades decide."""

EVENTS: Final = 200
"""Line 3: minimum number of events with a fill."""
DAYS: Final = 30
"""Line 3: minimum number of days with a fill."""
LOSSES: Final = 30
"""Line 3: minimum number of losing fills."""
CENSORED: Final = 0.02
"""Line 2: maximum fraction of censored fires."""
ALPHA: Final = 0.05
"""Lines 5 and 12: maximum adjusted p-value."""
TOP_SHARE: Final = 0.10
"""Line 7: maximum fraction of the profit from the best event."""
NEIGHBOURS: Final = 0.80
"""Line 9: minimum fraction of neighbouring settings with a positive edge."""
OVERFIT: Final = 0.20
"""Line 9: maximum probability of backtest overfitting (PBO)."""
LOSS: Final = 0.05
"""Line 9: maximum probability that the best of one half loses in the other; applies if PBO exceeds its maximum."""

_NAMES: Final = {
    1: ("look-ahead", "no difference; null replay within 3 s.e.", "INVALID_LOOKAHEAD"),
    2: ("data", "censored <= 2 %", "PROVISIONAL"),
    3: ("sample", f">= {EVENTS} events, {DAYS} days, {LOSSES} losses", "INSUFFICIENT"),
    4: ("direction", "interval not entirely below 0", "REJECTED"),
    5: ("net edge", "adjusted p <= 0.05 and lower bound > 0", "UNPROVEN"),
    6: ("price proxy", "97.5 % bound of the excess > 0", "PRICE_PROXY"),
    7: ("concentration", "top event <= 10 %; > 0 without the top 1 % and each category", "FRAGILE"),
    8: ("time", ">= 3 of 4 blocks of 30 days > 0; walk-forward > 0", "FRAGILE"),
    9: ("robustness", ">= 80 % of neighbours > 0; PBO <= 0.2", "FRAGILE"),
    10: ("execution", "> 0 at a price one tick worse", "FRAGILE"),
    11: ("economics", "yearly return above that of cash", "UNECONOMIC"),
    12: ("confirmation", "registered before the data, or a lockbox within its budget", "PROVISIONAL"),
}


class Audited(Protocol):
    """Result of a look-ahead audit."""

    @property
    def name(self) -> str:
        """Name of the audit."""
        ...

    @property
    def passed(self) -> bool:
        """Whether no look-ahead was found."""
        ...

    @property
    def detail(self) -> str:
        """The finding in one sentence."""
        ...


def _line(number: int, value: str, passed: bool | None, detail: str = "") -> Criterion:
    """Return a line with its name, threshold and label."""
    name, threshold, label = _NAMES[number]
    # A numpy comparison returns np.bool_, which JSON cannot encode.
    return Criterion(number, name, value, threshold, None if passed is None else bool(passed), label, detail)


def unexamined(number: int, why: str) -> Criterion:
    """Return a line that was not examined, with the reason."""
    return _line(number, "not examined", None, why)


def look_ahead(audits: Sequence[Audited]) -> Criterion:
    """Return line 1, which passes if every audit does; `detail` has the findings of those that failed."""
    if not audits:
        return unexamined(1, "no audit was run (audits=False)")
    failed = [a for a in audits if not a.passed]
    value = f"{len(audits) - len(failed)} of {len(audits)} audits passed"
    return _line(1, value, not failed, "; ".join(f"{a.name}: {a.detail}" for a in failed))


def data(*, fill_rate: float, censored: float, unmatched: int, span: str = "", detail: str = "") -> Criterion:
    """Return line 2 on the data.

    Args:
        fill_rate: fraction of fires with a fill; for information.
        censored: fraction of fires whose outcome is unknown.
        unmatched: number of fires in markets that are not in the markets table.
        span: days, gaps and days without prints as a phrase (`kalshilab.edge.report.data_quality`); for information.
        detail: warnings as sentences.
    """
    value = f"{fill_rate:.0%} filled, {censored:.1%} censored, {unmatched:,} without a market"
    value += f"; {span}" if span else ""
    return _line(2, value, censored <= CENSORED and not unmatched, detail)


def sample(*, events: int, days: int, losses: int, mde: float) -> Criterion:
    """Return line 3 on the size of the sample; if it fails, its detail has the detectable edge `mde` in cents."""
    passed = events >= EVENTS and days >= DAYS and losses >= LOSSES
    detail = "" if passed else f"this sample cannot detect less than {_cents(mde)}"
    return _line(3, f"{events:,} events, {days:,} days, {losses:,} losses", passed, detail)


def direction(lower: float, upper: float) -> Criterion:
    """Return line 4 on the interval of the net edge, in cents."""
    return _line(4, f"[{lower:+.2f}, {upper:+.2f}] c", not upper < 0)


def net_edge(*, p: float, trials: int, lower: float, mde: float, resamples: int) -> Criterion:
    """Return line 5 on the net edge.

    Args:
        p: p-value before adjustment; it is multiplied by `trials` (Bonferroni).
        trials: number of trials of the family.
        lower: lower end of the edge's interval in cents.
        mde: smallest edge in cents that the sample could detect, for the detail.
        resamples: number of resamples behind `p`.
    """
    adjusted = min(1.0, p * trials)
    passed = adjusted <= ALPHA and lower > 0
    detail = "" if passed else f"this sample cannot detect less than {_cents(mde)}"
    if trials / (resamples + 1) > ALPHA:
        detail = f"{resamples:,} resamples cannot reject at {trials:,} trials" + (detail and f"; {detail}")
    return _line(5, f"p = {adjusted:.4f} (m = {trials:,}), lower bound {lower:+.2f} c", passed, detail)


def price_proxy(*, excess: float, lower975: float, bucketed: float) -> Criterion:
    """Return line 6 on the price-matched excess.

    Args:
        excess: excess in cents over the smooth baseline.
        lower975: one-sided 97.5 % lower bound of `excess`.
        bucketed: excess in cents over 5-cent buckets, for the detail.
    """
    value = f"{excess:+.2f} c over the price alone, bound {lower975:+.2f} c"
    return _line(6, value, lower975 > 0, f"{bucketed:+.2f} c over 5-cent buckets")


def concentration(
    *, top_share: float, without_top: float, without: Mapping[str, float], estimands: Mapping[str, float]
) -> Criterion:
    """Return line 7 on the concentration of the profit.

    Args:
        top_share: fraction of the profit from the best event; infinite if the total is not positive.
        without_top: edge in cents without the best 1 % of the events.
        without: edge in cents without each category; empty if there is only one.
        estimands: edge in cents under each weighting.
    """
    worst = min(without, key=lambda name: without[name], default=None)
    positive = {value > 0 for value in estimands.values()}
    passed = (
        top_share <= TOP_SHARE
        and without_top > 0
        and all(e > 0 for e in without.values())
        and len(positive) == 1
    )
    top = f"top event {top_share:.1%}" if math.isfinite(top_share) else "no profit in total"
    value = f"{top}, without top 1 % {without_top:+.2f} c"
    if worst is not None:
        value += f", without {worst} {without[worst]:+.2f} c"
    detail = "" if len(positive) == 1 else ", ".join(f"{k} {v:+.2f} c" for k, v in estimands.items())
    return _line(7, value, passed, detail and f"the sign depends on the weighting: {detail}")


def time(edges: Sequence[float], walk_forward: float | None) -> Criterion:
    """Return line 8 on stability over time.

    Args:
        edges: edges in cents of consecutive blocks of at least 30 entry days, at most 4.
        walk_forward: pooled edge in cents of the folds of a walk-forward; None if there were too few events.
    """
    if len(edges) < 2:
        value = f"{len(edges)} block{'s' if len(edges) != 1 else ''} of 30 days"
        return _line(8, value, False, "at least two blocks of 30 days are needed")
    positive = sum(e > 0 for e in edges)
    enough = positive >= math.ceil(0.75 * len(edges))
    value = f"{positive} of {len(edges)} blocks positive"
    if walk_forward is None:
        return _line(8, value, None if enough else False, "too few events for a walk-forward")
    return _line(8, f"{value}, walk-forward {walk_forward:+.2f} c", enough and walk_forward > 0)


def robustness(share: float | None, cells: int, pbo: float | None, loss: float = 1.0) -> Criterion:
    """Return line 9 on neighbouring settings.

    If all settings earn about the same, only chance decides whether the best of one half of the events is also the best
    of the other: PBO is then one half, however real the edge. So PBO counts only if the setting that is best in one
    half *loses* in the other with a probability above 5 %.

    Args:
        share: fraction of neighbouring settings with a positive net edge; None: there are no neighbours.
        cells: number of neighbouring settings.
        pbo: probability of backtest overfitting; None for fewer than ten settings.
        loss: probability that the best setting of one half loses in the other.
    """
    if share is None:
        return unexamined(9, "there are no neighbouring settings; pass grid=")
    value = f"{share:.0%} of {cells} neighbours positive"
    value += (
        "" if pbo is None else f", PBO {pbo:.2f}, best of one half loses in the other in {loss:.0%} of splits"
    )
    return _line(9, value, share >= NEIGHBOURS and (pbo is None or pbo <= OVERFIT or loss <= LOSS))


def execution(*, at_tick: float, at_minute: float, half_life_s: float | None) -> Criterion:
    """Return line 10 on worse execution.

    Args:
        at_tick: edge in cents at a price one tick worse.
        at_minute: edge in cents at a latency of one minute.
        half_life_s: latency in seconds that halves the edge; None: the edge does not halve within a day.
    """
    decay = "no half-life within a day" if half_life_s is None else f"half-life {half_life_s:,.0f} s"
    value = f"{at_tick:+.2f} c at a price one tick worse, {at_minute:+.2f} c after one minute, {decay}"
    return _line(10, value, at_tick > 0)


def economics(*, annualised: float, cash_rate: float, dollars_a_day: float) -> Criterion:
    """Return line 11 on the return on capital.

    Args:
        annualised: simple yearly return on the capital in use, as a fraction.
        cash_rate: yearly return of cash, as a fraction.
        dollars_a_day: profit per day in dollars at 10 % of the traded volume.
    """
    dollars = f"{'-' if dollars_a_day < 0 else ''}${abs(dollars_a_day):,.2f}"
    value = f"{annualised:+.1%} per year against {cash_rate:.1%}, {dollars} per day at 10 % of the volume"
    return _line(11, value, annualised > cash_rate)


def confirmation(*, p: float, budget: float, how: str) -> Criterion:
    """Return line 12 from a confirmatory p-value, the largest value allowed, and the source of the p-value."""
    return _line(12, f"p = {p:.4f} ({how})", p <= budget, f"budget {budget:g}")


def unconfirmed(why: str) -> Criterion:
    """Return line 12 as failed because the data cannot confirm the edge, with the reason."""
    return _line(12, "not confirmed", False, why)


def verdict_of(criteria: Sequence[Criterion]) -> str:
    """Return the verdict: the label of the first line that fails, or VALID.

    Line 2 and lines that were not examined only cap it at PROVISIONAL.

    >>> verdict_of([direction(-3.0, -0.5)]), verdict_of([direction(0.2, 1.5)])
    ('REJECTED', 'VALID')
    >>> verdict_of([data(fill_rate=1.0, censored=0.2, unmatched=0), direction(0.2, 1.5)])
    'PROVISIONAL'
    """
    for line in criteria:
        if line.passed is False and line.number != 2:
            return line.label
    return "VALID" if all(line.passed for line in criteria) else "PROVISIONAL"


def verdict_live(criteria: Sequence[Criterion]) -> str:
    """Return the verdict of a card with line 13: that of the other lines, unless live trades refute or confirm it.

    >>> passed = direction(0.2, 1.5)
    >>> confirmed = Criterion(13, "live", "", "", True, "LIVE_CONFIRMED")
    >>> refuted = Criterion(13, "live", "", "", False, "LIVE_REFUTED")
    >>> verdict_live([passed, confirmed]), verdict_live([passed, refuted])
    ('LIVE_CONFIRMED', 'LIVE_REFUTED')
    >>> verdict_live([direction(-3.0, -0.5), refuted])
    'REJECTED'
    """
    verdict = verdict_of([line for line in criteria if line.number != LIVE])
    live = next((line for line in criteria if line.number == LIVE), None)
    if live is None or live.passed is None:
        return verdict
    replaced = ("VALID",) if live.passed else ("VALID", "PROVISIONAL")
    return live.label if verdict in replaced else verdict


def _cents(edge: float) -> str:
    """Return an edge with its unit."""
    return f"{edge:.1f} c" if math.isfinite(edge) else "any edge"
