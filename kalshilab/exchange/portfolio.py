"""The account over REST: balance, positions, fills, settlements, and its orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kalshilab.exchange import bodies
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.orders import average, average_price
from kalshilab.exchange.query import Answer, BadQuery, Request, encode, integer, missing, nested, ok, paged
from kalshilab.kalshi.wire import rest as wire
from kalshilab.units import format_money, format_size

__all__ = ["PortfolioRoutes"]


class PortfolioRoutes:
    """Answers what is about the account; the signature has been checked by the caller."""

    def __init__(self, exchange: Exchange) -> None:
        self._ex = exchange

    def answer(self, request: Request, parts: Sequence[str]) -> Answer | None:
        """The answer, or None where there is no such path.

        Args:
            parts: the path below the root of the contract.

        Raises:
            Refused, BadQuery, msgspec.DecodeError: to be put into words by the caller.
        """
        method, query = request.method, request.query
        match (method, *parts):
            case ("GET", "account", "limits"):
                bucket = wire.BucketLimit(refill_rate=12_000, bucket_capacity=12_000)
                return ok(wire.Limits(usage_tier="prestige", read=bucket, write=bucket))
            case ("GET", "portfolio", *rest):
                return self._portfolio(list(rest), query)
            case ("POST", "portfolio", "events", "orders"):
                return self._create(request.body)
            case ("DELETE", "portfolio", "events", "orders"):
                return self._cancel_all()
            case ("DELETE", "portfolio", "events", "orders", order_id):
                order, reduced = self._ex.desk.cancel(order_id)
                return ok(
                    wire.CancelOrderResponse(
                        order_id=order.order_id,
                        client_order_id=order.client_order_id,
                        reduced_by=format_size(reduced),
                        ts_ms=self._ex.now_ms(),
                    )
                )
            case ("POST" | "DELETE", "portfolio", "orders", *_):
                return nested(
                    410,
                    "deprecated_v1_order_endpoint",
                    "Please switch to the V2 endpoints",
                    "/portfolio/events/orders",
                )
        return None

    def _portfolio(self, parts: list[str], query: Mapping[str, str]) -> Answer:
        ex, account = self._ex, self._ex.account
        ticker = query.get("ticker")
        match parts:
            case ["balance"]:
                value = account.value(ex.marks())
                return ok(
                    wire.Balance(
                        balance=account.cash // 10_000,
                        balance_dollars=format_money(account.cash),
                        portfolio_value=value // 10_000,
                        updated_ts=ex.now // 1_000_000,
                        balance_breakdown=[{"exchange_index": 0, "balance": format_money(account.cash)}],
                    )
                )
            case ["positions"]:
                return self._positions(query)
            case ["fills"]:
                least = integer(query, "min_ts", 0, 0, 2**53) * 1_000_000
                wanted = set(ticker.split(",")) if ticker else None
                order_id = query.get("order_id")
                found = [
                    r
                    for r in reversed(account.fills)
                    if (wanted is None or r.ticker in wanted)
                    and r.ts >= least
                    and (not order_id or r.order.order_id == order_id)
                ]
                page, cursor = paged(found, query, 100, 1000)
                return ok(wire.FillPage(fills=[bodies.fill(r) for r in page], cursor=cursor))
            case ["settlements"]:
                paid = [r for r in reversed(account.settlements) if not ticker or r.ticker == ticker]
                payouts, cursor = paged(paid, query, 100, 1000)
                return ok(
                    wire.SettlementPage(settlements=[bodies.settlement(r) for r in payouts], cursor=cursor)
                )
            case ["orders"]:
                return self._orders(query)
            case ["orders", order_id]:
                order = ex.desk.orders.get(order_id)
                return (
                    ok(wire.OrderResponse(order=bodies.order(order, ex.user_id)))
                    if order
                    else missing("order")
                )
        return nested(404, "not_found", "no such path")

    def _orders(self, query: Mapping[str, str]) -> Answer:
        ex, ticker, status = self._ex, query.get("ticker"), query.get("status") or None
        if status is not None and status not in ("resting", "canceled", "executed"):
            raise BadQuery("status: one of resting, canceled, executed")
        # Resting orders are few and asked for often: no walk over the dead ones for them.
        pool = ex.desk.resting() if status == "resting" else list(ex.desk.orders.values())
        found = [
            o
            for o in reversed(pool)
            if (not ticker or o.ticker == ticker) and (not status or o.status == status)
        ]
        page, cursor = paged(found, query, 100, 1000)
        return ok(wire.OrderPage(orders=[bodies.order(o, ex.user_id) for o in page], cursor=cursor))

    def _positions(self, query: Mapping[str, str]) -> Answer:
        account, listings = self._ex.account, self._ex.listings
        ticker, event = query.get("ticker"), query.get("event_ticker")
        rows = []
        for name, holding in account.holdings.items():
            listing = listings.get(name)
            if not holding.size or listing is None or (ticker and name != ticker):
                continue
            if event and listing.facts.event != event:
                continue
            rows.append((listing.facts.event, name, holding))
        page, cursor = paged(rows, query, 100, 1000)
        markets = [
            bodies.market_position(n, h, account.traded.get(n, 0), account.touched.get(n, 0))
            for _, n, h in page
        ]
        events: dict[str, list[Any]] = {}
        for name, _, holding in page:
            events.setdefault(name, []).append(holding)
        return ok(
            wire.PositionPage(
                market_positions=markets,
                event_positions=[
                    wire.EventPosition(
                        event_ticker=name,
                        total_cost_dollars=format_money(sum(h.cost for h in held)),
                        total_cost_shares_fp=format_size(sum(abs(h.size) for h in held)),
                        event_exposure_dollars=format_money(sum(h.cost for h in held)),
                        realized_pnl_dollars=format_money(sum(h.realized for h in held)),
                        fees_paid_dollars=format_money(sum(h.fees for h in held)),
                    )
                    for name, held in events.items()
                ],
                cursor=cursor,
            )
        )

    def _create(self, body: bytes) -> Answer:
        order, cost, fees = self._ex.desk.create(msgspec.json.decode(body, type=wire.CreateOrder))
        filled = order.filled
        answer = wire.CreateOrderResponse(
            order_id=order.order_id,
            client_order_id=order.client_order_id,
            fill_count=format_size(filled),
            remaining_count=format_size(order.remaining),
            average_fill_price=average_price(order, cost) if filled else None,
            average_fee_paid=average(fees, filled) if filled else None,
            ts_ms=self._ex.now_ms(),
        )
        return Answer(201, encode(answer))

    def _cancel_all(self) -> Answer:
        for order in self._ex.desk.resting():
            self._ex.desk.cancel(order.order_id)
        return Answer(204)
