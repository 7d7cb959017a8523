"""What the rest of the world does in a market, done to the exchange's books: prints, and changes of the book.

A print first finds the background such that it hits the best of it, then meets our orders, then is public.
A change of a recorded or mirrored book meets our orders and is public level by level.  What of it trades with
our orders is told as the exchange tells it: the quote that met us was the taker.
"""

from __future__ import annotations

from typing import Protocol

from kalshilab.exchange.flows.tape_flow import Step
from kalshilab.exchange.orders.order_desk import OrderDesk
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.listings import Listing
from kalshilab.exchange.state.order_book import RestingOrder
from kalshilab.exchange.stream.hub import Hub
from kalshilab.kalshi.wire import stream as wire
from kalshilab.units import PRICE, format_price, format_size

__all__ = ["Background"]

Shown = tuple[dict[int, int], dict[int, int]]
"""Displayed size by YES price, bids and asks."""


class Floor(Protocol):
    """What the background needs of the exchange it comes to."""

    now: int
    echo_trades: bool
    prints_played: int
    hub: Hub

    @property
    def desk(self) -> OrderDesk:
        """Where our orders are filled."""
        ...

    def new_id(self) -> str:
        """A fresh id."""
        ...

    def publish_trade(self, listing: Listing, price: int, size: int, taker: str, trade_id: str) -> None:
        """Tell of a public print."""
        ...


class Background:
    """The rest of the world, in the books of one exchange."""

    def __init__(self, exchange: Floor) -> None:
        self._ex = exchange

    def print(self, listing: Listing, step: Step) -> None:
        """A print of the flow's happens."""
        ex, book = self._ex, listing.book
        _, _, _, price, size, taker, trade_id, _ = step
        trade_id = trade_id or ex.new_id()
        book.now = ex.now
        if not book.mirrored:
            if not listing.quotes.stays(price, taker) or book.touched or not book.quoted:
                self._renew(listing, *listing.quotes.around(price, taker))
        elif not listing.facts.mirrored:
            # Recorded books and prints come over two channels, and one may be ahead of the other.
            before = self.displayed(listing)
            if book.make_way(price, taker):
                self.publish_changes(listing, before)
        for order, piece in book.printed(price, size, taker):
            ex.desk.fill(listing, order, order.price, piece, is_taker=False, trade_id=trade_id)
        if not book.mirrored:
            listing.quotes.learn(price, size, taker)
        ex.prints_played += 1
        ex.publish_trade(listing, price, size, taker, trade_id)

    def book(self, listing: Listing, step: Step) -> None:
        """A market's book is told anew."""
        assert step.levels is not None
        listing.book.now, listing.book.mirrored = self._ex.now, True
        bids, asks = step.levels
        self._renew(listing, dict(bids), dict(asks))

    def blind(self, listing: Listing, step: Step) -> None:
        """A market's book is not known until it is told anew."""
        before = self.displayed(listing)
        listing.book.blind()
        self.publish_changes(listing, before)

    def level(self, listing: Listing, step: Step) -> None:
        """One level of a market's book changes.

        Raises:
            BookError: the level would fall below zero: something was lost, the flow must tell the book anew.
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

    def _renew(self, listing: Listing, bids: dict[int, int], asks: dict[int, int]) -> None:
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
                # The quote that met us was the taker.
                aggressor = "no" if order.side == "bid" else "yes"
                ex.publish_trade(listing, order.price, size, aggressor, trade_id)

    # Telling

    def displayed(self, listing: Listing) -> Shown | None:
        """Both sides of the displayed book, if anybody watches it; for `publish_changes`."""
        if not self._ex.hub.wanted("orderbook_delta", listing.facts.ticker):
            return None
        return listing.book.levels("bid"), listing.book.levels("ask")

    def publish_changes(
        self, listing: Listing, before: Shown | None, cause: RestingOrder | None = None
    ) -> None:
        """Send the differences between the displayed book then and now, a level a message.

        What has gone comes first, so that whoever follows the messages never sees a crossed book.
        """
        if before is None:
            return
        book = listing.book
        new_bids, new_asks = (book.levels("bid"), book.levels("ask")) if book.own else (book.bids, book.asks)
        old_bids, old_asks = before
        less: list[tuple[str, int, int]] = []
        more: list[tuple[str, int, int]] = []
        for side, old, new in (("bid", old_bids, new_bids), ("ask", old_asks, new_asks)):
            if old == new:
                continue
            for price, size in old.items():
                if price not in new:
                    less.append((side, price, -size))
                elif new[price] < size:
                    less.append((side, price, new[price] - size))
            for price, size in new.items():
                if price not in old:
                    more.append((side, price, size))
                elif old[price] < size:
                    more.append((side, price, size - old[price]))
        if less or more:
            self._publish(listing, less + more, "" if cause is None else cause.client_order_id)

    def _publish(
        self, listing: Listing, changes: list[tuple[str, int, int]], client_order_id: str = ""
    ) -> None:
        """Changes of the displayed book, each side, YES price and difference."""
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
