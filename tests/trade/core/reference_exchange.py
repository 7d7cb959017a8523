"""A small exchange for tests of the trader's core: an account, orders and markets, whose messages may be lost or late.

It is written for its readers, not for speed: the account is a plain fold, and every message waits in a list until the
test delivers, repeats or drops it.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import msgspec

from kalshilab.kalshi.stream.events import BookSnapshot, Lifecycle
from kalshilab.market.book import Book
from kalshilab.market.model import Balance, Fill, Market, Order, Position, Settlement, Trade
from kalshilab.market.position import Holding
from kalshilab.signals import Fire
from kalshilab.trade.core.messages import (
    AccountRead,
    Cancel,
    CloseGroup,
    Command,
    Declined,
    Event,
    FillsRead,
    Finish,
    GroupOpened,
    JournalRecord,
    ListMarkets,
    LookUpMarket,
    LookUpOrder,
    Lost,
    MarketFound,
    MarketsListed,
    OpenGroup,
    Operate,
    OrderFound,
    Place,
    Placed,
    PrintsRead,
    Quiet,
    ReadAccount,
    ReadFills,
    ReadPrints,
    ReadSettlements,
    RequestAnswer,
    Result,
    SettlementsRead,
    Succeeded,
    Tick,
    TraderRequest,
    Unwatch,
    Watch,
)
from kalshilab.trade.core.trader import Trader
from kalshilab.trade.strategies.strategies import Quote
from kalshilab.units import TickGrid

TICKERS = ("A-1-X", "A-1-Y", "B-1-X")
SECOND = 1_000_000
WINDOW = 20 * SECOND
LAG = 3 * SECOND


class EachPrint:
    """A signal that fires at each print of at least `least` units, for one outcome, in plain Python."""

    parameters: ClassVar[dict[str, Any]] = {}

    def __init__(self, side: str, least: int = 0) -> None:
        self.name, self._side, self._least = f"each_{side}", side, least
        self._row = 0

    def run(self, tape: Any) -> Any:
        raise NotImplementedError

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> Fire | None:
        self._row += 1
        if size < self._least:
            return None
        return Fire(self._row - 1, ts, ticker, self._side, price, self._row)

    def reset(self, ticker: str | None = None) -> None:
        """Keep the state: a fire depends on its print alone."""

    def state(self, ticker: str) -> None:
        return None


class Take:
    """A strategy that buys its signal's outcome at the ask, ten contracts at a time."""

    why = ""

    def __init__(self, side: str, *, size: int = 1000, reenter: bool = True, least: int = 0) -> None:
        self.name = f"take_{side}"
        self.signal = EachPrint(side, least)
        self._size, self._reenter = size, reenter

    def quote(self, fire: Any, book: Book, grid: TickGrid) -> Quote | str:
        price = book.yes_ask if fire.side == "yes" else book.best_yes_bid
        if price is None:
            return "one-sided book"
        return Quote("bid" if fire.side == "yes" else "ask", price, self._size)

    def reentry(self, fire: Any, entry: Any | None) -> str | None:
        return None if self._reenter else "held"


class ReferenceExchange:
    """The exchange: what it holds is the truth that a trader's record must equal.

    Attributes:
        stream: messages that were sent and not delivered.
        cash, holdings, orders, fills, settlements: the account.
    """

    def __init__(self, cash: int = 1_000_000_000) -> None:
        self.now = self.mono = 1_000 * SECOND
        self.cash = cash
        self.holdings: dict[str, Holding] = {ticker: Holding() for ticker in TICKERS}
        self.orders: dict[str, Order] = {}
        self.fills: list[Fill] = []
        self.settlements: list[Settlement] = []
        self.prints: list[Trade] = []
        self.markets = {t: Market(ticker=t, event=t[:3], category="Sports") for t in TICKERS}
        self.stream: list[Event] = []
        self.groups: set[str] = set()
        self.fill_of_new = 0
        """Part of each new order that is filled at once, in quarters."""
        self._ids = itertools.count(1)

    # Requests

    def process(self, request: TraderRequest, sent: int) -> Result:
        """Carry out a request that was signed at the monotonic time `sent`."""
        if isinstance(request, Place | Cancel | OpenGroup | CloseGroup) and self.mono - sent > WINDOW:
            return Declined(401, "signature_expired")
        handler = getattr(self, f"_{type(request).__name__}")
        result: Result = handler(request)
        return result

    def _Place(self, request: Place) -> Result:
        intent = request.intent
        if any(o.client_order_id == intent.client_order_id for o in self.orders.values()):
            return Declined(409, "order_already_exists")
        if self.markets[intent.ticker].status != "active":
            return Declined(400, "market_closed")
        order = Order(
            order_id=f"o{next(self._ids)}", ticker=intent.ticker, side=intent.side, price=intent.price,
            status="resting", initial=intent.size, filled=0, remaining=intent.size,
            client_order_id=intent.client_order_id, created_ts=self.mono, updated_ts=self.now,
        )  # fmt: skip
        self.orders[order.order_id] = order
        self.stream.append(order)
        if self.fill_of_new:
            self.fill(order.order_id, intent.size * self.fill_of_new // 4)
        order = self.orders[order.order_id]
        return Placed(order.order_id, order.filled, order.remaining)

    def _Cancel(self, request: Cancel) -> Result:
        order = self.orders.get(request.order_id)
        if order is None or order.status != "resting":
            return Declined(404, "not_found")
        self._change(order, status="canceled", remaining=0)
        return Succeeded()

    def _LookUpOrder(self, request: LookUpOrder) -> Result:
        for order in self.orders.values():
            if request.order_id:
                if order.order_id == request.order_id:
                    return OrderFound(order)
            elif order.client_order_id == request.client_order_id and self.mono - order.created_ts >= LAG:
                return OrderFound(order)
        return OrderFound(None)

    def _LookUpMarket(self, request: LookUpMarket) -> Result:
        return MarketFound(self.markets.get(request.ticker))

    def _ListMarkets(self, request: ListMarkets) -> Result:
        return MarketsListed(tuple(m for m in self.markets.values() if m.status == "active"))

    def _ReadAccount(self, request: ReadAccount) -> Result:
        since = request.fills_since
        fills = [f for f in self.fills if since is None or f.ts >= since]
        positions = [Position(ticker=t, size=h.size, cost=h.cost) for t, h in self.holdings.items() if h.size]
        return AccountRead(
            Balance(cash=self.cash // 10_000 * 10_000, portfolio_value=0),
            tuple(positions),
            tuple(o for o in self.orders.values() if o.status == "resting"),
            tuple(fills if since is not None else fills[-100:]),
            (),
        )

    def _ReadFills(self, request: ReadFills) -> Result:
        return FillsRead(tuple(f for f in self.fills if f.ticker == request.ticker))

    def _ReadSettlements(self, request: ReadSettlements) -> Result:
        return SettlementsRead(tuple(s for s in self.settlements if s.ticker == request.ticker))

    def _ReadPrints(self, request: ReadPrints) -> Result:
        return PrintsRead(tuple(p for p in self.prints if p.ts >= request.since))

    def _OpenGroup(self, request: OpenGroup) -> Result:
        self.groups.add("g1")
        return GroupOpened("g1")

    def _CloseGroup(self, request: CloseGroup) -> Result:
        self.groups.discard(request.group)
        return Succeeded()

    # The world

    def _change(self, order: Order, **facts: Any) -> Order:
        changed = msgspec.structs.replace(order, updated_ts=self.now, **facts)
        self.orders[order.order_id] = changed
        self.stream.append(changed)
        return changed

    def fill(self, order_id: str, size: int) -> None:
        """Fill a part of a resting order."""
        order = self.orders[order_id]
        size = min(size, order.remaining)
        if not size or order.status != "resting":
            return
        self._add_fill(order.order_id, order.ticker, order.side, order.price, size, order.client_order_id)
        left = order.remaining - size
        self._change(
            order, filled=order.filled + size, remaining=left, status="resting" if left else "executed"
        )

    def cancel(self, order_id: str) -> None:
        """End a resting order without a request."""
        self._change(self.orders[order_id], status="canceled", remaining=0)

    def foreign_fill(self, ticker: str, side: str, price: int, size: int) -> None:
        """Fill an order of another program on the same account."""
        if self.markets[ticker].status == "active":
            self._add_fill(f"x{next(self._ids)}", ticker, side, price, size, "")

    def _add_fill(self, order_id: str, ticker: str, side: str, price: int, size: int, client_id: str) -> None:
        fee = size // 100 * 10_000
        fill = Fill(
            trade_id=f"t{next(self._ids)}", order_id=order_id, ticker=ticker, side=side, price=price, size=size,
            fee=fee, is_taker=True, ts=self.now, client_order_id=client_id,
        )  # fmt: skip
        self.fills.append(fill)
        self.cash += self.holdings[ticker].trade(side, price, size) - fee
        self.stream.append(fill)

    def trade(self, ticker: str, price: int, size: int = 100) -> Trade:
        """Print a public trade, and return it."""
        self.now += 1
        printed = Trade(self.now, ticker, price, size, "yes", f"p{next(self._ids)}")
        self.prints.append(printed)
        return printed

    def settle(self, ticker: str, result: str) -> None:
        """End a market: cancel its orders, determine it and pay it out."""
        market = self.markets[ticker]
        if market.status == "finalized":
            return
        value = 10_000 if result == "yes" else 0
        for order in list(self.orders.values()):
            if order.ticker == ticker and order.status == "resting":
                self._change(order, status="canceled", remaining=0)
        self.markets[ticker] = msgspec.structs.replace(
            market, status="finalized", result=result, settlement=value, settled_ts=self.now
        )
        size = self.holdings[ticker].size
        revenue = self.holdings[ticker].settle(value)
        self.cash += revenue
        if size:
            self.settlements.append(
                Settlement(
                    ticker=ticker, event=market.event, result=result, settlement=value, yes_size=max(size, 0),
                    no_size=max(-size, 0), yes_cost=0, no_cost=0, revenue=revenue, fees=0, ts=self.now,
                )
            )  # fmt: skip
        for kind in ("determined", "settled"):
            self.stream.append(Lifecycle(kind, ticker, self.now, market.event, 0, 0, result, value))

    def book(self, ticker: str) -> BookSnapshot:
        """Return the displayed book of a market."""
        return BookSnapshot(ticker, [(4900, 100_000)], [(4900, 100_000)])


class Bench:
    """A trader and an exchange, with every request and message between them in the hands of the test.

    Attributes:
        requests: (request, monotonic time) that were sent and not carried out.
        answers: results that are not delivered, by request number.
        records: the journal.
        script: each event with its two times, and the commands that followed.
        past: the journal at the start of this life of the run.
    """

    def __init__(self, trader: Trader, exchange: ReferenceExchange, earlier: Bench | None = None) -> None:
        self.trader, self.exchange = trader, exchange
        self.records: list[JournalRecord] = [] if earlier is None else list(earlier.records)
        self.past = list(self.records)
        self.earlier: list[Place] = [] if earlier is None else [*earlier.earlier, *earlier.placed]
        # Another process has another monotonic clock.
        self._began = 0 if earlier is None else exchange.mono
        self.requests: list[tuple[TraderRequest, int]] = []
        self.answers: list[RequestAnswer] = []
        self.placed: list[Place] = []
        self.finished: Finish | None = None
        self.script: list[tuple[Event, int, int, bytes]] = []
        self.watched: set[str] = set()

    def give(self, event: Event, limit: int | None = None) -> list[Command]:
        """Deliver one event, and take over the commands that follow, or the first of them before a kill."""
        x = self.exchange
        mono = x.mono - self._began
        commands = self.trader.handle(event, x.now, mono)
        self.script.append((event, x.now, mono, msgspec.json.encode(commands)))
        for command in commands[:limit]:
            self._take(command)
        return commands

    def _take(self, command: Command) -> None:
        if isinstance(command, Place):
            self.check_place(command)
            self.placed.append(command)
        if isinstance(command, TraderRequest):
            self.requests.append((command, self.exchange.mono))
        elif isinstance(command, JournalRecord):
            self.records.append(command)
        elif isinstance(command, Watch):
            self.watched.update(command.tickers)
        elif isinstance(command, Unwatch):
            self.watched.difference_update(command.tickers)
        elif isinstance(command, Finish):
            assert self.finished is None
            self.finished = command

    def check_place(self, place: Place) -> None:
        """Check the rules under which an order may be sent."""
        trader, key = self.trader, place.intent.client_order_id
        assert trader.state == "ACTING" and not trader.paused and not trader.stopped
        assert all(other.intent.client_order_id != key for other in (*self.earlier, *self.placed)), (
            "sent twice"
        )
        answered = {event.request for event, *_ in self.script if isinstance(event, RequestAnswer)}
        assert all(other.number in answered for other in self.placed), "sent while another had no answer"
        assert [r.key for r in self.records if r.kind == "intent"][-1] == key, (
            "not recorded before it was sent"
        )

    def carry_out(self, at: int = 0, *, lose: bool = False) -> None:
        """Let a request reach the exchange, and its answer wait for delivery, or be lost."""
        request, sent = self.requests.pop(at)
        result = self.exchange.process(request, sent)
        self.answers.append(RequestAnswer(request.number, Lost("reset") if lose else result))

    def drop(self, at: int = 0) -> None:
        """Lose a request before it reaches the exchange."""
        request, _ = self.requests.pop(at)
        self.answers.append(RequestAnswer(request.number, Lost("time-out")))

    def answer(self, at: int = 0) -> None:
        """Deliver one answer."""
        self.give(self.answers.pop(at))

    def pass_time(self, us: int) -> None:
        """Let time pass on both clocks, then deliver a tick."""
        self.exchange.now += us
        self.exchange.mono += us
        self.give(Tick())

    def books(self) -> None:
        """Deliver a snapshot of each watched book."""
        for ticker in sorted(self.watched):
            if self.trader.books.get(ticker) is None:
                self.give(self.exchange.book(ticker))

    def settle_down(self, limit: int = 500) -> None:
        """Carry out and answer everything, and deliver every message."""
        for _ in range(limit):
            if self.requests:
                self.carry_out()
            elif self.answers:
                self.answer()
            elif self.exchange.stream:
                self.give(self.exchange.stream.pop(0))
            else:
                self.books()
                self.give(Quiet())
                if not (self.requests or self.answers or self.exchange.stream):
                    return
        raise AssertionError("the trader does not come to rest")

    def finish(self) -> Finish:
        """Stop the trader and drive it to its end."""
        self.give(Operate("stop", "test over"))
        for _ in range(80):
            self.settle_down()
            if self.finished is not None:
                return self.finished
            self.pass_time(SECOND // 2)
        raise AssertionError("the trader does not end")

    # The record

    def outcomes(self) -> dict[str, list[Any]]:
        """Return the recorded outcomes by client order id."""
        found: dict[str, list[Any]] = {
            r.value.client_order_id: [] for r in self.records if r.kind == "intent"
        }
        for record in self.records:
            if record.kind == "outcome":
                found[record.value.client_order_id].append(record.value)
        return found

    def check_account(self) -> None:
        """Check that cash and positions are the exchange's."""
        account, x = self.trader.account, self.exchange
        recorded = {ticker: holding.size for ticker, holding in account.total.positions()}
        assert recorded == {t: h.size for t, h in x.holdings.items() if h.size}
        assert account.cash == x.cash
