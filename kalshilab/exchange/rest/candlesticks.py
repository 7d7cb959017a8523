"""Candlesticks over REST: of a market, of several markets, of an event, and of an archived market.

The limits apply to the requested range, not to the result: 5,000 periods for one market, 10,000 for several markets
together. Only periods with activity are listed. A period without prints has quotes, and its only price is the
previous one.

With `include_latest_before_start` the last candle before the range precedes the others. It is moved to the first
period end within the range, keeps its closing quotes, and its only price is the previous one. If that period has a
candle already, nothing is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from kalshilab.exchange.core import Exchange
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.exchange.rest.params import FOREVER, Answer, BadQuery, flag, integer, names, not_found, ok
from kalshilab.exchange.state.candles import INTERVALS, Candle
from kalshilab.exchange.state.listings import Listing
from kalshilab.kalshi.wire import rest as wire
from kalshilab.units import format_price, format_size

__all__ = ["CandleRoutes"]

MAX_PERIODS: Final = 5_000
"""Maximum number of periods in a range of one market."""
MAX_PERIODS_TOGETHER: Final = 10_000
"""Maximum number of periods in a range of several markets, summed over the markets."""
MAX_MARKETS: Final = 100
"""Maximum number of markets in one request."""


class CandleRange(NamedTuple):
    """A requested range of candlesticks.

    Attributes:
        start_s: earliest end of a period, in seconds, inclusive.
        end_s: latest end of a period, in seconds, inclusive.
        interval_minutes: length of a period.
        include_latest: whether the last candle before the range precedes the others.
    """

    start_s: int
    end_s: int
    interval_minutes: int
    include_latest: bool

    @property
    def period_s(self) -> int:
        """Length of a period in seconds."""
        return self.interval_minutes * 60


class CandleRoutes:
    """Routes of candlesticks."""

    def __init__(self, exchange: Exchange) -> None:
        self._ex = exchange

    def answer(self, parts: Sequence[str], query: Mapping[str, str]) -> Answer | None:
        """Return the answer to a GET; None for an unknown path.

        Args:
            parts: segments of the path below the contract's root.
            query: the query.

        Raises:
            Refused, BadQuery: the request is invalid; the caller turns the error into an answer.
        """
        match parts:
            case ["markets", "candlesticks"]:
                return self._several(query)
            case ["series", _, "markets", ticker, "candlesticks"]:
                # Like the exchange, ignore the series.
                return self._one(ticker, query)
            case ["series", series, "events", event, "candlesticks"]:
                return self._event(series, event, query)
            case ["historical", "markets", ticker, "candlesticks"]:
                return self._archived(ticker, query)
        return None

    def _range(self, query: Mapping[str, str]) -> CandleRange:
        for name in ("start_ts", "end_ts", "period_interval"):
            if not query.get(name):
                raise BadQuery(f"{name} must be given")
        start = integer(query, "start_ts", 0, -FOREVER, FOREVER)
        end = integer(query, "end_ts", 0, -FOREVER, FOREVER)
        interval = integer(query, "period_interval", 0, -FOREVER, FOREVER)
        if interval not in INTERVALS:
            raise BadQuery(f"period_interval must be one of {', '.join(map(str, INTERVALS))}, got {interval}")
        if end < start:
            raise BadQuery(f"end_ts must be >= start_ts, got {end} < {start}")
        return CandleRange(start, end, interval, flag(query, "include_latest_before_start") or False)

    @staticmethod
    def _limit_one(asked: CandleRange) -> None:
        periods = (asked.end_s - asked.start_s) / asked.period_s
        if periods > MAX_PERIODS:
            raise Refused(
                400,
                "bad_request",
                f"requested time range with candlesticks: {periods:.6f}, max candlesticks: {MAX_PERIODS}",
                "bad request",
            )

    def _listing(self, ticker: str, *, archived: bool = False) -> Listing:
        listing = self._ex.listings.get(ticker)
        if listing is None or self._ex.archived(listing) != archived:
            raise Refused(404, "not_found", message="market not found")
        return listing

    def _one(self, ticker: str, query: Mapping[str, str]) -> Answer:
        asked = self._range(query)
        self._limit_one(asked)
        self._listing(ticker)
        return ok(wire.CandlestickList(ticker=ticker, candlesticks=self._candles(ticker, asked)))

    def _several(self, query: Mapping[str, str]) -> Answer:
        asked, tickers = self._range(query), names(query, "market_tickers")
        if tickers is None:
            raise BadQuery("market_tickers must be given")
        if len(tickers) > MAX_MARKETS:
            raise BadQuery(f"market_tickers must hold at most {MAX_MARKETS} tickers, got {len(tickers)}")
        together = len(tickers) * ((asked.end_s - asked.start_s) // asked.period_s)
        if together > MAX_PERIODS_TOGETHER:
            raise Refused(
                400,
                "bad_request",
                f"requested candlesticks across all markets: {together}, max candlesticks: {MAX_PERIODS_TOGETHER}",
                "bad request",
            )
        listed = [
            t for t in tickers if (x := self._ex.listings.get(t)) is not None and not self._ex.archived(x)
        ]
        return ok(
            wire.MarketCandlesticksList(
                markets=[
                    wire.MarketCandlesticks(market_ticker=t, candlesticks=self._candles(t, asked))
                    for t in listed
                ]
            )
        )

    def _event(self, series: str, event: str, query: Mapping[str, str]) -> Answer:
        asked = self._range(query)
        markets = self._ex.listings.of_event(event)
        if not markets or markets[0].facts.series != series:
            return not_found("event")
        live = [x.facts.ticker for x in markets if not self._ex.archived(x)]
        # The range of an event is truncated instead of refused, and `adjusted_end_ts` reports its end.
        longest_s = MAX_PERIODS // max(len(live), 1) * asked.period_s
        end_s = min(asked.end_s, asked.start_s + longest_s)
        asked = asked._replace(end_s=end_s, include_latest=False)
        return ok(
            wire.EventCandlesticks(
                market_tickers=live,
                market_candlesticks=[self._candles(t, asked) for t in live],
                adjusted_end_ts=asked.end_s,
            )
        )

    def _archived(self, ticker: str, query: Mapping[str, str]) -> Answer:
        asked = self._range(query)
        self._limit_one(asked)
        self._listing(ticker, archived=True)
        candles = [historical(c) for c in self._between(ticker, asked)]
        return ok(wire.HistoricalCandlestickList(ticker=ticker, candlesticks=candles))

    def _between(self, ticker: str, asked: CandleRange) -> list[Candle]:
        return self._ex.candles.between(
            ticker, asked.interval_minutes, asked.start_s * 1_000_000, asked.end_s * 1_000_000
        )

    def _candles(self, ticker: str, asked: CandleRange) -> list[wire.Candlestick]:
        candles = self._between(ticker, asked)
        if asked.include_latest:
            latest = self._ex.candles.before(ticker, asked.interval_minutes, asked.start_s * 1_000_000)
            first = -(-asked.start_s // asked.period_s) * asked.period_s * 1_000_000
            if latest is not None and (not candles or candles[0].end > first):
                bid, ask = latest.bid[3], latest.ask[3]
                candles.insert(0, Candle(first, bid, ask, latest.last, latest.total))
        return [live(c) for c in candles]


def live(c: Candle) -> wire.Candlestick:
    """Return a candle in the live form."""
    first, low, high, close, mean = _prices(c)
    return wire.Candlestick(
        end_period_ts=c.end // 1_000_000,
        yes_bid=_quotes(c.bid),
        yes_ask=_quotes(c.ask),
        price=wire.CandlePrices(
            open_dollars=first,
            low_dollars=low,
            high_dollars=high,
            close_dollars=close,
            mean_dollars=mean,
            previous_dollars=format_price(c.previous) if c.previous else None,
        ),
        volume_fp=format_size(c.volume),
        open_interest_fp=format_size(c.open_interest),
    )


def historical(c: Candle) -> wire.HistoricalCandlestick:
    """Return a candle in the archive's form."""
    first, low, high, close, mean = _prices(c)
    return wire.HistoricalCandlestick(
        end_period_ts=c.end // 1_000_000,
        yes_bid=_historical_quotes(c.bid),
        yes_ask=_historical_quotes(c.ask),
        price=wire.HistoricalPrices(
            open=first,
            low=low,
            high=high,
            close=close,
            mean=mean,
            previous=format_price(c.previous) if c.previous else None,
        ),
        volume=format_size(c.volume),
        open_interest=format_size(c.open_interest),
    )


def _prices(c: Candle) -> list[str | None]:
    """Return open, low, high, close and mean of the prints; None for each without prints."""
    return [format_price(p) for p in (*c.price, c.mean)] if c.volume else [None] * 5


def _quotes(ohlc: list[int]) -> wire.CandleQuotes:
    first, low, high, close = map(format_price, ohlc)
    return wire.CandleQuotes(open_dollars=first, low_dollars=low, high_dollars=high, close_dollars=close)


def _historical_quotes(ohlc: list[int]) -> wire.HistoricalQuotes:
    first, low, high, close = map(format_price, ohlc)
    return wire.HistoricalQuotes(open=first, low=low, high=high, close=close)
