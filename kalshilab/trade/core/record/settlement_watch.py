"""Watch over markets with a position: asked about from their close on, until they are paid out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from typing import Final

from kalshilab.market.model import Settlement
from kalshilab.trade.core.markets import Markets
from kalshilab.trade.core.messages import (
    LookUpMarket,
    MarketFound,
    Outbox,
    ReadSettlements,
    Result,
    SettlementsRead,
)

__all__ = ["SettlementWatch"]

UNKNOWN_CLOSE_US: Final = 60_000_000
"""Exchange microseconds before a held market is checked again whose close time is not known."""
POLL_US: Final = 1_000_000
"""Monotonic microseconds before the second question for a pay-out; each further one waits twice as long."""
POLL_MAX_US: Final = 60_000_000
"""Longest wait between two questions for a pay-out."""


class SettlementWatch:
    """Markets with a position that have closed or are determined: asked about until they are paid out.

    Args:
        outbox: receives the questions.
        markets: receives the state of markets that were looked up.
        held: returns whether the account has a position in a market.
        pay: called with each settlement that was read.
    """

    def __init__(
        self,
        outbox: Outbox,
        markets: Markets,
        *,
        held: Callable[[str], bool],
        pay: Callable[[Settlement], object],
    ) -> None:
        self._outbox, self._markets, self._held, self._pay = outbox, markets, held, pay
        self._closes: list[tuple[int, str]] = []
        self._due: list[tuple[int, str]] = []
        self._waits: dict[str, int] = {}
        self._asking: set[str] = set()
        self._known: set[str] = set()

    def __contains__(self, ticker: str) -> bool:
        return ticker in self._waits

    def follow(self, ticker: str) -> None:
        """Watch a held market from its close time on."""
        if ticker not in self._known:
            self._known.add(ticker)
            heappush(self._closes, (self._close_of(ticker) or self._outbox.now + UNKNOWN_CLOSE_US, ticker))

    def rescheduled(self, ticker: str) -> None:
        """Watch a held market from its new close time on."""
        if ticker in self._known:
            heappush(self._closes, (self._close_of(ticker), ticker))

    def _close_of(self, ticker: str) -> int:
        followed = self._markets.get(ticker)
        return 0 if followed is None or followed.market is None else followed.market.close_ts

    def expect(self, ticker: str, *, at_once: bool = False) -> None:
        """Ask for the pay-out of a market until it is paid, now or after a first wait."""
        if not self._held(ticker):
            return
        if ticker not in self._waits:
            self._waits[ticker] = POLL_US
            heappush(self._due, (self._outbox.mono + POLL_US, ticker))
        if at_once and ticker not in self._asking:
            self._waits[ticker] = POLL_US
            self._ask(ticker)

    def tick(self) -> None:
        """Ask about the markets that are due."""
        while self._closes and self._closes[0][0] <= self._outbox.now:
            self._at_close(heappop(self._closes)[1])
        while self._due and self._due[0][0] <= self._outbox.mono:
            ticker = heappop(self._due)[1]
            if ticker in self._waits and ticker not in self._asking:
                self._ask(ticker)

    def _at_close(self, ticker: str) -> None:
        self._known.discard(ticker)
        if not self._held(ticker):
            return
        close = self._close_of(ticker)
        if close and close <= self._outbox.now:
            self._known.add(ticker)
            self.expect(ticker)
        else:
            self.follow(ticker)

    def _ask(self, ticker: str) -> None:
        if not self._held(ticker):
            self._paid(ticker)
            return
        self._asking.add(ticker)
        out = self._outbox
        followed = self._markets.get(ticker)
        if followed is None or followed.status == "settled" or followed.market is None:
            out.send(
                ReadSettlements(number=out.number(), ticker=ticker), partial(self._on_settlements, ticker)
            )
        else:
            out.send(LookUpMarket(number=out.number(), ticker=ticker), partial(self._on_market, ticker))

    def _on_market(self, ticker: str, result: Result) -> None:
        self._asking.discard(ticker)
        if isinstance(result, MarketFound) and result.market is not None:
            self._markets.found(result.market)
            followed = self._markets.get(ticker)
            if ticker in self._asking:
                return
            if followed is not None and followed.status == "settled":
                self._ask(ticker)
                return
        self._again(ticker)

    def _on_settlements(self, ticker: str, result: Result) -> None:
        self._asking.discard(ticker)
        if isinstance(result, SettlementsRead):
            for settlement in result.settlements:
                self._pay(settlement)
        self._again(ticker)

    def _paid(self, ticker: str) -> None:
        self._waits.pop(ticker, None)
        self._known.discard(ticker)

    def _again(self, ticker: str) -> None:
        if not self._held(ticker):
            self._paid(ticker)
            return
        wait = self._waits[ticker] = min(2 * self._waits.get(ticker, POLL_US), POLL_MAX_US)
        heappush(self._due, (self._outbox.mono + wait, ticker))
