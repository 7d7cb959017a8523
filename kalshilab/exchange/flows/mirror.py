"""A flow that mirrors a real feed, for the shadow venue: our orders meet the real book and do not affect it.

A feed handler pushes the feed's messages (`push_market`, `push_trade`, `push_snapshot`, `push_delta`,
`push_lifecycle`, `push_event`) and the events that the feed does not report (`push_blind`, `push_close`,
`push_time`).  An exchange with this flow plays them.  The exchange's background book is then the mirrored one,
less the size that our fills have taken.  Nothing here has network access: there is no host, key or socket.

Exchange time is the time of the feed's messages and never goes back: a message that is pushed late takes effect
late.  Feeds do not guarantee an order between channels; a caller that needs one sorts before pushing.

A market appears when it is first named.  Of a market known only by its ticker, the event is guessed from the
ticker; `push_market` supplies its facts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import ExchangeError
from kalshilab.exchange.flows.recorded_books import BookFrame, delta_frame, snapshot_frame
from kalshilab.exchange.flows.tape_flow import FlowStep, MarketFacts, StepKind
from kalshilab.market.fees import FEE_TYPES
from kalshilab.market.model import Market, Trade
from kalshilab.units import TickGrid

__all__ = ["Mirror"]

DAY: Final = 86_400_000_000
HOUR: Final = 3_600_000_000
STAGE: Final = {"initialized": 0, "active": 1, "inactive": 1, "closed": 2, "determined": 3, "disputed": 3, "amended": 3, "finalized": 4}  # fmt: skip
_STAGES: Final[tuple[StepKind, ...]] = ("open", "close", "determine", "settle")


class Mirror:
    """A flow whose steps are pushed by a feed handler.

    Args:
        start_us: exchange time before the first message, in microseconds.

    >>> mirror = Mirror()
    >>> mirror.push_snapshot("KXA-1-T", yes=[(4_400, 100)], no=[(5_500, 200)], ts=5)
    >>> [mirror.take().kind for _ in range(3)], mirror.take(), mirror.facts[0].event
    (['create', 'open', 'book'], None, 'KXA-1')
    """

    @renamed_keywords(start="start_us")
    def __init__(self, start_us: int = 0) -> None:
        self.facts: list[MarketFacts] = []
        self.prints = 0
        """Prints pushed so far."""
        self._now = start_us
        self._steps: deque[FlowStep] = deque()
        self._index: dict[str, int] = {}
        self._stage: dict[int, int] = {}
        self._series: dict[str, tuple[str, str]] = {}

    # The flow

    @property
    def next_ts(self) -> int | None:
        """Exchange time of the next step in microseconds; None if every step has been played."""
        return self._steps[0].ts if self._steps else None

    def take(self) -> FlowStep | None:
        """Remove and return the next step; return None if every step has been played."""
        return self._steps.popleft() if self._steps else None

    @property
    def waiting(self) -> int:
        """Number of steps pushed and not yet played."""
        return len(self._steps)

    def _add(
        self, ts: int, kind: StepKind, market: int, price: int = 0, size: int = 0, taker: str = "",
        trade_id: str = "",
    ) -> None:  # fmt: skip
        self._steps.append(FlowStep(self._at(ts), kind, market, price, size, taker, trade_id))

    def _at(self, ts: int) -> int:
        self._now = max(self._now, ts)
        return self._now

    # Messages of the feed

    def push_event(self, event: str, series: str, title: str = "") -> None:
        """Describe an event, for markets that are named after it."""
        self._series[event] = (series, title)

    def push_market(self, market: Market, ts: int = 0) -> None:
        """Describe a market and bring it to its current status.

        Raises:
            ExchangeError: its fee type has no formula.
        """
        if market.fee_type not in FEE_TYPES:
            raise ExchangeError(
                f"{market.ticker}: fee_type must be one of {', '.join(FEE_TYPES)}, got {market.fee_type!r}"
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
        """Push a public print."""
        self.prints += 1
        market = self._known(trade.ticker, trade.ts)
        self._add(trade.ts, "print", market, trade.price, trade.size, trade.taker, trade.trade_id)

    def push_snapshot(
        self, ticker: str, yes: Iterable[tuple[int, int]], no: Iterable[tuple[int, int]], ts: int = 0
    ) -> None:
        """Push a book snapshot.

        Args:
            ticker: the market.
            yes: YES bids as (price, size), in YES prices.
            no: NO bids as (price, size), in NO prices.
            ts: exchange time in microseconds.
        """
        self.push_frame(snapshot_frame(ts, ticker, yes, no))

    def push_delta(self, ticker: str, side: str, price: int, delta: int, ts: int = 0) -> None:
        """Push a change of one level.

        Playing it raises `BookError` if the level would fall below zero: push a snapshot after a gap.

        Args:
            ticker: the market.
            side: "yes" or "no".
            price: price of that side.
            delta: change of the size.
            ts: exchange time in microseconds.
        """
        self.push_frame(delta_frame(ts, ticker, side, price, delta))

    def push_frame(self, frame: BookFrame) -> None:
        """Push a book frame; `read_frames` returns those of a recording."""
        market = self._known(frame.ticker, frame.ts)
        if frame.levels is not None:
            self._steps.append(FlowStep(self._at(frame.ts), "book", market, levels=frame.levels))
        else:
            self._add(frame.ts, "level", market, frame.price, frame.delta, frame.side)

    def push_blind(self, ticker: str, ts: int = 0) -> None:
        """Mark a market's book as unknown until its next snapshot, because messages were lost.

        Until then nothing is displayed and nothing can be taken; our resting orders keep their places.
        """
        if ticker in self._index:
            self._add(ts, "blind", self._index[ticker])

    def push_time(self, ts: int) -> None:
        """Advance exchange time without any other event; orders may expire."""
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
        """Push a lifecycle message; a message without a transition only updates the market's facts.

        Args:
            ticker: the market.
            kind: the exchange's event type, such as "created" or "determined".
            ts: exchange time in microseconds.
            event: the market's event, if the message names it.
            open_ts: opening time in microseconds; 0 if the message has no such field.
            close_ts: closing time in microseconds; 0 if the message has no such field.
            result: the market's result, once determined.
            settlement: value of YES in price units, once determined.
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
        """Close a market; the feed sends no message for a close, so the caller watches the clock."""
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
        """Advance a market's lifecycle to a stage, through every stage on the way."""
        for number in range(self._stage[market], stage):
            self._add(ts, _STAGES[number], market)
            self._stage[market] = number + 1

    def __repr__(self) -> str:
        return f"Mirror({len(self.facts)} markets, {self.prints:,} prints, {len(self._steps)} steps to play)"
