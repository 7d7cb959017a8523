"""Changes to a resting order: amend and decrease.

The count of an amend is the filled size plus the size to rest, so that a concurrent fill cannot make it
wrong.  An order that only shrinks, or only changes its expiration, keeps its place in the queue.  An order
with another price or a larger size is removed and placed again: it queues behind everything at its price, and
trades at once if it crosses. Either way it remains the same order, with the same rounding account for its
fees.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from kalshilab.exchange.orders import order_checks
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.exchange.orders.order_desk import OrderDesk
from kalshilab.exchange.state.listings import Listing
from kalshilab.exchange.state.order_book import RestingOrder
from kalshilab.kalshi.wire import rest as wire

__all__ = ["Amended", "amend", "decrease"]


class Amended(NamedTuple):
    """The result of an amend.

    Attributes:
        order: the amended order.
        filled: the size that it filled, in size units.
        cost: cost of these fills, in money units.
        fees: fees of these fills, in money units.
        resized: whether the resting size has changed.
    """

    order: RestingOrder
    filled: int
    cost: int
    fees: int
    resized: bool


def amend(desk: OrderDesk, order_id: str, body: wire.AmendOrder) -> Amended:
    """Change price, total count, expiration or client order id of a resting order.

    Args:
        desk: the order desk.
        order_id: the order to change.
        body: the request.

    Raises:
        Refused: with the exchange's status and code; the order is then unchanged.
    """
    ex = desk.exchange
    desk.check_open()
    order_checks.shard(body.exchange_index, body.ticker)
    order, listing = desk.find(order_id, body.ticker)
    if body.client_order_id and body.client_order_id != order.client_order_id:
        raise Refused(400, "order_id_and_client_order_id_mismatch")
    if body.side not in order_checks.SIDES:
        raise Refused(400, "invalid_order", f"side {body.side[:40]}")
    if body.side != order.side:
        raise Refused(400, "order_side_mismatch", f"the order is a {order.side}")
    price, count = order_checks.price_of(body.price, listing), order_checks.size_of(body.count, least=0)
    if count < order.filled:
        raise Refused(400, "invalid_order_size", "count is below the filled size")
    expires = order_checks.expiry(body.expiration_time or None, ex.now)
    order_checks.orderable(listing, ex.choices.market_closed)
    new_id = order_checks.client_id(body.updated_client_order_id)
    if new_id != order.client_order_id:
        desk.check_new_id(new_id)
    before = order.remaining
    wanted = replace(order, price=price, remaining=count - order.filled)
    _check(desk, order, wanted, listing)
    # No check fails from here on.
    if new_id is not None:
        desk.claim_id(new_id)
        order.client_order_id = new_id
    if body.expiration_time is not None:
        order.expires = expires
    order.updated, order.reason = ex.now, "Amend"
    filled, cost, fees = _carry_out(desk, order, wanted, listing)
    return Amended(order, filled, cost, fees, order.remaining != before)


def _check(desk: OrderDesk, order: RestingOrder, wanted: RestingOrder, listing: Listing) -> None:
    if wanted.post_only and listing.book.crosses(wanted.side, wanted.price):
        raise Refused(400, "invalid_order", "post only cross")
    wanted.fee_bound = desk.fee_bound(wanted, listing)
    if desk.short_of(wanted, instead_of=order):
        raise Refused(400, "insufficient_balance")


def _carry_out(
    desk: OrderDesk, order: RestingOrder, wanted: RestingOrder, listing: Listing
) -> tuple[int, int, int]:
    """Apply an amend; return size, cost and fees of the resulting fills."""
    displayed = desk.exchange.displayed(listing)
    if wanted.remaining == 0:
        desk.cancel_orders([order], "Amend")
        return 0, 0, 0
    filled = order.filled
    keeps_place = wanted.price == order.price and wanted.remaining <= order.remaining
    order.initial = wanted.remaining + filled
    order.fee_bound = wanted.fee_bound
    if keeps_place:
        order.remaining = wanted.remaining
        desk.reindex(order)
        desk.exchange.publish_changes(listing, displayed, order)
        desk.publish_order(order)
        return 0, 0, 0
    desk.withdraw(listing, order)
    order.price, order.remaining = wanted.price, wanted.remaining
    cost, fees = desk.match(order, listing, displayed)
    return order.filled - filled, cost, fees


def decrease(desk: OrderDesk, order_id: str, body: wire.DecreaseOrder) -> RestingOrder:
    """Reduce a resting order without losing its place; a reduction to zero is a cancel.

    Args:
        desk: the order desk.
        order_id: the order to reduce.
        body: the request.

    Raises:
        Refused: with the exchange's status and code; the order is then unchanged.
    """
    ex = desk.exchange
    desk.check_open()
    order_checks.shard(body.exchange_index, body.market_ticker)
    if (body.reduce_by is None) == (body.reduce_to is None):
        raise Refused(400, "invalid_order", "exactly one of reduce_by and reduce_to is required")
    order, listing = desk.find(order_id, body.market_ticker)
    if body.reduce_by is not None:
        left = max(order.remaining - order_checks.size_of(body.reduce_by, "reduce_by"), 0)
    else:
        assert body.reduce_to is not None
        left = order_checks.size_of(body.reduce_to, "reduce_to", least=0)
        if left > order.remaining:
            raise Refused(400, "invalid_order_size", "reduce_to is above what remains")
    if left == order.remaining:
        return order
    if left == 0:
        desk.cancel_orders([order], "Decrease")
        return order
    displayed = ex.displayed(listing)
    order.remaining = left
    order.updated, order.reason = ex.now, "Decrease"
    order.fee_bound = desk.fee_bound(order, listing)
    desk.reindex(order)
    ex.publish_changes(listing, displayed, order)
    desk.publish_order(order)
    return order
