"""The account over REST: balance, positions, fills, settlements, orders, and where they stand in the queue.

Lists are newest first.  A cursor names a place in the record and not a number of rows, so that what comes in
between two pages neither repeats a row nor hides one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from kalshilab.exchange.core import Exchange
from kalshilab.exchange.orders import order_checks
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.exchange.rest.orders import OrderRoutes
from kalshilab.exchange.rest.params import (
    FOREVER,
    Answer,
    BadQuery,
    Request,
    integer,
    ok,
    paged,
    place,
)  # fmt: skip
from kalshilab.exchange.rest.rate_limits import account_limits
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.order_book import RestingOrder
from kalshilab.kalshi.wire import rest as wire
from kalshilab.units import format_money, format_size

__all__ = ["PortfolioRoutes"]

T = TypeVar("T")
MOST_NAMED: Final = 100
"""Tickers that one filter may name."""
STATUSES: Final = ("resting", "canceled", "executed")


class PortfolioRoutes:
    """Answers what is about the account; the signature has been checked by the caller.

    Args:
        tier: what the account is told of its limits.
    """

    def __init__(self, exchange: Exchange, tier: str = "prestige") -> None:
        self._ex, self._tier = exchange, tier
        self._writes = OrderRoutes(exchange)

    def answer(self, request: Request, parts: Sequence[str]) -> Answer | None:
        """The answer, or None where there is no such path.

        Args:
            parts: the path below the root of the contract.

        Raises:
            Refused, BadQuery, msgspec.DecodeError, RecursionError: to be put into words by the caller.
        """
        if tuple(parts) == ("account", "limits") and request.method == "GET":
            return ok(account_limits(self._tier))
        if parts[0] == "historical" and request.method == "GET":
            return self._archive(parts[1:], request.query)
        if parts[0] != "portfolio":
            return None
        if request.method == "GET":
            found = self._read(parts[1:], request.query)
            if found is not None:
                return found
        return self._writes.answer(request, parts[1:])

    def _read(self, parts: Sequence[str], query: Mapping[str, str]) -> Answer | None:
        desk = self._ex.desk
        here = self._scope(query)
        match parts:
            case ["balance"]:
                return self._balance(here=here)
            case ["positions"]:
                return self._positions(query, here=here)
            case ["fills"]:
                return self._fills(query, here=here)
            case ["settlements"]:
                return self._settlements(query, here=here)
            case ["orders"]:
                return self._orders(query, here=here)
            case ["orders", "queue_positions"]:
                return self._queue_positions(query)
            case ["orders", order_id]:
                order = desk.orders.get(order_id)
                if order is None:
                    raise Refused(404, "not_found", "order not found")
                return ok(wire.OrderResponse(order=serialize.order(order, self._ex.user_id)))
            case ["orders", order_id, "queue_position"]:
                order = desk.orders.get(order_id)
                if order is None or order.status != "resting":
                    raise Refused(404, "not_found", "order not found")
                return ok(wire.QueuePositionResponse(queue_position_fp=format_size(self._before(order))))
        return None

    def _archive(self, parts: Sequence[str], query: Mapping[str, str]) -> Answer | None:
        """What of the account has left the live listings: fills and settled positions, but no order ever."""
        here = self._scope(query)
        match parts:
            case ["fills"]:
                return self._fills(query, here=here, historical=True)
            case ["positions"]:
                return self._positions(query, here=here, historical=True)
            case ["orders"]:
                return self._orders(query, here=False)
        return None

    @staticmethod
    def _scope(query: Mapping[str, str]) -> bool:
        """Whether a query asks for what there is here: the primary account on shard 0, or everything.

        Raises:
            Refused, BadQuery: it asks for what nobody here may see, or for nothing that exists.
        """
        order_checks.account_number(integer(query, "subaccount", 0, 0, FOREVER))
        return integer(query, "exchange_index", 0, 0, FOREVER) == 0

    # Money

    def _balance(self, *, here: bool) -> Answer:
        ex = self._ex
        cash, value = (ex.account.cash, ex.account.value(ex.marks())) if here else (0, 0)
        return ok(
            wire.BalanceBody(
                balance=cash // 10_000,
                balance_dollars=format_money(cash),
                portfolio_value=value // 10_000,
                updated_ts=ex.now // 1_000_000,
                balance_breakdown=[{"exchange_index": 0, "balance": format_money(cash)}] if here else [],
            )
        )

    def _positions(self, query: Mapping[str, str], *, here: bool, historical: bool = False) -> Answer:
        account, listings = self._ex.account, self._ex.listings
        ticker, event = query.get("ticker"), query.get("event_ticker")
        wanted = "settled" if historical else query.get("settlement_status") or "unsettled"
        if wanted not in ("unsettled", "settled", "all"):
            raise BadQuery("settlement_status: one of unsettled, settled, all")
        counted = _names(query, "count_filter")
        if not counted <= {"position", "total_traded"}:
            raise BadQuery("count_filter: position, total_traded")
        events: dict[str, list[str]] = {}
        rows = []
        for name in reversed(account.touched):
            listing = listings.get(name)
            if listing is None or not here or (ticker and name != ticker):
                continue
            if self._ex.archived(listing) != historical:
                continue
            if event and listing.facts.event != event:
                continue
            settled = listing.status == "finalized"
            if wanted != "all" and settled != (wanted == "settled"):
                continue
            held = "position" in counted and account.holding(name).size
            if counted and not held and not ("total_traded" in counted and account.traded.get(name)):
                continue
            events.setdefault(listing.facts.event, []).append(name)
            rows.append((listing.facts.event, name))
        if wanted == "unsettled":
            page, cursor = paged(rows, query, 100, 1000)
            shown = list(dict.fromkeys(name for name, _ in page))
            names = [name for _, name in page]
        else:
            # Settled ones grow without end: the exchange pages them by event, whole events at a time.
            shown, cursor = list(events), ""
            event_page, cursor = paged(shown, query, 100, 1000)
            shown = list(event_page)
            names = [name for one in shown for name in events[one]]
        return ok(
            wire.PositionPage(
                market_positions=[
                    serialize.market_position(
                        n, account.holding(n), account.traded.get(n, 0), account.touched[n]
                    )
                    for n in names
                ],
                event_positions=[serialize.event_position(one, account, events[one]) for one in shown],
                cursor=cursor,
            )
        )

    def _fills(self, query: Mapping[str, str], *, here: bool, historical: bool = False) -> Answer:
        records, cutoff = self._ex.account.fills, self._ex.cutoff
        tickers, order_id = _names(query, "ticker"), query.get("order_id")
        low, high = _span(query)
        low, high = (low, min(high, cutoff)) if historical else (max(low, cutoff), high)
        page, cursor = _newest(
            _downwards(records, query),
            query,
            lambda r: (
                here
                and low <= r.ts < high
                and (not tickers or r.ticker in tickers)
                and (not order_id or r.order.order_id == order_id)
            ),
        )
        return ok(wire.FillPage(fills=[serialize.fill(r) for r in page], cursor=cursor))

    def _settlements(self, query: Mapping[str, str], *, here: bool) -> Answer:
        ticker, event = query.get("ticker"), query.get("event_ticker")
        low, high = _span(query)
        page, cursor = _newest(
            _downwards(self._ex.account.settlements, query),
            query,
            lambda r: (
                here
                and low <= r.ts < high
                and (not ticker or r.ticker == ticker)
                and (not event or r.event == event)
            ),
        )
        return ok(wire.SettlementPage(settlements=[serialize.settlement(r) for r in page], cursor=cursor))

    # Orders

    def _orders(self, query: Mapping[str, str], *, here: bool) -> Answer:
        ex = self._ex
        ticker, events = query.get("ticker"), _names(query, "event_ticker")
        status = query.get("status") or None
        if status is not None and status not in STATUSES:
            raise BadQuery(f"status: one of {', '.join(STATUSES)}")
        low, high = _span(query)
        if status == "resting":
            # Resting orders are few and asked for often: no walk over the dead ones for them.
            below = place(query)
            pool = sorted(ex.desk.resting(), key=lambda o: -o.number)
            numbered: Iterable[tuple[int, RestingOrder]] = (
                (o.number, o) for o in pool if below is None or o.number < below
            )
        else:
            numbered = _downwards(ex.desk.log, query)
        page, cursor = _newest(
            numbered,
            query,
            lambda o: (
                here
                and low <= o.created < high
                and (not ticker or o.ticker == ticker)
                and (status is None or o.status == status)
                and (not events or self._event(o) in events)
            ),
        )
        return ok(wire.OrderPage(orders=[serialize.order(o, ex.user_id) for o in page], cursor=cursor))

    def _event(self, order: RestingOrder) -> str:
        listing = self._ex.listings.get(order.ticker)
        return "" if listing is None else listing.facts.event

    def _queue_positions(self, query: Mapping[str, str]) -> Answer:
        tickers, event = _names(query, "market_tickers"), query.get("event_ticker")
        return ok(
            wire.QueuePositionList(
                queue_positions=[
                    wire.QueuePosition(
                        order_id=o.order_id,
                        market_ticker=o.ticker,
                        queue_position_fp=format_size(self._before(o)),
                    )
                    for o in self._ex.desk.resting()
                    if (not tickers or o.ticker in tickers) and (not event or self._event(o) == event)
                ]
            )
        )

    def _before(self, order: RestingOrder) -> int:
        """Size that must trade before an order does: what is at better prices, and what came to its own before."""
        listing = self._ex.listings.get(order.ticker)
        assert listing is not None
        buying = order.side == "bid"
        better = sum(
            size
            for price, size in listing.book.levels(order.side).items()
            if (price > order.price if buying else price < order.price)
        )
        own = 0
        for other in listing.book.own:
            if other is order:
                break
            if other.side == order.side and other.price == order.price:
                own += other.remaining
        return better + own + order.ahead


def _names(query: Mapping[str, str], name: str) -> set[str]:
    """A comma-separated filter; empty for none."""
    named = {part for part in query.get(name, "").split(",") if part}
    if len(named) > MOST_NAMED:
        raise BadQuery(f"{name}: at most {MOST_NAMED}")
    return named


def _span(query: Mapping[str, str]) -> tuple[int, int]:
    """`min_ts` and `max_ts`, whole seconds, as [low, high) in microseconds; both seconds count."""
    low = integer(query, "min_ts", 0, 0, FOREVER)
    high = integer(query, "max_ts", FOREVER, 0, FOREVER)
    return low * 1_000_000, (high + 1) * 1_000_000


def _downwards(record: Sequence[T], query: Mapping[str, str]) -> Iterable[tuple[int, T]]:
    """A record from where the cursor says to its beginning, each with its number."""
    below = place(query)
    start = len(record) if below is None else min(below, len(record))
    return ((n, record[n]) for n in range(start - 1, -1, -1))


def _newest(
    numbered: Iterable[tuple[int, T]], query: Mapping[str, str], keep: Callable[[T], bool]
) -> tuple[list[T], str]:
    """A page of what is kept, and the cursor of the next."""
    size = integer(query, "limit", 100, 1, 1000)
    page: list[T] = []
    last = 0
    for number, row in numbered:
        if keep(row):
            if len(page) == size:
                return page, f"p{last:x}"
            page.append(row)
            last = number
    return page, ""
