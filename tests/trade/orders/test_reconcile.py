"""Fills before the start of a run belong to the adopted account; later fills belong to the run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from faulty_venue import faulty_venue

from kalshilab.clock import SimClock
from kalshilab.exchange import Exchange
from kalshilab.exchange.faults.faults import Faults
from kalshilab.kalshi.rest.orders import DemoOrders, OrderRequest
from kalshilab.trade.health import Health
from kalshilab.trade.orders.execution import Execution
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.portfolio import Portfolio
from kalshilab.trade.orders.reconcile import Sync

HOUR = 3_600_000_000
Parts = tuple[Exchange, DemoOrders, Execution, Portfolio]


@pytest.fixture
async def parts(journal: Journal, clock: SimClock) -> AsyncIterator[Parts]:
    """Serve an exchange and connect the parts of a session to it."""
    async with (
        faulty_venue(Faults(), prints=40) as (served, _, settings),
        DemoOrders(settings) as client,
    ):
        portfolio = Portfolio()
        yield served.exchange, client, Execution(client, journal, portfolio, clock, clock), portfolio


def sync_of(parts: Parts, journal: Journal, since: int) -> Sync:
    """Return a reconciler for a run that starts at `since`."""
    _, client, execution, portfolio = parts
    clock = SimClock(since)
    return Sync(
        client, execution=execution, portfolio=portfolio, journal=journal, health=Health(clock), clock=clock,
        since=since, on_change=lambda: None,
    )  # fmt: skip


async def buy(parts: Parts, name: str) -> None:
    """Send an order that fills at once."""
    listing = next(x for x in parts[0].listings if x.status == "active" and x.book.best_ask() is not None)
    price = listing.book.best_ask()
    assert price is not None
    ack = await parts[1].create(
        OrderRequest(ticker=listing.facts.ticker, side="bid", price=price, size=100, client_order_id=name)
    )
    assert ack.filled == 100


@pytest.mark.parametrize("behind", [0, HOUR, 40 * HOUR])
async def test_fills_of_an_earlier_run_are_not_added_to_the_adopted_positions(
    parts: Parts, journal: Journal, behind: int
) -> None:
    """The machine's clock is behind the exchange's, or the run begins in the second of a fill."""
    await buy(parts, "earlier")
    sync = sync_of(parts, journal, parts[0].now - behind)
    await sync.start()
    [late] = await parts[1].fills()
    assert not parts[2].on_fill(late), "the feed may report it after the start"
    assert await sync.compare() == {}
    assert journal.values("fill") == []
    await buy(parts, "own")
    assert await sync.fills() == 1
    assert await sync.compare() == {}
    assert len(journal.values("fill")) == 1


async def test_fills_are_found_if_the_clock_of_the_machine_is_ahead(parts: Parts, journal: Journal) -> None:
    sync = sync_of(parts, journal, parts[0].now + HOUR)
    await sync.start()
    await buy(parts, "own")
    assert await sync.fills() == 1
    assert await sync.compare() == {}
