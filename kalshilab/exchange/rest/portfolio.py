"""The account over REST: balance, positions, fills, settlements, orders, and their queue positions.

Lists are newest first. A cursor names a position in the record rather than a number of rows. So records that arrive
between two pages neither repeat a row nor hide one.
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
    cursor_position,
    integer,
    ok,
    paged,
)  # fmt: skip
from kalshilab.exchange.rest.rate_limits import account_limits
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.order_book import RestingOrder
from kalshilab.kalshi.wire import rest as wire
from kalshilab.units import format_money, format_size

__all__ = ["PortfolioRoutes"]

T = TypeVar("T")
MAX_NAMES: Final = 100
"""Maximum number of tickers in one filter."""
STATUSES: Final = ("resting", "canceled", "executed")


class PortfolioRoutes:
    """Routes of the account; the caller has checked the signature.

    Args:
        exchange: the exchange of the account.
        tier: rate-limit tier that `GET /account/limits` reports.
    """

    def __init__(self, exchange: Exchange, tier: str = "prestige") -> None:
        self._ex, self._tier = exchange, tier
        self._writes = OrderRoutes(exchange)

    def answer(self, request: Request, parts: Sequence[str]) -> Answer | None:
        """Return the answer to a request; None for an unknown path.

        Args:
            request: the request.
            parts: segments of the path below the contract's root.

        Raises:
            Refused, BadQuery, msgspec.DecodeError, RecursionError: the request is invalid; the caller turns the
                error into an answer.
        """
        if tuple(parts) == ("account", "limits") and request.method == "GET":
            return ok(account_limits(self._tier))
        if parts[0] == "historical" and request.method == "GET":
            return self._archive(parts[1:], request.query)
        if parts[0] != "portfolio":
            return None
        if request.method == "GET":
            answer = self._read(parts[1:], request.query)
            if answer is not None:
                return answer
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
        """Answer reads of the archive: old fills and settled positions; orders are never archived."""
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
        """Return whether a query covers shard 0, which holds everything there is.

        Raises:
            Refused, BadQuery: the query names an account that does not exist or an invalid number.
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
            raise BadQuery(f"settlement_status must be one of unsettled, settled, all, got {wanted[:40]}")
        counted = _names(query, "count_filter")
        if not counted <= {"position", "total_traded"}:
            raise BadQuery(
                f"count_filter must name position, total_traded or both, got {', '.join(sorted(counted))[:40]}"
            )
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
            has_position = "position" in counted and account.holding(name).size
            if counted and not has_position and not ("total_traded" in counted and account.traded.get(name)):
                continue
            events.setdefault(listing.facts.event, []).append(name)
            rows.append((listing.facts.event, name))
        if wanted == "unsettled":
            page, cursor = paged(rows, query, 100, 1000)
            shown = list(dict.fromkeys(name for name, _ in page))
            names = [name for _, name in page]
        else:
            # Settled positions grow without end, so the exchange pages them by event, in whole events.
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
        page, cursor = _page(
            _newest_first(records, query),
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
        page, cursor = _page(
            _newest_first(self._ex.account.settlements, query),
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
            raise BadQuery(f"status must be one of {', '.join(STATUSES)}, got {status[:40]}")
        low, high = _span(query)
        if status == "resting":
            # Resting orders are few and read often, so this does not walk over the ended ones.
            below = cursor_position(query)
            pool = sorted(ex.desk.resting(), key=lambda o: -o.number)
            numbered: Iterable[tuple[int, RestingOrder]] = (
                (o.number, o) for o in pool if below is None or o.number < below
            )
        else:
            numbered = _newest_first(ex.desk.log, query)
        page, cursor = _page(
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
        """Return the size that must trade before an order: better prices, and earlier orders at its own price."""
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
    """Return the names of a comma-separated filter; an empty set if it is absent."""
    named = {part for part in query.get(name, "").split(",") if part}
    if len(named) > MAX_NAMES:
        raise BadQuery(f"{name} must hold at most {MAX_NAMES} names, got {len(named)}")
    return named


def _span(query: Mapping[str, str]) -> tuple[int, int]:
    """Return `min_ts` and `max_ts`, whole seconds and inclusive, as [low, high) in microseconds."""
    low = integer(query, "min_ts", 0, 0, FOREVER)
    high = integer(query, "max_ts", FOREVER, 0, FOREVER)
    return low * 1_000_000, (high + 1) * 1_000_000


def _newest_first(record: Sequence[T], query: Mapping[str, str]) -> Iterable[tuple[int, T]]:
    """Yield the numbered entries of a record from the cursor down to the first."""
    below = cursor_position(query)
    start = len(record) if below is None else min(below, len(record))
    return ((n, record[n]) for n in range(start - 1, -1, -1))


def _page(
    numbered: Iterable[tuple[int, T]], query: Mapping[str, str], keep: Callable[[T], bool]
) -> tuple[list[T], str]:
    """Return a page of the entries that `keep` accepts, and the cursor of the next page."""
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
