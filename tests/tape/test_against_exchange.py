"""Download and recorder against the local exchange: the lake becomes the exchange's tape.

Processes are killed, connections cut, and prints move to the archive during a download.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pytest

from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.exchange import Exchange, serve
from kalshilab.kalshi.rest.client import MarketData
from kalshilab.kalshi.stream.feeds import TradeFeed
from kalshilab.tape import sample
from kalshilab.tape.ingest.download import download
from kalshilab.tape.ingest.record import record
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.schema import DAY_US, HOUR_US

CLOCK = WallClock()
COLUMNS = ("ts", "ticker", "price", "size", "taker", "trade_id")
TAPE, MARKETS = sample()
SINCE = TAPE["ts"].dt.epoch("us").min() // DAY_US * DAY_US
UNTIL = SINCE + 6 * DAY_US


def settings(venue: Any) -> Settings:
    return Settings(
        env={}, env_file=None, rest_url=venue.rest, ws_url=venue.ws, key_id=venue.key_id,
        private_key_path=str(venue.private_key_path),
    )  # fmt: skip


def columns(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.col(c).cast(pl.String) if c in ("ticker", "taker") else pl.col(c) for c in COLUMNS)


def same_as_the_tape(lake: Lake) -> bool:
    return columns(lake.read()).equals(columns(TAPE))


@pytest.fixture(scope="module")
def over() -> Exchange:
    """Return an exchange that has played the whole sample and archived half of it."""
    ex = Exchange(TAPE, MARKETS, archive_after_us=3 * DAY_US)
    while ex.step():
        pass
    return ex


async def test_a_download_gives_the_tape_and_its_markets(over: Exchange, tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    async with serve(over, key_kind="ed25519") as venue, MarketData(settings(venue)) as data:
        done = await download(data, lake, SINCE, UNTIL, clock=CLOCK)
    assert same_as_the_tape(lake) and same_as_the_tape(Lake.open(lake.path))
    assert (done.prints, done.added, done.unknown_taker) == (TAPE.height, TAPE.height, 0)
    assert lake.covered == ((SINCE, UNTIL),)
    facts = ["ticker", "event", "series", "category", "title", "result", "settlement", "fee_multiplier", "fee_type", "price_structure"]  # fmt: skip
    listed = MARKETS.filter(pl.col("ticker").is_in(TAPE["ticker"].unique().to_list()))
    assert lake.markets.select(facts).sort("ticker").equals(listed.select(facts).sort("ticker"))
    settled = lake.markets.filter(pl.col("settled_ts").is_not_null()).sort("ticker")
    assert settled.select("ticker", "settled_ts").equals(
        listed.filter(pl.col("settled_ts").is_not_null()).select("ticker", "settled_ts").sort("ticker")
    )


async def test_a_download_of_one_series_gives_its_prints(over: Exchange, tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    async with serve(over, key_kind="ed25519") as venue, MarketData(settings(venue)) as data:
        await download(data, lake, SINCE, UNTIL, series=["KXSAMPLERATE"], clock=CLOCK)
    own = TAPE.filter(pl.col("ticker").cast(pl.String).str.starts_with("KXSAMPLERATE-"))
    assert columns(lake.read()).equals(columns(own)) and own.height


async def test_a_download_is_complete_although_the_archive_overtakes_it(tmp_path: Path) -> None:
    ex = Exchange(TAPE, MARKETS, archive_after_us=DAY_US)
    while (ts := ex.next_ts()) is not None and ts < SINCE + 4 * DAY_US:
        ex.step()
    lake, before = Lake.create(tmp_path / "lake"), ex.cutoff

    def play(progress: object) -> None:
        for _ in range(150):
            ex.step()

    async with serve(ex, pace=Gate(), key_kind="ed25519") as venue, MarketData(settings(venue)) as data:
        await download(
            data,
            lake,
            SINCE,
            SINCE + 4 * DAY_US,
            clock=CLOCK,
            concurrency=2,
            window_us=2 * HOUR_US,
            on_progress=play,
        )
    assert ex.cutoff >= before + DAY_US, "the cutoff moved during the download"
    wanted = TAPE.filter(pl.col("ts").dt.epoch("us") < SINCE + 4 * DAY_US)
    assert columns(lake.read()).equals(columns(wanted))


# Killed


DOWNLOADER = """
import asyncio, signal, sys, httpx
from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.kalshi.rest.client import MarketData
from kalshilab.tape.ingest.download import download
from kalshilab.tape.lake.lake import Lake

class Slow(httpx.AsyncHTTPTransport):
    async def handle_async_request(self, request):
        await asyncio.sleep(0.012)
        return await super().handle_async_request(request)

async def main(rest, lake, since, until, windows, point=None, delay_s=0):
    # When `point` windows are done, the kernel kills the process after `delay_s`: no handler runs.
    def show(p):
        done = int(windows) - p.total + p.done
        print(done, flush=True)
        if point is not None and p.phase == "prints" and done >= int(point) and not signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, max(float(delay_s), 1e-4))

    async with MarketData(Settings(env={}, env_file=None, rest_url=rest), transport=Slow()) as data:
        await download(data, Lake.create(lake), int(since), int(until), clock=WallClock(), on_progress=show)

asyncio.run(main(*sys.argv[1:]))
"""


async def child(code: str, *arguments: object) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *map(str, arguments), stdin=pipe, stdout=pipe, stderr=pipe
    )


@pytest.mark.soak
async def test_ten_kills_neither_lose_nor_repeat_prints(over: Exchange, tmp_path: Path) -> None:
    rng = random.Random(7)
    windows = 144
    points = sorted(rng.sample(range(2, 120), 10))
    folder = tmp_path / "lake"
    reached: list[int] = []
    async with serve(over, key_kind="ed25519") as venue:
        arguments = (venue.rest, folder, SINCE, UNTIL, windows)
        for point in points:
            # Anywhere in the next window: while requesting, staging or committing a day.
            process = await child(DOWNLOADER, *arguments, point, rng.random() * 0.03)
            output, errors = await process.communicate()
            assert process.returncode == -signal.SIGALRM, errors.decode()
            reached.append(int(output.split()[-1]))
        assert not same_as_the_tape(Lake.create(folder)), "the last kill was before the end"
        process = await child(DOWNLOADER, *arguments)
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
    assert reached[-1] > windows // 2 > reached[0]
    lake = Lake.open(folder)
    assert same_as_the_tape(lake)
    assert lake.covered == ((SINCE, UNTIL),) and lake.staged() == [] and lake.unknown == 0


# Recorder


class Gate:
    """A pace that lets the exchange play only the allowed number of steps."""

    def __init__(self) -> None:
        self.remaining = 0
        self._more = asyncio.Event()

    def allow(self, steps: int) -> None:
        self.remaining += steps
        self._more.set()

    async def step(self, ts: int) -> None:
        while self.remaining <= 0:
            self._more.clear()
            await self._more.wait()
        if self.remaining % 64 == 0:
            await asyncio.sleep(0)
        # Decrement last: when the count is 0, the last step has been played.
        self.remaining -= 1

    async def passed(self) -> None:
        await wait(lambda: self.remaining <= 0)


class Relay:
    """A TCP relay to the exchange whose connections can be cut."""

    def __init__(self, address: str) -> None:
        self._target = urlsplit(address)
        self._writers: list[asyncio.StreamWriter] = []
        self.up = True

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.up:
            writer.close()
            return
        there, out = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers += [writer, out]

        async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65_536):
                    to.write(data)
                    await to.drain()
            except ConnectionError:
                return
            finally:
                to.close()

        await asyncio.gather(copy(reader, out), copy(there, writer))

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield self._target._replace(netloc=f"127.0.0.1:{port}").geturl()
        finally:
            self.cut()
            server.close()
            await asyncio.sleep(0.01)


class FastClock(WallClock):
    """The machine's clock with sleeps twenty times shorter."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 20)


async def wait(condition: Callable[[], object]) -> None:
    """Poll until a condition holds."""
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_recorder_does_not_cover_an_outage_and_a_download_fills_it(tmp_path: Path) -> None:
    gate, ex = Gate(), Exchange(TAPE, MARKETS, archive_after_us=2 * DAY_US)
    lake, stop = Lake.create(tmp_path / "lake"), asyncio.Event()
    async with serve(ex, pace=gate, key_kind="ed25519") as venue:
        relay = Relay(venue.ws)
        async with relay.running() as url:
            chosen = settings(venue).replace(ws_url=url)
            async with TradeFeed(chosen, clock=FastClock()) as feed:
                recorder = asyncio.create_task(record(feed, lake, clock=CLOCK, stop=stop, flush_s=0.05))
                gate.allow(5_000)
                await gate.passed()
                await wait(lambda: feed.stats.events == ex.prints_played)
                relay.up = False
                relay.cut()
                lost_at = ex.prints_played
                gate.allow(3_000)
                await gate.passed()
                relay.up = True
                missed = ex.prints_played - lost_at
                await wait(lambda: feed.stats.reconnects >= 1 and venue.exchange.hub.wanted("trade", "any"))
                gate.allow(100_000)
                await asyncio.wait_for(venue.finished.wait(), 120)
                await wait(lambda: feed.stats.events == TAPE.height - missed)
                stop.set()
                done = await recorder
        assert done.prints == done.added == TAPE.height - missed and done.breaks == 1
        received = pl.concat([TAPE[:lost_at], TAPE[lost_at + missed :]])
        assert columns(lake.read()).equals(columns(received))
        ((_, low), (high, _)) = lake.covered
        outage = TAPE[lost_at : lost_at + missed]["ts"].dt.epoch("us")
        assert low < outage.min() and outage.max() < high, "the outage is not covered"
        async with MarketData(settings(venue)) as data:
            filled = await download(data, lake, SINCE, UNTIL, clock=CLOCK)
        assert same_as_the_tape(lake) and filled.added == missed and filled.windows < 60
        assert lake.covered == ((SINCE, UNTIL),)


RECORDER = """
import asyncio, sys
from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.kalshi.stream.feeds import TradeFeed
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.ingest.record import record

async def main(rest, ws, key_id, key_path, lake):
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.run_in_executor(None, lambda: (sys.stdin.read(), loop.call_soon_threadsafe(stop.set)))
    settings = Settings(env={}, env_file=None, rest_url=rest, ws_url=ws, key_id=key_id, private_key_path=key_path)
    show = lambda p: print(p.prints, flush=True)
    async with TradeFeed(settings) as feed:
        print("ready", flush=True)
        await record(feed, Lake.create(lake), clock=WallClock(), stop=stop, flush_s=0.02, on_progress=show)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_recorder_covers_only_complete_runs(tmp_path: Path) -> None:
    gate, ex = Gate(), Exchange(TAPE, MARKETS)
    folder = tmp_path / "lake"
    async with serve(ex, pace=gate, key_kind="ed25519") as venue:
        arguments = (venue.rest, venue.ws, venue.key_id, venue.private_key_path, folder)
        for steps in (4_500, 4_000):
            process = await child(RECORDER, *arguments)
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            before = ex.prints_played
            gate.allow(steps)
            async for line in process.stdout:
                if int(line) > (steps // 3):
                    break
            process.kill()
            await process.communicate()
            assert process.returncode == -signal.SIGKILL
            # No recorder receives these.
            gate.allow(500)
            await gate.passed()
            assert ex.prints_played > before + steps // 3
        process = await child(RECORDER, *arguments)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        remaining = TAPE.height - ex.prints_played
        gate.allow(100_000)
        async for line in process.stdout:
            if int(line) == remaining:
                break
        _, errors = await process.communicate(b"")
        assert process.returncode == 0, errors.decode()
        lake = Lake.open(folder)
        assert remaining + 2_000 < lake.rows < TAPE.height
        assert lake.read()["trade_id"].n_unique() == lake.rows
        for low, high in lake.covered:
            span = (pl.col("ts").dt.epoch("us") >= low) & (pl.col("ts").dt.epoch("us") < high)
            assert columns(lake.read().filter(span)).equals(columns(TAPE.filter(span))), (
                "covered time is complete"
            )
        assert sum(b - a for a, b in lake.covered) > 2 * DAY_US
        async with MarketData(settings(venue)) as data:
            await download(data, lake, SINCE, UNTIL, clock=CLOCK)
    assert same_as_the_tape(lake) and lake.covered == ((SINCE, UNTIL),)
