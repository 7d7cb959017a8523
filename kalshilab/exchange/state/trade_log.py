"""The public prints the exchange remembers: what its trade listings are read from.

Prints are appended in the order in which they happen and each has an **absolute position**, the number of
prints before it since the exchange began.  A listing is a walk down from a position, and its cursor names
one, so prints that arrive while a client turns pages move nothing: no row comes twice and none is left out.

Memory is bounded: columns of machine integers and the ids, about 120 bytes a print.  Past `limit` prints the
oldest eighth is forgotten at once, and is then in no listing, live or historical; positions stay what they
were.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final, NamedTuple

from kalshilab.errors import ExchangeError
from kalshilab.market.model import Trade

__all__ = ["PRINTS_KEPT", "PrintLog", "PrintPage"]

PRINTS_KEPT: Final = 500_000
"""Public prints remembered unless the exchange is told otherwise: about 60 MB."""


class PrintPage(NamedTuple):
    """Part of a listing, newest first; `below` is where the next part begins, None when there is none."""

    prints: list[Trade]
    below: int | None


class PrintLog:
    """Public prints in the order of exchange time.

    Args:
        limit: the most remembered.

    >>> log = PrintLog()
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
            raise ExchangeError(f"{limit} prints kept: at least 8")
        self.limit: Final = limit
        self._base = 0
        self._ts, self._market = array("q"), array("I")
        self._price, self._size, self._yes = array("h"), array("I"), bytearray()
        self._ids: list[str] = []
        self._tickers: list[str] = []
        self._codes: dict[str, int] = {}
        # Positions of each market's prints: a listing of one market does not walk over all the others.
        self._own: list[array[int]] = []

    def __len__(self) -> int:
        return len(self._ts)

    @property
    def first(self) -> int:
        """Position of the oldest print remembered: how many were forgotten."""
        return self._base

    def append(self, trade: Trade) -> None:
        """Remember a print.

        Raises:
            ExchangeError: it is older than the one before it.
        """
        if self._ts and trade.ts < self._ts[-1]:
            raise ExchangeError(f"print {trade.trade_id} at {trade.ts} comes after one at {self._ts[-1]}")
        code = self._codes.get(trade.ticker)
        if code is None:
            code = self._codes[trade.ticker] = len(self._tickers)
            self._tickers.append(trade.ticker)
            self._own.append(array("q"))
        self._own[code].append(self._base + len(self._ts))
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
    ) -> PrintPage:
        """Prints of [low, high) in exchange time, microseconds, newest first; those at one instant as they came, backwards.

        Args:
            ticker: only this market's; None or "" for all.
            below: only prints at positions below this one: the `below` of the page before.
            count: at most this many.
        """
        start = self._base + bisect_left(self._ts, low)
        end = self._base + bisect_left(self._ts, high)
        if below is not None:
            end = min(end, below)
        if not ticker:
            least = max(start, end - count)
            wanted = range(end - 1, least - 1, -1)
            return PrintPage([self._trade(p) for p in wanted], least if least > start and wanted else None)
        code = self._codes.get(ticker)
        if code is None:
            return PrintPage([], None)
        own = self._own[code]
        i, j = bisect_left(own, start), bisect_left(own, end)
        k = max(i, j - count)
        return PrintPage([self._trade(p) for p in reversed(own[k:j])], own[k] if k > i and j > k else None)

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
        for own in self._own:
            if own and own[0] < self._base:
                del own[: bisect_left(own, self._base)]

    def __repr__(self) -> str:
        return f"PrintLog({len(self):,} of {self._base + len(self):,} prints, {len(self._tickers)} markets)"
