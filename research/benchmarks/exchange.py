"""The local exchange: its core alone, frames to one subscriber, orders over HTTP, and memory over time.

    python research/benchmarks/exchange.py [--only core,frames,orders,memory] [--minutes 10]

The exchange runs in a separate process.  The load comes from this one, over loopback, from bare sockets with minimal
work, so that the exchange is the bottleneck.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import kalshilab as kl
from kalshilab.exchange import Exchange
from kalshilab.tape import synth

MARKETS = 1_000
ORDERS = "/trade-api/v2/portfolio/events/orders"
STREAM = "/trade-api/ws/v2"
CHANNELS = ("trade", "ticker", "orderbook_delta")


def made_tape(each: int) -> tuple[Any, Any]:
    """Return a tape of a thousand markets with about `each` trades, nearly all open at the same time."""
    recipe = synth.Recipe(
        prints_log_median=float(np.log(each)),
        prints_log_sd=0.2,
        span_days=0.02,
        life_log_median_days=float(np.log(1.5)),
    )
    return synth.make(MARKETS, np.random.default_rng(1), recipe)


def subscriptions(tickers: list[str], channels: tuple[str, ...] = CHANNELS) -> Iterator[str]:
    for number, channel in enumerate(channels, 1):
        params = {"channels": [channel], "market_tickers": tickers}
        yield json.dumps({"id": number, "cmd": "subscribe", "params": params})


# In this process: the core


def core(channels: tuple[str, ...]) -> tuple[float, float]:
    """Return trades and frames per second, with one subscriber of these channels of all markets."""
    exchange = Exchange(*made_tape(100))
    connection = exchange.hub.connect()
    while len(exchange.listings) < MARKETS and exchange.step():
        pass
    for command in subscriptions([x.facts.ticker for x in exchange.listings], channels):
        connection.receive(command)
    before, frames, began = exchange.prints_played, exchange.hub.frames, perf_counter()
    while exchange.step():
        if len(connection.outbox) > 1000:
            connection.take()
    taken = perf_counter() - began
    return (exchange.prints_played - before) / taken, (exchange.hub.frames - frames) / taken


# In a separate process: the exchange, served


class Gate:
    """A pace that holds the tape until a line arrives on standard input."""

    def __init__(self) -> None:
        self._open = False

    async def step(self, ts: int) -> None:
        if not self._open:
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            self._open = True
        elif ts % 16 == 0:
            await asyncio.sleep(0)


def memory() -> float:
    """Return the current memory of this process in MB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


async def serving(each: int, hold: bool, speed: float | str, key: Any) -> None:
    """Serve until standard input ends; the first output line has the address."""
    exchange = Exchange(*made_tape(each), balance_money_units=kl.dollars(100_000_000))
    while len(exchange.listings) < MARKETS or exchange.prints_played < MARKETS:
        exchange.step()
    options: dict[str, Any] = {"pace": Gate()} if hold else {"speed": speed}
    async with kl.serve(exchange, key_kind=key, **options) as venue:
        tickers = [x.facts.ticker for x in exchange.listings if x.status == "active"]
        facts = {"rest": venue.rest, "key_id": venue.key_id, "key": str(venue.private_key_path)}
        print(json.dumps(facts | {"tickers": tickers}), flush=True)
        before = venue.frames_sent
        if hold:
            await venue.finished.wait()
            print(json.dumps({"frames": venue.frames_sent - before, "prints": exchange.prints_played}), flush=True)  # fmt: skip
        while await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
            print(json.dumps({"memory": memory(), "frames": venue.frames_sent}), flush=True)


@contextmanager
def exchange_process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, __file__, "--part", "serve", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


# The load


def signer(facts: dict[str, Any]) -> Callable[[str, str], str]:
    key: Any = load_pem_private_key(Path(facts["key"]).read_bytes(), None)

    def headers(method: str, path: str) -> str:
        stamp = str(time_ns() // 1_000_000)
        signature = base64.b64encode(key.sign(f"{stamp}{method}{path}".encode())).decode()
        return (
            f"KALSHI-ACCESS-KEY: {facts['key_id']}\r\nKALSHI-ACCESS-TIMESTAMP: {stamp}\r\n"
            f"KALSHI-ACCESS-SIGNATURE: {signature}\r\n"
        )

    return headers


def connected(facts: dict[str, Any]) -> socket.socket:
    host, port = facts["rest"].split("//")[1].split("/")[0].split(":")
    link = socket.create_connection((host, int(port)))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def subscriber(facts: dict[str, Any]) -> socket.socket:
    """Return a WebSocket that has subscribed to every channel."""
    link = connected(facts)
    link.sendall(
        (
            f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
            + signer(facts)("GET", STREAM)
            + "\r\n"
        ).encode()
    )
    answer = link.recv(65_536)
    assert b" 101 " in answer[:20], answer
    for command in subscriptions(facts["tickers"]):
        data = command.encode()
        # A mask of zeros is valid.
        length = len(data)
        head = (
            bytes((0x81, 0x80 | 126)) + length.to_bytes(2, "big")
            if length < 65_536
            else bytes((0x81, 0x80 | 127)) + length.to_bytes(8, "big")
        )
        link.sendall(head + bytes(4) + data)
    return link


def frames(each: int) -> dict[str, float]:
    """Measure frames per second to one subscriber of all channels of a thousand markets, at speed "max"."""
    with exchange_process("--each", str(each), "--hold") as (process, facts):
        assert process.stdin is not None and process.stdout is not None
        link = subscriber(facts)
        link.settimeout(2.0)
        received, buffer = 0, bytearray(1 << 20)
        # Read snapshots and acknowledgements first, so that they are not counted.
        try:
            while link.recv_into(buffer):
                pass
        except TimeoutError:
            pass
        process.stdin.write("go\n")
        process.stdin.flush()
        began = last = perf_counter()
        try:
            while size := link.recv_into(buffer):
                received += buffer.count(b'{"type":"', 0, size)
                last = perf_counter()
        except TimeoutError:
            pass
        totals = json.loads(process.stdout.readline())
        taken = last - began
        return {"sent": totals["frames"], "received": received, "rate": totals["frames"] / taken, "prints": totals["prints"] / taken}  # fmt: skip


def orders(count: int, lanes: int) -> float:
    """Return the accepted resting limit orders per second, over `lanes` persistent connections."""
    with exchange_process("--each", "40", "--hold") as (_, facts):
        headers, tickers = signer(facts), facts["tickers"]
        per = count // lanes
        payloads = []
        for lane in range(lanes):
            requests = []
            for n in range(per):
                body = json.dumps(
                    {
                        "ticker": tickers[n % len(tickers)], "client_order_id": f"lane-{lane}-{n}", "side": "bid",
                        "count": "1.00", "price": "0.0100", "time_in_force": "good_till_canceled",
                        "self_trade_prevention_type": "taker_at_cross",
                    }
                )  # fmt: skip
                requests.append(
                    (
                        f"POST {ORDERS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        f"Content-Length: {len(body)}\r\n{headers('POST', ORDERS)}\r\n{body}"
                    ).encode()
                )
            payloads.append(requests)
        accepted = [0] * lanes

        def run(lane: int) -> None:
            link = connected(facts)
            for payload in payloads[lane]:
                link.sendall(payload)
                answer = link.recv(65_536)
                accepted[lane] += answer.startswith(b"HTTP/1.1 201")
            link.close()

        threads = [threading.Thread(target=run, args=(lane,)) for lane in range(lanes)]
        began = perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = perf_counter() - began
        assert sum(accepted) == per * lanes, f"{per * lanes - sum(accepted)} orders were refused"
        return per * lanes / taken


def over_time(minutes: float) -> list[float]:
    """Return the memory of the exchange in MB at twenty times of a long tape, with one subscriber."""
    with exchange_process("--each", "3000", "--speed", "120") as (process, facts):
        assert process.stdin is not None and process.stdout is not None
        link = subscriber(facts)
        ended = threading.Event()

        def drain() -> None:
            buffer = bytearray(1 << 20)
            link.settimeout(0.5)
            while not ended.is_set():
                try:
                    if not link.recv_into(buffer):
                        return
                except TimeoutError:
                    continue

        thread = threading.Thread(target=drain)
        thread.start()
        found = []
        try:
            for _ in range(20):
                ended.wait(minutes * 3)
                process.stdin.write("how\n")
                process.stdin.flush()
                found.append(json.loads(process.stdout.readline())["memory"])
        finally:
            ended.set()
            thread.join()
        return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="core,frames,orders")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--each", type=int, default=100, help=argparse.SUPPRESS)
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--speed", type=float, default=60.0, help=argparse.SUPPRESS)
    parser.add_argument("--key", default="ed25519", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        asyncio.run(serving(options.each, options.hold, options.speed, options.key))
        return
    only = set(options.only.split(","))
    if "core" in only:
        (alone, _), (booked, _), (subscribed, sent) = core(()), core(("orderbook_delta",)), core(CHANNELS)
        print(
            f"core, {MARKETS:,} markets: {alone:,.0f} prints/s without a subscriber; {booked:,.0f} prints/s with a subscriber "
            f"of all books; {subscribed:,.0f} prints/s and {sent:,.0f} frames/s with one of books, prints and tickers"
        )
    if "frames" in only:
        f = frames(100)
        print(
            f"served: {f['rate']:,.0f} frames/s to one subscriber ({f['sent']:,.0f} sent, {f['received']:,.0f} counted on "
            f"arrival), {f['prints']:,.0f} prints/s"
        )
    if "orders" in only:
        print("orders accepted over HTTP: " + ", ".join(f"{orders(4000, n):,.0f}/s over {n}" for n in (1, 8)) + " connections")  # fmt: skip
    if "memory" in only:
        found = over_time(options.minutes)
        print(f"memory over {options.minutes:g} minutes: " + " ".join(f"{m:.0f}" for m in found) + " MB")


if __name__ == "__main__":
    main()
