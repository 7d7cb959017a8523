"""Order writes and order groups over REST: request bodies in, the order desk's answers out.

The items of a batch are independent: a refused item has its error in its place, and the others are carried out. Only
invalid JSON or JSON of the wrong types refuses the whole batch, because no item can be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from kalshilab.exchange.core import Exchange
from kalshilab.exchange.orders import order_checks
from kalshilab.exchange.orders.amend import amend, decrease
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.exchange.orders.order_groups import MOST_LIMIT, OrderGroup
from kalshilab.exchange.rest.params import FOREVER, Answer, Request, encode, integer, nested, ok
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.model import outcome_price
from kalshilab.units import PRICE, format_price, format_size

__all__ = ["MAX_CANCELLED", "OrderRoutes", "average_fee", "average_price"]

MAX_CANCELLED: Final = 10_000
"""Maximum number of orders that one cancel-all removes."""


class OrderRoutes:
    """Routes of order writes, below `/portfolio`; the caller has checked the signature."""

    def __init__(self, exchange: Exchange) -> None:
        self._ex = exchange

    def answer(self, request: Request, parts: Sequence[str]) -> Answer | None:
        """Return the answer to a request; None for an unknown path.

        Args:
            request: the request.
            parts: segments of the path below `/portfolio`.

        Raises:
            Refused, BadQuery, msgspec.DecodeError, RecursionError: the request is invalid; the caller turns the
                error into an answer.
        """
        method, query, body = request.method, request.query, request.body
        match (method, *parts):
            case ("POST", "events", "orders"):
                return Answer(201, encode(self._create(order_checks.read(body, wire.CreateOrder))))
            case ("DELETE", "events", "orders"):
                return self._cancel_all(query)
            case ("POST", "events", "orders", "batched"):
                return self._create_batch(body)
            case ("DELETE", "events", "orders", "batched"):
                return self._cancel_batch(body)
            case ("DELETE", "events", "orders", order_id):
                return self._cancel(order_id, query)
            case ("POST", "events", "orders", order_id, "amend"):
                return self._amend(order_id, query, body)
            case ("POST", "events", "orders", order_id, "decrease"):
                return self._decrease(order_id, query, body)
            case ("POST" | "DELETE", "orders", *_):
                return nested(
                    410,
                    "deprecated_v1_order_endpoint",
                    "Please switch to the V2 endpoints",
                    "https://docs.kalshi.com/api-reference/orders/create-order-v2",
                )
            case (_, "order_groups", *rest):
                return self._groups(method, rest, query, body)
        return None

    # Orders

    def _create(self, body: wire.CreateOrder) -> wire.CreateOrderResponse:
        order, cost, fees = self._ex.desk.create(body)
        filled = order.filled
        return wire.CreateOrderResponse(
            order_id=order.order_id,
            client_order_id=order.client_order_id,
            fill_count=format_size(filled),
            remaining_count=format_size(order.remaining),
            average_fill_price=average_price(order.side, cost, filled) if filled else None,
            average_fee_paid=average_fee(fees, filled) if filled else None,
            ts_ms=self._ex.now_ms(),
        )

    def _cancel(self, order_id: str, query: Mapping[str, str]) -> Answer:
        ticker = self._routed(query)
        order, reduced = self._ex.desk.cancel(order_id, ticker)
        return ok(
            wire.CancelOrderResponse(
                order_id=order.order_id,
                client_order_id=order.client_order_id,
                reduced_by=format_size(reduced),
                ts_ms=self._ex.now_ms(),
            )
        )

    def _routed(self, query: Mapping[str, str]) -> str | None:
        """Return the market that a query names, after checking its subaccount and shard."""
        ticker = query.get("market_ticker") or None
        order_checks.account_number(integer(query, "subaccount", 0, 0, FOREVER))
        order_checks.shard(integer(query, "exchange_index", 0, -1, FOREVER), ticker)
        return ticker

    def _cancel_all(self, query: Mapping[str, str]) -> Answer:
        desk = self._ex.desk
        desk.check_open(cancelling=True)
        order_checks.account_number(integer(query, "subaccount", 0, 0, FOREVER))
        desk.cancel_orders(desk.resting()[:MAX_CANCELLED], "")
        return Answer(204)

    def _amend(self, order_id: str, query: Mapping[str, str], body: bytes) -> Answer:
        order_checks.account_number(integer(query, "subaccount", 0, 0, FOREVER))
        done = amend(self._ex.desk, order_id, order_checks.read(body, wire.AmendOrder))
        order, filled = done.order, done.filled
        changed = bool(filled) or done.resized
        return ok(
            wire.AmendOrderResponse(
                order_id=order.order_id,
                client_order_id=order.client_order_id,
                remaining_count=format_size(order.remaining) if changed else None,
                fill_count=format_size(filled) if changed else None,
                average_fill_price=average_price(order.side, done.cost, filled) if filled else None,
                average_fee_paid=average_fee(done.fees, filled) if filled else None,
                ts_ms=self._ex.now_ms(),
            )
        )

    def _decrease(self, order_id: str, query: Mapping[str, str], body: bytes) -> Answer:
        order_checks.account_number(integer(query, "subaccount", 0, 0, FOREVER))
        order = decrease(self._ex.desk, order_id, order_checks.read(body, wire.DecreaseOrder))
        return ok(
            wire.DecreaseOrderResponse(
                order_id=order.order_id,
                client_order_id=order.client_order_id,
                remaining_count=format_size(order.remaining),
                ts_ms=self._ex.now_ms(),
            )
        )

    # Batches

    def _create_batch(self, body: bytes) -> Answer:
        items: list[wire.CreateOrder | Refused] = []
        for raw in self._batch(order_checks.read(body, wire.BatchCreate).orders):
            try:
                items.append(order_checks.read(raw, wire.CreateOrder))
            except Refused as refused:
                items.append(refused)
        results = [self._create_item(item) for item in items]
        return Answer(201, encode(wire.BatchCreateResponse(orders=results)))

    def _create_item(self, item: wire.CreateOrder | Refused) -> wire.BatchCreateResult:
        if isinstance(item, Refused):
            return wire.BatchCreateResult(error=_error(item))
        try:
            made = self._create(item)
        except Refused as refused:
            return wire.BatchCreateResult(client_order_id=item.client_order_id or None, error=_error(refused))
        return wire.BatchCreateResult(**msgspec.structs.asdict(made))

    def _cancel_batch(self, body: bytes) -> Answer:
        orders = self._batch(order_checks.read(body, wire.BatchCancel).orders)
        items = [order_checks.read(raw, wire.BatchCancelItem) for raw in orders]
        return ok(wire.BatchCancelResponse(orders=[self._cancel_item(item) for item in items]))

    def _cancel_item(self, item: wire.BatchCancelItem) -> wire.BatchCancelResult:
        try:
            order_checks.account_number(item.subaccount)
            order_checks.shard(item.exchange_index, item.market_ticker)
            order, reduced = self._ex.desk.cancel(item.order_id, item.market_ticker)
        except Refused as refused:
            return wire.BatchCancelResult(
                order_id=item.order_id, reduced_by=format_size(0), error=_error(refused)
            )
        return wire.BatchCancelResult(
            order_id=order.order_id,
            client_order_id=order.client_order_id,
            reduced_by=format_size(reduced),
            ts_ms=self._ex.now_ms(),
        )

    @staticmethod
    def _batch(orders: list[msgspec.Raw]) -> list[msgspec.Raw]:
        if not orders:
            raise Refused(400, "invalid_order", "orders is empty")
        return orders

    # Groups

    def _groups(
        self, method: str, parts: Sequence[str], query: Mapping[str, str], body: bytes
    ) -> Answer | None:
        ex, desk = self._ex, self._ex.desk
        order_checks.account_number(integer(query, "subaccount", 0, 0, FOREVER))
        order_checks.shard(integer(query, "exchange_index", 0, 0, FOREVER), None)
        match (method, *parts):
            case ("GET",):
                return ok(wire.OrderGroupList(order_groups=[self._group(g) for g in desk.groups.listed()]))
            case ("POST", "create"):
                return self._create_group(order_checks.read(body, wire.CreateGroup))
            case ("GET", group_id):
                group = desk.groups.get(group_id)
                return ok(
                    wire.OrderGroupResponse(
                        orders=[o.order_id for o in desk.resting(group_id)],
                        contracts_limit_fp=format_size(group.limit),
                    )
                )
            case ("DELETE", group_id):
                desk.check_open(cancelling=True)
                group = desk.groups.get(group_id)
                desk.groups.delete(group, ex.now)
                desk.empty(group)
            case ("PUT", group_id, "reset"):
                desk.check_open(cancelling=True)
                desk.groups.reset(desk.groups.get(group_id), ex.now)
            case ("PUT", group_id, "trigger"):
                desk.check_open(cancelling=True)
                group = desk.groups.get(group_id)
                desk.groups.trigger(group, ex.now)
                desk.empty(group)
            case ("PUT", group_id, "limit"):
                desk.check_open(cancelling=True)
                group = desk.groups.get(group_id)
                wanted = order_checks.read(body, wire.GroupLimit)
                limit = order_checks.group_limit(
                    wanted.contracts_limit, wanted.contracts_limit_fp, MOST_LIMIT
                )
                desk.groups.set_limit(group, limit, ex.now)
                desk.settle_groups()
            case _:
                return None
        return Answer(200, b"{}")

    @staticmethod
    def _group(group: OrderGroup) -> wire.OrderGroupBody:
        return wire.OrderGroupBody(id=group.group_id, contracts_limit_fp=format_size(group.limit))

    def _create_group(self, body: wire.CreateGroup) -> Answer:
        desk = self._ex.desk
        desk.check_open(cancelling=True)
        order_checks.account_number(body.subaccount)
        order_checks.shard(body.exchange_index, None)
        limit = order_checks.group_limit(body.contracts_limit, body.contracts_limit_fp, MOST_LIMIT)
        group = desk.groups.create(self._ex.new_id(), limit, self._ex.now)
        return Answer(201, encode(wire.CreateGroupResponse(order_group_id=group.group_id)))


def _error(refused: Refused) -> wire.ItemError:
    return wire.ItemError(code=refused.code, message=refused.message, details=refused.details or None)


def average_fee(fees: int, size: int) -> str:
    """Return the fee per contract in dollars, with four decimals, rounded half up.

    Args:
        fees: total fees, in money units.
        size: filled size, in 1/100 contract.

    >>> average_fee(69_000, 400)
    '0.0173'
    """
    # Money divided by size is in price units; a fee may exceed one dollar.
    units = (2 * fees + size) // (2 * size)
    return f"{units // PRICE}.{units % PRICE:04d}"


def average_price(side: str, cost: int, size: int) -> str:
    """Return the average YES price of fills in dollars, with four decimals, rounded half up.

    Args:
        side: "bid" for fills that bought YES, "ask" for fills that bought NO.
        cost: total cost of the outcome bought, in money units.
        size: filled size, in 1/100 contract.

    >>> average_price("bid", 1_760_000, 400), average_price("ask", 1_680_000, 400)
    ('0.4400', '0.5800')
    """
    total = cost if side == "bid" else outcome_price(0, "no") * size - cost
    return format_price((2 * total + size) // (2 * size))
