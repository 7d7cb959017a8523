"""Whole sessions under schedules of faults, and the comparison of their record with the exchange's account.

A session trades over a fault proxy on an exchange that plays a made tape in real time.  Takers of its markets buy YES
while the price falls, so that the session orders in each of them, and the markets settle while the faults last.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
import weakref
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import polars as pl
from fault_proxy import FaultProxy
from fault_schedule import Fault, describe
from record_comparison import compare_orders, compare_payouts

from kalshilab.config.settings import Settings
from kalshilab.exchange import Exchange, Venue, serve
from kalshilab.tape.schema import MARKETS_SCHEMA, TAKER, TAPE_SCHEMA, TIME, with_codes
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.session import PaperSession
from kalshilab.trade.strategies.strategies import make_strategy

__all__ = ["Ended", "falling", "run_schedule", "run_schedules"]

SECOND: Final = 1_000_000
END_S: Final = 30.0
"""Seconds within which a session ends after a stop."""
PATIENCE_S: Final = 20.0
"""Seconds after `END_S` for which the harness waits before it gives up a session."""
RECOVERED_S: Final = 75.0
"""Seconds after the last fault within which a session trades again; its feed waits a minute between two attempts."""
CLOSED_S: Final = 3.0
"""Seconds within which the connections of an ended session are closed."""
STOP: Final = "the tape is over"
TAIL_S: Final = 120
"""Seconds for which exchange time goes on after the last settlement."""

_owner: contextvars.ContextVar[int] = contextvars.ContextVar("seed of the session", default=-1)
_tasks: dict[int, weakref.WeakSet[asyncio.Task[Any]]] = {}


# The tape


def falling(seed: int, *, over_s: float, markets: int, start_us: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a tape on which the price of each market falls while takers buy YES, and its markets.

    Markets open at any time, live for a tenth to a third of the tape, and settle within four seconds of their close.
    One more market, of a category that no session follows, trades on after the last settlement.

    Args:
        seed: the same seed gives the same tape, apart from its start.
        over_s: seconds from the start to the last settlement.
        markets: the number of markets, two an event.
        start_us: the start in microseconds.
    """
    draw = random.Random(f"tape {seed}")
    rows, table = [], []
    for n in range(markets):
        life_s = over_s * draw.uniform(0.15, 0.4)
        open_s = draw.uniform(-1.0, over_s - life_s - 4.5)
        ticker, event = f"KXFALL-{n // 2:03d}-T{n % 2}", f"KXFALL-{n // 2:03d}"
        opened, closed = start_us + int(open_s * SECOND), start_us + int((open_s + life_s) * SECOND)
        result = draw.choice(["yes", "no", "no", "scalar"])
        settled = closed + SECOND + int(draw.uniform(0.05, 3.0) * SECOND)
        table.append(_market(ticker, event, "sports", opened, closed, result, settled, draw))
        rows += _prints(ticker, opened, closed, draw)
    end = start_us + int((over_s + TAIL_S) * SECOND)
    table.append(_market("KXTICK-0-T0", "KXTICK-0", "other", start_us, end, "no", end + 2 * SECOND, draw))
    rows += [(ts, "KXTICK-0-T0", 5_000, 100, "yes") for ts in range(start_us, end, SECOND // 4)]
    return _tape(rows), pl.DataFrame(table, schema=MARKETS_SCHEMA, orient="row")


def _prints(
    ticker: str, opened: int, closed: int, draw: random.Random
) -> list[tuple[int, str, int, int, str]]:
    cents = draw.randint(45, 80)
    rows = []
    for ts in sorted(draw.randrange(opened + 1, closed) for _ in range(draw.randint(15, 30))):
        rows.append((ts, ticker, 100 * cents, 100 * draw.randint(1, 40), draw.choice(["yes"] * 6 + ["no"])))
        cents = max(cents - draw.choice([0, 0, 1, 1, 2]), 3)
    return rows


def _market(
    ticker: str,
    event: str,
    category: str,
    opened: int,
    closed: int,
    result: str,
    settled: int,
    draw: random.Random,
) -> tuple[Any, ...]:
    value = {"yes": 10_000, "no": 0, "scalar": draw.randint(1, 9_999)}[result]
    row = {
        "ticker": ticker, "event": event, "series": event.split("-")[0], "category": category, "title": ticker,
        "open_ts": opened, "close_ts": closed, "expected_close_ts": closed, "result": result, "settlement": value,
        "settled_ts": settled, "fee_multiplier": 1.0, "fee_type": "quadratic", "price_structure": "linear_cent",
    }  # fmt: skip
    return tuple(row[name] for name in MARKETS_SCHEMA.names())


def _tape(rows: list[tuple[int, str, int, int, str]]) -> pl.DataFrame:
    frame = pl.DataFrame(
        [(ts, ticker, price, size, taker, f"p{n}") for n, (ts, ticker, price, size, taker) in enumerate(sorted(rows))],
        schema={"ts": TIME, "ticker": pl.String, "price": pl.Int16, "size": pl.UInt32, "taker": TAKER, "trade_id": pl.String},
        orient="row",
    )  # fmt: skip
    return with_codes(frame).select(TAPE_SCHEMA.names())


# One session


@dataclass
class Ended:
    """A session that has ended, or was given up.

    Attributes:
        seed: the seed of its tape.
        faults: its schedule.
        problems: all that must not be.
        orders_differ, payouts_differ: the differences from the exchange's account.
        stated: the shortcomings that the report states.
        struck: the effects of the faults; see `FaultProxy`.
        kinds: the kinds of faults that had an effect.
        orders: the orders that the exchange accepted.
        stop_s: the seconds from the stop to the end.
    """

    seed: int
    faults: list[Fault]
    problems: list[str] = field(default_factory=list)
    orders_differ: list[str] = field(default_factory=list)
    payouts_differ: list[str] = field(default_factory=list)
    stated: list[str] = field(default_factory=list)
    struck: list[tuple[float, str]] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    orders: int = 0
    stop_s: float = 0.0

    def describe(self) -> str:
        """Return the problems, the schedule and its effects as text."""
        effects = "\n".join(f"{at_s:7.2f} s  {text}" for at_s, text in sorted(self.struck))
        problems = "\n".join(f"  {problem}" for problem in self.problems)
        return (
            f"seed {self.seed}, {self.orders} orders, ended in {self.stop_s:.1f} s\n{problems}\n"
            f"schedule\n{describe(self.faults)}\neffects\n{effects}"
        )


@contextmanager
def watched_tasks(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Note which session each new task of a loop belongs to."""

    def factory(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **more)
        if (seed := _owner.get()) >= 0:
            _tasks.setdefault(seed, weakref.WeakSet()).add(task)
        return task

    before = loop.get_task_factory()
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(before)


async def run_schedule(
    seed: int,
    faults: Sequence[Fault],
    folder: Path,
    *,
    over_s: float,
    markets: int = 20,
    stop_s: float | None = None,
    lose_refusals: bool = True,
) -> Ended:
    """Run one session under a schedule of faults, stop it, and compare its record with the exchange's account.

    A session that is stopped during the faults may differ from the account, but then its report must state that.

    Args:
        seed: the seed of the tape and the exchange.
        faults: the schedule.
        folder: receives the run's folder.
        over_s: seconds until the last market has settled.
        markets: the number of markets.
        stop_s: seconds after which the session is stopped; None stops it when all faults and markets have ended.
        lose_refusals: as for `FaultProxy`.
    """
    ended = Ended(seed, sorted(faults))
    tape, table = falling(seed, over_s=over_s, markets=markets, start_us=time.time_ns() // 1000 + SECOND)
    exchange = Exchange(tape, table, seed=seed)
    exchange.advance(time.time_ns() // 1000)
    async with (
        serve(exchange, speed=1.0, key_kind="ed25519") as venue,
        FaultProxy(venue.rest, faults, lose_refusals=lose_refusals) as proxy,
    ):
        settings = _settings(seed, venue, proxy, folder)
        token = _owner.set(seed)
        work = asyncio.create_task(_session(settings, folder / f"run-{seed}", proxy, exchange, stop_s, ended))
        _owner.reset(token)
        await _finish(work, ended)
        await _check_remains(proxy, ended)
        if stop_s is None:
            ended.problems += ended.orders_differ + ended.payouts_differ + ended.stated
        elif ended.orders_differ and not ended.stated:
            # Markets settle on after the end, so payouts are not compared.
            ended.problems += ["the report states no difference", *ended.orders_differ]
        ended.struck, ended.kinds = proxy.struck, proxy.kinds
    return ended


def _settings(seed: int, venue: Venue, proxy: FaultProxy, folder: Path) -> Settings:
    return Settings(
        env={}, env_file=None, venue="demo", rest_url=proxy.rest, ws_url=proxy.ws, key_id=venue.key_id,
        private_key_path=str(venue.private_key_path), out=str(folder), categories=("sports",), min_trades=4, min_drop=1,
        contracts=5, close_min_minutes=0, attempts_per_minute=1e6, sync_interval_s=2, discovery_interval_s=1,
        health_interval_s=0.5, fast=seed % 2 == 1,
    )  # fmt: skip


async def _session(
    settings: Settings,
    run_dir: Path,
    proxy: FaultProxy,
    exchange: Exchange,
    stop_s: float | None,
    ended: Ended,
) -> None:
    """Run a session until all is over or for a time, stop it, and check its report and its journal."""
    async with PaperSession(settings, run_dir=run_dir) as session:
        run = asyncio.create_task(session.run())
        until = asyncio.sleep(stop_s) if stop_s is not None else _over(session, proxy, exchange, ended)
        over = asyncio.create_task(until)
        await asyncio.wait((run, over), return_when=asyncio.FIRST_COMPLETED)
        if over.done():
            over.result()
        over.cancel()
        stopped = time.monotonic()
        session.request_stop(STOP)
        report = await run
        ended.stop_s = time.monotonic() - stopped
        shot = session.snapshot()
    if report.stopped != STOP:
        ended.problems.append(f"the session ended by itself: {report.stopped}")
    ended.orders = len(exchange.desk.log)
    ended.stated = _stated(report)
    journal = run_dir / "journal.sqlite"
    ended.orders_differ = [f"the snapshot shows {order}" for order in shot.open_orders]
    ended.orders_differ += compare_orders(journal, report, exchange)
    ended.payouts_differ = compare_payouts(journal, report, shot, exchange)


def _stated(report: Report) -> list[str]:
    """Return the shortcomings that a report states."""
    stated = [] if report.error is None else [f"the report states {report.error!r}"]
    return stated + [
        f"the report counts {report.counts[name]} {name}"
        for name in ("left_resting", "account_differences")
        if report.counts.get(name)
    ]


async def _over(session: PaperSession, proxy: FaultProxy, exchange: Exchange, ended: Ended) -> None:
    """Wait until all faults have healed, all markets have settled, and the session has recovered."""
    await proxy.heal()
    until = time.monotonic() + RECOVERED_S
    while any(x.facts.category == "sports" and x.status != "finalized" for x in exchange.listings):
        await asyncio.sleep(0.1)
    while session.state not in ("READY", "ACTING"):
        if time.monotonic() > until:
            ended.problems.append(f"the session is in {session.state} long after the last fault")
            return
        await asyncio.sleep(0.1)


async def _finish(work: asyncio.Task[None], ended: Ended) -> None:
    """Wait for the end of a session; one that does not end is cancelled."""
    last_s = max((fault.until_s for fault in ended.faults), default=0.0)
    patience_s = last_s + RECOVERED_S + END_S + PATIENCE_S
    done, _ = await asyncio.wait((work,), timeout=patience_s)
    if not done:
        ended.problems.append("the session did not end")
        # The first interrupt stops a session cleanly, so only further ones end it.
        while not work.done():
            work.cancel()
            await asyncio.wait((work,), timeout=1)
    elif work.exception() is not None:
        ended.problems.append(f"the session raised {work.exception()!r}")
    if ended.stop_s > END_S:
        ended.problems.append(f"the end took {ended.stop_s:.1f} s")


async def _check_remains(proxy: FaultProxy, ended: Ended) -> None:
    """Check that an ended session leaves no task and no open connection."""
    until = time.monotonic() + CLOSED_S
    while proxy.open_connections and time.monotonic() < until:
        await asyncio.sleep(0.02)
    if proxy.open_connections:
        ended.problems.append(f"{proxy.open_connections} connections are left")
    left = [task for task in _tasks.pop(ended.seed, ()) if not task.done()]
    ended.problems += [f"a task is left: {task.get_coro()!r}" for task in left]


# Many sessions


async def run_schedules(
    schedules: dict[int, list[Fault]],
    folder: Path,
    *,
    over_s: float,
    at_once: int,
    markets: int = 20,
    stops: dict[int, float] | None = None,
    lose_refusals: bool = True,
) -> list[Ended]:
    """Run a session for each seed, several at once in this event loop, and return how they ended.

    Args:
        schedules: the faults by seed.
        folder: receives the run folders.
        over_s: as for `run_schedule`.
        at_once: the sessions that run at once.
        markets: as for `run_schedule`.
        stops: `stop_s` of `run_schedule` by seed.
        lose_refusals: as for `FaultProxy`.
    """
    # The first signal of a process loads its compiled step, for seconds of the first tape.
    make_strategy(Settings(env={}, env_file=None))
    places = asyncio.Semaphore(at_once)
    interval_s = over_s / at_once

    async def run(number: int, seed: int) -> Ended:
        # Sessions do not start at the same instant, which would make the machine busy at once.
        await asyncio.sleep(min(number, at_once) * interval_s * 0.2)
        async with places:
            stop_s = None if stops is None else stops[seed]
            return await run_schedule(
                seed,
                schedules[seed],
                folder,
                over_s=over_s,
                markets=markets,
                stop_s=stop_s,
                lose_refusals=lose_refusals,
            )

    with watched_tasks(asyncio.get_running_loop()):
        return await asyncio.gather(*(run(n, seed) for n, seed in enumerate(schedules)))
