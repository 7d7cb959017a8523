"""Order client, for demo and loopback hosts only.

Every order has a client order id that the caller chooses before it is sent.  The exchange refuses a second order with
the same id, so a lost answer cannot lead to a double order: `find` returns what became of the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

import httpx
import msgspec

from kalshilab.clock import Clock, WallClock
from kalshilab.errors import ApiError, ConfigError, OutcomeUnknown, UnitError
from kalshilab.kalshi import hosts
from kalshilab.kalshi.auth import Signer
from kalshilab.kalshi.rest.client import Rest, RestSettings, base_url, pages, segment
from kalshilab.kalshi.rest.rate_limits import COSTS, AccountLimits
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.model import Balance, Fill, Order, Position, Settlement
from kalshilab.units import PRICE, format_price, format_size, parse_money, parse_size

__all__ = ["CancelAck", "DemoOrders", "OrderAck", "OrderRequest"]

# Inside the class below, `list` is a method.
Orders = list[Order]
Positions = list[Position]
Fills = list[Fill]
Settlements = list[Settlement]

TIMES_IN_FORCE: Final = ("good_till_canceled", "immediate_or_cancel", "fill_or_kill")
_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9_:+=/-]{1,64}")
_ORDERS: Final = "/portfolio/events/orders"
_GROUPS: Final = "/portfolio/order_groups"


class OrderRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An order to place.

    `side` "bid" buys YES and "ask" sells YES, which is the same as buying NO at a dollar less `price`.  `price` is the
    YES price in price units, `size` in size units, `expiration_ts` in microseconds (good-till-canceled orders only).
    `group` is the id of an order group, or "".
    """

    ticker: str
    side: str
    price: int
    size: int
    client_order_id: str
    time_in_force: str = "good_till_canceled"
    post_only: bool = False
    reduce_only: bool = False
    expiration_ts: int | None = None
    self_trade_prevention: str = "taker_at_cross"
    group: str = ""

    def body(self) -> wire.CreateOrder:
        """Return the body of the request.

        Raises:
            UnitError: the price is not between 0 and 1 dollar, exclusive, or the size is not above 0.
            ConfigError: the exchange would not accept the client order id, side, time in force, self-trade
                prevention or expiration.
        """
        if not 0 < self.price < PRICE:
            raise UnitError("price", self.price, f"above 0 and below {PRICE:,} price units")
        if self.size <= 0:
            raise UnitError("size", self.size, "above 0 size units")
        if not _CLIENT_ID.fullmatch(self.client_order_id):
            raise ConfigError(
                "client_order_id",
                self.client_order_id,
                "1 to 64 characters of A-Z a-z 0-9 _ : + = / -",
                "order",
            )
        for name, value, options in (
            ("side", self.side, ("bid", "ask")),
            ("time_in_force", self.time_in_force, TIMES_IN_FORCE),
            ("self_trade_prevention", self.self_trade_prevention, ("taker_at_cross", "maker")),
        ):
            if value not in options:
                raise ConfigError(name, value, " or ".join(options), "order")
        if self.expiration_ts is not None and self.time_in_force != "good_till_canceled":
            raise ConfigError("expiration_ts", self.expiration_ts, "None unless good_till_canceled", "order")
        return wire.CreateOrder(
            ticker=self.ticker,
            side=self.side,
            count=format_size(self.size),
            price=format_price(self.price),
            time_in_force=self.time_in_force,
            self_trade_prevention_type=self.self_trade_prevention,
            client_order_id=self.client_order_id,
            expiration_time=None if self.expiration_ts is None else self.expiration_ts // 1_000_000,
            post_only=self.post_only,
            reduce_only=self.reduce_only,
            order_group_id=self.group or None,
        )


class OrderAck(msgspec.Struct, frozen=True, kw_only=True):
    """Confirmation that the exchange accepted an order.

    `filled` and `remaining` are in size units, `ts` in microseconds.  `average_price` (price units) and `fee_paid`
    (money units) are per contract, and None if the order was not filled at once.
    """

    order_id: str
    client_order_id: str
    filled: int
    remaining: int
    ts: int
    average_price: float | None = None
    fee_paid: int | None = None


class CancelAck(msgspec.Struct, frozen=True, kw_only=True):
    """Confirmation that the rest of an order was cancelled; `reduced_by` is in size units."""

    order_id: str
    reduced_by: int
    ts: int


@contextmanager
def _readable(method: str, path: str) -> Iterator[None]:
    """Treat a number that cannot be read in the answer to a write as no answer: the write has happened all the same."""
    try:
        yield
    except (UnitError, ValueError) as error:
        raise OutcomeUnknown(method, path, 0, f"the answer cannot be parsed ({error})") from None


class DemoOrders:
    """Client that places and cancels orders and reads the account.

        async with DemoOrders(settings) as orders:
            ack = await orders.create(OrderRequest(ticker=…, side="bid", price=4300, size=100, client_order_id=…))

    Args:
        settings: host and key.
        clock: machine time; another clock for tests.
        transport: an httpx transport for tests.

    Raises:
        HostRefused: the host is neither Kalshi's demo environment nor loopback, however it is spelt.
        CredentialsMissing: the settings have no key.
        KeyUnusable: the key cannot be used.
    """

    def __init__(
        self,
        settings: RestSettings,
        *,
        clock: Clock | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        clock = clock or WallClock()
        limits = None if settings.venue == "embedded" else AccountLimits(clock)
        url = base_url(settings)
        # The host is checked before the key is read.
        hosts.check(url.rstrip("/"), "orders")
        self._rest = Rest(
            url,
            Signer.from_settings(settings),
            purpose="orders",
            clock=clock,
            limits=limits,
            transport=transport,
            fast=settings.fast,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"DemoOrders({self._rest.host})"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._rest.aclose()

    async def create(self, request: OrderRequest, /) -> OrderAck:
        """Place an order; the request is sent once and never retried.

        Raises:
            ApiError: the exchange refused the order (`code`: insufficient_balance, invalid_price, …), and nothing
                rests.  `order_already_exists` means that an order with this client order id arrived before.
            RateLimited: there were too many calls; nothing happened.
            ConnectionFailed: the order was not sent.
            OutcomeUnknown: no answer arrived, or it cannot be read, or it belongs to another order; use `find`.
        """
        answer = await self._rest.post(_ORDERS, wire.CreateOrderResponse, request.body())
        own = answer.client_order_id in (None, request.client_order_id)
        await self._check("POST", _ORDERS, own=own)
        with _readable("POST", _ORDERS):
            return OrderAck(
                order_id=answer.order_id,
                client_order_id=request.client_order_id,
                filled=parse_size(answer.fill_count),
                remaining=parse_size(answer.remaining_count),
                ts=answer.ts_ms * 1000,
                average_price=None
                if answer.average_fill_price is None
                else float(answer.average_fill_price) * PRICE,
                fee_paid=None if answer.average_fee_paid is None else parse_money(answer.average_fee_paid),
            )

    async def _check(self, method: str, path: str, *, own: bool) -> None:
        """Refuse an answer that belongs to another request, such as one that a proxy sent twice."""
        if not own:
            await self._rest.discard_connections()
            reason = "the answer belongs to another request"
            if method == "GET":
                raise ApiError(method, path, 0, "no_answer", reason, retryable=True)
            raise OutcomeUnknown(method, path, 0, reason)

    async def cancel(self, order_id: str, /, *, ticker: str | None = None) -> CancelAck:
        """Cancel the rest of an order.

        Args:
            order_id: the exchange's id of the order.
            ticker: its market, which routes the call to the right matching engine.

        Raises:
            ApiError: 404 for an order that is unknown, filled or already cancelled.
            OutcomeUnknown: no answer arrived, or it cannot be read, or it belongs to another order; read the order.
        """
        path = f"{_ORDERS}/{segment('order_id', order_id)}"
        answer = await self._rest.delete(path, wire.CancelOrderResponse, {"market_ticker": ticker})
        await self._check("DELETE", path, own=answer.order_id == order_id)
        with _readable("DELETE", path):
            return CancelAck(
                order_id=answer.order_id, reduced_by=parse_size(answer.reduced_by), ts=answer.ts_ms * 1000
            )

    async def amend(
        self, order_id: str, /, *, ticker: str, side: str, price: int, count: int, expiration_ts: int
    ) -> None:
        """Give a resting order another expiration; an unchanged price and size keep its place in the queue.

        Args:
            order_id: the exchange's id of the order.
            ticker: its market.
            side: its side, "bid" or "ask".
            price: its YES price in price units.
            count: its filled and its resting size together, in size units.
            expiration_ts: the new expiration in microseconds; the exchange counts whole seconds.

        Raises:
            ApiError: the exchange refused the change; 404 for an order that does not rest.
            OutcomeUnknown: no answer arrived, or it cannot be read, or it belongs to another order.
        """
        path = f"{_ORDERS}/{segment('order_id', order_id)}/amend"
        body = wire.AmendOrder(
            ticker=ticker,
            side=side,
            price=format_price(price),
            count=format_size(count),
            expiration_time=expiration_ts // 1_000_000,
        )
        answer = await self._rest.post(path, wire.AmendOrderResponse, body)
        await self._check("POST", path, own=answer.order_id == order_id)

    async def open_group(self, contracts: int) -> str:
        """Create an order group and return its id.

        Args:
            contracts: the contracts that its orders may trade within the exchange's rolling window of 15 seconds.

        Raises:
            ApiError: the exchange refused it.
            OutcomeUnknown: no answer arrived, or it cannot be read.
        """
        body = wire.CreateGroup(contracts_limit=contracts)
        answer = await self._rest.post(f"{_GROUPS}/create", wire.CreateGroupResponse, body)
        return answer.order_group_id

    async def close_group(self, group_id: str, /) -> None:
        """Delete an order group, which cancels its resting orders.

        Raises:
            ApiError: 404 for an unknown group.
            OutcomeUnknown: no answer arrived.
        """
        await self._rest.delete(f"{_GROUPS}/{segment('group_id', group_id)}", dict)

    async def cancel_all(self) -> None:
        """Cancel every resting order of the account, including those of other programs."""
        await self._rest.delete(_ORDERS, type(None))

    async def get(self, order_id: str) -> Order:
        """Return one order, as of the exchange's last update of its read side (about 100 ms behind).

        Raises:
            ApiError: 404 for an unknown order.
        """
        path = f"/portfolio/orders/{segment('order_id', order_id)}"
        answer = await self._rest.get(path, wire.OrderResponse, cost=COSTS["get_order"])
        await self._check("GET", path, own=answer.order.order_id == order_id)
        return answer.order.to_model()

    async def list(self, *, ticker: str | None = None, status: str | None = None) -> Orders:
        """Return the account's orders, newest first.

        Args:
            ticker: only orders in this market.
            status: only orders with this status: "resting", "canceled" or "executed".
        """
        query = {"ticker": ticker, "status": status}
        return [
            order.to_model()
            async for page in pages(self._rest, "/portfolio/orders", wire.OrderPage, query, limit=1000)
            for order in page.orders
        ]

    async def find(self, client_order_id: str, ticker: str, /) -> Order | None:
        """Return the order with this client order id, else None.  The search covers one market."""
        query = {"ticker": ticker}
        async for page in pages(self._rest, "/portfolio/orders", wire.OrderPage, query, limit=1000):
            for order in page.orders:
                if order.client_order_id == client_order_id:
                    return order.to_model()
        return None

    async def balance(self) -> Balance:
        """Return the cash and the marked value of the positions."""
        return (await self._rest.get("/portfolio/balance", wire.BalanceBody)).to_model()

    async def positions(self, *, ticker: str | None = None) -> Positions:
        """Return the open positions, signed: + YES, − NO."""
        query = {"ticker": ticker, "count_filter": "position"}
        return [
            position.to_model()
            async for page in pages(self._rest, "/portfolio/positions", wire.PositionPage, query, limit=1000)
            for position in page.market_positions
        ]

    async def fills(
        self, *, ticker: str | None = None, min_ts: int | None = None, most: int | None = None
    ) -> Fills:
        """Return the account's fills, newest first.

        Args:
            ticker: only fills in this market.
            min_ts: only fills since this instant, in microseconds, inclusive to the second.
            most: only the newest, at most this many (up to 1,000).
        """
        query = {"ticker": ticker, "min_ts": None if min_ts is None else min_ts // 1_000_000}
        fills = []
        async for page in pages(self._rest, "/portfolio/fills", wire.FillPage, query, limit=most or 1000):
            fills += [fill.to_model() for fill in page.fills]
            if most is not None:
                break
        return fills

    async def settlements(self, *, ticker: str | None = None) -> Settlements:
        """Return the account's settlements, newest first."""
        query = {"ticker": ticker}
        return [
            settlement.to_model()
            async for page in pages(
                self._rest, "/portfolio/settlements", wire.SettlementPage, query, limit=1000
            )
            for settlement in page.settlements
        ]
