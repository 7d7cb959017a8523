"""Changes to a resting order: amend and decrease.

An amend's count is what has been filled plus what shall rest, so that a fill on its way cannot make it wrong.
An order that only shrinks, or only changes its expiration, keeps its place in the queue; one with another
price or more size is taken off and comes in again, behind all that stands at its price, and trades at once
where it crosses.  Either way it is the same order, with the same rounding account for its fees.
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
    """What an amend came to: the order, the size it filled, what that cost and its fees, in size and money
    units; `resized` whether what rests has another size than before."""

    order: RestingOrder
    filled: int
    cost: int
    fees: int
    resized: bool


def amend(desk: OrderDesk, order_id: str, body: wire.AmendOrder) -> Amended:
    """Change price, total count, expiration or client order id of a resting order.

    Raises:
        Refused: with the exchange's status and code; nothing has happened then.
    """
    ex = desk.floor
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
        raise Refused(400, "invalid_order_size", "count is below what is filled already")
    expires = order_checks.expiry(body.expiration_time or None, ex.now)
    order_checks.orderable(listing, ex.choices.market_closed)
    new_id = order_checks.client_id(body.updated_client_order_id)
    if new_id != order.client_order_id:
        desk.check_new_id(new_id)
    before = order.remaining
    wanted = replace(order, price=price, remaining=count - order.filled)
    _check(desk, order, wanted, listing)
    # From here on nothing is refused.
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
    """Make the order what is wanted: size, cost and fees of what that filled."""
    displayed = desk.floor.displayed(listing)
    if wanted.remaining == 0:
        desk.take_off([order], "Amend")
        return 0, 0, 0
    filled = order.filled
    keeps_place = wanted.price == order.price and wanted.remaining <= order.remaining
    order.initial = wanted.remaining + filled
    order.fee_bound = wanted.fee_bound
    if keeps_place:
        order.remaining = wanted.remaining
        desk.changed(order)
        desk.floor.publish_changes(listing, displayed, order)
        desk.tell(order)
        return 0, 0, 0
    desk.withdraw(listing, order)
    order.price, order.remaining = wanted.price, wanted.remaining
    cost, fees = desk.match(order, listing, displayed)
    return order.filled - filled, cost, fees


def decrease(desk: OrderDesk, order_id: str, body: wire.DecreaseOrder) -> RestingOrder:
    """Make a resting order smaller, in its place; down to nothing is a cancel.

    Raises:
        Refused: with the exchange's status and code; nothing has happened then.
    """
    ex = desk.floor
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
        desk.take_off([order], "Decrease")
        return order
    displayed = ex.displayed(listing)
    order.remaining = left
    order.updated, order.reason = ex.now, "Decrease"
    order.fee_bound = desk.fee_bound(order, listing)
    desk.changed(order)
    ex.publish_changes(listing, displayed, order)
    desk.tell(order)
    return order
