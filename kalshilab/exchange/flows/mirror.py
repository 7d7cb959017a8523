"""A flow that follows a real feed: the shadow venue, where our orders meet the world's book and the world does not.

Whoever listens to the feed pushes what it says (`push_market`, `push_trade`, `push_snapshot`, `push_delta`,
`push_lifecycle`, `push_event`) and what the feed cannot say (`push_blind`, `push_close`, `push_time`), and an
exchange that was given this flow plays it.  The exchange's background book is then exactly the mirrored one,
less what our own fills have taken.
Nothing here sends anything anywhere: it has no host, no key and no socket.

Exchange time is that of the feed's messages and never goes back: what is pushed late happens when it comes.
Feeds deliver the channels of one moment in no strict order; whoever needs a strict one sorts before pushing.

A market appears when it is first named.  Of one that is only known by its ticker little is told (its event is
guessed from the ticker); `push_market` says what it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from kalshilab.errors import ExchangeError
from kalshilab.exchange.flows.recorded_books import BookFrame, delta_frame, snapshot_frame
from kalshilab.exchange.flows.tape_flow import MarketFacts, Step, StepKind
from kalshilab.market.fees import FEE_TYPES
from kalshilab.market.model import Market, Trade
from kalshilab.units import TickGrid

__all__ = ["Mirror"]

DAY: Final = 86_400_000_000
HOUR: Final = 3_600_000_000
STAGE: Final = {"initialized": 0, "active": 1, "inactive": 1, "closed": 2, "determined": 3, "disputed": 3, "amended": 3, "finalized": 4}  # fmt: skip
_STAGES: Final[tuple[StepKind, ...]] = ("open", "close", "determine", "settle")


class Mirror:
    """A flow driven from outside.

    Args:
        start: exchange time before anything is pushed, microseconds.

    >>> mirror = Mirror()
    >>> mirror.push_snapshot("KXA-1-T", yes=[(4_400, 100)], no=[(5_500, 200)], ts=5)
    >>> [mirror.take().kind for _ in range(3)], mirror.take(), mirror.facts[0].event
    (['create', 'open', 'book'], None, 'KXA-1')
    """

    def __init__(self, start: int = 0) -> None:
        self.facts: list[MarketFacts] = []
        self.prints = 0
        """Prints pushed so far."""
        self._now = start
        self._steps: deque[Step] = deque()
        self._index: dict[str, int] = {}
        self._stage: dict[int, int] = {}
        self._series: dict[str, tuple[str, str]] = {}

    # The flow

    @property
    def next_ts(self) -> int | None:
        """When what was pushed first and not played yet happens; None when all is played."""
        return self._steps[0].ts if self._steps else None

    def take(self) -> Step | None:
        """The next step, taken; None when all is played."""
        return self._steps.popleft() if self._steps else None

    @property
    def waiting(self) -> int:
        """Steps pushed and not yet played."""
        return len(self._steps)

    def _add(
        self, ts: int, kind: StepKind, market: int, price: int = 0, size: int = 0, taker: str = "",
        trade_id: str = "",
    ) -> None:  # fmt: skip
        self._steps.append(Step(self._at(ts), kind, market, price, size, taker, trade_id))

    def _at(self, ts: int) -> int:
        self._now = max(self._now, ts)
        return self._now

    # What the feed says

    def push_event(self, event: str, series: str, title: str = "") -> None:
        """What an event is, for markets that are named after it."""
        self._series[event] = (series, title)

    def push_market(self, market: Market, ts: int = 0) -> None:
        """What a market is, and how far it has come.

        Raises:
            ExchangeError: its fees have no formula here.
        """
        if market.fee_type not in FEE_TYPES:
            raise ExchangeError(
                f"{market.ticker}: fee type {market.fee_type!r} has no formula; use one of {FEE_TYPES}"
            )
        known = self._index.get(market.ticker)
        f = MarketFacts(mirrored=True) if known is None else self.facts[known]
        f.ticker, f.event, f.series = market.ticker, market.event, market.series or market.event.split("-")[0]
        f.category, f.title = market.category, market.title
        f.structure, f.grid = market.price_structure or "linear_cent", market.grid
        f.fee_type, f.fee_multiplier = market.fee_type, market.fee_multiplier
        now = max(self._now, ts)
        f.open = market.open_ts or now
        f.created = min(f.open, now)
        f.close = f.announced_close = market.close_ts or market.expected_close_ts or now + DAY
        f.result = market.result
        f.settlement = market.settlement or 0
        f.determined = f.close
        f.settled = market.settled_ts or f.close + HOUR
        if known is None:
            self._list(f, ts)
        self._advance(f.index, STAGE.get(market.status, 1), ts)
        if market.status == "inactive":
            self._add(ts, "pause", f.index)

    def push_trade(self, trade: Trade) -> None:
        """A public print of the world."""
        self.prints += 1
        market = self._known(trade.ticker, trade.ts)
        self._add(trade.ts, "print", market, trade.price, trade.size, trade.taker, trade.trade_id)

    def push_snapshot(
        self, ticker: str, yes: Iterable[tuple[int, int]], no: Iterable[tuple[int, int]], ts: int = 0
    ) -> None:
        """A market's book anew: the bids of both sides, (price, size), each in its own prices."""
        self.push_frame(snapshot_frame(ts, ticker, yes, no))

    def push_delta(self, ticker: str, side: str, price: int, delta: int, ts: int = 0) -> None:
        """One level changed: `side` "yes" or "no", its own price.

        Playing it raises `BookError` where the level would fall below zero: push a snapshot after a gap.
        """
        self.push_frame(delta_frame(ts, ticker, side, price, delta))

    def push_frame(self, frame: BookFrame) -> None:
        """A book frame; `read_frames` gives those of a recording."""
        market = self._known(frame.ticker, frame.ts)
        if frame.levels is not None:
            self._steps.append(Step(self._at(frame.ts), "book", market, levels=frame.levels))
        else:
            self._add(frame.ts, "level", market, frame.price, frame.delta, frame.side)

    def push_blind(self, ticker: str, ts: int = 0) -> None:
        """A market's book is not known until its next snapshot: something of the feed was lost.

        Until then nothing is displayed and nothing can be taken; our resting orders keep their places.
        """
        if ticker in self._index:
            self._add(ts, "blind", self._index[ticker])

    def push_time(self, ts: int) -> None:
        """Time has passed, and nothing else happened; orders expire by it."""
        self._add(ts, "time", -1)

    def push_lifecycle(
        self,
        ticker: str,
        kind: str,
        ts: int = 0,
        *,
        event: str = "",
        open_ts: int = 0,
        close_ts: int = 0,
        result: str = "",
        settlement: int | None = None,
    ) -> None:
        """A step in a market's life, in the exchange's word `kind`; what does not change its life is noted.

        Args:
            event: the market's event, where the message names it.
            open_ts, close_ts: microseconds; 0 where the message says nothing.
            settlement: YES' value in price units, once determined.
        """
        market = self._known(ticker, ts, created=kind == "created", named=event)
        f = self.facts[market]
        if open_ts:
            f.open = open_ts
        if close_ts:
            f.close = close_ts
            if kind == "created":
                f.announced_close = close_ts
        if settlement is not None:
            f.result, f.settlement = result, settlement
        if kind == "determined":
            f.determined = self._at(ts)
            self._advance(market, 3, ts)
        elif kind == "settled":
            f.settled = self._at(ts)
            self._advance(market, 4, ts)
        elif kind == "activated" and self._stage[market] == 0:
            self._advance(market, 1, ts)
        elif kind in ("activated", "deactivated") and self._stage[market] < 2:
            self._advance(market, 1, ts)
            self._add(ts, "resume" if kind == "activated" else "pause", market)

    def push_close(self, ticker: str, ts: int) -> None:
        """A market has closed; the feed sends no message of it, so whoever reads the clock says it."""
        self._advance(self._known(ticker, ts), 2, ts)

    # Markets

    def _known(self, ticker: str, ts: int, *, created: bool = False, named: str = "") -> int:
        index = self._index.get(ticker)
        if index is not None:
            return index
        f = MarketFacts(mirrored=True)
        f.ticker = ticker
        f.event = named or ticker.rpartition("-")[0] or ticker
        series, title = self._series.get(f.event, ("", ""))
        f.series, f.title, f.category = series or ticker.split("-")[0], title, ""
        f.structure, f.fee_type, f.fee_multiplier = "deci_cent", "quadratic", 1.0
        f.grid = TickGrid.named(f.structure)
        now = self._at(ts)
        f.created = f.open = now
        f.close = f.announced_close = f.determined = now + DAY
        f.settled = f.close + HOUR
        f.result, f.settlement = "", 0
        self._list(f, ts)
        if not created:
            self._advance(f.index, 1, ts)
        return f.index

    def _list(self, f: MarketFacts, ts: int) -> None:
        f.index = self._index[f.ticker] = len(self.facts)
        self.facts.append(f)
        self._stage[f.index] = 0
        self._add(ts, "create", f.index)

    def _advance(self, market: int, stage: int, ts: int) -> None:
        """Take a market's life as far as it is known to be, through every stage on the way."""
        for number in range(self._stage[market], stage):
            self._add(ts, _STAGES[number], market)
            self._stage[market] = number + 1

    def __repr__(self) -> str:
        return f"Mirror({len(self.facts)} markets, {self.prints:,} prints, {len(self._steps)} steps to play)"
