"""Every intent ends in one known outcome, even if the answer is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kalshilab.clock import SimClock
from kalshilab.errors import (
    ApiError,
    ConnectionFailed,
    HostRefused,
    OutcomeUnknown,
    ProtocolError,
    RateLimited,
)
from kalshilab.kalshi.rest.orders import CancelAck, OrderAck, OrderRequest
from kalshilab.market.model import Fill, Order
from kalshilab.signals import RlmFire
from kalshilab.trade.events import Fired, Intent, client_order_id
from kalshilab.trade.orders.execution import Execution
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.portfolio import Portfolio

FIRE = Fired.of(RlmFire(3, 5_000, "A-B-1", "no", 4_500, 25, 0.8, 500, 5_000))


class FakeExchange:
    """An order client whose answers a test can lose; it accepts each client order id once."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.creates = 0
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.find_fails = 0
        self.hidden = 0
        self.cancel_fails = 0

    async def create(self, request: OrderRequest, /) -> OrderAck:
        self.creates += 1
        self.before()
        if any(o.client_order_id == request.client_order_id for o in self.orders.values()):
            raise ApiError("POST", "/orders", 409, "order_already_exists")
        order_id = f"o{len(self.orders)}"
        self.orders[order_id] = Order(
            order_id=order_id, ticker=request.ticker, side=request.side, price=request.price, status="resting",
            initial=request.size, filled=0, remaining=request.size, client_order_id=request.client_order_id,
        )  # fmt: skip
        self.after()
        return OrderAck(
            order_id=order_id, client_order_id=request.client_order_id, filled=0, remaining=request.size, ts=1
        )

    async def cancel(self, order_id: str, /, *, ticker: str | None = None) -> CancelAck:
        if self.cancel_fails:
            self.cancel_fails -= 1
            raise OutcomeUnknown("DELETE", "/orders", 503, "down")
        order = self.orders.pop(order_id, None)
        if order is None:
            raise ApiError("DELETE", "/orders", 404, "not_found")
        return CancelAck(order_id=order_id, reduced_by=order.remaining, ts=2)

    async def find(self, client_id: str, ticker: str, /) -> Order | None:
        if self.find_fails:
            self.find_fails -= 1
            raise ApiError("GET", "/orders", 503)
        if self.hidden:
            self.hidden -= 1
            return None
        return next((o for o in self.orders.values() if o.client_order_id == client_id), None)

    async def list(self, *, ticker: str | None = None, status: str | None = None) -> list[Order]:
        return list(self.orders.values())


def raising(error: Exception) -> Callable[[], None]:
    """Return a function that raises an error."""

    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def exchange() -> FakeExchange:
    """Return an empty exchange."""
    return FakeExchange()


@pytest.fixture
def execution(exchange: FakeExchange, journal: Journal, clock: SimClock) -> Execution:
    """Return an execution whose look-ups wait 0 s, which still yields to the event loop."""
    return Execution(exchange, journal, Portfolio(cash=10**9), clock, SimClock(), delays=(0, 0, 0, 0))


def intent(n: int = 0) -> Intent:
    return Intent(
        client_order_id=client_order_id("run", FIRE, n),
        ts=1,
        ticker="A-B-1",
        side="ask",
        price=4500,
        size=100,
        fire=FIRE,
    )


LOST = OutcomeUnknown("POST", "/orders", 0, "no answer")


async def test_an_accepted_order_rests_and_is_journalled(
    exchange: FakeExchange, execution: Execution, journal: Journal
) -> None:
    outcome = await execution.submit(intent())
    assert (outcome.kind, outcome.order_id) == ("accepted", "o0")
    assert set(execution.open) == {"o0"}
    kinds = [e.kind for e in journal]
    assert kinds.index("intent") < kinds.index("outcome"), "the intent is written first"


async def test_the_intent_is_on_disk_before_the_order_is_sent(
    exchange: FakeExchange, execution: Execution, journal: Journal
) -> None:
    seen = []
    exchange.before = lambda: seen.extend(Journal.open(journal.path).values("intent"))
    await execution.submit(intent())
    assert seen == [intent()]


async def test_an_order_whose_answer_is_lost_is_found_and_not_sent_again(
    exchange: FakeExchange, execution: Execution
) -> None:
    exchange.after = raising(LOST)
    exchange.find_fails, exchange.hidden = 1, 1
    outcome = await execution.submit(intent())
    assert (outcome.kind, outcome.order_id, exchange.creates) == ("accepted", "o0", 1)
    assert set(execution.open) == {"o0"}


async def test_an_order_that_never_arrived_is_absent(exchange: FakeExchange, execution: Execution) -> None:
    exchange.before = raising(LOST)
    outcome = await execution.submit(intent())
    assert (outcome.kind, exchange.creates, execution.open) == ("absent", 1, {})


async def test_an_outcome_is_unknown_only_if_no_look_up_is_answered(
    exchange: FakeExchange, execution: Execution, journal: Journal
) -> None:
    exchange.after = raising(LOST)
    exchange.find_fails = 99
    assert (await execution.submit(intent())).kind == "unknown"
    assert execution.api_errors == 5
    assert journal.unresolved() == [intent()]
    exchange.find_fails = 0
    (outcome,) = await execution.recover()
    assert (outcome.kind, exchange.creates) == ("accepted", 1)
    assert journal.unresolved() == []


@pytest.mark.parametrize(
    "page",
    [HostRefused("http://repairs", "orders", "redirects"), ProtocolError("GET /orders", b"<html>")],
    ids=repr,
)
async def test_a_maintenance_page_is_not_an_answer(
    page: Exception, exchange: FakeExchange, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: object, **__: object) -> None:
        raise page

    execution._wall.sleep = no_sleep  # type: ignore[method-assign]
    await execution.submit(intent(0))
    with monkeypatch.context() as during:
        # A write fails with a redirect or, if the page is unreadable, with `OutcomeUnknown`.
        write_error = (
            page if isinstance(page, HostRefused) else OutcomeUnknown("POST", "/orders", 200, "unreadable")
        )
        exchange.after, exchange.cancel_fails = raising(write_error), 2
        for name in ("find", "list"):
            during.setattr(exchange, name, unavailable)
        assert (await execution.submit(intent(1))).kind == "unknown"
        await execution.cancel_all(rounds=2)
    [late] = await execution.recover()
    assert (late.kind, late.order_id) == ("accepted", "o1")
    assert await execution.cancel_all() == [] and exchange.orders == {}


async def test_a_second_submission_of_a_fire_sends_no_order(
    exchange: FakeExchange, execution: Execution
) -> None:
    first = await execution.submit(intent())
    second = await execution.submit(intent())
    assert (second.order_id, exchange.creates, len(exchange.orders)) == (first.order_id, 1, 1)


async def test_a_duplicate_id_means_that_the_order_arrived(
    exchange: FakeExchange, execution: Execution
) -> None:
    await exchange.create(
        OrderRequest(
            ticker="A-B-1", side="ask", price=4500, size=100, client_order_id=intent().client_order_id
        )
    )
    assert (await execution.submit(intent())).order_id == "o0"


@pytest.mark.parametrize(
    ("error", "code", "counted"),
    [
        (ApiError("POST", "/o", 400, "insufficient_balance"), "insufficient_balance", 0),
        (RateLimited("POST", "/o"), "too_many_requests", 1),
        (ApiError("POST", "/o", 401, "authentication_error"), "authentication_error", 1),
        (ConnectionFailed("http://x", "refused"), "connection_failed", 1),
    ],
)
async def test_an_error_is_a_rejection_with_a_code(
    exchange: FakeExchange, execution: Execution, error: Exception, code: str, counted: int
) -> None:
    exchange.before = raising(error)
    outcome = await execution.submit(intent())
    assert (outcome.kind, outcome.code, execution.api_errors, execution.open) == (
        "rejected",
        code,
        counted,
        {},
    )
    exchange.before = lambda: None
    await execution.submit(intent(1))
    assert execution.api_errors == 0, "a success resets the count"


async def test_a_partial_fill_leaves_the_order_open(execution: Execution, journal: Journal) -> None:
    await execution.submit(intent())
    resting = execution.open["o0"]
    half = Fill(
        trade_id="t",
        order_id="o0",
        ticker="A-B-1",
        side="ask",
        price=4500,
        size=40,
        fee=0,
        is_taker=False,
        ts=2,
    )
    assert execution.on_fill(half)
    assert not execution.on_fill(half)
    assert set(execution.open) == {"o0"}
    execution.on_order(replace(resting, status="executed", remaining=0, filled=100))
    assert execution.open == {}
    execution.on_order(resting)
    assert execution.open == {}, "an outdated report after the end changes nothing"
    assert len(journal.values("fill")) == 1


async def test_a_report_before_the_answer_is_newer(exchange: FakeExchange, execution: Execution) -> None:
    def filled_at_once() -> None:
        execution.on_order(replace(exchange.orders["o0"], status="executed", remaining=0, filled=100))

    exchange.after = filled_at_once
    await execution.submit(intent())
    assert execution.open == {}


async def test_cancel_all_repeats_until_no_order_rests(exchange: FakeExchange, execution: Execution) -> None:
    for n in range(3):
        await execution.submit(intent(n))
    exchange.cancel_fails = 2
    execution._wall.sleep = no_sleep  # type: ignore[method-assign]
    assert await execution.cancel_all() == []
    assert exchange.orders == {}
    assert execution.open == {}


async def test_cancel_all_returns_the_orders_that_still_rest(
    exchange: FakeExchange, execution: Execution
) -> None:
    await execution.submit(intent())
    exchange.cancel_fails = 99
    execution._wall.sleep = no_sleep  # type: ignore[method-assign]
    assert [o.order_id for o in await execution.cancel_all(rounds=3)] == ["o0"]


async def test_cancel_all_checks_a_second_listing_after_an_unanswered_cancel(
    exchange: FakeExchange, execution: Execution
) -> None:
    await execution.submit(intent())
    exchange.cancel_fails = 1
    listed = [[], list(exchange.orders.values())]

    async def lagging(**_: object) -> list[Order]:
        return listed.pop(0) if listed else list(exchange.orders.values())

    exchange.list = lagging  # type: ignore[method-assign]
    execution._wall.sleep = no_sleep  # type: ignore[method-assign]
    assert await execution.cancel_all() == []
    assert exchange.orders == {}


async def test_only_orders_with_the_prefix_are_cleaned_up(
    exchange: FakeExchange, execution: Execution
) -> None:
    for client_id in ("kl-left-behind", "somebody-else"):
        await exchange.create(
            OrderRequest(ticker="X", side="bid", price=1, size=1, client_order_id=client_id)
        )
    assert await execution.cancel_stale() == 1
    assert [o.client_order_id for o in exchange.orders.values()] == ["somebody-else"]


async def no_sleep(seconds: float) -> None:
    return None


def replace(order: Order, **changes: object) -> Order:
    import msgspec

    return msgspec.structs.replace(order, **changes)
