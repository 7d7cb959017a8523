"""The driver of the live session: it hands events to the trader, one at a time, and carries out its commands.

Everything runs on one event loop.  Frames of the feed, answers of REST, time and the operator's wishes become events; the
trader handles each one synchronously and returns its commands.  A command that waits for an answer becomes a task, whose
answer is an event again.  Nothing is decided here.

The trader decides about its fires when the driver delivers `Quiet`, the end of an instant: as soon as the frames that have
arrived are handled.  A local exchange counts the frames it has sent, so there the driver waits for the last of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from kalshilab.clock import Clock
from kalshilab.errors import JournalError, KalshilabError, SessionError
from kalshilab.kalshi.stream.client import Connected, Disconnected, Stream
from kalshilab.kalshi.stream.events import (
    BookDelta,
    BookSnapshot,
    FeedGap,
    Lifecycle,
    Rejected,
    Subscribed,
)
from kalshilab.market.model import Fill, Order, Trade
from kalshilab.trade.core import messages as m
from kalshilab.trade.core.trader import Trader
from kalshilab.trade.events import Transition
from kalshilab.trade.health import Health
from kalshilab.trade.live.exchange_clock import ExchangeClock
from kalshilab.trade.live.venue_requests import VenueRequests
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.tasks import Tasks
from kalshilab.trade.venues.venue import FrameCount

__all__ = ["CHANNELS", "Driver"]

CHANNELS = ("trade", "market_lifecycle_v2", "fill", "user_orders")
"""The channels of every session; order books are subscribed market by market."""
READ_WITHIN_S: Final = 10.0
"""Seconds within which a read is answered, its repetitions included, or counts as lost."""
ANSWER_WITHIN_S: Final = {
    m.ListMarkets: 120.0, m.ReadPrints: 120.0, m.Place: 20.0, m.Cancel: 20.0, m.Amend: 20.0,
}  # fmt: skip
"""The same for long lists, and for writes, which may wait for the exchange's rate limit."""
QUIET = m.Quiet()
TICK = m.Tick()


class Driver:
    """The rim of a live session.

    Args:
        trader: the core.
        stream: the feed; the driver subscribes its channels.
        requests: carries out requests over REST.
        journal: receives the records.
        clock: exchange time.
        wall: machine time.
        tasks: starts requests.
        health: receives console lines.
        frames: the frame count of a local exchange; None for another venue.
        book_timeout_s: seconds for which a local exchange waits for the first book of a market.

    Attributes:
        finished: set once the trader has ended.
        connected: set once the feed has been complete for the first time.
        unhandled: number of events of the feed that concern no part of the session.
        journal_error: the error that ended the record, or None.
        on_disconnected: called after each loss of the feed, once the trader has handled it.
        on_error: called with what failed, and the error.
        on_record: called with each record that is in the journal.
    """

    def __init__(
        self,
        trader: Trader,
        *,
        stream: Stream,
        requests: VenueRequests,
        journal: Journal,
        clock: Clock,
        wall: Clock,
        tasks: Tasks,
        health: Health,
        frames: FrameCount | None,
        book_timeout_s: float,
    ) -> None:
        self.trader, self._stream, self._requests, self._journal = trader, stream, requests, journal
        self._clock, self._wall, self._tasks, self._health = clock, wall, tasks, health
        self._frames, self._book_timeout_s = frames, book_timeout_s
        self._books_due: dict[str, float] = {}
        self._confirmed: set[str] = set()
        self._quiet_due = self._resubscribed = False
        self._watched: set[str] = set()
        self._loop = asyncio.get_running_loop()
        self._observe = clock.observe if isinstance(clock, ExchangeClock) else None
        self.finished, self.connected = asyncio.Event(), asyncio.Event()
        self.unhandled = 0
        self.journal_error: JournalError | None = None
        self.on_disconnected: Callable[[], None] = lambda: None
        self.on_error: Callable[[str, Exception], None] = _raise
        self.on_record: Callable[[m.JournalRecord], None] = lambda record: None
        stream.subscribe(*CHANNELS)
        self._handlers: Mapping[type, Callable[..., None]] = {
            Trade: self._on_timed,
            BookSnapshot: self._on_snapshot,
            BookDelta: self.deliver,
            Lifecycle: self._on_timed,
            Fill: self._on_timed,
            Order: self.deliver,
            FeedGap: self.deliver,
            Connected: lambda event: None,
            Disconnected: self._on_disconnected,
            Subscribed: self._on_subscribed,
            Rejected: lambda e: health.log(f"feed: command refused, {e.message} (code {e.code})"),
        }

    # Events

    def deliver(self, event: m.Event) -> None:
        """Let the trader handle an event, and carry out what follows."""
        for command in self.trader.handle(event, self._clock.now(), self._mono()):
            self._carry_out(command)
        if self.trader.is_due(self._clock.now()):
            self._quiet_soon()

    def _mono(self) -> int:
        return round(self._wall.monotonic() * 1e6)

    def tick(self) -> None:
        """Let time pass."""
        self.deliver(TICK)

    def on_event(self, event: object) -> None:
        """Handle an event of the stream."""
        handler = self._handlers.get(type(event))
        if handler is None:
            self.unhandled += 1
        else:
            handler(event)

    def _on_timed(self, event: Trade | Lifecycle | Fill) -> None:
        if self._observe is not None:
            self._observe(event.ts)
        self.deliver(event)

    def _on_snapshot(self, event: BookSnapshot) -> None:
        self._books_due.pop(event.ticker, None)
        self.deliver(event)

    def _on_subscribed(self, event: Subscribed) -> None:
        self._confirmed.add(event.channel)
        if event.channel in CHANNELS and self._confirmed.issuperset(CHANNELS):
            self.connected.set()
            # The stream has subscribed to every book again, so snapshots come without being asked for.
            self._resubscribed = True
            self.deliver(m.FeedUp())
            self._resubscribed = False

    def _on_disconnected(self, event: Disconnected) -> None:
        self._confirmed.clear()
        self._books_due.clear()
        self.deliver(m.FeedDown(event.reason))
        self.on_disconnected()

    def feed_failed(self, reason: str) -> None:
        """Report that the feed has ended with an error, and will be opened again."""
        self._confirmed.clear()
        self._books_due.clear()
        self.deliver(m.FeedDown(reason))

    # Quiet

    def _quiet_soon(self) -> None:
        if not self._quiet_due:
            self._quiet_due = True
            self._loop.call_soon(self._quiet)

    def _quiet(self) -> None:
        self._quiet_due = False
        # What a local exchange has sent or been asked is missing still; its arrival asks again.
        if self._frames is not None and (
            self._tasks.working or self._books_missing() or self._frames_missing()
        ):
            return
        try:
            for command in self.trader.handle(QUIET, self._clock.now(), self._mono()):
                self._carry_out(command)
        except Exception as error:  # noqa: BLE001 - the event loop would only log it; the session stops cleanly
            self.on_error("decision", error)

    def _frames_missing(self) -> bool:
        frames = self._frames
        return frames is not None and frames.missing(self._stream.frames_received) > 0

    def is_behind(self) -> bool:
        """Return whether a frame of a local exchange, or the reaction to one, is not handled yet."""
        if self._quiet_due or self._tasks.working or self._books_missing():
            return True
        if self._frames is None:
            return False
        lost = self._frames.give_up_stalled(self._stream.frames_received, self._wall.monotonic())
        if lost:
            self._health.log(f"{lost} frames were lost with a connection")
        if self._frames_missing():
            return True
        if self.trader.is_due(self._clock.now()):
            self._quiet_soon()
            return True
        return False

    def _books_missing(self) -> bool:
        if not self._books_due:
            return False
        now = self._wall.monotonic()
        for ticker in [ticker for ticker, due in self._books_due.items() if due <= now]:
            del self._books_due[ticker]
            self._health.log(f"{ticker}: no book within {self._book_timeout_s:g} s")
        return bool(self._books_due)

    # Commands

    def _carry_out(self, command: m.Command) -> None:
        if isinstance(command, m.JournalRecord):
            self._record(command)
        elif isinstance(command, m.TraderRequest):
            self._request(command)
        elif isinstance(command, m.Watch):
            self._watch(command.tickers)
        elif isinstance(command, m.Unwatch):
            self._watched.difference_update(command.tickers)
            self._stream.delete_markets("orderbook_delta", command.tickers)
        elif isinstance(command, m.Say):
            self._health.log(command.text)
        elif isinstance(command, m.Finish):
            self.finished.set()

    def _record(self, command: m.JournalRecord) -> None:
        if self.journal_error is not None:
            return
        value = command.value
        try:
            if isinstance(value, Transition):
                # The trader knows monotonic time only.
                value = msgspec.structs.replace(value, wall=self._wall.now())
            self._journal.write(command.kind, value, command.key)
        except JournalError as error:
            self.journal_error = error
            # Nothing may be ordered without a record; what rests is cancelled.
            self._loop.call_soon(self.deliver, m.Operate("stop", str(error)))
        else:
            self.on_record(command)

    def _request(self, command: m.TraderRequest) -> None:
        if self.journal_error is not None and isinstance(command, m.Place):
            refused = m.RequestAnswer(command.number, m.Declined(0, "journal"))
            self._loop.call_soon(self.deliver, refused)
            return
        self._tasks.work(type(command).__name__, self._answer(command))

    async def _answer(self, command: m.TraderRequest) -> None:
        within_s = ANSWER_WITHIN_S.get(type(command), READ_WITHIN_S)
        result: m.Result
        try:
            async with asyncio.timeout(within_s):
                result = await self._requests.answer(command)
        except TimeoutError:
            # The trader asks again, or finds out what became of it; a session that ends cannot wait for a silent line.
            result = m.Lost(f"no answer within {within_s:g} s")
        self.deliver(m.RequestAnswer(command.number, result))

    def _watch(self, tickers: tuple[str, ...]) -> None:
        due = self._wall.monotonic() + self._book_timeout_s
        if self._frames is not None and self._confirmed:
            self._books_due.update(dict.fromkeys(tickers, due))
        new = [ticker for ticker in tickers if ticker not in self._watched]
        if not self._resubscribed:
            self._stream.get_snapshot(ticker for ticker in tickers if ticker in self._watched)
        self._watched.update(new)
        self._stream.add_markets("orderbook_delta", new)


def _raise(name: str, error: Exception) -> None:
    raise session_error(name, error)


def session_error(name: str, error: Exception) -> KalshilabError:
    """Return the error of a task as an error of the session."""
    if isinstance(error, KalshilabError):
        return error
    wrapped = SessionError(f"{name}: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
