"""The series of the synthetic flow: several categories, their events, and the rule that decides their markets.

An **event** is decided by one number, revealed gradually until the close.  A market is YES if that number
ends in the market's interval: above a threshold (a *ladder* of nested markets), between two (*bands*, of
which exactly one is YES), on one side (a *pair*), or above one strike (*single*).  So markets of one event
are consistent with each other at every moment, as those of a real event should be.

Names follow the exchange's: `SERIES-DATE` or `SERIES-DATE-SUBJECT` for events, and a suffix for each market.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from kalshilab.deprecation import renamed_keywords
from kalshilab.lazy import renamed

__all__ = ["SERIES", "MarketInterval", "SeriesPlan", "event_ticker", "market_intervals"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

Law = Literal["single", "ladder", "bands", "pair"]
MINUTE: Final = 60_000_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
INFINITY: Final = float("inf")

MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
TEAMS: Final = ("ATL", "BOS", "CHI", "CLE", "DAL", "DEN", "DET", "HOU", "LAL", "MIA", "MIL", "NYK", "PHI", "PHX", "SEA", "TOR")  # fmt: skip


@dataclass(frozen=True)
class SeriesPlan:
    """A series whose events the flow lists.

    Attributes:
        subjects: subjects of its events, one each; empty if there is one event at a time.
        period_us: microseconds between closes of events about one subject; closes fall on whole periods.
        duration_us: minimum of microseconds from opening to close.
        spread_price_units: price units between the prints of YES and NO takers at an unchanged price.
        size: contracts of the median print.
        weight: relative print frequency of its markets.
        slack_us: microseconds from the real close to the announced one.
    """

    series: str
    category: str
    title: str
    law: Law
    count: int
    period_us: int
    duration_us: int
    subjects: tuple[str, ...] = ()
    centre: float = 0.0
    width: float = 1.0
    structure: str = "linear_cent"
    fee_type: str = "quadratic"
    fee_multiplier: float = 1.0
    spread_price_units: int = 200
    size: float = 20.0
    weight: float = 1.0
    slack_us: int = 0


SeriesPlan.__init__ = renamed_keywords(  # type: ignore[method-assign]
    period="period_us", lasts="duration_us", spread="spread_price_units", slack="slack_us"
)(SeriesPlan.__init__)


class MarketInterval(NamedTuple):
    """One market of an event: YES if the deciding standard normal number ends in [low, high)."""

    suffix: str
    title: str
    low: float
    high: float


SERIES: Final[tuple[SeriesPlan, ...]] = (
    SeriesPlan(
        "KXBTC15M", "Crypto", "Bitcoin price up in next 15 mins?", "single", 1, 15 * MINUTE, 15 * MINUTE,
        structure="tapered_deci_cent", spread_price_units=100, size=40, weight=8,
    ),
    SeriesPlan(
        "KXETH15M", "Crypto", "Ethereum price up in next 15 mins?", "single", 1, 15 * MINUTE, 15 * MINUTE,
        structure="tapered_deci_cent", spread_price_units=100, size=30, weight=5,
    ),
    SeriesPlan(
        "KXBTCD", "Crypto", "Bitcoin price at the hour", "ladder", 6, HOUR, 2 * HOUR,
        centre=95_000, width=600, spread_price_units=200, size=30, weight=2,
    ),
    SeriesPlan(
        "KXINXU", "Financials", "S&P 500 above", "ladder", 5, HOUR, 3 * HOUR,
        centre=6_900, width=25, fee_multiplier=0.5, spread_price_units=200, size=25, weight=2,
    ),
    SeriesPlan(
        "KXNBAGAME", "Sports", "Professional basketball game", "pair", 2, 30 * MINUTE, 5 * HOUR,
        subjects=tuple(a + b for a in TEAMS for b in TEAMS if a < b),
        fee_type="quadratic_with_maker_fees", spread_price_units=100, size=60, weight=6, slack_us=HOUR,
    ),
    SeriesPlan(
        "KXMLBGAME", "Sports", "Professional baseball game", "pair", 2, 30 * MINUTE, 6 * HOUR,
        subjects=tuple(b + a for a in TEAMS for b in TEAMS if a < b),
        fee_type="quadratic_with_maker_fees", spread_price_units=100, size=50, weight=5, slack_us=HOUR,
    ),
    SeriesPlan(
        "KXHIGHNY", "Climate and Weather", "Highest temperature in NYC", "bands", 6, DAY, DAY,
        centre=62, width=4, spread_price_units=300, size=20,
    ),
    SeriesPlan(
        "KXHIGHCHI", "Climate and Weather", "Highest temperature in Chicago", "bands", 6, DAY, DAY,
        centre=55, width=5, spread_price_units=300, size=15,
    ),
    SeriesPlan(
        "KXCPIYOY", "Economics", "Inflation, year over year", "ladder", 5, 30 * DAY, 10 * DAY,
        centre=3.1, width=0.15, spread_price_units=300, size=40,
    ),
    SeriesPlan(
        "KXPAYROLLS", "Economics", "Jobs numbers", "ladder", 5, 30 * DAY, 10 * DAY,
        centre=60_000, width=45_000, spread_price_units=300, size=35,
    ),
    SeriesPlan(
        "KXAPRPOTUS", "Politics", "President's approval rating", "bands", 6, 7 * DAY, 5 * DAY,
        centre=41.0, width=0.8, spread_price_units=200, size=50, weight=1.5,
    ),
    SeriesPlan(
        "KXSPOTIFYD", "Entertainment", "Top song on the day", "single", 1, DAY, DAY,
        subjects=("AURORA", "EMBER", "HARBOR", "JUNIPER", "LANTERN", "MERIDIAN", "NOVEMBER", "SPARROW"),
        spread_price_units=400, size=12, weight=0.7,
    ),
)  # fmt: skip


def event_ticker(plan: SeriesPlan, subject: str, close: int) -> str:
    """Return the ticker of an event: its series, its closing time and its subject.

    >>> event_ticker(SERIES[0], "", 1_763_901_000_000_000)
    'KXBTC15M-25NOV231230'
    """
    when = datetime.fromtimestamp(close // 1_000_000, UTC)
    # Month names as the exchange writes them, independent of the locale.
    month = MONTHS[when.month - 1]
    stamp = f"{when.year % 100:02d}{month}{when.day:02d}"
    if plan.period_us < DAY:
        stamp += f"{when.hour:02d}" + (f"{when.minute:02d}" if plan.period_us < HOUR else "")
    if plan.law == "pair":
        return f"{plan.series}-{stamp}{subject}"
    return f"{plan.series}-{stamp}-{subject}" if subject else f"{plan.series}-{stamp}"


def market_intervals(plan: SeriesPlan, subject: str, close: int, start: float) -> list[MarketInterval]:
    """Return the markets of an event.

    Args:
        plan: the series.
        subject: the event's subject; empty if it has no subject.
        close: closing time in microseconds.
        start: the event's initial number, a standard normal draw, around which the thresholds are centred.
    """
    if plan.law == "single":
        minute = close // MINUTE % 60
        suffix = f"{minute:02d}" if plan.period_us < HOUR else "YES"
        return [MarketInterval(suffix, plan.title, -start, INFINITY)]
    if plan.law == "pair":
        home, away = subject[:3], subject[3:]
        return [
            MarketInterval(home, f"{home} vs {away}: {home} wins", -start, INFINITY),
            MarketInterval(away, f"{home} vs {away}: {away} wins", -INFINITY, -start),
        ]
    # Thresholds are spread evenly over the likely range, around a centre shifted by the event's initial number.
    places = plan.count if plan.law == "ladder" else plan.count - 1
    cuts = [-start + 2.4 * (k - (places - 1) / 2) / max(places - 1, 1) for k in range(places)]
    strikes = [plan.centre + plan.width * (start + c) for c in cuts]
    names = [f"{x:.2f}" if plan.width < 10 else f"{x:.0f}" for x in strikes]
    if plan.law == "ladder":
        return [
            MarketInterval(f"T{n}", f"{plan.title} {n}", c, INFINITY)
            for n, c in zip(names, cuts, strict=True)
        ]
    edges = [-INFINITY, *cuts, INFINITY]
    titles = [
        f"T{names[0]}",
        *(f"B{(a + b) / 2:.2f}" for a, b in pairwise(strikes)),
        f"T{names[-1]}a",
    ]
    return [
        MarketInterval(t, f"{plan.title} {t}", low, high)
        for t, low, high in zip(titles, edges[:-1], edges[1:], strict=True)
    ]
