"""A paper session over loopback: trades per second, and the time from a trade's frame to its order on the wire.

    python research/benchmarks/session.py [--only lockstep,live] [--rate 5000] [--seconds 60] [--fast]

`lockstep` is the embedded venue: exchange and session share a process, and each waits for the other's step.  `live`
resembles a real feed: the exchange is a separate process and does not wait, 1,000 markets are open at the same time,
and the dashboard is painted.  The delay of the session is measured from the smallest delay of any trade.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from contextvars import ContextVar
from io import StringIO
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import httpx
import numpy as np
import polars as pl

import kalshilab as kl
from kalshilab.exchange import Exchange
from kalshilab.market.model import Trade
from kalshilab.notebook.session.dashboard import Dashboard
from kalshilab.tape.synth import Recipe, make
from kalshilab.trade.core.messages import Command, JournalRecord, Place, TraderRequest
from kalshilab.trade.core.trader import Trader
from kalshilab.trade.events import Decision, Fired

MARKETS = 1000


def core() -> float:
    """Return the trades per second of the exchange without a subscriber."""
    exchange = Exchange(*kl.sample())
    began = perf_counter()
    while exchange.step():
        pass
    return exchange.prints_played / (perf_counter() - began)


async def session(folder: str, fast: bool) -> tuple[float, Latencies]:
    """Return the trades per second in lockstep, and the latencies of the orders."""
    settings = kl.Settings(env={}, env_file=None, out=folder, categories=("all",), fast=fast)
    async with kl.PaperSession(settings) as running:
        latencies = timed_orders(running)
        began = perf_counter()
        report = await running.run()
        taken = perf_counter() - began
    return report.counts["trades"] / taken, latencies


_RECEIVED: ContextVar[tuple[int, bool]] = ContextVar("received")
"""Receive time of the frame whose trade fired, and whether no other order was in progress, for the acting task."""


class Latencies:
    """Milliseconds from the frame of the trade that fired to the last byte of its order on the wire, in order.

    A session places orders one after another, so that each sees the remaining limits, and keeps to the exchange's limit
    of ten a second.  Of trades that fire together, all but the first wait.  `alone` has the orders that found no other
    in progress.
    """

    def __init__(self) -> None:
        self.all: list[float] = []
        self.alone: list[float] = []
        self.fired: dict[tuple[str, int], tuple[int, bool]] = {}
        self.waits: set[str] = set()
        self.acting = 0


def timed_orders(running: kl.PaperSession) -> Latencies:
    """Instrument a session that has not started, and return the latencies that it will record."""
    latencies = Latencies()
    wall, wire = kl.WallClock(), running._wire

    def wired(trader: Trader) -> None:
        wire(trader)
        driver = running._driver
        assert driver is not None
        carry_out, answer = driver._carry_out, driver._answer

        def carried(command: Command) -> None:
            if isinstance(command, JournalRecord) and isinstance(command.value, Fired):
                # Written while the frame of this trade is handled, which is the last one received.
                fire = command.value
                alone = latencies.acting == 0
                latencies.fired[fire.ticker, fire.ts] = running._stream.last_frame, alone
            elif isinstance(command, JournalRecord) and isinstance(command.value, Decision):
                # A fire that waits for a better book is decided at a later frame; its wait is not the session's.
                if command.value.action == "deferred":
                    latencies.waits.add(command.value.ticker)
            elif isinstance(command, Place):
                ticker = command.intent.ticker
                _RECEIVED.set((0, False))
                if ticker not in latencies.waits:
                    _RECEIVED.set(latencies.fired[ticker, command.intent.fire.ts])
                latencies.waits.discard(ticker)
                latencies.acting += 1
            carry_out(command)

        async def answered(command: TraderRequest) -> None:
            await answer(command)
            latencies.acting -= isinstance(command, Place)

        driver._carry_out, driver._answer = carried, answered  # type: ignore[method-assign]

    def on_the_wire() -> None:
        received, alone = _RECEIVED.get()
        if not received:
            return
        latencies.all.append((wall.now() - received) / 1000)
        if alone:
            latencies.alone.append(latencies.all[-1])

    running._wire = wired  # type: ignore[method-assign]
    (watch_aiohttp if running.settings.fast else watch_httpx)(running._orders._rest._http, on_the_wire)
    return latencies


def watch_httpx(http: Any, on_the_wire: Callable[[], None]) -> None:
    """Call back when the last byte of an order has been handed to the socket."""

    async def sent(name: str, facts: object) -> None:
        if name == "http11.send_request_body.complete":
            on_the_wire()

    async def watched(request: httpx.Request) -> None:
        if request.method == "POST" and _RECEIVED.get(None):
            request.extensions["trace"] = sent

    http._client.event_hooks["request"].append(watched)


def watch_aiohttp(http: Any, on_the_wire: Callable[[], None]) -> None:
    """Do the same as `watch_httpx` for aiohttp."""
    import aiohttp

    async def sent(session: object, context: object, facts: Any) -> None:
        if facts.method == "POST" and _RECEIVED.get(None):
            on_the_wire()

    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(sent)
    trace.freeze()
    opened = http._open_session

    def watched() -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = opened()
        session.trace_configs.append(trace)
        return session

    http._open_session = watched


def lockstep(fast: bool) -> None:
    floor = core()
    with tempfile.TemporaryDirectory() as folder:
        rate, latencies = asyncio.run(session(folder, fast))
    print(
        f"exchange alone: {floor:,.0f} prints/s; session in lockstep over loopback: {rate:,.0f} prints/s, "
        f"{rate / floor:.3f} x"
    )
    print_latencies("lockstep", latencies)


def print_latencies(where: str, latencies: Latencies) -> None:
    for which, sample_ms in (("all orders", latencies.all), ("with no other in progress", latencies.alone)):
        if sample_ms:
            p50, p99 = np.percentile(sample_ms, [50, 99])
            print(
                f"{where}: trade's frame to order on the wire, {which}: p50 {p50:.2f} ms, p99 {p99:.2f} ms ({len(sample_ms)})"
            )


def world(folder: Path, rate: int, seconds: int, begin: int) -> int:
    """Write a tape of 1,000 markets and return its number of trades.

    Args:
        folder: folder for the tape and the markets.
        rate: trades per second, over all markets.
        seconds: length of the tape.
        begin: time of the first trade, in microseconds since 1970.
    """
    recipe = Recipe(
        prints_log_median=float(np.log(1.3 * rate * seconds / MARKETS)), prints_log_sd=0.2, category="sports"
    )
    tape, markets = make(MARKETS, np.random.default_rng(1), recipe)
    # Replace the times: the markets trade side by side, each in its original order.
    rng = np.random.default_rng(2)
    drawn = tape.with_columns(pl.Series("at", rng.random(tape.height)))
    turn = drawn.with_columns(pl.col("at").sort().over("market")).sort("at").head(rate * seconds)
    at = begin + (np.arange(turn.height) * 1_000_000 / rate).astype(np.int64)
    time = pl.Datetime("us", "UTC")
    turn = turn.with_columns(pl.Series("ts", at).cast(time)).drop("at")
    minute = 60_000_000
    markets.with_columns(
        open_ts=pl.lit(begin - minute // 4).cast(time),
        close_ts=pl.lit(begin + (seconds + 600) * 1_000_000).cast(time),
        expected_close_ts=pl.lit(begin + (seconds + 600) * 1_000_000).cast(time),
        settled_ts=pl.lit(begin + (seconds + 900) * 1_000_000).cast(time),
    ).write_parquet(folder / "markets.parquet")
    kl.to_tape(turn).write_parquet(folder / "tape.parquet")
    return turn.height


async def live(rate: int, seconds: int, fast: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wall = kl.WallClock()
        prints = world(folder, rate, seconds, wall.now())
        files = ["--tape", str(folder / "tape.parquet"), "--markets", str(folder / "markets.parquet")]
        command = ["-m", "kalshilab", "exchange", *files, "--speed", "1", "--warm-up", f"{30 / 3600}"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert process.stdout is not None
            at = json.loads(await process.stdout.readline())
            settings = kl.Settings(
                env={},
                env_file=None,
                venue="demo",
                rest_url=at["rest"],
                ws_url=at["ws"],
                key_id=at["key_id"],
                private_key_path=at["private_key_path"],
                out=str(folder / "runs"),
                categories=("all",),
                close_min_minutes=0,
                attempts_per_minute=1e6,
                minutes=(seconds + 60) / 60,
                fast=fast,
            )
            await watched(settings, prints, seconds)
        finally:
            process.terminate()
            await process.wait()


async def watched(settings: kl.Settings, prints: int, seconds: int) -> None:
    delays: list[int] = []
    memory: list[float] = []
    wall = kl.WallClock()
    async with kl.PaperSession(settings) as running:
        latencies = timed_orders(running)
        with redirect_stdout(StringIO()):
            Dashboard(running, interactive=True).show()
        task = asyncio.create_task(running.run())
        while running.state != "READY":
            await asyncio.sleep(0.05)
        driver = running._driver
        assert driver is not None
        follow = driver._handlers[Trade]

        def on_trade(trade: Trade) -> None:
            delays.append(wall.now() - trade.ts)
            follow(trade)

        driver._handlers[Trade] = on_trade  # type: ignore[index]
        while not delays:
            await asyncio.sleep(0.05)
        began, used = perf_counter(), process_time()
        # Measured from here; the last second of the feed may still be in progress at the end.
        while len(delays) < prints and perf_counter() - began < seconds + 30:
            await asyncio.sleep(1)
            memory.append(resident())
        taken, busy = perf_counter() - began, process_time() - used
        running.request_stop("all received")
        report = await task
    behind = (np.array(delays) - min(delays)) / 1000
    p50, p99 = np.percentile(behind, [50, 99])
    print(
        f"live: {len(delays):,} of {prints:,} prints in {MARKETS:,} markets, {len(delays) / taken:,.0f} a second, "
        f"{running._stream.frames_received:,} frames, "
        f"{busy / taken:.0%} of a processor"
    )
    print(
        f"live: behind the feed p50 {p50:.1f} ms, p99 {p99:.1f} ms, at most {behind.max():.0f} ms; "
        f"gaps {report.counts['gaps']}; memory {memory[min(10, len(memory) - 1)]:.0f} MB after ten seconds, {memory[-1]:.0f} MB at the end"
    )
    print_latencies("live", latencies)


def resident() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="lockstep,live")
    parser.add_argument("--rate", type=int, default=5000, help="trades per second of the live feed")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--fast", action="store_true", help="with the extra `fast`")
    options = parser.parse_args()
    kl.signals.rlm(kl.sample()[0])
    wanted = options.only.split(",")
    if "lockstep" in wanted:
        lockstep(options.fast)
    if "live" in wanted:
        asyncio.run(live(options.rate, options.seconds, options.fast))


if __name__ == "__main__":
    main()
