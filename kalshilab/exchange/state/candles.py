"""Candlesticks of every market, built from its prints and quotes.

A candle covers one period and includes the period's end.  There is a candle only for a period with an event:
a print, or a change of the best bid or ask.  Its quotes open with the quotes that stood when the period
began.  Minutes are built from events; hours and days are built from minutes, and end at whole hours and days
of UTC.  The current, unfinished period is included up to now.

Memory is bounded: finished candles are rows of 58 bytes in one log per interval.  When a log exceeds its
limit, it forgets its oldest eighth.  Prints do not carry open interest; it is estimated as half of the
volume, here as everywhere in the exchange.

Prices are YES prices in price units; an empty side of the book is 0 for the bid and `PRICE` for the ask.
Sizes are in units of 1/100 contract, and times are microseconds of exchange time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from struct import Struct
from types import MappingProxyType
from typing import Final

from kalshilab.errors import ExchangeError
from kalshilab.units import PRICE

__all__ = ["CANDLES_KEPT", "INTERVALS", "Candle", "Candles"]

MINUTE: Final = 60_000_000
INTERVALS: Final = (1, 60, 1440)
"""The candle lengths in minutes."""
CANDLES_KEPT: Final = MappingProxyType({1: 400_000, 60: 100_000, 1440: 50_000})
"""Finished candles remembered, by length in minutes: about 32 MB."""

_ROW: Final = Struct("<q13hqqq")
_WIDTH: Final = _ROW.size


class Candle:
    """One period of one market.

    Attributes:
        end: end of the period, inclusive.
        bid, ask: best bid and ask: open, low, high, close.
        price: prints: open, low, high, close; zeros where `volume` is 0.
        previous: last print before the period; 0 without one.
        volume, notional: total size of its prints, and total price times size.
        total: volume of the market since its listing, as of the end.
    """

    __slots__ = ("ask", "bid", "end", "notional", "previous", "price", "total", "volume")

    def __init__(self, end: int, bid: int, ask: int, previous: int, total: int) -> None:
        self.end, self.previous, self.total = end, previous, total
        self.bid, self.ask, self.price = [bid] * 4, [ask] * 4, [0] * 4
        self.volume = self.notional = 0

    @property
    def mean(self) -> int:
        """Volume-weighted mean price, rounded; `volume` must be positive."""
        return (2 * self.notional + self.volume) // (2 * self.volume)

    @property
    def last(self) -> int:
        """Last print up to the end of the period; 0 without one."""
        return self.price[3] if self.volume else self.previous

    @property
    def open_interest(self) -> int:
        """Open interest as of the end of the period."""
        return self.total // 2

    def restart(self, end: int, bid: int, ask: int, previous: int) -> None:
        """Reset to a later period without events."""
        self.end, self.previous = end, previous
        self.bid[:] = bid, bid, bid, bid
        self.ask[:] = ask, ask, ask, ask
        self.price[:] = 0, 0, 0, 0
        self.volume = self.notional = 0

    def quote(self, bid: int, ask: int) -> None:
        """Record the best bid and ask."""
        _change(self.bid, bid)
        _change(self.ask, ask)

    def print(self, price: int, size: int) -> None:
        """Record a print."""
        if self.volume:
            _change(self.price, price)
        else:
            self.price[:] = price, price, price, price
        self.volume += size
        self.notional += price * size
        self.total += size

    def absorb(self, later: Candle) -> None:
        """Append the next candle of the same longer period."""
        _join(self.bid, later.bid)
        _join(self.ask, later.ask)
        if later.volume:
            if self.volume:
                _join(self.price, later.price)
            else:
                self.price[:] = later.price
            self.volume += later.volume
            self.notional += later.notional
        self.total = later.total

    def ending(self, end: int) -> Candle:
        """Return a copy with another end."""
        made = Candle(end, 0, 0, self.previous, self.total)
        made.bid[:], made.ask[:], made.price[:] = self.bid, self.ask, self.price
        made.volume, made.notional = self.volume, self.notional
        return made

    def packed(self) -> bytes:
        """Return the candle as a binary row."""
        return _ROW.pack(
            self.end,
            *self.bid,
            *self.ask,
            *self.price,
            self.previous,
            self.volume,
            self.notional,
            self.total,
        )

    @classmethod
    def unpacked(cls, rows: bytearray, offset: int) -> Candle:
        """Return the candle of a binary row."""
        end, *prices, volume, notional, total = _ROW.unpack_from(rows, offset)
        made = cls(end, 0, 0, prices[12], total)
        made.bid, made.ask, made.price = prices[:4], prices[4:8], prices[8:12]
        made.volume, made.notional = volume, notional
        return made

    def __repr__(self) -> str:
        return f"Candle(end={self.end}, price={self.price}, volume={self.volume})"


def _change(ohlc: list[int], value: int) -> None:
    if value < ohlc[1]:
        ohlc[1] = value
    if value > ohlc[2]:
        ohlc[2] = value
    ohlc[3] = value


def _join(ohlc: list[int], later: list[int]) -> None:
    if later[1] < ohlc[1]:
        ohlc[1] = later[1]
    if later[2] > ohlc[2]:
        ohlc[2] = later[2]
    ohlc[3] = later[3]


class CandleLog:
    """Finished candles of one length, of all markets, in the order in which they were finished."""

    __slots__ = ("_base", "_limit", "_next", "_own", "_rows")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._base = self._next = 0
        self._rows = bytearray()
        self._own: dict[str, array[int]] = {}

    def __len__(self) -> int:
        return self._next - self._base

    def append(self, ticker: str, candle: Candle) -> None:
        """Append a candle, which must be later than every earlier candle of its market."""
        own = self._own.get(ticker)
        if own is None:
            own = self._own[ticker] = array("q")
        own.append(self._next)
        self._rows += candle.packed()
        self._next += 1
        if self._next - self._base > self._limit:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        count = max(self._limit // 8, 1)
        del self._rows[: count * _WIDTH]
        self._base += count
        emptied = []
        for ticker, own in self._own.items():
            if own[0] < self._base:
                del own[: bisect_left(own, self._base)]
                if not own:
                    emptied.append(ticker)
        for ticker in emptied:
            del self._own[ticker]

    def _end(self, position: int) -> int:
        return int.from_bytes(self._rows[(at := (position - self._base) * _WIDTH) : at + 8], "little")

    def between(self, ticker: str, low: int, high: int) -> list[Candle]:
        """Return the candles of a market whose end is in [low, high]."""
        own = self._own.get(ticker, array("q"))
        i, j = bisect_left(own, low, key=self._end), bisect_right(own, high, key=self._end)
        return [Candle.unpacked(self._rows, (p - self._base) * _WIDTH) for p in own[i:j]]

    def before(self, ticker: str, moment: int) -> Candle | None:
        """Return the last candle of a market that ends before `moment`; None without one."""
        own = self._own.get(ticker, array("q"))
        i = bisect_left(own, moment, key=self._end)
        return Candle.unpacked(self._rows, (own[i - 1] - self._base) * _WIDTH) if i else None

    def forget(self, ticker: str) -> None:
        """Remove a market from the index; its rows are deleted when they are the oldest."""
        self._own.pop(ticker, None)


class _Track:
    """The current state of a market: quotes, last print and unfinished periods."""

    __slots__ = ("ask", "bid", "day", "hour", "last", "minute", "total", "until")

    def __init__(self) -> None:
        self.bid, self.ask, self.last, self.total, self.until = 0, PRICE, 0, 0, -1
        self.minute: Candle | None = None
        self.hour: Candle | None = None
        self.day: Candle | None = None


def _end_of(moment: int, minutes: int) -> int:
    """Return the end of the period that contains a moment."""
    length = minutes * MINUTE
    return -(-moment // length) * length


class Candles:
    """Candles of all markets.

    Args:
        kept: finished candles remembered, by length in minutes.

    >>> candles = Candles()
    >>> candles.quoted("A", 30_000_000, bid=3_900, ask=4_100)
    >>> candles.printed("A", 30_000_000, 4_100, 200)
    >>> candles.printed("A", 60_000_000, 4_400, 200)
    >>> candles.quoted("A", 60_000_000, bid=4_300, ask=4_500)
    >>> candles.quoted("A", 60_000_001, bid=4_200, ask=4_500)
    >>> for candle in candles.between("A", 1, 0, 120_000_000):
    ...     candle.end // 1_000_000, candle.bid, candle.price, candle.volume, candle.previous
    (60, [0, 0, 4300, 4300], [4100, 4100, 4400, 4400], 400, 0)
    (120, [4300, 4200, 4300, 4200], [0, 0, 0, 0], 0, 4400)
    >>> [c.end // 1_000_000 for c in candles.between("A", 60, 0, 3_600_000_000)]
    [3600]

    Raises:
        ExchangeError: a limit is below 8.
    """

    def __init__(self, kept: dict[int, int] | MappingProxyType[int, int] = CANDLES_KEPT) -> None:
        if min(kept[i] for i in INTERVALS) < 8:
            raise ExchangeError(f"kept must be >= 8 for each length, got {dict(kept)}")
        self._logs = {i: CandleLog(kept[i]) for i in INTERVALS}
        self._minutes = self._logs[1]
        self._tracks: dict[str, _Track] = {}

    # Events

    def printed(self, ticker: str, now: int, price: int, size: int) -> None:
        """Record a print."""
        track = self._tracks.get(ticker)
        if track is None:
            track = self._tracks[ticker] = _Track()
        candle = track.minute
        if candle is None or now > track.until:
            candle = self._begin(ticker, track, now)
        candle.print(price, size)
        track.last = price
        track.total += size

    def quoted(self, ticker: str, now: int, bid: int | None, ask: int | None) -> None:
        """Record the best quotes; unchanged quotes have no effect."""
        track = self._tracks.get(ticker)
        if track is None:
            track = self._tracks[ticker] = _Track()
        bid, ask = bid or 0, PRICE if ask is None else ask
        if bid == track.bid and ask == track.ask:
            return
        candle = track.minute
        if candle is None or now > track.until:
            candle = self._begin(ticker, track, now)
        track.bid, track.ask = bid, ask
        candle.quote(bid, ask)

    def forget(self, ticker: str) -> None:
        """Remove a market."""
        self._tracks.pop(ticker, None)
        for log in self._logs.values():
            log.forget(ticker)

    def _begin(self, ticker: str, track: _Track, now: int) -> Candle:
        """Finish the past minute and begin the current one."""
        minute, track.until = track.minute, _end_of(now, 1)
        if minute is None:
            minute = track.minute = Candle(track.until, track.bid, track.ask, track.last, track.total)
            return minute
        self._minutes.append(ticker, minute)
        track.hour = self._lengthen(ticker, track.hour, minute, 60)
        track.day = self._lengthen(ticker, track.day, minute, 1440)
        minute.restart(track.until, track.bid, track.ask, track.last)
        return minute

    def _lengthen(self, ticker: str, long: Candle | None, minute: Candle, minutes: int) -> Candle:
        """Return the hour or day of a finished minute, with the minute included."""
        if long is not None:
            if minute.end <= long.end:
                long.absorb(minute)
                return long
            self._logs[minutes].append(ticker, long)
        return minute.ending(_end_of(minute.end, minutes))

    # Queries

    def between(self, ticker: str, minutes: int, low: int, high: int) -> list[Candle]:
        """Return a market's candles whose end is in [low, high], in order of time.

        Args:
            ticker: the market.
            minutes: length of a candle in minutes, one of `INTERVALS`.
            low: first end, in microseconds of exchange time.
            high: last end, inclusive.
        """
        finished = self._logs[minutes].between(ticker, low, high)
        return finished + [c for c in self._unfinished(ticker, minutes) if low <= c.end <= high]

    def before(self, ticker: str, minutes: int, moment: int) -> Candle | None:
        """Return a market's last candle that ends before `moment`; None without one."""
        unfinished = [c for c in self._unfinished(ticker, minutes) if c.end < moment]
        return unfinished[-1] if unfinished else self._logs[minutes].before(ticker, moment)

    def as_of(self, ticker: str, moment: int) -> Candle | None:
        """Return the last candle that had ended at a moment, of the shortest length that reaches it."""
        candidates = (self.before(ticker, minutes, moment + 1) for minutes in INTERVALS)
        return next((c for c in candidates if c is not None), None)

    def _unfinished(self, ticker: str, minutes: int) -> list[Candle]:
        """Return the candles not yet logged: the current one and, for hours and days, one before at most."""
        track = self._tracks.get(ticker)
        if track is None or track.minute is None:
            return []
        minute = track.minute
        if minutes == 1:
            return [minute.ending(minute.end)]
        long = track.hour if minutes == 60 else track.day
        if long is None or long.end < minute.end:
            present = minute.ending(_end_of(minute.end, minutes))
            return [present] if long is None else [long.ending(long.end), present]
        long = long.ending(long.end)
        long.absorb(minute)
        return [long]

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(log):,} of {i} min" for i, log in self._logs.items())
        return f"Candles({len(self._tracks)} markets, {counts})"
