"""An exchange in the same process as the trader: carries out its commands, and returns what it would see as events.

There are no sockets and no JSON.  The account's messages are those that the exchange publishes, read by the same
functions as a client's, so fills, orders and lifecycle steps are equal to those of a live session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kalshilab.exchange.core import Exchange
from kalshilab.exchange.orders.amend import amend
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.listings import Listing
from kalshilab.kalshi.stream.events import BookSnapshot, Lifecycle
from kalshilab.kalshi.stream.messages import fill_of, lifecycle_of, order_of
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.model import Balance, Market, Order, Position
from kalshilab.trade.core import messages as m
from kalshilab.units import PRICE, format_price, format_size

__all__ = ["SimulatedVenue"]

Reply = Callable[[Any], m.Result]


class SimulatedVenue:
    """The rim of a backtest.

    Args:
        exchange: the exchange; nothing else may play it.
        deliver: called with each event that the exchange causes, in the order in which it publishes them.

    >>> import kalshilab as kl
    >>> seen = []
    >>> venue = SimulatedVenue(kl.Exchange(*kl.sample(), echo_trades=False), seen.append)
    >>> while venue.step() and len(seen) < 3:
    ...     pass
    >>> [type(event).__name__ for event in seen]
    ['Lifecycle', 'Trade', 'Trade']
    """

    def __init__(self, exchange: Exchange, deliver: Callable[[m.Event], None]) -> None:
        self.exchange, self._deliver = exchange, deliver
        exchange.on_print = deliver
        for channel, read in (
            ("fill", fill_of), ("user_orders", order_of), ("market_lifecycle_v2", self._lifecycle_of),
        ):  # fmt: skip
            exchange.hub.listen(channel, _delivering(read, deliver))
        self._replies: Mapping[type, Reply] = {
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

    @property
    def now(self) -> int:
        """Exchange time in microseconds."""
        return self.exchange.now

    def step(self) -> bool:
        """Play the next step of the exchange; return False at the end."""
        return self.exchange.step()

    def carry_out(self, command: m.Command) -> None:
        """Carry out a command, and deliver its answer."""
        if isinstance(command, m.TraderRequest):
            if isinstance(command, m.Place | m.Cancel | m.Amend):
                self._travel()
            result = self._replies[type(command)](command)
            self._deliver(m.RequestAnswer(command.number, result))
        elif isinstance(command, m.Watch):
            for ticker in command.tickers:
                self._show(ticker)

    def _travel(self) -> None:
        """Play everything that happens before a request arrives."""
        latency = self.exchange.fills.latency_us
        if latency:
            arrival = self.exchange.now + latency
            while (ts := self.exchange.next_ts()) is not None and ts <= arrival:
                self.exchange.step()

    def _show(self, ticker: str) -> None:
        """Deliver the displayed book of a market."""
        listing = self.exchange.listings.get(ticker)
        if listing is not None:
            book = listing.book
            asks = ((PRICE - price, size) for price, size in book.levels("ask").items())
            self._deliver(BookSnapshot(ticker, list(book.levels("bid").items()), list(asks)))

    @staticmethod
    def _lifecycle_of(message: Any) -> Lifecycle | None:
        # The channel also carries messages about events and fees.
        return lifecycle_of(message) if hasattr(message, "event_type") else None

    # Orders

    def _place(self, command: m.Place) -> m.Result:
        intent = command.intent
        body = wire.CreateOrder(
            ticker=intent.ticker,
            side=intent.side,
            count=format_size(intent.size),
            price=format_price(intent.price),
            time_in_force="good_till_canceled",
            self_trade_prevention_type="taker_at_cross",
            client_order_id=intent.client_order_id,
            expiration_time=None if command.expires is None else command.expires // 1_000_000,
            order_group_id=command.group or None,
        )
        try:
            order, _, _ = self.exchange.desk.create(body)
        except Refused as refused:
            return m.Declined(refused.status, refused.code)
        return m.Placed(order.order_id, order.filled, order.remaining)

    def _cancel(self, command: m.Cancel) -> m.Result:
        try:
            self.exchange.desk.cancel(command.order_id, command.ticker)
        except Refused as refused:
            return m.Declined(refused.status, refused.code)
        return m.Succeeded()

    def _amend(self, command: m.Amend) -> m.Result:
        body = wire.AmendOrder(
            ticker=command.ticker,
            side=command.side,
            price=format_price(command.price),
            count=format_size(command.count),
            expiration_time=command.expires // 1_000_000,
        )
        try:
            amend(self.exchange.desk, command.order_id, body)
        except Refused as refused:
            return m.Declined(refused.status, refused.code)
        return m.Succeeded()

    def _order(self, order_id: str) -> Order | None:
        order = self.exchange.desk.orders.get(order_id)
        return None if order is None else order_of(serialize.order_message(order, self.exchange.user_id))

    def _look_up_order(self, command: m.LookUpOrder) -> m.Result:
        if command.order_id:
            return m.OrderFound(self._order(command.order_id))
        wanted = command.client_order_id
        found = (o.order_id for o in self.exchange.desk.log if o.client_order_id == wanted)
        order_id = next(found, None)
        return m.OrderFound(None if order_id is None else self._order(order_id))

    # Markets

    @staticmethod
    def _market(listing: Listing) -> Market:
        facts = listing.facts
        return serialize.market(listing).to_model(series=facts.series, category=facts.category)

    def _look_up_market(self, command: m.LookUpMarket) -> m.Result:
        listing = self.exchange.listings.get(command.ticker)
        return m.MarketFound(None if listing is None else self._market(listing))

    def _list_markets(self, command: m.ListMarkets) -> m.Result:
        markets = [self._market(x) for x in self.exchange.listings if x.status == "active"]
        listed = [x for x in markets if x.close_ts >= command.min_close_ts]
        return m.MarketsListed(tuple(sorted(listed, key=lambda x: x.close_ts)))

    def _read_prints(self, command: m.ReadPrints) -> m.Result:
        # Nothing is lost between this exchange and its trader.
        return m.PrintsRead(())

    # The account

    def _read_account(self, command: m.ReadAccount) -> m.Result:
        exchange = self.exchange
        account = exchange.account
        ids = dict.fromkeys([o.order_id for o in exchange.desk.resting()] + list(command.order_ids))
        orders = [order for order_id in ids if (order := self._order(order_id)) is not None]
        since = command.fills_since or 0
        return m.AccountRead(
            balance=Balance(cash=account.cash // PRICE * PRICE, portfolio_value=0, ts=exchange.now),
            positions=tuple(
                Position(ticker=t, size=h.size, cost=h.cost, realized=h.realized, fees=h.fees)
                for t, h in account.holdings.items()
                if h.size
            ),
            orders=tuple(orders),
            fills=tuple(fill_of(serialize.fill_message(f)) for f in account.fills if f.ts >= since),
            settlements=tuple(serialize.settlement(s).to_model() for s in account.settlements),
        )

    def _read_fills(self, command: m.ReadFills) -> m.Result:
        fills = (f for f in self.exchange.account.fills if f.ticker == command.ticker)
        return m.FillsRead(tuple(fill_of(serialize.fill_message(f)) for f in fills))

    def _read_settlements(self, command: m.ReadSettlements) -> m.Result:
        settled = (s for s in self.exchange.account.settlements if s.ticker == command.ticker)
        return m.SettlementsRead(tuple(serialize.settlement(s).to_model() for s in settled))

    # Groups

    def _open_group(self, command: m.OpenGroup) -> m.Result:
        # The trader keeps its own limits; a group guards against a session that dies, and this exchange dies with it.
        return m.Declined(0, "no group in a simulation")

    def _close_group(self, command: m.CloseGroup) -> m.Result:
        return m.Succeeded()


def _delivering(read: Callable[[Any], Any], deliver: Callable[[m.Event], None]) -> Callable[[Any], None]:
    """Return a listener that delivers what `read` makes of a message, unless that is None."""

    def listen(message: Any) -> None:
        event = read(message)
        if event is not None:
            deliver(event)

    return listen
