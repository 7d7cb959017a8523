"""The public prints that the exchange remembers; trade listings are read from this log.

Prints are appended in exchange-time order.  Each has an **absolute position**: the number of prints before it
since the exchange began.  A listing walks down from a position, and its cursor names one, so prints that
arrive while a client turns pages neither repeat nor hide a row.

Memory is bounded: columns of machine integers and the ids, about 120 bytes a print.  Past `limit` prints the
oldest eighth is forgotten at once and appears in no listing, live or historical; positions do not change.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

from kalshilab.errors import ExchangeError
from kalshilab.lazy import renamed
from kalshilab.market.model import Trade

__all__ = ["PRINTS_KEPT", "TradeLog", "TradeLogPage"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

PRINTS_KEPT: Final = 500_000
"""Public prints remembered by default: about 60 MB."""


class TradeLogPage(NamedTuple):
    """One page of a listing, newest first; the next page begins at position `below`, None at the end."""

    prints: list[Trade]
    below: int | None


class TradeLog:
    """Public prints in exchange-time order.

    Args:
        limit: maximum number of prints remembered.

    >>> log = TradeLog()
    >>> for n in range(5):
    ...     log.append(Trade(1_000_000 * n, "AB"[n % 2], 5_000, 100, "yes", f"t{n}"))
    >>> first = log.between(0, 5_000_000, "A", count=2)
    >>> [t.trade_id for t in first.prints], first.below
    (['t4', 't2'], 2)
    >>> [t.trade_id for t in log.between(0, 5_000_000, "A", below=first.below, count=2).prints]
    ['t0']

    Raises:
        ExchangeError: a limit below 8.
    """

    def __init__(self, limit: int = PRINTS_KEPT) -> None:
        if limit < 8:
            raise ExchangeError(f"the number of prints kept must be >= 8, got {limit}")
        self.limit: Final = limit
        self._base = 0
        self._ts, self._market = array("q"), array("I")
        self._price, self._size, self._yes = array("h"), array("I"), bytearray()
        self._ids: list[str] = []
        self._tickers: list[str] = []
        self._codes: dict[str, int] = {}
        # Positions of each market's prints, so that a listing of one market need not scan the others.
        self._positions: list[array[int]] = []

    def __len__(self) -> int:
        return len(self._ts)

    @property
    def first(self) -> int:
        """Position of the oldest print remembered, which is the number of prints forgotten."""
        return self._base

    def append(self, trade: Trade) -> None:
        """Append a print.

        Raises:
            ExchangeError: it is older than the print before it.
        """
        if self._ts and trade.ts < self._ts[-1]:
            raise ExchangeError(
                f"print {trade.trade_id}: ts must be >= {self._ts[-1]}, the time of the print before it, got {trade.ts}"
            )
        code = self._codes.get(trade.ticker)
        if code is None:
            code = self._codes[trade.ticker] = len(self._tickers)
            self._tickers.append(trade.ticker)
            self._positions.append(array("q"))
        self._positions[code].append(self._base + len(self._ts))
        self._ts.append(trade.ts)
        self._market.append(code)
        self._price.append(trade.price)
        self._size.append(trade.size)
        self._yes.append(trade.taker == "yes")
        self._ids.append(trade.trade_id)
        if len(self._ts) > self.limit:
            self._forget(max(self.limit // 8, 1))

    def between(
        self, low: int, high: int, ticker: str | None = None, *, below: int | None = None, count: int = 1000
    ) -> TradeLogPage:
        """Return the prints of [low, high), newest first; prints of one instant are in reverse order of arrival.

        Args:
            low: start in microseconds of exchange time, inclusive.
            high: end in microseconds of exchange time, exclusive.
            ticker: only this market's prints; None or "" for all markets.
            below: only prints at positions below this one: the `below` of the previous page.
            count: maximum number of prints.
        """
        start = self._base + bisect_left(self._ts, low)
        end = self._base + bisect_left(self._ts, high)
        if below is not None:
            end = min(end, below)
        if not ticker:
            least = max(start, end - count)
            wanted = range(end - 1, least - 1, -1)
            return TradeLogPage([self._trade(p) for p in wanted], least if least > start and wanted else None)
        code = self._codes.get(ticker)
        if code is None:
            return TradeLogPage([], None)
        positions = self._positions[code]
        i, j = bisect_left(positions, start), bisect_left(positions, end)
        k = max(i, j - count)
        page = [self._trade(p) for p in reversed(positions[k:j])]
        return TradeLogPage(page, positions[k] if k > i and j > k else None)

    def _trade(self, position: int) -> Trade:
        n = position - self._base
        return Trade(
            self._ts[n],
            self._tickers[self._market[n]],
            self._price[n],
            self._size[n],
            "yes" if self._yes[n] else "no",
            self._ids[n],
        )

    def _forget(self, count: int) -> None:
        for column in (self._ts, self._market, self._price, self._size, self._yes, self._ids):
            del column[:count]
        self._base += count
        for positions in self._positions:
            if positions and positions[0] < self._base:
                del positions[: bisect_left(positions, self._base)]

    def __repr__(self) -> str:
        return f"TradeLog({len(self):,} of {self._base + len(self):,} prints, {len(self._tickers)} markets)"
