"""REST bodies of candlesticks, in the live form and in the archive's, which has other names.

For a period without trades, the live form omits the prices and the archive's form has null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kalshilab.kalshi.wire.base import Wire
from kalshilab.lazy import renamed

__all__ = [
    "CandlePrices",
    "CandleQuotes",
    "Candlestick",
    "CandlestickList",
    "EventCandlesticks",
    "HistoricalCandlestick",
    "HistoricalCandlestickList",
    "HistoricalPrices",
    "HistoricalQuotes",
    "MarketCandlesticks",
    "MarketCandlesticksList",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)


class CandleQuotes(Wire, frozen=True, omit_defaults=False):
    """Best bids or best asks of a period, in dollars."""

    open_dollars: str
    low_dollars: str
    high_dollars: str
    close_dollars: str


class CandlePrices(Wire, frozen=True):
    """YES prices of a period's trades, in dollars; only `previous_dollars` if there were no trades."""

    open_dollars: str | None = None
    low_dollars: str | None = None
    high_dollars: str | None = None
    close_dollars: str | None = None
    mean_dollars: str | None = None
    previous_dollars: str | None = None


class Candlestick(Wire, frozen=True, omit_defaults=False):
    """One period of a market; it includes its end, `end_period_ts`, in seconds."""

    end_period_ts: int
    yes_bid: CandleQuotes
    yes_ask: CandleQuotes
    price: CandlePrices
    volume_fp: str
    open_interest_fp: str


class CandlestickList(Wire, frozen=True, omit_defaults=False):
    """Candlesticks of one market."""

    ticker: str
    candlesticks: list[Candlestick]


class MarketCandlesticks(Wire, frozen=True, omit_defaults=False):
    """Candlesticks of one market in an answer about several."""

    market_ticker: str
    candlesticks: list[Candlestick]


class MarketCandlesticksList(Wire, frozen=True, omit_defaults=False):
    """Candlesticks of several markets."""

    markets: list[MarketCandlesticks]


class EventCandlesticks(Wire, frozen=True, omit_defaults=False):
    """Candlesticks of an event's markets, in the order of `market_tickers`, up to `adjusted_end_ts`."""

    market_tickers: list[str]
    market_candlesticks: list[list[Candlestick]]
    adjusted_end_ts: int


class HistoricalQuotes(Wire, frozen=True, omit_defaults=False):
    """Same as `CandleQuotes`, with the archive's names."""

    open: str
    low: str
    high: str
    close: str


class HistoricalPrices(Wire, frozen=True, omit_defaults=False):
    """Same as `CandlePrices`, with the archive's names."""

    open: str | None
    low: str | None
    high: str | None
    close: str | None
    mean: str | None
    previous: str | None


class HistoricalCandlestick(Wire, frozen=True, omit_defaults=False):
    """Same as `Candlestick`, with the archive's names."""

    end_period_ts: int
    yes_bid: HistoricalQuotes
    yes_ask: HistoricalQuotes
    price: HistoricalPrices
    volume: str
    open_interest: str


class HistoricalCandlestickList(Wire, frozen=True, omit_defaults=False):
    """Candlesticks of one archived market."""

    ticker: str
    candlesticks: list[HistoricalCandlestick]
