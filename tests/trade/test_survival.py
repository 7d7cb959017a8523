"""No order is lost or doubled under any fault between session and exchange, or when the process is killed.

Each round places orders under a random schedule of all faults, or under `kill -9` at the worst moments, and then compares
the journal with the exchange.  Every intent has one final outcome, each accepted intent is exactly one order on the
exchange, there are no other orders, and every fill is journalled once.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from faulty_venue import Hurry, Steps, faulty_venue

from kalshilab.clock import SimClock
from kalshilab.config.settings import Settings
from kalshilab.errors import ApiError, ConnectionFailed, FeedLost, ProtocolError
from kalshilab.exchange import Exchange
from kalshilab.exchange.faults.faults import FAULTS, Faults, random_schedule
from kalshilab.kalshi.auth import Signer
from kalshilab.kalshi.rest.orders import DemoOrders
from kalshilab.kalshi.stream.client import Stream
from kalshilab.market.model import Fill, Order
from kalshilab.signals import RlmFire
from kalshilab.trade.events import Fired, Intent, client_order_id
from kalshilab.trade.health import Health
from kalshilab.trade.orders.execution import Execution
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.portfolio import Portfolio
from kalshilab.trade.orders.reconcile import Sync

FIRE = Fired.of(RlmFire(3, 5_000, "A-B-1", "no", 4_500, 25, 0.8, 500, 5_000))
PATIENCE = 60
"""Attempts within which a temporary fault must end."""
T = TypeVar("T")


def check(exchange: Exchange, journal: Journal, intents: int) -> Counter[str]:
    """Compare the journal with the exchange and return the outcomes by kind."""
    intended = [i.client_order_id for i in journal.values("intent")]
    assert len(intended) == len(set(intended)) == intents
    assert journal.unresolved() == []
    final: dict[str, Any] = {}
    for outcome in journal.values("outcome"):
        if outcome.kind != "unknown":
            before = final.setdefault(outcome.client_order_id, outcome)
            assert (before.kind, before.order_id) == (outcome.kind, outcome.order_id), "two outcomes"
    assert final.keys() == set(intended), "an intent without an outcome"
    on_exchange = Counter(o.client_order_id for o in exchange.desk.orders.values())
    assert not [i for i, n in on_exchange.items() if n > 1], "an order was doubled"
    accepted = {i: o.order_id for i, o in final.items() if o.kind == "accepted"}
    assert {o.client_order_id: o.order_id for o in exchange.desk.orders.values()} == accepted
    journalled = [
        (f.trade_id, f.order_id, f.price, f.size, f.fee, f.is_taker) for f in journal.values("fill")
    ]
    happened = [
        (r.trade_id, r.order.order_id, r.price, r.size, r.fee, r.is_taker) for r in exchange.account.fills
    ]
    assert sorted(journalled) == sorted(happened)
    assert exchange.account.drift() == 0
    return Counter(o.kind for o in final.values())


async def retry(call: Callable[[], Awaitable[T]], steps: Steps) -> T:
    """Call until success; each failure advances exchange time, so that faults end."""
    for _ in range(PATIENCE):
        try:
            return await call()
        except (ApiError, ConnectionFailed):
            await steps.play(1)
    return await call()


def random_intent(exchange: Exchange, draw: random.Random, n: int) -> Intent:
    """Return an order in a random open market that fills at once or rests."""
    listing = draw.choice([x for x in exchange.listings if x.status == "active"])
    bid, ask = listing.book.best_bid(), listing.book.best_ask()
    side = draw.choice(["bid", "ask"])
    resting = 100 if side == "bid" else 9_900
    opposite = ask if side == "bid" else bid
    price = opposite if opposite is not None and draw.random() < 0.6 else resting
    return Intent(
        client_order_id=client_order_id("run", FIRE, n),
        ts=1,
        ticker=listing.facts.ticker,
        side=side,
        price=price,
        size=draw.randint(1, 900),
        fire=FIRE,
    )


async def run_schedule(seed: int, folder: Path, orders: int = 16) -> tuple[Counter[str], set[str]]:
    """Trade under one random schedule; return the outcomes and the faults that occurred.  Odd seeds use `fast`."""
    draw, clock = random.Random(seed), SimClock(5)
    faults = Faults(schedule=random_schedule(seed, 30, over_us=3_600_000_000))
    async with (
        faulty_venue(faults, prints=40, seed=seed, fast=seed % 2 == 1) as (served, steps, settings),
        DemoOrders(settings, clock=Hurry()) as client,
    ):
        exchange = served.exchange
        with Journal.create(folder / f"{seed}.sqlite", clock, clock) as journal:
            portfolio = Portfolio(cash=exchange.account.cash)
            execution = Execution(client, journal, portfolio, clock, Hurry(), delays=(0, 1, 2, 4, 8, 16))
            sync = Sync(
                client, execution=execution, portfolio=portfolio, journal=journal, health=Health(clock),
                clock=clock, since=0, on_change=lambda: None,
            )  # fmt: skip
            feed = asyncio.create_task(_listen(settings, execution))
            await retry(sync.start, steps)
            for n in range(orders):
                while not any(x.status == "active" for x in exchange.listings):
                    await steps.play(1)
                await execution.submit(random_intent(exchange, draw, n))
                await steps.play(draw.randint(0, 4))
            for _ in range(PATIENCE):
                await execution.recover()
                if not await execution.cancel_all() and not journal.unresolved():
                    break
                await steps.play(1)
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)
            differences = await retry(sync.compare, steps)
            assert differences == {}, differences
            assert exchange.desk.resting() == [] and execution.open == {}
            return check(exchange, journal, orders), {fault.name for fault in faults.struck}


async def _listen(settings: Settings, execution: Execution) -> None:
    """Receive account events; a feed that ends is opened again, as by the next session."""
    handlers: dict[type, Callable[[Any], Any]] = {Fill: execution.on_fill, Order: execution.on_order}
    signer = Signer.from_settings(settings)
    while True:
        stream = Stream(
            settings.ws_url, signer, clock=Hurry(), max_attempts=5, silence_s=0.3, fast=settings.fast
        )
        stream.subscribe("fill", "user_orders", "trade")
        try:
            await stream.run(lambda event: handlers.get(type(event), lambda _: None)(event))
        except (ApiError, ConnectionFailed, FeedLost, ProtocolError):
            await asyncio.sleep(0.01)


async def rounds(seeds: range, folder: Path) -> None:
    """Run one schedule per seed and check that most faults occurred."""
    outcomes: Counter[str] = Counter()
    struck: set[str] = set()
    for seed in seeds:
        try:
            kinds, names = await run_schedule(seed, folder)
        except BaseException as error:
            error.add_note(f"schedule {seed}")
            raise
        outcomes, struck = outcomes + kinds, struck | names
    assert outcomes["accepted"] > 4 * len(seeds) and outcomes["rejected"] + outcomes["absent"] > 0
    share = 0.9 if len(seeds) > 50 else 0.5
    assert len(struck) > share * len(FAULTS), f"faults that never occurred: {FAULTS.keys() - struck}"


async def test_no_order_is_lost_or_doubled_under_random_faults(tmp_path: Path) -> None:
    await rounds(range(3), tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_no_order_is_lost_or_doubled_in_a_thousand_schedules(tmp_path: Path) -> None:
    await rounds(range(1_000), tmp_path)


# kill -9

DOOMED = """
import asyncio, json, os, random, signal, sys
from pathlib import Path

from kalshilab.clock import SimClock, WallClock
from kalshilab.config.settings import Settings
from kalshilab.kalshi.rest.orders import DemoOrders
from kalshilab.signals import RlmFire
from kalshilab.trade.events import Fired, Intent, client_order_id
from kalshilab.trade.orders.execution import Execution
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.portfolio import Portfolio

facts = json.loads(sys.argv[1])
draw = random.Random(facts["life"])
FIRE = Fired.of(RlmFire(3, 5_000, "A-B-1", "no", 4_500, 25, 0.8, 500, 5_000))
# The process is killed before an order is sent, after it was answered, or once its outcome is on disk.
after, where = draw.randint(0, 5), draw.choice(["before", "after", "written"])


def die(here):
    global after
    if here == where and facts["life"] is not None:
        if after == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        after -= 1


class Client(DemoOrders):
    async def create(self, request):
        die("before")
        ack = await super().create(request)
        die("after")
        return ack


async def main():
    settings = Settings(env={}, env_file=None, **facts["settings"])
    clock = SimClock(5)
    async with Client(settings) as client:
        with Journal.create(Path(facts["journal"]), clock, clock) as journal:
            execution = Execution(client, journal, Portfolio(cash=10**9), clock, WallClock(), delays=(0, 0.01, 0.02))
            await execution.recover()
            known = {i.client_order_id for i in journal.values("intent")}
            for n in range(facts["orders"]):
                name = client_order_id("run", FIRE, n)
                if name not in known:
                    await execution.submit(
                        Intent(client_order_id=name, ts=1, ticker=facts["ticker"], side="bid",
                               price=facts["price"] if n % 2 else 100, size=100 + n, fire=FIRE)
                    )
                    die("written")
            for fill in await client.fills():
                execution.on_fill(fill)
            assert not await execution.cancel_all()


asyncio.run(main())
"""


async def restarts(kills: int, orders: int, folder: Path) -> None:
    """Kill a process repeatedly and restart it with the same journal, until all orders are placed."""
    faults = Faults(["answer_lost_before", "answer_lost_after", "error_5xx_after"], 4, every_us=0)
    faults = Faults(schedule=random_schedule(4, kills, names=faults.names, over_us=1))
    async with faulty_venue(faults, prints=40) as (served, _, settings):
        listing = next(x for x in served.exchange.listings if x.book.best_ask() and x.status == "active")
        access = {n: getattr(settings, n) for n in ("rest_url", "ws_url", "key_id", "private_key_path")}
        facts = {
            "settings": access, "journal": str(folder / "killed.sqlite"), "orders": orders,
            "ticker": listing.facts.ticker, "price": listing.book.best_ask(),
        }  # fmt: skip
        ended = 0
        for life in [*range(kills), None]:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", DOOMED, json.dumps(facts | {"life": life}), stderr=subprocess.PIPE
            )
            _, errors = await child.communicate()
            assert child.returncode in (0, -signal.SIGKILL), errors.decode()
            ended += child.returncode == -signal.SIGKILL
        assert ended >= 0.8 * min(kills, orders / 4), "too few processes were killed"
        with Journal.open(folder / "killed.sqlite") as journal:
            kinds = check(served.exchange, journal, orders)
        assert kinds["accepted"] > orders / 3
        assert served.exchange.account.fills and not served.exchange.desk.resting()


async def test_a_killed_process_continues_without_loss(tmp_path: Path) -> None:
    await restarts(2, 10, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_hundred_kills_lose_and_double_no_order(tmp_path: Path) -> None:
    await restarts(100, 400, tmp_path)
