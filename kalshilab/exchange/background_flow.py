"""The background flow: applies the prints and book changes of the flow to the exchange's books.

A print first adjusts the background so that it hits the best quote, then fills our orders, then is published.
A change of a recorded or mirrored book first fills our orders, then is published level by level.  The trades
of our orders are published as the exchange publishes them: the quote that reached our order is the taker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kalshilab.exchange.flows.tape_flow import FlowStep
from kalshilab.exchange.orders.desk_host import DisplayedBook
from kalshilab.exchange.orders.order_desk import OrderDesk
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.listings import Listing
from kalshilab.exchange.state.order_book import RestingOrder
from kalshilab.exchange.stream.hub import Hub
from kalshilab.kalshi.wire import stream as wire
from kalshilab.lazy import renamed
from kalshilab.units import PRICE, format_price, format_size

__all__ = ["BackgroundFlow"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)


class FlowHost(Protocol):
    """The part of the exchange that the background flow uses."""

    now: int
    echo_trades: bool
    prints_played: int
    hub: Hub

    @property
    def desk(self) -> OrderDesk:
        """The order desk, which books the fills of our orders."""
        ...

    def new_id(self) -> str:
        """Return a new id."""
        ...

    def publish_trade(self, listing: Listing, price: int, size: int, taker: str, trade_id: str) -> None:
        """Publish a public print."""
        ...


class BackgroundFlow:
    """Applies flow steps to the books of one exchange."""

    def __init__(self, exchange: FlowHost) -> None:
        self._ex = exchange

    def print(self, listing: Listing, step: FlowStep) -> None:
        """Play a public print."""
        ex, book = self._ex, listing.book
        _, _, _, price, size, taker, trade_id, _ = step
        trade_id = trade_id or ex.new_id()
        book.now = ex.now
        if not book.mirrored:
            if not listing.quotes.stays(price, taker) or book.has_consumed or not book.has_background:
                self._replace_book(listing, *listing.quotes.around(price, taker))
        elif not listing.facts.mirrored:
            # Recorded books and prints come from two channels, and either may lag.
            before = self.displayed(listing)
            if book.drop_crossed(price, taker):
                self.publish_changes(listing, before)
        for order, piece in book.printed(price, size, taker):
            ex.desk.fill(listing, order, order.price, piece, is_taker=False, trade_id=trade_id)
        if not book.mirrored:
            listing.quotes.learn(price, size, taker)
        ex.prints_played += 1
        ex.publish_trade(listing, price, size, taker, trade_id)

    def book(self, listing: Listing, step: FlowStep) -> None:
        """Replace the book of a market by a snapshot."""
        assert step.levels is not None
        listing.book.now, listing.book.mirrored = self._ex.now, True
        bids, asks = step.levels
        self._replace_book(listing, dict(bids), dict(asks))

    def blind(self, listing: Listing, step: FlowStep) -> None:
        """Empty the book of a market until its next snapshot."""
        before = self.displayed(listing)
        listing.book.blind()
        self.publish_changes(listing, before)

    def level(self, listing: Listing, step: FlowStep) -> None:
        """Change one level of a market's book.

        Raises:
            BookError: the level would fall below zero: messages were lost, and the flow must send a snapshot.
        """
        book = listing.book
        book.now, book.mirrored = self._ex.now, True
        _, _, _, price, change, side, _, _ = step
        if book.own:
            before = self.displayed(listing)
            self._fill(listing, book.apply(side, price, change))
            self.publish_changes(listing, before)
            return
        shown = book.bids if side == "bid" else book.asks
        before_here = shown.get(price, 0)
        book.apply(side, price, change)
        delta = shown.get(price, 0) - before_here
        if delta and self._ex.hub.wanted("orderbook_delta", listing.facts.ticker):
            self._publish(listing, [(side, price, delta)])

    def _replace_book(self, listing: Listing, bids: dict[int, int], asks: dict[int, int]) -> None:
        book = listing.book
        if book.own:
            before = self.displayed(listing)
            self._fill(listing, book.requote(bids, asks))
        elif self._ex.hub.wanted("orderbook_delta", listing.facts.ticker):
            before = book.bids, book.asks
            book.requote(bids, asks)
        else:
            book.requote(bids, asks)
            return
        self.publish_changes(listing, before)

    def _fill(self, listing: Listing, fills: list[tuple[RestingOrder, int]]) -> None:
        ex = self._ex
        for order, size in fills:
            trade_id = ex.new_id()
            ex.desk.fill(listing, order, order.price, size, is_taker=False, trade_id=trade_id, quiet=True)
            if ex.echo_trades:
                # The quote that reached our order is the taker.
                aggressor = "no" if order.side == "bid" else "yes"
                ex.publish_trade(listing, order.price, size, aggressor, trade_id)

    # Publishing

    def displayed(self, listing: Listing) -> DisplayedBook | None:
        """Return both sides of the displayed book for `publish_changes`; None without a subscriber."""
        if not self._ex.hub.wanted("orderbook_delta", listing.facts.ticker):
            return None
        return listing.book.levels("bid"), listing.book.levels("ask")

    def publish_changes(
        self, listing: Listing, before: DisplayedBook | None, cause: RestingOrder | None = None
    ) -> None:
        """Publish the difference between the displayed book `before` and now, one message a level.

        Decreases come first, so that a client that follows the messages never sees a crossed book.
        """
        if before is None:
            return
        book = listing.book
        new_bids, new_asks = (book.levels("bid"), book.levels("ask")) if book.own else (book.bids, book.asks)
        old_bids, old_asks = before
        decreases: list[tuple[str, int, int]] = []
        increases: list[tuple[str, int, int]] = []
        for side, old, new in (("bid", old_bids, new_bids), ("ask", old_asks, new_asks)):
            if old == new:
                continue
            for price, size in old.items():
                if price not in new:
                    decreases.append((side, price, -size))
                elif new[price] < size:
                    decreases.append((side, price, new[price] - size))
            for price, size in new.items():
                if price not in old:
                    increases.append((side, price, size))
                elif old[price] < size:
                    increases.append((side, price, size - old[price]))
        if decreases or increases:
            self._publish(listing, decreases + increases, "" if cause is None else cause.client_order_id)

    def _publish(
        self, listing: Listing, changes: list[tuple[str, int, int]], client_order_id: str = ""
    ) -> None:
        """Publish changes of the displayed book, each a side, a YES price and a difference."""
        ticker, ts_ms = listing.facts.ticker, self._ex.now // 1000
        market_id, clock = serialize.market_id(ticker), listing.clock
        listing.clock += len(changes)
        messages = [
            wire.OrderbookDelta(
                market_ticker=ticker,
                market_id=market_id,
                clock=clock + number,
                price_dollars=format_price(price if side == "bid" else PRICE - price),
                delta_fp=format_size(delta),
                side="yes" if side == "bid" else "no",
                client_order_id=client_order_id,
                ts_ms=ts_ms,
            )
            for number, (side, price, delta) in enumerate(changes, 1)
        ]
        self._ex.hub.publish_all("orderbook_delta", b"orderbook_delta", ticker, messages)
