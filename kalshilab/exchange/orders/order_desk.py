"""The exchange's order desk: accepts orders, matches them, books their fills and cancels them.

An order is *resting* exactly while it stands on the book.  It ends as `executed` when all of it is filled and
as `canceled` otherwise, with the exchange's reason.  A refused order leaves no trace.  Changes to a resting
order are in `kalshilab.exchange.orders.amend`, refusals in `kalshilab.exchange.orders.order_checks`.
"""

from __future__ import annotations

from collections.abc import Iterable

from kalshilab.exchange.orders import order_checks
from kalshilab.exchange.orders.desk_host import DeskHost, DisplayedBook
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.exchange.orders.order_groups import OrderGroup, OrderGroups
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.account import ReservedCash, gross
from kalshilab.exchange.state.fee_terms import Tariff
from kalshilab.exchange.state.listings import Listing
from kalshilab.exchange.state.order_book import RestingOrder
from kalshilab.kalshi.wire import rest as wire
from kalshilab.kalshi.wire import stream
from kalshilab.market.fees import FeeAccumulator, fill_fee
from kalshilab.units import PRICE

__all__ = ["OrderDesk", "Refused"]


class OrderDesk:
    """Owner of the account's orders and order groups.

    `orders` holds every order ever accepted, by id; `log` holds the same orders in order of creation.
    """

    def __init__(self, exchange: DeskHost) -> None:
        self._ex = exchange
        self.orders: dict[str, RestingOrder] = {}
        self.log: list[RestingOrder] = []
        self.groups = OrderGroups(self._publish_group, boundary=exchange.choices.group_boundary)
        self.tariff = Tariff(self._publish_fees)
        self.fee_changes: list[tuple[int, stream.EventFeeUpdate]] = []
        self._resting: dict[str, RestingOrder] = {}
        self._client_ids: set[str] = set()
        self._expiring: dict[str, RestingOrder] = {}
        self._reserved = ReservedCash()

    @property
    def exchange(self) -> DeskHost:
        """The exchange that the desk belongs to."""
        return self._ex

    def resting(self, group: str = "") -> list[RestingOrder]:
        """Return the orders on the book, the latest to rest last; with `group`, only that group's."""
        if not group:
            return list(self._resting.values())
        return [o for o in self._resting.values() if o.group == group]

    def check_open(self, *, cancelling: bool = False) -> None:
        """Check that the exchange takes requests; cancels are accepted while trading is paused.

        Raises:
            Refused: 409, or the refusal that the exchange's choices name.
        """
        if not self._ex.exchange_active:
            raise Refused(409, "exchange_is_paused")
        if not cancelling and not self._ex.trading_active:
            raise Refused(*self._ex.choices.trading_paused)

    # Create

    def create(self, body: wire.CreateOrder) -> tuple[RestingOrder, int, int]:
        """Place an order; return it with the cost and the fees of its taker fills.

        Raises:
            Refused: with the exchange's status and code; no order exists then.
        """
        ex = self._ex
        self.check_open()
        order_checks.account_number(body.subaccount)
        order_checks.shard(body.exchange_index, body.ticker)
        listing = ex.listings.get(body.ticker)
        if listing is None:
            raise Refused(404, "not_found", "market not found")
        price, size = order_checks.price_of(body.price, listing), order_checks.size_of(body.count)
        order_checks.words(body)
        expires = order_checks.expiry(body.expiration_time, ex.now)
        order_checks.orderable(listing, ex.choices.market_closed)
        client_id = order_checks.client_id(body.client_order_id)
        self.check_new_id(client_id)
        if body.order_group_id:
            self.groups.admit(body.order_group_id)
        order = RestingOrder(
            order_id=ex.new_id(),
            client_order_id=client_id or ex.new_id(),
            ticker=body.ticker,
            side=body.side,
            price=price,
            initial=size,
            remaining=size,
            created=ex.now,
            updated=ex.now,
            time_in_force=body.time_in_force,
            stp=body.self_trade_prevention_type,
            expires=expires,
            cancel_on_pause=bool(body.cancel_order_on_pause),
            post_only=bool(body.post_only),
            group=body.order_group_id or "",
            number=len(self.log),
            fees=FeeAccumulator(),
        )
        self._check_order(order, listing, reduce_only=bool(body.reduce_only))
        self.claim_id(order.client_order_id)
        self.orders[order.order_id] = order
        self.log.append(order)
        cost, fees = self.match(order, listing, ex.displayed(listing))
        return order, cost, fees

    def check_new_id(self, client_id: str | None) -> None:
        """Check that no order ever had a client order id.

        Raises:
            Refused: 409, even if that order ended long ago.
        """
        if client_id is not None and client_id in self._client_ids:
            raise Refused(409, "order_already_exists", f"client_order_id {client_id}")

    def claim_id(self, client_id: str) -> None:
        """Mark a client order id as used, permanently."""
        self._client_ids.add(client_id)

    def _check_order(self, order: RestingOrder, listing: Listing, *, reduce_only: bool) -> None:
        book = listing.book
        if reduce_only:
            holding = self._ex.account.holding(order.ticker)
            order.remaining = order.initial = holding.closing(order.side, order.remaining)
            if order.remaining == 0:
                raise Refused(400, "invalid_order", "reduce only order would not reduce a position")
        if order.post_only and book.crosses(order.side, order.price):
            raise Refused(400, "invalid_order", "post only cross")
        if order.time_in_force == "fill_or_kill":
            result = book.preview(order)
            # A fill-or-kill order that would match one of our orders counts as immediate-or-cancel.
            self_trade = result.stopped or result.cancelled
            if not self_trade and sum(m.size for m in result.matches) < order.remaining:
                raise Refused(409, "fill_or_kill_insufficient_resting_volume")
        order.fee_bound = self.fee_bound(order, listing)
        if self.short_of(order):
            raise Refused(400, "insufficient_balance")

    def short_of(self, order: RestingOrder, instead_of: RestingOrder | None = None) -> bool:
        """Return whether the account lacks the cash for an order, beside or instead of resting ones."""
        account = self._ex.account
        freed = 0 if instead_of is None else gross(instead_of)
        if self._reserved.most - freed + gross(order) <= account.cash:
            return False
        # Near the limit compute the exact amount; the new order comes last, so others close the position first.
        resting = self.resting()
        needed = account.reserved([*(o for o in resting if o is not instead_of), order])
        # A change that reduces the reservation is never refused.
        return needed > account.cash and (instead_of is None or needed > account.reserved(resting))

    def reindex(self, order: RestingOrder) -> None:
        """Update the cash reservation and the expiration of a resting order that was changed in place."""
        self._reserved.hold(order)
        self._expiring.pop(order.order_id, None)
        if order.expires:
            self._expiring[order.order_id] = order

    def fee_bound(self, order: RestingOrder, listing: Listing) -> int:
        """Return the maximum of an order's total fees, including fees paid, in money units."""
        # The fee is largest at the price nearest to half a dollar that the order may trade at.
        half = PRICE // 2
        worst = min(order.price, half) if order.side == "bid" else max(order.price, half)
        fee_type, multiplier = self.tariff.terms(listing.facts)
        paid = order.taker_fees + order.maker_fees
        return paid + fill_fee(worst, order.remaining, multiplier=multiplier, fee_type=fee_type)

    # Matching

    def match(self, order: RestingOrder, listing: Listing, before: DisplayedBook | None) -> tuple[int, int]:
        """Match an accepted order and rest the remainder; return cost and fees of its taker fills.

        Args:
            order: the order.
            listing: its market.
            before: the displayed book before the order, from which the published difference is computed.
        """
        ex, book = self._ex, listing.book
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
                self._mark_canceled(order, "SelfTradeCancel")
            elif order.time_in_force != "good_till_canceled" or (
                order.group and self.groups.hit(order.group)
            ):
                self._mark_canceled(order, "")
            else:
                book.rest(order)
                self._resting[order.order_id] = order
                self.reindex(order)
        ex.publish_changes(listing, before, order)
        self.publish_order(order)
        self.settle_groups()
        return order.taker_cost - cost_before, order.taker_fees - fees_before

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
        """Book one match; with `quiet`, the caller publishes the change of the book.

        A caller that fills resting orders must call `settle_groups` after the last fill.
        """
        ex, facts = self._ex, listing.facts
        before = None if quiet else ex.displayed(listing)
        terms = self.tariff.terms(facts, ex.now)
        record = ex.account.fill(
            order,
            trade_id=trade_id,
            price=price,
            size=size,
            is_taker=is_taker,
            multiplier=terms.multiplier,
            fee_type=terms.fee_type,
            ts=ex.now,
        )
        if not is_taker:
            if order.remaining == 0:
                self.withdraw(listing, order)
            else:
                self._reserved.hold(order)
        ex.hub.publish("fill", b"fill", facts.ticker, serialize.fill_message(record))
        if not is_taker:
            self.publish_order(order)
        ex.publish_position(facts.ticker)
        ex.publish_changes(listing, before, order)
        if order.group:
            self.groups.filled(order.group, size, ex.now)

    # Ends

    def find(self, order_id: str, ticker: str | None = None) -> tuple[RestingOrder, Listing]:
        """Return a resting order and its market.

        Args:
            order_id: the order.
            ticker: the market that the request names; None if it names no market.

        Raises:
            Refused: 404 for an order that does not rest; 400 once its market has closed, or for another
                market.
        """
        known = self.orders.get(order_id)
        if known is None:
            raise Refused(404, "not_found", "order not found")
        listing = self._ex.listings.get(known.ticker)
        assert listing is not None
        if ticker and ticker != known.ticker:
            raise Refused(400, "order_ticker_mismatch", f"the order is in {known.ticker}")
        if listing.status not in ("active", "inactive") and known.reason == "CloseCancel":
            raise Refused(*self._ex.choices.market_closed, f"market is {listing.status}")
        if order_id not in self._resting:
            raise Refused(404, "not_found", "order not found")
        return known, listing

    def cancel(self, order_id: str, ticker: str | None = None) -> tuple[RestingOrder, int]:
        """Cancel an order; return it and the cancelled size.

        Raises:
            Refused: as `find`; 409 while the exchange is paused.
        """
        self.check_open(cancelling=True)
        order, _ = self.find(order_id, ticker)
        reduced = order.remaining
        self.cancel_orders([order], "")
        return order, reduced

    def cancel_orders(self, orders: Iterable[RestingOrder], reason: str) -> None:
        """Cancel resting orders with one of the exchange's reasons; "" means on request of the account."""
        for order in orders:
            listing = self._ex.listings.get(order.ticker)
            assert listing is not None
            before = self._ex.displayed(listing)
            self._end(listing, order, reason)
            self._ex.publish_changes(listing, before, order)

    def cancel_market(self, listing: Listing, reason: str) -> None:
        """Cancel every order of a market; the caller publishes the change of the book."""
        for order in [o for o in self._resting.values() if o.ticker == listing.facts.ticker]:
            self._end(listing, order, reason)

    def halt(self, listing: Listing | None = None) -> None:
        """Cancel the orders with `cancel_order_on_pause`, of one market or of all."""
        self.cancel_orders(
            [
                o
                for o in self._resting.values()
                if o.cancel_on_pause and (listing is None or o.ticker == listing.facts.ticker)
            ],
            "HaltCancel",
        )

    def expire(self) -> None:
        """Cancel expired orders."""
        if self._expiring:
            self.cancel_orders(
                [o for o in self._expiring.values() if o.expires <= self._ex.now], "ExpiryCancel"
            )

    def withdraw(self, listing: Listing, order: RestingOrder) -> None:
        """Remove a resting order from the book without ending it."""
        listing.book.remove(order)
        self._resting.pop(order.order_id, None)
        self._expiring.pop(order.order_id, None)
        self._reserved.release(order)

    def _end(self, listing: Listing, order: RestingOrder, reason: str) -> None:
        self.withdraw(listing, order)
        self._mark_canceled(order, reason)
        self.publish_order(order)

    def _mark_canceled(self, order: RestingOrder, reason: str) -> None:
        order.remaining = 0
        order.status, order.reason, order.updated = "canceled", reason, self._ex.now

    # Groups

    def settle_groups(self) -> None:
        """Cancel the orders of groups that have just reached their limits."""
        for group in self.groups.due(self._ex.now):
            self.empty(group)

    def empty(self, group: OrderGroup) -> None:
        """Cancel a group's resting orders."""
        self.cancel_orders(self.resting(group.group_id), "")

    # Publishing

    def publish_order(self, order: RestingOrder) -> None:
        """Publish an order's new state."""
        ex = self._ex
        if ex.hub.wanted("user_orders", order.ticker):
            body = serialize.order_message(order, ex.user_id)
            ex.hub.publish("user_orders", b"user_order", order.ticker, body)

    def _publish_group(self, body: stream.OrderGroupUpdate) -> None:
        self._ex.hub.publish("order_group_updates", b"order_group_updates", "", body)

    def _publish_fees(self, body: stream.EventFeeUpdate) -> None:
        self.fee_changes.append((self._ex.now, body))
        self._ex.hub.publish("market_lifecycle_v2", b"event_fee_update", "", body)
