"""Feeds against a server on loopback: events in order, and the breaks before which some may be missing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import FeedLost
from kalshilab.kalshi.auth import generate_key
from kalshilab.kalshi.stream.feeds import TradeFeed


class FastClock(WallClock):
    """Machine time whose sleeps are a hundred times shorter."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 100)


def trade(seq: int, ticker: str, **changes: Any) -> str:
    msg = {
        "market_ticker": ticker,
        "yes_price_dollars": "0.4400",
        "count_fp": "4.00",
        "taker_side": "yes",
        "ts_ms": 7,
    }
    return json.dumps({"type": "trade", "sid": 1, "seq": seq, "msg": msg | changes})  # fmt: skip


def settings(url: str, attempts: int) -> Settings:
    pem, _ = generate_key("ed25519")
    return Settings(env={}, env_file=None, ws_url=url, key_id="k", private_key=pem.decode(), reconnect_attempts=attempts)  # fmt: skip


async def play(
    *connections: list[str], tickers: tuple[str, ...] = ()
) -> tuple[TradeFeed, list[str], list[Any]]:
    """Run a feed over connections that each send frames and close, until it gives up.

    Returns:
        The feed, the tickers of its events, and the commands that the server received.
    """
    commands: list[Any] = []

    async def handle(socket: ServerConnection) -> None:
        command = json.loads(await socket.recv())
        commands.append(command["params"])
        msg = {"channel": "trade", "sid": 1}
        await socket.send(json.dumps({"id": command["id"], "type": "subscribed", "msg": msg}))
        for frame in connections[len(commands) - 1] if len(commands) <= len(connections) else ():
            await socket.send(frame)
        if len(commands) >= len(connections):
            server.close(close_connections=False)

    tickers_received: list[str] = []
    async with serve(handle, "127.0.0.1", 0, close_timeout=0.2) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        url = f"ws://127.0.0.1:{port}/trade-api/ws/v2"
        async with TradeFeed(settings(url, 3), tickers, clock=FastClock()) as feed:
            with pytest.raises(FeedLost):
                async for event in feed:
                    tickers_received.append(event.ticker)  # noqa: PERF401 (events before the error count)
    return feed, tickers_received, commands


async def test_the_first_connection_is_a_break_before_the_first_event() -> None:
    feed, tickers_received, commands = await play([trade(1, "A"), trade(2, "B")])
    assert tickers_received == ["A", "B"] and feed.breaks == (0,) and feed.tickers == ()
    assert commands == [{"channels": ["trade"]}]


async def test_a_new_connection_is_a_break() -> None:
    feed, tickers_received, _ = await play([trade(1, "A"), trade(2, "B")], [trade(1, "C")], [])
    assert tickers_received == ["A", "B", "C"]
    assert feed.breaks == (0, 2, 3) and feed.stats.reconnects == 2


async def test_a_sequence_gap_is_a_break_before_the_event_that_reveals_it() -> None:
    feed, tickers_received, _ = await play([trade(1, "A"), trade(3, "B"), trade(4, "C")])
    assert tickers_received == ["A", "B", "C"]
    assert feed.breaks == (0, 1) and feed.stats.gaps == 1


async def test_trades_without_a_taker_are_counted_over_all_connections() -> None:
    nobody = {"taker_side": ""}
    feed, tickers_received, _ = await play(
        [trade(1, "A", **nobody)], [trade(1, "B"), trade(2, "C", **nobody)]
    )
    assert tickers_received == ["B"] and feed.stats.undirected == 2


async def test_a_feed_of_some_markets_subscribes_to_these_only() -> None:
    feed, _, commands = await play([trade(1, "A")], tickers=("A", "B"))
    assert feed.tickers == ("A", "B") and commands[0]["market_tickers"] == ["A", "B"]
