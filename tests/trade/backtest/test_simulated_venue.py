"""The simulated venue: its events are those that a client of the exchange decodes from the wire."""

from __future__ import annotations

import pytest

import kalshilab as kl
from kalshilab.exchange.core import Exchange
from kalshilab.kalshi.stream.protocol import StreamProtocol
from kalshilab.market.model import Fill, Order, Trade
from kalshilab.signals import Fire
from kalshilab.trade.backtest.simulated_venue import SimulatedVenue
from kalshilab.trade.core import messages as m
from kalshilab.trade.events import Fired, Intent

CHANNELS = ("trade", "market_lifecycle_v2", "fill", "user_orders")


def intent(number: int, ticker: str, price: int, size: int, side: str = "bid") -> Intent:
    fire = Fire(row=0, ts=1, ticker=ticker, side="yes" if side == "bid" else "no", price=price, n_trades=1)
    return Intent(
        client_order_id=f"kl-{number}",
        ts=1,
        ticker=ticker,
        side=side,
        price=price,
        size=size,
        fire=Fired.of(fire),
    )


def active(exchange: Exchange) -> str:
    return next(x.facts.ticker for x in exchange.listings if x.status == "active" and x.book.has_background)


def test_events_equal_what_a_client_decodes() -> None:
    exchange = Exchange(*kl.sample(), echo_trades=False)
    seen: list[object] = []
    decoded: list[object] = []
    connection = exchange.hub.connect()
    client = StreamProtocol(decoded.append, lambda _: None, lambda: None)
    client.subscribe(CHANNELS)
    for command in client.take_commands():
        connection.receive(command)
    venue = SimulatedVenue(exchange, seen.append)
    for number in range(3_000):
        venue.step()
        if number % 300 == 299:
            ticker = active(exchange)
            venue.carry_out(m.Place(number=number, intent=intent(number, ticker, 9_900, 500)))
            venue.carry_out(m.Place(number=number, intent=intent(-number, ticker, 200, 500)))
        for frame in connection.take():
            client.receive(frame)
    kinds = (Trade, Fill, Order, m.Lifecycle)
    ours = [event for event in seen if isinstance(event, kinds)]
    theirs = [event for event in decoded if isinstance(event, kinds)]
    assert ours == theirs and {type(event) for event in ours} == set(kinds)


@pytest.fixture
def open_venue() -> tuple[SimulatedVenue, list[object], str]:
    """Return a venue with an active market, the events it delivers, and the market."""
    seen: list[object] = []
    venue = SimulatedVenue(Exchange(*kl.sample(), echo_trades=False), seen.append)
    for _ in range(200):
        venue.step()
    seen.clear()
    return venue, seen, active(venue.exchange)


def result_of(seen: list[object], number: int) -> object:
    return next(
        event.result for event in seen if isinstance(event, m.RequestAnswer) and event.request == number
    )


def test_an_order_is_placed_found_amended_and_cancelled(
    open_venue: tuple[SimulatedVenue, list[object], str],
) -> None:
    venue, seen, ticker = open_venue
    venue.carry_out(m.Place(number=1, intent=intent(1, ticker, 100, 500)))
    placed = result_of(seen, 1)
    assert isinstance(placed, m.Placed) and (placed.filled, placed.remaining) == (0, 500)
    venue.carry_out(m.Place(number=2, intent=intent(1, ticker, 100, 500)))
    assert result_of(seen, 2) == m.Declined(409, "order_already_exists")
    venue.carry_out(m.LookUpOrder(number=3, client_order_id="kl-1", ticker=ticker))
    found = result_of(seen, 3)
    assert isinstance(found, m.OrderFound) and found.order is not None
    assert found.order.order_id == placed.order_id and found.order.status == "resting"
    later = venue.now + 10**12
    venue.carry_out(
        m.Amend(
            number=4, order_id=placed.order_id, ticker=ticker, side="bid", price=100, count=500, expires=later
        )
    )
    assert result_of(seen, 4) == m.Succeeded()
    venue.carry_out(m.Cancel(number=5, order_id=placed.order_id, ticker=ticker))
    venue.carry_out(m.Cancel(number=6, order_id=placed.order_id, ticker=ticker))
    assert result_of(seen, 5) == m.Succeeded() and result_of(seen, 6) == m.Declined(404, "not_found")
    venue.carry_out(m.LookUpOrder(number=7, client_order_id="nobody", ticker=ticker))
    assert result_of(seen, 7) == m.OrderFound(None)


def test_the_account_is_read_as_the_exchange_holds_it(
    open_venue: tuple[SimulatedVenue, list[object], str],
) -> None:
    venue, seen, ticker = open_venue
    venue.carry_out(m.Place(number=1, intent=intent(1, ticker, 9_900, 500)))
    venue.carry_out(m.ReadAccount(number=2))
    venue.carry_out(m.ReadFills(number=3, ticker=ticker))
    account, fills = result_of(seen, 2), result_of(seen, 3)
    assert isinstance(account, m.AccountRead) and isinstance(fills, m.FillsRead)
    assert [p.size for p in account.positions] == [500]
    assert account.fills == fills.fills == tuple(event for event in seen if isinstance(event, Fill))
    assert 0 <= venue.exchange.account.cash - account.balance.cash < 10_000


def test_a_watched_book_is_the_displayed_one(open_venue: tuple[SimulatedVenue, list[object], str]) -> None:
    venue, seen, ticker = open_venue
    venue.carry_out(m.Watch((ticker,)))
    (snapshot,) = seen
    listing = venue.exchange.listings.get(ticker)
    assert listing is not None and isinstance(snapshot, m.BookSnapshot)
    assert dict(snapshot.yes) == listing.book.levels("bid")
    assert {10_000 - price: size for price, size in snapshot.no} == listing.book.levels("ask")
