"""The feed: frames to typed events, alone and over loopback; deltas into a book; pages of trades to a tape.

    python research/benchmarks/stream.py [FRAMES.jsonl] [--only events,book,loopback,page] [--frames 300000]

Each has a floor in the same run: a bare decode, a bare dict, a bare loop of `websockets` and `msgspec`.  Over loopback,
the frames come from a separate process that has prepared them, so that the client is the bottleneck.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import msgspec
import polars as pl
from websockets.asyncio.client import connect

import kalshilab as kl
from kalshilab.exchange.server.websocket import framed
from kalshilab.kalshi.rest.history import RawTradePage
from kalshilab.kalshi.stream.client import Stream
from kalshilab.kalshi.stream.events import BookDelta, Subscribed
from kalshilab.kalshi.stream.protocol import StreamProtocol
from kalshilab.market.book import Book

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ROUNDS = 3
LAST = b'{"type":"last","sid":1,"msg":{}}'
"""The last frame, of an unknown type."""


def made(n: int = 40_000) -> list[bytes]:
    return [
        json.dumps(
            {
                "type": "orderbook_delta", "sid": 1, "seq": i + 1, "sending_ts_ms": 1_795_329_000_101,
                "msg": {
                    "market_ticker": "KXHIGHNY-26NOV22-B52.5", "market_id": "9b0f6b43-5b68-4f9f-9f02-9a2d1b8ac1a1",
                    "clock": i, "price_dollars": f"0.{4000 + i % 500:04d}", "delta_fp": f"{1 + i % 90}.00", "side": "yes",
                    "ts_ms": 1_795_329_000_900,
                },
            }
        ).encode()
        for i in range(n)
    ]  # fmt: skip


def rate(work: Callable[[], object], n: int) -> float:
    """Return millions of items per second, in the fastest of five runs."""
    fastest = float("inf")
    for _ in range(5):
        began = perf_counter()
        work()
        fastest = min(fastest, perf_counter() - began)
    return n / fastest / 1e6


def events(frames: list[bytes]) -> None:
    decoder = msgspec.json.Decoder()

    def bare() -> None:
        for frame in frames:
            decoder.decode(frame)

    def typed() -> None:
        protocol = StreamProtocol(lambda event: None)
        for frame in frames:
            protocol.receive(frame)

    floor, ours = rate(bare, len(frames)), rate(typed, len(frames))
    print(
        f"frame to typed event: {ours:.2f} M/s, {ours / floor:.2f} x a bare untyped decode ({floor:.2f} M/s)"
    )


def books(frames: list[bytes]) -> None:
    deltas: list[BookDelta] = []
    protocol = StreamProtocol(lambda e: deltas.append(e) if isinstance(e, BookDelta) else None)
    for frame in frames:
        protocol.receive(frame)
    changes = [(e.side, e.price, abs(e.delta)) for e in deltas]

    def book() -> None:
        b = Book()
        apply = b.apply
        for side, price, delta in changes:
            apply(side, price, delta)
            _ = b.best_yes_bid

    def dictionary() -> None:
        d: dict[int, int] = {}
        for _, price, delta in changes:
            d[price] = d.get(price, 0) + delta

    mine, plain = rate(book, len(changes)), rate(dictionary, len(changes))
    print(
        f"delta applied and best bid read: {mine:.2f} M/s, {mine / plain:.2f} x a bare dict ({plain:.2f} M/s)"
    )


# Over loopback


async def serving(count: int) -> None:
    """Serve a WebSocket that sends the same frames after any message; the first output line is its port."""
    frames = made(count)
    ack = b'{"id":1,"type":"subscribed","msg":{"channel":"orderbook_delta","sid":1}}'
    chunks = [framed([ack])] + [framed(frames[n : n + 500]) for n in range(0, count, 500)] + [framed([LAST])]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(x.split(":")[1].strip() for x in head.split("\r\n") if x.lower().startswith("sec-websocket-key"))  # fmt: skip
        accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
        writer.write(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        await reader.read(10)
        try:
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
            await reader.read()
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def bare_loop(url: str) -> float:
    """Return the frames per second of the simplest client."""
    decode, count = msgspec.json.Decoder().decode, 0
    async with connect(url, proxy=None, compression=None, max_size=None, max_queue=(4096, 1024)) as socket:
        await socket.send('{"id":1,"cmd":"subscribe"}')
        await socket.recv()
        began = perf_counter()
        while decode(await socket.recv(decode=False))["type"] != "last":
            count += 1
        return count / (perf_counter() - began)


async def our_stream(url: str, fast: bool = False) -> float:
    """Return the frames per second, each delivered to a handler as a typed event."""
    stream, count, total = Stream(url, None, fast=fast), 0, FRAMES
    stream.add_markets("orderbook_delta", ["KXHIGHNY-26NOV22-B52.5"])
    began = taken = 0.0
    done = asyncio.Event()

    def handler(event: object) -> None:
        nonlocal count, began, taken
        if type(event) is BookDelta:
            count += 1
            if count == total:
                taken = perf_counter() - began
                done.set()
        elif type(event) is Subscribed:
            began = perf_counter()

    task = asyncio.create_task(stream.run(handler))
    await done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return count / taken


FRAMES = 300_000


def loopback() -> None:
    command = [sys.executable, __file__, "--part", "serve", "--frames", str(FRAMES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f"ws://127.0.0.1:{int(process.stdout.readline())}/trade-api/ws/v2"
        try:
            floor = ours = fast = 0.0
            for _ in range(ROUNDS):
                floor, ours = max(floor, asyncio.run(bare_loop(url))), max(ours, asyncio.run(our_stream(url)))
                if importlib.util.find_spec("picows") is not None:
                    fast = max(fast, asyncio.run(our_stream(url, fast=True)))
        finally:
            process.kill()
    for name, found in (("", ours), (" with the extra `fast`", fast)):
        if found:
            print(
                f"over loopback{name}: {found:,.0f} frames/s as typed events, {found / floor:.2f} x a bare websockets "
                f"and msgspec loop ({floor:,.0f}/s)"
            )


# Over REST


def page() -> None:
    """Measure the conversion of raw pages of trades to a tape."""
    each, pages = 1_000, 20
    rows = each * pages
    prints = [
        {
            "trade_id": f"d91bc706-ee49-470d-82d8-{n:012d}", "ticker": f"KXHIGHNY-26NOV22-B{n % 40}", "count_fp": f"{1 + n % 90}.50",
            "yes_price_dollars": f"0.{1000 + n % 8000:04d}", "no_price_dollars": f"0.{9000 - n % 8000:04d}",
            "taker_outcome_side": "yes" if n % 3 else "no", "taker_book_side": "bid" if n % 3 else "ask",
            "taker_side": "yes" if n % 3 else "no", "created_time": f"2026-11-22T{23 - n // 3600:02d}:{59 - n // 60 % 60:02d}:{59 - n % 60:02d}.609997Z",
            "is_block_trade": False,
        }
        for n in range(rows)
    ]  # fmt: skip
    bodies = [
        json.dumps({"trades": prints[n : n + each], "cursor": "x"}).encode() for n in range(0, rows, each)
    ]

    def ours() -> int:
        columns = [RawTradePage.decode(body).columns() for body in bodies]
        whole = {name: [v for c in reversed(columns) for v in reversed(c[name])] for name in columns[0]}
        return kl.to_tape(pl.DataFrame(whole)).height

    def bare() -> None:
        for body in bodies:
            msgspec.json.decode(body)

    assert ours() == rows
    mine, floor = rate(ours, rows), rate(bare, rows)
    print(
        f"pages of prints to a tape: {mine * 1e6:,.0f} rows/s, {mine / floor:.2f} x a bare untyped decode ({floor * 1e6:,.0f}/s)"
    )


def main() -> None:
    global FRAMES
    parser = argparse.ArgumentParser()
    parser.add_argument("recorded", nargs="?")
    parser.add_argument("--only", default="events,book,loopback,page")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    FRAMES = options.frames // 1_000 * 1_000
    if options.part:
        asyncio.run(serving(FRAMES))
        return
    frames = made()
    if options.recorded:
        lines = Path(options.recorded).read_text().splitlines()
        frames = [json.dumps(json.loads(line)["frame"]).encode() for line in lines]
    only = set(options.only.split(","))
    if "events" in only:
        events(frames)
    if "book" in only:
        books(frames)
    if "loopback" in only:
        loopback()
    if "page" in only:
        page()


if __name__ == "__main__":
    main()
