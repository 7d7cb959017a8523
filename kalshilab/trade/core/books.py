"""Market data that a loss of frames makes invalid: the live books, and the prints.

Two drivers deliver books in two ways.  A stream sends a snapshot of each watched market and then every change: a book is
valid until its frames are lost.  A simulation in the same process answers a `Watch` at once with the book that is
displayed at this instant: it is valid for one decision, and is dropped after it.

Prints that were missed are read over REST and fed in their order, so that the signals see the prints of the tape.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Literal

from kalshilab.errors import BookError
from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot
from kalshilab.market.book import Book
from kalshilab.market.model import Trade
from kalshilab.trade.core.messages import Outbox, PrintsRead, ReadPrints, Result, Unwatch, Watch

__all__ = ["Books", "MissedPrints"]

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
    """

    def __init__(self, outbox: Outbox, mode: Literal["stream", "ask"]) -> None:
        self._outbox, self.asked_for = outbox, mode == "ask"
        self._books: dict[str, Book] = {}
        self._watched: set[str] = set()
        self.awaited = ""
        """The market whose book was asked for and has not arrived, or ""."""

    def get(self, ticker: str) -> Book | None:
        """Return the book of a market, or None before its snapshot and after a loss of frames."""
        return self._books.get(ticker)

    def watch(self, ticker: str) -> None:
        """Subscribe to the book of a market, if books are streamed."""
        if not self.asked_for and ticker not in self._watched:
            self._watched.add(ticker)
            self._outbox.add(Watch((ticker,)))

    def unwatch(self, ticker: str) -> None:
        """End the subscription to a market's book, and drop it."""
        self._books.pop(ticker, None)
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
        if self.awaited == event.ticker:
            self.awaited = ""
        book = self._books.get(event.ticker)
        if book is None:
            book = self._books[event.ticker] = Book()
        try:
            book.load(event.yes, event.no)
        except BookError as error:
            self._drop(event.ticker, error)

    def apply(self, event: BookDelta) -> None:
        """Apply a change of one level; a book that cannot be right is dropped, and subscribed again."""
        book = self._books.get(event.ticker)
        if book is None:
            return
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
            self._outbox.add(Watch(watched))

    def clear(self) -> None:
        """Drop all books: none is valid across a lost connection."""
        self._books.clear()
        self.awaited = ""

    def rewatch(self) -> None:
        """Subscribe again to every watched market after a reconnect."""
        if self._watched:
            self._outbox.add(Watch(tuple(sorted(self._watched))))

    def drop_answers(self) -> None:
        """Drop the books that were asked for: they belong to one instant."""
        if self.asked_for and not self.awaited:
            self._books.clear()


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
