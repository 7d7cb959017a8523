"""Market data that a loss of frames makes invalid: the live books, and the prints.

Two drivers deliver books in two ways.  A stream sends a snapshot of each watched market and then every change: a book is
valid until its frames are lost.  A simulation in the same process answers a `Watch` at once with the book that is
displayed at this instant: it is valid for one decision, and is dropped after it.

Prints that were missed are read over REST and fed in their order, so that the signals see the prints of the tape.

Data also loses its value with age, on monotonic time: no order is placed on a feed or a book that has been silent for too
long.  A silent book is read again; a silent feed is trusted again with its next frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Literal

from kalshilab.errors import BookError
from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot
from kalshilab.market.book import Book
from kalshilab.market.model import Trade
from kalshilab.trade.core.messages import Outbox, PrintsRead, ReadPrints, Result, Unwatch, Watch

__all__ = ["Books", "FeedAge", "MissedPrints"]

RECENT: Final = 2000
"""Prints by which those that are read again are known."""
PRINTS_AGAIN_US: Final = 2_000_000
"""Monotonic microseconds before missed prints are asked for again."""
GIVE_UP_US: Final = 10_000_000
"""Monotonic microseconds after which missed prints are given up."""


class Books:
    """Books that are kept from snapshots and changes.

    Args:
        outbox: receives the subscriptions.
        mode: "stream" or "ask", see the module.
        stale_us: monotonic microseconds without a frame after which a book is read again; None: no limit.
        wait_us: monotonic microseconds after which a book that has not arrived is asked for again; None: never.
    """

    def __init__(
        self,
        outbox: Outbox,
        mode: Literal["stream", "ask"],
        *,
        stale_us: int | None = None,
        wait_us: int | None = None,
    ) -> None:
        self._outbox, self.asked_for = outbox, mode == "ask"
        self._stale_us, self._wait_us = stale_us, wait_us
        self._books: dict[str, Book] = {}
        self._watched: set[str] = set()
        self._times: dict[str, int] = {}
        """Monotonic time of the last frame of each watched book, or of the last request for it."""
        self.awaited = ""
        """The market whose book was asked for and has not arrived, or ""."""
        self.snapshots = self.deltas = 0
        """Numbers of the frames of books received."""

    def get(self, ticker: str) -> Book | None:
        """Return the book of a market, or None before its snapshot and after a loss of frames."""
        return self._books.get(ticker)

    def lack(self, ticker: str) -> str:
        """Return the reason for which a market's book cannot be used now, or ""; a stale or a late book is asked for again."""
        age = self._outbox.mono - self._times.get(ticker, self._outbox.mono)
        if ticker not in self._books:
            if self._wait_us is not None and age > self._wait_us:
                self.refresh((ticker,))
            return "no book"
        if self._stale_us is None or self.asked_for or age <= self._stale_us:
            return ""
        self.refresh((ticker,))
        return "stale book"

    def watch(self, ticker: str) -> None:
        """Subscribe to the book of a market, if books are streamed."""
        if not self.asked_for and ticker not in self._watched:
            self._watched.add(ticker)
            self._subscribe((ticker,))

    def _subscribe(self, tickers: tuple[str, ...]) -> None:
        self._outbox.add(Watch(tickers))
        self._times.update(dict.fromkeys(tickers, self._outbox.mono))

    def unwatch(self, ticker: str) -> None:
        """End the subscription to a market's book, and drop it."""
        self._books.pop(ticker, None)
        self._times.pop(ticker, None)
        if ticker in self._watched:
            self._watched.discard(ticker)
            self._outbox.add(Unwatch((ticker,)))

    def ask(self, ticker: str) -> None:
        """Ask for the displayed book of a market, which arrives before the next `Quiet`."""
        self.awaited = ticker
        self._outbox.add(Watch((ticker,)))

    def take_unanswered(self) -> str:
        """Return the market whose book was asked for and did not arrive, and wait for it no longer."""
        ticker, self.awaited = self.awaited, ""
        return ticker

    def load(self, event: BookSnapshot) -> None:
        """Replace a book by its snapshot."""
        self.snapshots += 1
        if self.awaited == event.ticker:
            self.awaited = ""
        book = self._books.get(event.ticker)
        if book is None:
            book = self._books[event.ticker] = Book()
        if self._stale_us is not None:
            self._times[event.ticker] = self._outbox.mono
        try:
            book.load(event.yes, event.no)
        except BookError as error:
            self._drop(event.ticker, error)

    def apply(self, event: BookDelta) -> None:
        """Apply a change of one level; a book that cannot be right is dropped, and subscribed again."""
        self.deltas += 1
        book = self._books.get(event.ticker)
        if book is None:
            return
        if self._stale_us is not None:
            self._times[event.ticker] = self._outbox.mono
        try:
            book.apply(event.side, event.price, event.delta)
        except BookError as error:
            self._drop(event.ticker, error)

    def _drop(self, ticker: str, error: BookError) -> None:
        self._books.pop(ticker, None)
        self._outbox.say(f"{ticker}: book dropped, {error}")
        self.refresh((ticker,))

    def refresh(self, tickers: tuple[str, ...]) -> None:
        """Drop the books of these markets, and ask for snapshots of those that are watched."""
        for ticker in tickers:
            self._books.pop(ticker, None)
        watched = tuple(ticker for ticker in tickers if ticker in self._watched)
        if watched:
            self._subscribe(watched)

    def clear(self) -> None:
        """Drop all books: none is valid across a lost connection."""
        self._books.clear()
        self.awaited = ""

    def rewatch(self) -> None:
        """Subscribe again to every watched market after a reconnect."""
        if self._watched:
            self._subscribe(tuple(sorted(self._watched)))

    def drop_answers(self) -> None:
        """Drop the books that were asked for: they belong to one instant."""
        if self.asked_for and not self.awaited:
            self._books.clear()


class FeedAge:
    """The time since the last frame of the feed.

    Args:
        outbox: the time.
        limit_us: monotonic microseconds without a frame after which the feed is stale; None: never.
        on_fresh: called with the first frame after the feed was found stale.

    >>> out = Outbox()
    >>> age = FeedAge(out, 5, lambda: print("fresh"))
    >>> show = age.noting(print)
    >>> show("a"); out.mono = 6; age.is_stale
    a
    True
    >>> show("b"); age.is_stale
    fresh
    b
    False
    """

    def __init__(self, outbox: Outbox, limit_us: int | None, on_fresh: Callable[[], None]) -> None:
        self._outbox, self._limit_us, self._on_fresh = outbox, limit_us, on_fresh
        self._last = 0
        self._found_stale = False

    def noting(self, handler: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return a handler of frames that notes their time; without a limit, the handler itself."""
        if self._limit_us is None:
            return handler

        def note(event: Any) -> None:
            self._last = self._outbox.mono
            if self._found_stale:
                self._found_stale = False
                self._on_fresh()
            handler(event)

        return note

    @property
    def is_stale(self) -> bool:
        """Whether the last frame is older than the limit."""
        self._found_stale = self._limit_us is not None and self._outbox.mono - self._last > self._limit_us
        return self._found_stale


class MissedPrints:
    """Prints across a loss of the feed: new ones are held back until the missed ones were read, then all go on in order.

    Args:
        outbox: receives the questions.
        feed: called with each print, in order, once nothing is missing before it.
        on_given_up: called with the reason if some prints could not be had.

    Attributes:
        recent: the latest prints of followed markets, oldest first; a print that is read again is known by them.
        last_ts: exchange time of the latest print in microseconds, or 0.
    """

    def __init__(
        self, outbox: Outbox, feed: Callable[[Trade], None], on_given_up: Callable[[str], None]
    ) -> None:
        self._outbox, self._feed, self._on_given_up = outbox, feed, on_given_up
        self.recent: deque[Trade] = deque(maxlen=RECENT)
        self.last_ts = 0
        self._held: list[Trade] | None = None
        self._since = self._began = self._reading = 0
        self._retry_at: int | None = None

    @property
    def holding(self) -> bool:
        """Whether prints are held back."""
        return self._held is not None

    def hold(self, trade: Trade) -> None:
        """Hold back one print."""
        assert self._held is not None
        self._held.append(trade)

    def lost(self) -> None:
        """Note that prints are missing from here on."""
        if self._held is None and self.last_ts:
            self._held, self._since = [], self.last_ts
        self._reading, self._retry_at = 0, None

    def read(self) -> None:
        """Read the missed prints, now that the feed is complete again."""
        if self._held is not None:
            self._began = self._outbox.mono
            self._send()

    def _send(self) -> None:
        out = self._outbox
        self._retry_at = None
        number = self._reading = out.number()
        out.send(ReadPrints(number=number, since=self._since), partial(self._on_read, number))

    def _on_read(self, number: int, result: Result) -> None:
        if number != self._reading or self._held is None:
            return
        self._reading = 0
        if isinstance(result, PrintsRead):
            self._go_on(result.prints, "" if result.complete else "some prints were not listed")
        elif self._outbox.mono - self._began < GIVE_UP_US:
            self._retry_at = self._outbox.mono + PRINTS_AGAIN_US
        else:
            self._go_on((), "the missed prints could not be read")

    def tick(self) -> None:
        """Repeat a question that got no answer."""
        if self._retry_at is not None and self._outbox.mono >= self._retry_at:
            self._send()

    def _go_on(self, prints: Iterable[Trade], missing: str) -> None:
        held, self._held = self._held or [], None
        if missing:
            self._on_given_up(missing)
        known = {_key(trade) for trade in self.recent}
        merged: dict[object, Trade] = {}
        for trade in (*prints, *held):
            key = _key(trade)
            if key not in known:
                merged.setdefault(key, trade)
        for trade in sorted(merged.values(), key=lambda trade: trade.ts):
            self._feed(trade)


def _key(trade: Trade) -> object:
    """Return the identity of a print: its id, or all its facts on tapes without ids."""
    return trade.trade_id or trade
