"""The lines of a report card, in order: each is a threshold that an edge has to pass, and the label of failing it.

The first line that fails gives the verdict.  Two things only cap it: doubtful data (line 2) and lines that could
not be examined let no verdict stand above PROVISIONAL.  With too small a sample (line 3) nothing after it is
examined: there is no p-value to admire, only the smallest edge that such a sample could show.

== ============= ============================================================== ==================
#  name          passes when                                                    fails as
== ============= ============================================================== ==================
1  look-ahead    every audit passes                                             INVALID_LOOKAHEAD
2  data          at most 2 % of fires censored                                  capped PROVISIONAL
3  sample        200 events, 30 days, 30 losses                                 INSUFFICIENT
4  direction     the interval of the net edge does not lie below 0              REJECTED
5  net edge      p, adjusted for trials, <= 0.05 and lower bound > 0            UNPROVEN
6  price proxy   97.5 % bound of the price-matched excess > 0                   PRICE_PROXY
7  concentration top event <= 10 % of P&L; > 0 without the top 1 % of events,   FRAGILE
                 without each category; no change of sign by weighting
8  time          3 of 4 blocks of 30 days positive; walk-forward > 0            FRAGILE
9  robustness    80 % of neighbouring parameters net > 0; PBO <= 0.2, or the    FRAGILE
                 best of one half loses in the other in at most 5 %
10 execution     > 0 one tick dearer                                            FRAGILE
11 economics     more a year than cash pays                                     UNECONOMIC
12 confirmation  registered before the data, or a lockbox                       PROVISIONAL
== ============= ============================================================== ==================

Line 2 also reports fills, gaps and days without prints: no reasons to fail, but to know.
Line 13, live, is judged by `kalshilab.edge.live.monitor` on paper trades; its labels are `kalshilab.edge.live.monitor.STATES`.
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
"""What a verdict can be, from worst to best."""

LIVE: Final = 13
"""The number of the line that paper trades decide."""

EVENTS: Final = 200
DAYS: Final = 30
LOSSES: Final = 30
CENSORED: Final = 0.02
ALPHA: Final = 0.05
TOP_SHARE: Final = 0.10
NEIGHBOURS: Final = 0.80
OVERFIT: Final = 0.20
LOSS: Final = 0.05

_NAMES: Final = {
    1: ("look-ahead", "no difference; null replay within 3 s.e.", "INVALID_LOOKAHEAD"),
    2: ("data", "censored <= 2 %", "PROVISIONAL"),
    3: ("sample", f">= {EVENTS} events, {DAYS} days, {LOSSES} losses", "INSUFFICIENT"),
    4: ("direction", "interval not below 0", "REJECTED"),
    5: ("net edge", "adjusted p <= 0.05 and lower bound > 0", "UNPROVEN"),
    6: ("price proxy", "97.5 % bound of the excess > 0", "PRICE_PROXY"),
    7: ("concentration", "top event <= 10 %; > 0 without the top 1 % and each category", "FRAGILE"),
    8: ("time", ">= 3 of 4 blocks of 30 days > 0; walk-forward > 0", "FRAGILE"),
    9: ("robustness", ">= 80 % of neighbours > 0; PBO <= 0.2", "FRAGILE"),
    10: ("execution", "> 0 one tick dearer", "FRAGILE"),
    11: ("economics", "more a year than cash", "UNECONOMIC"),
    12: ("confirmation", "registered before the data, or a lockbox within its budget", "PROVISIONAL"),
}


class Audited(Protocol):
    """What a look-ahead audit says."""

    @property
    def name(self) -> str: ...
    @property
    def passed(self) -> bool: ...
    @property
    def detail(self) -> str: ...


def _line(number: int, value: str, passed: bool | None, detail: str = "") -> Criterion:
    name, threshold, label = _NAMES[number]
    # What numpy compares is no bool, and would not be one in JSON.
    return Criterion(number, name, value, threshold, None if passed is None else bool(passed), label, detail)


def unexamined(number: int, why: str) -> Criterion:
    """A line that was not examined, and why."""
    return _line(number, "not examined", None, why)


def look_ahead(audits: Sequence[Audited]) -> Criterion:
    """Line 1: all audits passed; `detail` is the first failing one's sentence."""
    if not audits:
        return unexamined(1, "no audit was run")
    failed = [a for a in audits if not a.passed]
    value = f"{len(audits) - len(failed)} of {len(audits)} audits passed"
    return _line(1, value, not failed, "; ".join(f"{a.name}: {a.detail}" for a in failed))


def data(*, fill_rate: float, censored: float, unmatched: int, span: str = "", detail: str = "") -> Criterion:
    """Line 2: shares of fires filled and censored, and fires in markets that are not in the table; `span` is what the
    history says of its days and gaps, reported and no reason to fail.
    """
    value = f"{fill_rate:.0%} filled, {censored:.1%} censored, {unmatched:,} without a market"
    value += f"; {span}" if span else ""
    return _line(2, value, censored <= CENSORED and not unmatched, detail)


def sample(*, events: int, days: int, losses: int, mde: float) -> Criterion:
    """Line 3; `mde` in cents goes into the detail when it fails."""
    passed = events >= EVENTS and days >= DAYS and losses >= LOSSES
    detail = "" if passed else f"this sample cannot detect less than {_cents(mde)}"
    return _line(3, f"{events:,} events, {days:,} days, {losses:,} losses", passed, detail)


def direction(lower: float, upper: float) -> Criterion:
    """Line 4, of the net edge's interval in cents."""
    return _line(4, f"[{lower:+.2f}, {upper:+.2f}] c", not upper < 0)


def net_edge(*, p: float, trials: int, lower: float, mde: float, resamples: int) -> Criterion:
    """Line 5: `p` before adjustment, multiplied by the trials of the family (Bonferroni)."""
    adjusted = min(1.0, p * trials)
    passed = adjusted <= ALPHA and lower > 0
    detail = "" if passed else f"this sample cannot detect less than {_cents(mde)}"
    if trials / (resamples + 1) > ALPHA:
        detail = f"{resamples:,} resamples cannot reject at {trials:,} trials; " + detail
    return _line(5, f"p = {adjusted:.4f} (m = {trials:,}), lower bound {lower:+.2f} c", passed, detail)


def price_proxy(*, excess: float, lower975: float, bucketed: float) -> Criterion:
    """Line 6: excess in cents over the smooth baseline, its bound, and the excess over 5-cent buckets beside it."""
    value = f"{excess:+.2f} c over the price alone, bound {lower975:+.2f} c"
    return _line(6, value, lower975 > 0, f"against 5-cent buckets {bucketed:+.2f} c")


def concentration(
    *, top_share: float, without_top: float, without: Mapping[str, float], estimands: Mapping[str, float]
) -> Criterion:
    """Line 7: share of P&L of the best event, edges in cents without the best 1 % and without each category
    (empty: only one), and the edge under each weighting.
    """
    worst = min(without, key=lambda name: without[name], default=None)
    positive = {value > 0 for value in estimands.values()}
    passed = (
        top_share <= TOP_SHARE
        and without_top > 0
        and all(e > 0 for e in without.values())
        and len(positive) == 1
    )
    value = f"top event {top_share:.1%}, without top 1 % {without_top:+.2f} c"
    if worst is not None:
        value += f", without {worst} {without[worst]:+.2f} c"
    detail = "" if len(positive) == 1 else ", ".join(f"{k} {v:+.2f} c" for k, v in estimands.items())
    return _line(7, value, passed, detail and f"the sign depends on the weighting: {detail}")


def time(edges: Sequence[float], walk_forward: float | None) -> Criterion:
    """Line 8: edges in cents of consecutive blocks of at least 30 days (at most 4), and the pooled edge of the
    folds of a walk-forward, None where there were too few.
    """
    if len(edges) < 2:
        return _line(8, f"{len(edges)} block of 30 days", False, "needs at least two blocks of 30 days")
    good = sum(e > 0 for e in edges)
    enough = good >= math.ceil(0.75 * len(edges))
    value = f"{good} of {len(edges)} blocks positive"
    if walk_forward is None:
        return _line(8, value, None if enough else False, "too few events for a walk-forward")
    return _line(8, f"{value}, walk-forward {walk_forward:+.2f} c", enough and walk_forward > 0)


def robustness(share: float | None, cells: int, pbo: float | None, loss: float = 1.0) -> Criterion:
    """Line 9: share of neighbouring parameter sets with a positive net edge, and the probability of backtest
    overfitting (None with fewer than ten variants).

    On a plateau, where all variants earn the same, the best of one half is best of the other by chance only, and
    PBO is a half however real the edge.  So it counts only if the one that is best in one half *loses* in the
    other with a probability `loss` above 5 %.
    """
    if share is None:
        return unexamined(9, "no neighbouring parameters; give grid=")
    value = f"{share:.0%} of {cells} neighbours positive"
    value += "" if pbo is None else f", PBO {pbo:.2f}, {loss:.0%} of the best lose"
    return _line(9, value, share >= NEIGHBOURS and (pbo is None or pbo <= OVERFIT or loss <= LOSS))


def execution(*, at_tick: float, at_minute: float, half_life_s: float | None) -> Criterion:
    """Line 10: edges in cents one tick dearer and a minute later, and the latency in seconds that halves it."""
    lasting = "no half-life within a day" if half_life_s is None else f"half-life {half_life_s:,.0f} s"
    return _line(
        10, f"{at_tick:+.2f} c one tick dearer, {at_minute:+.2f} c after a minute, {lasting}", at_tick > 0
    )


def economics(*, annualised: float, cash_rate: float, dollars_a_day: float) -> Criterion:
    """Line 11: simple yearly return on the capital in use (a fraction), against what cash pays."""
    value = (
        f"{annualised:+.1%} a year against {cash_rate:.1%}, ${dollars_a_day:,.2f} a day at 10 % of the flow"
    )
    return _line(11, value, annualised > cash_rate)


def confirmation(*, p: float, budget: float, how: str) -> Criterion:
    """Line 12: the confirmatory p-value, what it may be, and where it comes from."""
    return _line(12, f"p = {p:.4f} ({how})", p <= budget, f"budget {budget:g}")


def unconfirmed(why: str) -> Criterion:
    """Line 12 failed before it was tried, and why."""
    return _line(12, "not confirmed", False, why)


def verdict_of(criteria: Sequence[Criterion]) -> str:
    """The verdict: the label of the first line that fails, caps observed.

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
    """The verdict of a card with line 13: that of the others, unless what was validated is refuted, or confirmed.

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
    bound = ("VALID",) if live.passed else ("VALID", "PROVISIONAL")
    return live.label if verdict in bound else verdict


def _cents(edge: float) -> str:
    return f"{edge:.1f} c" if math.isfinite(edge) else "any edge"
