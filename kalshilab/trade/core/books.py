"""The live books of a trader, by ticker.

Two drivers deliver books in two ways.  A stream sends a snapshot of each watched market and then every change: a book is
valid until its frames are lost.  A simulation in the same process answers a `Watch` at once with the book that is
displayed at this instant: it is valid for one decision, and is dropped after it.
"""

from __future__ import annotations

from typing import Literal

from kalshilab.errors import BookError
from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot
from kalshilab.market.book import Book
from kalshilab.trade.core.commands import Outbox, Unwatch, Watch

__all__ = ["Books"]


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
