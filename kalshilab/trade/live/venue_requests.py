"""The trader's requests as calls over REST, and the answers as results.

Nothing is decided here: an error that shows that a request had no effect is `Declined`, and any other is `Lost`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from kalshilab.errors import (
    ApiError,
    ConfigError,
    ConnectionFailed,
    HostRefused,
    OutcomeUnknown,
    ProtocolError,
    UnitError,
)
from kalshilab.kalshi.rest.client import MarketData
from kalshilab.kalshi.rest.orders import DemoOrders, OrderRequest
from kalshilab.market.model import Fill, Market
from kalshilab.trade.core import messages as m

__all__ = ["VenueRequests", "refuses_key"]

NEWEST: Final = 100
"""Fills that are listed where the newest ones are asked for."""
MAX_PRINTS: Final = 200_000
"""Prints after which the list of missed ones is given up."""
STEADY_READS: Final = 5
"""Attempts to read cash, positions and fills of one moment."""

Call = Callable[[Any], Awaitable[m.Result]]


class VenueRequests:
    """The REST side of a session.

    Args:
        data: the client of public data.
        orders: the client of the account.
    """

    def __init__(self, data: MarketData, orders: DemoOrders) -> None:
        self._data, self._orders = data, orders
        self._categories: dict[str, tuple[str, str]] = {}
        self._calls: Mapping[type, Call] = {
            m.Place: self._place,
            m.Cancel: self._cancel,
            m.Amend: self._amend,
            m.LookUpOrder: self._look_up_order,
            m.LookUpMarket: self._look_up_market,
            m.ListMarkets: self._list_markets,
            m.ReadAccount: self._read_account,
            m.ReadFills: self._read_fills,
            m.ReadSettlements: self._read_settlements,
            m.ReadPrints: self._read_prints,
            m.OpenGroup: self._open_group,
            m.CloseGroup: self._close_group,
        }

    async def answer(self, request: m.TraderRequest) -> m.Result:
        """Carry out a request and return its result; an error of the exchange or the line is a result too."""
        try:
            return await self._calls[type(request)](request)
        except (OutcomeUnknown, HostRefused, ProtocolError) as error:
            return m.Lost(str(error))
        except ConnectionFailed as error:
            return m.Declined(0, "not_sent") if isinstance(request, WRITES) else m.Lost(str(error))
        except ApiError as error:
            if isinstance(request, WRITES) and error.status >= 400:
                return m.Declined(error.status, error.code or str(error.status))
            return m.Lost(str(error))
        except (UnitError, ConfigError) as error:
            # A value that the client refuses to send, or one in an answer that cannot be read.
            return m.Declined(0, str(error)) if isinstance(request, WRITES) else m.Lost(str(error))

    # Orders

    async def _place(self, command: m.Place) -> m.Result:
        intent = command.intent
        ack = await self._orders.create(
            OrderRequest(
                ticker=intent.ticker, side=intent.side, price=intent.price, size=intent.size,
                client_order_id=intent.client_order_id, expiration_ts=command.expires, group=command.group,
            )
        )  # fmt: skip
        return m.Placed(ack.order_id, ack.filled, ack.remaining)

    async def _cancel(self, command: m.Cancel) -> m.Result:
        await self._orders.cancel(command.order_id, ticker=command.ticker)
        return m.Succeeded()

    async def _amend(self, command: m.Amend) -> m.Result:
        await self._orders.amend(
            command.order_id, ticker=command.ticker, side=command.side, price=command.price, count=command.count,
            expiration_ts=command.expires,
        )  # fmt: skip
        return m.Succeeded()

    async def _look_up_order(self, command: m.LookUpOrder) -> m.Result:
        if not command.order_id:
            return m.OrderFound(await self._orders.find(command.client_order_id, command.ticker))
        try:
            return m.OrderFound(await self._orders.get(command.order_id))
        except ApiError as error:
            # A proxy answers 404 too, with a page instead of the exchange's code.
            if error.status == 404 and error.code:
                return m.OrderFound(None)
            raise

    # Markets

    async def _look_up_market(self, command: m.LookUpMarket) -> m.Result:
        try:
            market = await self._data.market(command.ticker)
        except ApiError as error:
            if error.status == 404 and error.code:
                return m.MarketFound(None)
            raise
        series, category = await self._category(market.event)
        return m.MarketFound(msgspec.structs.replace(market, series=series, category=category))

    async def _category(self, event: str) -> tuple[str, str]:
        """Return series and category of an event; the answer is kept, because an event has many markets."""
        known = self._categories.get(event)
        if known is None:
            known = self._categories[event] = await self._data.category(event)
        return known

    async def _list_markets(self, command: m.ListMarkets) -> m.Result:
        markets = [
            await self._complete(x) for x in await self._data.open_markets(min_close_ts=command.min_close_ts)
        ]
        return m.MarketsListed(tuple(markets))

    async def _complete(self, market: Market) -> Market:
        if market.category:
            return market
        series, category = await self._category(market.event)
        return msgspec.structs.replace(market, series=series, category=category)

    async def _read_prints(self, command: m.ReadPrints) -> m.Result:
        prints = []
        async for page in self._data.trades(min_ts=command.since // 1_000_000):
            prints += page
            if len(prints) > MAX_PRINTS:
                return m.PrintsRead((), complete=False)
        return m.PrintsRead(tuple(reversed(prints)))

    # The account

    async def _read_account(self, command: m.ReadAccount) -> m.Result:
        """Read the account; at the start of the record again, until cash and fills are those of one moment."""
        orders, opening = self._orders, command.fills_since is None
        balance, fills = await orders.balance(), await self._fills(command.fills_since)
        for _ in range(STEADY_READS):
            positions = await orders.positions()
            resting = await orders.list(status="resting")
            cash, listed = balance.cash, fills
            balance, fills = await orders.balance(), await self._fills(command.fills_since)
            if not opening or (balance.cash == cash and fills == listed):
                break
        ended = [await orders.get(order_id) for order_id in command.order_ids]
        return m.AccountRead(balance, tuple(positions), (*resting, *ended), tuple(fills), ())

    async def _fills(self, since: int | None) -> list[Fill]:
        if since is None:
            return await self._orders.fills(most=NEWEST)
        return await self._orders.fills(min_ts=since)

    async def _read_fills(self, command: m.ReadFills) -> m.Result:
        return m.FillsRead(tuple(await self._orders.fills(ticker=command.ticker)))

    async def _read_settlements(self, command: m.ReadSettlements) -> m.Result:
        return m.SettlementsRead(tuple(await self._orders.settlements(ticker=command.ticker)))

    # The order group

    async def _open_group(self, command: m.OpenGroup) -> m.Result:
        return m.GroupOpened(await self._orders.open_group(command.contracts))

    async def _close_group(self, command: m.CloseGroup) -> m.Result:
        await self._orders.close_group(command.group)
        return m.Succeeded()


WRITES: Final = (m.Place, m.Cancel, m.Amend, m.OpenGroup, m.CloseGroup)


async def refuses_key(orders: DemoOrders) -> ApiError | None:
    """Return the exchange's refusal of the key, or None: REST gives the reason where a socket merely fails to open."""
    try:
        await orders.balance()
    except ApiError as error:
        if error.status in (401, 403) and error.code:
            return error
    except (ConnectionFailed, HostRefused, ProtocolError):
        return None
    return None
