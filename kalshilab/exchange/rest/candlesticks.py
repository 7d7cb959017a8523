"""Candlesticks over REST: of a market, of several, of an event, and of an archived market.

A range is refused by what it asks for, not by what it would find: more than 5,000 periods of one market, or
10,000 of several together.  Only periods in which something happened are listed; a period without prints has
quotes, and of prices the previous one alone.

With `include_latest_before_start` the last candle before the range goes before it, moved to the first end of a
period that is not before the range: its closing quotes stand, its prices are the previous one alone.  If
there is a candle of that period, that one tells as much, and nothing is put before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from kalshilab.exchange.core import Exchange
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.exchange.rest.params import FOREVER, Answer, BadQuery, flag, integer, missing, names, ok
from kalshilab.exchange.state.candles import INTERVALS, Candle
from kalshilab.exchange.state.listings import Listing
from kalshilab.kalshi.wire import rest as wire
from kalshilab.units import format_price, format_size

__all__ = ["CandleRoutes"]

MOST: Final = 5_000
"""Periods of one market that a range may hold."""
MOST_TOGETHER: Final = 10_000
MOST_MARKETS: Final = 100


class Range(NamedTuple):
    """What is asked for: periods that end in [start, end], in seconds; their length in minutes."""

    start: int
    end: int
    interval: int
    latest: bool

    @property
    def length(self) -> int:
        """Seconds of a period."""
        return self.interval * 60


class CandleRoutes:
    """Answers what is about candlesticks."""

    def __init__(self, exchange: Exchange) -> None:
        self._ex = exchange

    def answer(self, parts: Sequence[str], query: Mapping[str, str]) -> Answer | None:
        """The answer to a GET, or None where there is no such path.

        Raises:
            Refused, BadQuery: to be put into words by the caller.
        """
        match parts:
            case ["markets", "candlesticks"]:
                return self._several(query)
            case ["series", _, "markets", ticker, "candlesticks"]:
                # The exchange does not look at the series either.
                return self._one(ticker, query)
            case ["series", series, "events", event, "candlesticks"]:
                return self._event(series, event, query)
            case ["historical", "markets", ticker, "candlesticks"]:
                return self._archived(ticker, query)
        return None

    def _range(self, query: Mapping[str, str]) -> Range:
        for name in ("start_ts", "end_ts", "period_interval"):
            if not query.get(name):
                raise BadQuery(f"{name}: required")
        start = integer(query, "start_ts", 0, -FOREVER, FOREVER)
        end = integer(query, "end_ts", 0, -FOREVER, FOREVER)
        interval = integer(query, "period_interval", 0, -FOREVER, FOREVER)
        if interval not in INTERVALS:
            raise BadQuery(f"period_interval: one of {', '.join(map(str, INTERVALS))}")
        if end < start:
            raise BadQuery("end_ts: before start_ts")
        return Range(start, end, interval, flag(query, "include_latest_before_start") or False)

    @staticmethod
    def _limit_one(asked: Range) -> None:
        periods = (asked.end - asked.start) / asked.length
        if periods > MOST:
            raise Refused(
                400,
                "bad_request",
                f"requested time range with candlesticks: {periods:.6f}, max candlesticks: {MOST}",
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
            raise BadQuery("market_tickers: required")
        if len(tickers) > MOST_MARKETS:
            raise BadQuery(f"market_tickers: {len(tickers)} are more than {MOST_MARKETS}")
        together = len(tickers) * ((asked.end - asked.start) // asked.length)
        if together > MOST_TOGETHER:
            raise Refused(
                400,
                "bad_request",
                f"requested candlesticks across all markets: {together}, max candlesticks: {MOST_TOGETHER}",
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
            return missing("event")
        live = [x.facts.ticker for x in markets if not self._ex.archived(x)]
        # Of an event less is answered rather than nothing, and it is said up to when.
        most = MOST // max(len(live), 1) * asked.length
        asked = asked._replace(end=min(asked.end, asked.start + most), latest=False)
        return ok(
            wire.EventCandlesticks(
                market_tickers=live,
                market_candlesticks=[self._candles(t, asked) for t in live],
                adjusted_end_ts=asked.end,
            )
        )

    def _archived(self, ticker: str, query: Mapping[str, str]) -> Answer:
        asked = self._range(query)
        self._limit_one(asked)
        self._listing(ticker, archived=True)
        found = [historical(c) for c in self._between(ticker, asked)]
        return ok(wire.HistoricalCandlestickList(ticker=ticker, candlesticks=found))

    def _between(self, ticker: str, asked: Range) -> list[Candle]:
        return self._ex.candles.between(
            ticker, asked.interval, asked.start * 1_000_000, asked.end * 1_000_000
        )

    def _candles(self, ticker: str, asked: Range) -> list[wire.Candlestick]:
        found = self._between(ticker, asked)
        if asked.latest:
            latest = self._ex.candles.before(ticker, asked.interval, asked.start * 1_000_000)
            first = -(-asked.start // asked.length) * asked.length * 1_000_000
            if latest is not None and (not found or found[0].end > first):
                bid, ask = latest.bid[3], latest.ask[3]
                found.insert(0, Candle(first, bid, ask, latest.last, latest.total))
        return [live(c) for c in found]


def live(c: Candle) -> wire.Candlestick:
    """A candle in the live form."""
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
    """A candle in the archive's form."""
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
    """Open, low, high, close and mean of the prints."""
    return [format_price(p) for p in (*c.price, c.mean)] if c.volume else [None] * 5


def _quotes(ohlc: list[int]) -> wire.CandleQuotes:
    first, low, high, close = map(format_price, ohlc)
    return wire.CandleQuotes(open_dollars=first, low_dollars=low, high_dollars=high, close_dollars=close)


def _historical_quotes(ohlc: list[int]) -> wire.HistoricalQuotes:
    first, low, high, close = map(format_price, ohlc)
    return wire.HistoricalQuotes(open=first, low=low, high=high, close=close)
