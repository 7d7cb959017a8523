"""The project's clients through each fault: no order doubled, no outcome wrong, and the feed recovers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from faulty_venue import Hurry, Steps, faulty_venue

from kalshilab.config.settings import Settings
from kalshilab.errors import ApiError, ConnectionFailed, HostRefused, OutcomeUnknown, ProtocolError
from kalshilab.exchange import Exchange
from kalshilab.exchange.faults.faults import FAULTS, Fault, Faults, random_schedule
from kalshilab.kalshi.auth import Signer
from kalshilab.kalshi.rest.orders import DemoOrders, OrderRequest
from kalshilab.kalshi.stream.client import Connected, Disconnected, Stream
from kalshilab.kalshi.stream.events import FeedGap, Rejected, Subscribed
from kalshilab.market.model import Fill, Trade

LOOK_UPS = 40
"""Look-ups after which an order that is not found never arrived."""
AT_REQUESTS = [
    "answer_lost_before", "answer_lost_after", "storm_429", "error_5xx_before", "error_5xx_after", "stale_reads",
    "clock_skew",
]  # fmt: skip
AT_THE_EXCHANGE = ["exchange_pause", "trading_pause", "close_in_flight"]
AT_FRAMES = ["disconnect", "half_open", "slow_consumer", "drop_frames", "duplicate_frames", "reorder_frames", "sequence_gap"]  # fmt: skip


def request(ticker: str, n: int) -> OrderRequest:
    return OrderRequest(ticker=ticker, side="bid", price=100, size=100, client_order_id=f"order-{n}")


def ticker_of(exchange: Exchange) -> str:
    return next(x.facts.ticker for x in exchange.listings if x.status == "active")


async def outcome(client: DemoOrders, asked: OrderRequest, steps: Steps) -> str:
    """Place an order once and return its id, "refused", or "" if look-ups do not find it."""
    try:
        return (await client.create(asked)).order_id
    except (OutcomeUnknown, HostRefused):
        pass
    except ApiError as error:
        if error.code != "order_already_exists":
            return "refused"
    except ConnectionFailed:
        return "refused"
    for _ in range(LOOK_UPS):
        await steps.play(1)
        try:
            found = await client.find(asked.client_order_id, asked.ticker)
        except (ApiError, ConnectionFailed, ProtocolError):
            continue
        if found is not None:
            return found.order_id
    return ""


async def trade(faults: Faults, orders: int = 12) -> tuple[Exchange, dict[str, str]]:
    """Place orders and cancel them; return the exchange, and the outcome of each by client order id."""
    async with (
        faulty_venue(faults) as (served, steps, settings),
        DemoOrders(settings, clock=Hurry()) as client,
    ):
        ticker = ticker_of(served.exchange)
        outcomes = {}
        for n in range(orders):
            asked = request(ticker, n)
            found = outcomes[asked.client_order_id] = await outcome(client, asked, steps)
            with suppress(ApiError, ConnectionFailed, ProtocolError):
                if found not in ("refused", ""):
                    await client.cancel(found, ticker=ticker)
            await steps.play(1)
        return served.exchange, outcomes


def check(exchange: Exchange, outcomes: dict[str, str]) -> None:
    there = [o.client_order_id for o in exchange.desk.orders.values()]
    assert len(there) == len(set(there)), "an order was doubled"
    for asked, found in outcomes.items():
        if found in ("refused", ""):
            assert asked not in there, f"{asked} is at the exchange"
        else:
            assert exchange.desk.orders[found].client_order_id == asked


@pytest.mark.parametrize("name", [*AT_REQUESTS, *AT_THE_EXCHANGE])
async def test_orders_survive_a_recurring_fault(name: str) -> None:
    faults = Faults([name], 1, every_us=20_000_000, length_us=20_000_000)
    exchange, outcomes = await trade(faults)
    assert faults.struck, "no fault has struck"
    check(exchange, outcomes)
    assert len(outcomes) == 12


@pytest.mark.parametrize("seed", range(4))
async def test_orders_survive_a_random_schedule_of_faults(seed: int) -> None:
    schedule = random_schedule(seed, 60, names=AT_REQUESTS, over_us=600_000_000)
    faults = Faults(schedule=schedule)
    exchange, outcomes = await trade(faults, orders=25)
    assert len(faults.struck) > 5
    check(exchange, outcomes)


@asynccontextmanager
async def listening(
    settings: Settings, *channels: str, **more: Any
) -> AsyncIterator[tuple[Stream, list[Any], asyncio.Task[None]]]:
    signer = Signer.from_settings(settings)
    stream = Stream(settings.ws_url, signer, clock=Hurry(), max_attempts=5, **more)
    stream.subscribe(*channels)
    events: list[Any] = []
    task = asyncio.create_task(stream.run(events.append))
    try:
        yield stream, events, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


def count(events: list[Any], kind: type) -> int:
    return sum(type(event) is kind for event in events)


@pytest.mark.parametrize("name", AT_FRAMES)
async def test_the_feed_recovers_from_each_fault(name: str) -> None:
    faults = Faults(schedule=[Fault(0, name), Fault(1_000_000, name), Fault(2_000_000, name)])
    async with (
        faulty_venue(faults) as (_, steps, settings),
        listening(settings, "trade", silence_s=0.5 if name == "half_open" else 60.0) as (_, events, task),
    ):
        for n in range(3):
            await until(lambda n=n: count(events, Subscribed) > (n if name in AT_FRAMES[:3] else 0))
            await steps.play(8)
            if name in AT_FRAMES[:3]:
                # The stream detects the loss and subscribes again.
                await until(lambda n=n: count(events, Disconnected) > n)
        await until(lambda: len(faults.struck) == 3)
        await until(
            lambda: count(events, Subscribed) == count(events, Connected) == count(events, Disconnected) + 1
        )
        before = count(events, Trade)
        await steps.play(3)
        await until(lambda: count(events, Trade) > before)
        assert not task.done()
        if name == "slow_consumer":
            assert [e.code for e in events if type(e) is Rejected] == [25, 25, 25]
        elif name not in AT_FRAMES[:3]:
            assert count(events, FeedGap) >= 1 and count(events, Disconnected) == 0


async def test_each_malformed_frame_ends_a_connection_and_the_third_in_a_row_ends_the_feed() -> None:
    faults = Faults(schedule=[Fault(n, "malformed_frame") for n in range(3)])
    async with (
        faulty_venue(faults) as (_, steps, settings),
        listening(settings, "trade") as (_, events, task),
    ):
        for n in range(3):
            await until(lambda n=n: count(events, Subscribed) > n)
            # One step at a time: a frame sent after a malformed one is lost with its connection.
            while len(faults.struck) <= n:
                await steps.play(1)
            if n < 2:
                await until(lambda n=n: count(events, Disconnected) > n)
        with pytest.raises(ProtocolError, match="not a message"):
            await asyncio.wait_for(task, 60)
        reasons = [event.reason for event in events if type(event) is Disconnected]
        assert len(reasons) == 2 and all("invalid frame" in reason for reason in reasons)


async def test_every_delayed_fill_arrives_exactly_once() -> None:
    faults = Faults(schedule=[Fault(0, "delayed_fills", 1)])
    async with (
        faulty_venue(faults) as (served, steps, settings),
        DemoOrders(settings) as client,
        listening(settings, "fill") as (_, events, _),
    ):
        await until(lambda: count(events, Subscribed))
        ticker = ticker_of(served.exchange)
        for n in range(3):
            await client.create(
                OrderRequest(ticker=ticker, side="bid", price=9900, size=100, client_order_id=f"c{n}")
            )
        await asyncio.sleep(0.1)
        assert count(events, Fill) == 0
        await steps.play(1)
        await until(lambda: count(events, Fill) == 3)
        reported = [e.trade_id for e in events if type(e) is Fill]
        assert reported == [r.trade_id for r in served.exchange.account.fills]


def test_every_fault_is_covered() -> None:
    tried = {*AT_REQUESTS, *AT_THE_EXCHANGE, *AT_FRAMES, "malformed_frame", "delayed_fills"}
    assert tried == set(FAULTS)
