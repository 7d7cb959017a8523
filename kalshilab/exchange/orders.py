"""The exchange's order desk: checks, matching, cancels; each refusal in the exchange's own words."""

from __future__ import annotations

from typing import Protocol

from kalshilab.errors import UnitError
from kalshilab.exchange import bodies
from kalshilab.exchange.account import Account
from kalshilab.exchange.hub import Hub
from kalshilab.exchange.markets import Listing, Listings
from kalshilab.exchange.matching import RestingOrder
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.fees import FeeAccumulator, fill_fee
from kalshilab.market.lifecycle import ORDERABLE
from kalshilab.market.model import outcome_price
from kalshilab.units import MONEY, SIZE, parse_price, parse_size

__all__ = ["OrderDesk", "Refused"]

TIMES_IN_FORCE = ("good_till_canceled", "immediate_or_cancel", "fill_or_kill")
PREVENTIONS = ("taker_at_cross", "maker")


class Refused(Exception):
    """An answer of the exchange that is not a success: HTTP status, code, message and details."""

    def __init__(self, status: int, code: str, details: str = "", message: str = "") -> None:
        self.status, self.code, self.details, self.message = status, code, details, message or code
        super().__init__(f"{status} {code} {details}")


Shown = tuple[dict[int, int], dict[int, int]]
"""Displayed size by YES price, bids and asks."""


class Floor(Protocol):
    """What the desk needs of the exchange it stands in."""

    now: int
    user_id: str
    echo_trades: bool
    account: Account
    hub: Hub
    listings: Listings

    def new_id(self) -> str:
        """A fresh id."""
        ...

    def displayed(self, listing: Listing) -> Shown | None:
        """The displayed book, if anybody watches it."""
        ...

    def publish_changes(
        self, listing: Listing, before: Shown | None, cause: RestingOrder | None = None
    ) -> None:
        """Tell how the displayed book differs from before."""
        ...

    def publish_trade(self, listing: Listing, price: int, size: int, taker: str, trade_id: str) -> None:
        """Tell of a public print."""
        ...

    def publish_position(self, ticker: str) -> None:
        """Tell of the account's position."""
        ...


class OrderDesk:
    """Owner of the account's orders."""

    def __init__(self, exchange: Floor) -> None:
        self._ex = exchange
        self.orders: dict[str, RestingOrder] = {}
        self._resting: dict[str, RestingOrder] = {}
        self._client_ids: set[str] = set()
        self._expiring: dict[str, RestingOrder] = {}

    def resting(self) -> list[RestingOrder]:
        """Orders on the book, oldest first."""
        return list(self._resting.values())

    # Create

    def create(self, body: wire.CreateOrder) -> tuple[RestingOrder, int, int]:
        """Place an order: itself, its cost in taker fills and the fees of these.

        Raises:
            Refused: with the exchange's status and code; nothing has happened then.
        """
        ex = self._ex
        listing = ex.listings.get(body.ticker)
        if listing is None:
            raise Refused(404, "not_found", "market not found")
        price, size = self._quantities(body, listing)
        self._check_words(body)
        if listing.status not in ORDERABLE:
            raise Refused(400, "market_inactive", f"market is {listing.status}")
        client_id = body.client_order_id or ex.new_id()
        if client_id in self._client_ids:
            raise Refused(409, "order_already_exists")
        order = RestingOrder(
            order_id=ex.new_id(),
            client_order_id=client_id,
            ticker=body.ticker,
            side=body.side,
            price=price,
            initial=size,
            remaining=size,
            created=ex.now,
            updated=ex.now,
            time_in_force=body.time_in_force,
            stp=body.self_trade_prevention_type,
            expires=(body.expiration_time or 0) * 1_000_000,
            cancel_on_pause=body.cancel_order_on_pause,
            fees=FeeAccumulator(),
        )
        self._check_order(body, order, listing)
        self._client_ids.add(client_id)
        self.orders[order.order_id] = order
        return self._match(order, listing)

    @staticmethod
    def _quantities(body: wire.CreateOrder, listing: Listing) -> tuple[int, int]:
        try:
            price = parse_price(body.price)
        except UnitError:
            raise Refused(400, "invalid_price", f"price {body.price}") from None
        if not listing.facts.grid.valid(price):
            raise Refused(400, "invalid_price", f"price {body.price} is not on the market's grid")
        try:
            size = parse_size(body.count)
        except UnitError:
            raise Refused(400, "invalid_order_size", f"count {body.count}") from None
        if size <= 0:
            raise Refused(400, "invalid_order_size", f"count {body.count}")
        return price, size

    def _check_words(self, body: wire.CreateOrder) -> None:
        if body.side not in ("bid", "ask"):
            raise Refused(400, "invalid_order", f"side {body.side}")
        if body.time_in_force not in TIMES_IN_FORCE:
            raise Refused(400, "invalid_order", f"time_in_force {body.time_in_force}")
        if body.self_trade_prevention_type not in PREVENTIONS:
            raise Refused(
                400, "invalid_order", f"self_trade_prevention_type {body.self_trade_prevention_type}"
            )
        if body.client_order_id is not None and not 0 < len(body.client_order_id) <= 64:
            raise Refused(400, "invalid_order", "client_order_id must have 1 to 64 characters")
        immediate = body.time_in_force != "good_till_canceled"
        if body.expiration_time is not None:
            if immediate:
                raise Refused(400, "invalid_order", "expiration_time is for good_till_canceled orders")
            if body.expiration_time * 1_000_000 <= self._ex.now:
                raise Refused(400, "invalid_order", "expiration_time is in the past")
        if body.post_only and immediate:
            raise Refused(400, "invalid_order", "post only orders must be good_till_canceled")
        if body.reduce_only and body.time_in_force != "immediate_or_cancel":
            raise Refused(400, "invalid_order", "reduce only orders must be immediate_or_cancel")

    def _check_order(self, body: wire.CreateOrder, order: RestingOrder, listing: Listing) -> None:
        account = self._ex.account
        holding = account.holding(order.ticker)
        if body.reduce_only:
            order.remaining = order.initial = holding.closing(order.side, order.remaining)
            if order.remaining == 0:
                raise Refused(400, "invalid_order", "reduce only order would not reduce a position")
        if body.post_only and listing.book.crosses(order.side, order.price):
            raise Refused(400, "invalid_order", "post only cross")
        if (
            order.time_in_force == "fill_or_kill"
            and listing.book.available(order.side, order.price) < order.remaining
        ):
            raise Refused(409, "fill_or_kill_insufficient_resting_volume")
        # The fee is largest at the price nearest to half a dollar that the order may trade at.
        facts = listing.facts
        worst = min(order.price, 5000) if order.side == "bid" else max(order.price, 5000)
        fee = fill_fee(worst, order.remaining, multiplier=facts.fee_multiplier, fee_type=facts.fee_type)
        order.fee_bound = fee
        if account.bound([*self.resting(), order]) > account.cash:
            raise Refused(400, "insufficient_balance")

    def _match(self, order: RestingOrder, listing: Listing) -> tuple[RestingOrder, int, int]:
        ex, book = self._ex, listing.book
        before = ex.displayed(listing)
        cost_before, fees_before = order.taker_cost, order.taker_fees
        result = book.take(order)
        for own in result.cancelled:
            self._end(listing, own, "SelfTradeCancel")
        for match in result.matches:
            trade_id = ex.new_id()
            self.fill(listing, order, match.price, match.size, is_taker=True, trade_id=trade_id, quiet=True)
            if ex.echo_trades:
                taker = "yes" if order.side == "bid" else "no"
                ex.publish_trade(listing, match.price, match.size, taker, trade_id)
        if order.remaining:
            if result.stopped:
                self._done(order, "canceled", "SelfTradeCancel")
            elif order.time_in_force != "good_till_canceled":
                self._done(order, "canceled", "")
            else:
                book.rest(order)
                self._resting[order.order_id] = order
                if order.expires:
                    self._expiring[order.order_id] = order
        ex.publish_changes(listing, before, order)
        self._tell(order)
        return order, order.taker_cost - cost_before, order.taker_fees - fees_before

    # Fills and ends

    def fill(
        self,
        listing: Listing,
        order: RestingOrder,
        price: int,
        size: int,
        *,
        is_taker: bool,
        trade_id: str,
        quiet: bool = False,
    ) -> None:
        """Book one match.  `quiet`: the caller tells of the book's change himself."""
        ex, facts = self._ex, listing.facts
        before = None if quiet else ex.displayed(listing)
        record = ex.account.fill(
            order,
            trade_id=trade_id,
            price=price,
            size=size,
            is_taker=is_taker,
            multiplier=facts.fee_multiplier,
            fee_type=facts.fee_type,
            ts=ex.now,
        )
        if order.remaining == 0 and order.order_id in self._resting:
            listing.book.remove(order)
            self._forget(order)
        ex.hub.publish("fill", b"fill", facts.ticker, bodies.fill_message(record))
        if not is_taker:
            self._tell(order)
        ex.publish_position(facts.ticker)
        ex.publish_changes(listing, before, order)

    def cancel(self, order_id: str) -> tuple[RestingOrder, int]:
        """Cancel an order: itself and the size taken off.

        Raises:
            Refused: 404 for an order that does not rest; 400 once its market has closed.
        """
        known = self.orders.get(order_id)
        if known is None:
            raise Refused(404, "not_found", "order not found")
        listing = self._ex.listings.get(known.ticker)
        assert listing is not None
        if listing.status not in ("active", "inactive") and known.reason == "CloseCancel":
            raise Refused(400, "market_inactive", f"market is {listing.status}")
        order = self._resting.get(order_id)
        if order is None:
            raise Refused(404, "not_found", "order not found")
        reduced = order.remaining
        before = self._ex.displayed(listing)
        self._end(listing, order, "")
        self._ex.publish_changes(listing, before, order)
        return order, reduced

    def cancel_market(self, listing: Listing, reason: str) -> None:
        """Cancel every order of a market; the caller tells of the book's change."""
        for order in [o for o in self._resting.values() if o.ticker == listing.facts.ticker]:
            self._end(listing, order, reason)

    def expire(self) -> None:
        """Cancel orders whose time is up."""
        for order in [o for o in self._expiring.values() if o.expires <= self._ex.now]:
            listing = self._ex.listings.get(order.ticker)
            assert listing is not None
            before = self._ex.displayed(listing)
            self._end(listing, order, "ExpiryCancel")
            self._ex.publish_changes(listing, before, order)

    def _end(self, listing: Listing, order: RestingOrder, reason: str) -> None:
        listing.book.remove(order)
        self._forget(order)
        self._done(order, "canceled", reason)
        self._tell(order)

    def _done(self, order: RestingOrder, status: str, reason: str) -> None:
        order.remaining = 0
        order.status, order.reason, order.updated = status, reason, self._ex.now

    def _forget(self, order: RestingOrder) -> None:
        self._resting.pop(order.order_id, None)
        self._expiring.pop(order.order_id, None)

    def _tell(self, order: RestingOrder) -> None:
        ex = self._ex
        ex.hub.publish("user_orders", b"user_order", order.ticker, bodies.order_message(order, ex.user_id))


def average(total: int, size: int) -> str:
    """A per-contract amount in dollars, four places, of a total in money units."""
    return f"{total / MONEY / (size / SIZE):.4f}"


def average_price(order: RestingOrder, cost: int) -> str:
    """The average YES price of an order's fills, from what its own outcome cost."""
    mean = cost / order.filled
    return f"{outcome_price(round(mean), 'yes' if order.side == 'bid' else 'no') / 10_000:.4f}"
