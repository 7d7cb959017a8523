"""The exchange's order desk: takes orders in, has them matched, books their fills, takes them off.

An order is *resting* from the moment it stands on the book to its end, and only then: `executed` when all of
it is filled, `canceled` for every other end, with the exchange's word for the reason.  A refused order has
left no trace.  Changes to a resting order are in `kalshilab.exchange.orders.amend`, what is refused in
`kalshilab.exchange.orders.order_checks`.
"""

from __future__ import annotations

from collections.abc import Iterable

from kalshilab.exchange.orders import order_checks
from kalshilab.exchange.orders.desk_host import Floor, Shown
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.exchange.orders.order_groups import OrderGroup, OrderGroups
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.account import Reserved, gross
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

    `orders` holds every order there ever was by id; `log` the same in the order in which they were made.
    """

    def __init__(self, exchange: Floor) -> None:
        self._ex = exchange
        self.orders: dict[str, RestingOrder] = {}
        self.log: list[RestingOrder] = []
        self.groups = OrderGroups(self._tell_group, boundary=exchange.choices.group_boundary)
        self.tariff = Tariff(self._tell_fees)
        self.fee_changes: list[tuple[int, stream.EventFeeUpdate]] = []
        self._resting: dict[str, RestingOrder] = {}
        self._client_ids: set[str] = set()
        self._expiring: dict[str, RestingOrder] = {}
        self._reserved = Reserved()

    @property
    def floor(self) -> Floor:
        """The exchange the desk stands in."""
        return self._ex

    def resting(self, group: str = "") -> list[RestingOrder]:
        """Orders on the book, those that came (back) last at the end; with `group`, only that group's."""
        if not group:
            return list(self._resting.values())
        return [o for o in self._resting.values() if o.group == group]

    def check_open(self, *, cancelling: bool = False) -> None:
        """Check that the exchange takes requests; cancels are taken while trading is paused.

        Raises:
            Refused: 409, or as the exchange's choices have it.
        """
        if not self._ex.exchange_active:
            raise Refused(409, "exchange_is_paused")
        if not cancelling and not self._ex.trading_active:
            raise Refused(*self._ex.choices.trading_paused)

    # Create

    def create(self, body: wire.CreateOrder) -> tuple[RestingOrder, int, int]:
        """Place an order: itself, its cost in taker fills and the fees of these.

        Raises:
            Refused: with the exchange's status and code; nothing has happened then.
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
            Refused: 409, also where that order is long dead.
        """
        if client_id is not None and client_id in self._client_ids:
            raise Refused(409, "order_already_exists", f"client_order_id {client_id}")

    def claim_id(self, client_id: str) -> None:
        """A client order id is taken, for ever."""
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
            met = book.rehearse(order)
            # A FOK that would meet an order of our own counts as IOC.
            if not met.stopped and not met.cancelled and sum(m.size for m in met.matches) < order.remaining:
                raise Refused(409, "fill_or_kill_insufficient_resting_volume")
        order.fee_bound = self.fee_bound(order, listing)
        if self.short_of(order):
            raise Refused(400, "insufficient_balance")

    def short_of(self, order: RestingOrder, instead_of: RestingOrder | None = None) -> bool:
        """Whether the account lacks the cash to let an order in, beside or instead of what rests."""
        account = self._ex.account
        freed = 0 if instead_of is None else gross(instead_of)
        if self._reserved.most - freed + gross(order) <= account.cash:
            return False
        # Close to the limit the truth is worked out; the order stands last, others close the position before it.
        resting = self.resting()
        needed = account.bound([*(o for o in resting if o is not instead_of), order])
        # Whoever asks for less than there is now is never refused.
        return needed > account.cash and (instead_of is None or needed > account.bound(resting))

    def changed(self, order: RestingOrder) -> None:
        """A resting order was changed in its place."""
        self._reserved.hold(order)
        self._expiring.pop(order.order_id, None)
        if order.expires:
            self._expiring[order.order_id] = order

    def fee_bound(self, order: RestingOrder, listing: Listing) -> int:
        """The most that an order's fees may come to, those paid included, in money units."""
        # The fee is largest at the price nearest to half a dollar that the order may trade at.
        half = PRICE // 2
        worst = min(order.price, half) if order.side == "bid" else max(order.price, half)
        fee_type, multiplier = self.tariff.terms(listing.facts)
        paid = order.taker_fees + order.maker_fees
        return paid + fill_fee(worst, order.remaining, multiplier=multiplier, fee_type=fee_type)

    # Matching

    def match(self, order: RestingOrder, listing: Listing, before: Shown | None) -> tuple[int, int]:
        """Match an order that has been let in, and rest what is left of it; cost and fees of what it took.

        Args:
            before: the displayed book to tell the difference from.
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
                self._done(order, "SelfTradeCancel")
            elif order.time_in_force != "good_till_canceled" or (
                order.group and self.groups.hit(order.group)
            ):
                self._done(order, "")
            else:
                book.rest(order)
                self._resting[order.order_id] = order
                self.changed(order)
        ex.publish_changes(listing, before, order)
        self.tell(order)
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
        """Book one match.  `quiet`: the caller tells of the book's change himself.

        Whoever fills resting orders calls `settle_groups` after the last of them.
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
            self.tell(order)
        ex.publish_position(facts.ticker)
        ex.publish_changes(listing, before, order)
        if order.group:
            self.groups.filled(order.group, size, ex.now)

    # Ends

    def find(self, order_id: str, ticker: str | None = None) -> tuple[RestingOrder, Listing]:
        """A resting order and its market.

        Args:
            ticker: the market that the caller takes it to be in, if he says.

        Raises:
            Refused: 404 for an order that does not rest; 400 once its market has closed, or for another market.
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
        """Cancel an order: itself and the size taken off.

        Raises:
            Refused: as `find`; 409 while the exchange is paused.
        """
        self.check_open(cancelling=True)
        order, _ = self.find(order_id, ticker)
        reduced = order.remaining
        self.take_off([order], "")
        return order, reduced

    def take_off(self, orders: Iterable[RestingOrder], reason: str) -> None:
        """Cancel resting orders for a reason in the exchange's words, "" for the account's own wish."""
        for order in orders:
            listing = self._ex.listings.get(order.ticker)
            assert listing is not None
            before = self._ex.displayed(listing)
            self._end(listing, order, reason)
            self._ex.publish_changes(listing, before, order)

    def cancel_market(self, listing: Listing, reason: str) -> None:
        """Cancel every order of a market; the caller tells of the book's change."""
        for order in [o for o in self._resting.values() if o.ticker == listing.facts.ticker]:
            self._end(listing, order, reason)

    def halt(self, listing: Listing | None = None) -> None:
        """Cancel the orders that are to be cancelled on a pause, of one market or of all."""
        self.take_off(
            [
                o
                for o in self._resting.values()
                if o.cancel_on_pause and (listing is None or o.ticker == listing.facts.ticker)
            ],
            "HaltCancel",
        )

    def expire(self) -> None:
        """Cancel orders whose time is up."""
        if self._expiring:
            self.take_off([o for o in self._expiring.values() if o.expires <= self._ex.now], "ExpiryCancel")

    def withdraw(self, listing: Listing, order: RestingOrder) -> None:
        """Take a resting order off the book without ending it."""
        listing.book.remove(order)
        self._resting.pop(order.order_id, None)
        self._expiring.pop(order.order_id, None)
        self._reserved.release(order)

    def _end(self, listing: Listing, order: RestingOrder, reason: str) -> None:
        self.withdraw(listing, order)
        self._done(order, reason)
        self.tell(order)

    def _done(self, order: RestingOrder, reason: str) -> None:
        order.remaining = 0
        order.status, order.reason, order.updated = "canceled", reason, self._ex.now

    # Groups

    def settle_groups(self) -> None:
        """Cancel the orders of groups that have just hit their limits."""
        for group in self.groups.due(self._ex.now):
            self.empty(group)

    def empty(self, group: OrderGroup) -> None:
        """Cancel a group's resting orders."""
        self.take_off(self.resting(group.group_id), "")

    # Telling

    def tell(self, order: RestingOrder) -> None:
        """Tell of an order's new state."""
        ex = self._ex
        if ex.hub.wanted("user_orders", order.ticker):
            body = serialize.order_message(order, ex.user_id)
            ex.hub.publish("user_orders", b"user_order", order.ticker, body)

    def _tell_group(self, body: stream.OrderGroupUpdate) -> None:
        self._ex.hub.publish("order_group_updates", b"order_group_updates", "", body)

    def _tell_fees(self, body: stream.EventFeeUpdate) -> None:
        self.fee_changes.append((self._ex.now, body))
        self._ex.hub.publish("market_lifecycle_v2", b"event_fee_update", "", body)
