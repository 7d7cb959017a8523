"""Stream against a server on loopback: reconnection, growing waits, detection of silence, and the rule for hosts.

Every test runs over both transports.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from kalshilab.clock import WallClock
from kalshilab.errors import FeedLost, HostRefused, ProtocolError
from kalshilab.kalshi.auth import Signer, Verifier, generate_key
from kalshilab.kalshi.stream.client import Connected, Disconnected, Stream, backoff
from kalshilab.kalshi.stream.protocol import FeedGap, Rejected, Subscribed
from kalshilab.market.model import Trade

PATH = "/trade-api/ws/v2"
TRADE = {
    "market_ticker": "M",
    "yes_price_dollars": "0.4400",
    "count_fp": "4.00",
    "taker_side": "yes",
    "ts_ms": 7,
}
Behaviour = Callable[["Server", ServerConnection], Awaitable[None]]


@pytest.fixture(autouse=True, params=[False, True], ids=["websockets", "picows"])
def kind_of_socket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test over both transports."""
    monkeypatch.setitem(globals(), "Stream", partial(STREAM, fast=request.param))


STREAM = Stream


class FastClock(WallClock):
    """Machine time whose sleeps are recorded and a thousand times shorter; `now` never repeats an instant."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._last = 0

    def now(self) -> int:
        self._last = max(super().now(), self._last + 1000)
        return self._last

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(seconds / 1000)


class HurriedClock(FastClock):
    """A clock that runs a thousand times faster than the machine's, so that a long silence passes at once.

    The answer to a ping is awaited in machine time: with `silence_s` 60, a busy machine has 30 seconds for it.
    """

    def now(self) -> int:
        return super().now() * 1000


class Server:
    """A WebSocket server that runs one behaviour per connection, the last one for all that follow."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = behaviours
        self.handshakes: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.commands: list[list[dict[str, Any]]] = []
        self.answer: Response | None = None
        self.url = ""
        self.done = asyncio.Event()

    def look(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes.append({k.upper(): v for k, v in request.headers.raw_items()})
        self.paths.append(request.path)
        return self.answer

    async def handle(self, socket: ServerConnection) -> None:
        self.commands.append([])
        turn = len(self.commands) - 1
        with suppress(Exception):
            await self.behaviours[min(turn, len(self.behaviours) - 1)](self, socket)

    async def confirm(self, socket: ServerConnection, count: int = 1) -> None:
        """Receive `count` commands and confirm each channel of a subscription."""
        for _ in range(count):
            command = json.loads(await socket.recv())
            self.commands[-1].append(command)
            for n, channel in enumerate(command["params"].get("channels", [])):
                msg = {"channel": channel, "sid": 10 * command["id"] + n}
                await socket.send(json.dumps({"id": command["id"], "type": "subscribed", "msg": msg}))


@asynccontextmanager
async def running(*behaviours: Behaviour) -> AsyncIterator[Server]:
    server = Server(*behaviours)
    async with serve(
        server.handle, "127.0.0.1", 0, process_request=server.look, ping_interval=None, close_timeout=0.2
    ) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        server.url = f"ws://127.0.0.1:{port}{PATH}"
        try:
            yield server
        finally:
            server.done.set()


@asynccontextmanager
async def streaming(stream: Stream, handler: Callable[[Any], None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(stream.run(handler))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def stay(server: Server, socket: ServerConnection) -> None:
    await server.confirm(socket)
    await socket.wait_closed()


async def confirm_and_go(server: Server, socket: ServerConnection) -> None:
    await server.confirm(socket)


async def go(server: Server, socket: ServerConnection) -> None:
    return


def of(kind: type, events: list[Any]) -> list[Any]:
    return [e for e in events if isinstance(e, kind)]


def test_waits_double_up_to_a_minute() -> None:
    assert [backoff(n) for n in (1, 2, 3, 6, 7, 8, 500)] == [1, 2, 4, 32, 60, 60, 60]


async def test_events_arrive_in_order_and_are_counted() -> None:
    async def play(server: Server, socket: ServerConnection) -> None:
        await server.confirm(socket)
        for seq in range(1, 501):
            await socket.send(
                json.dumps({"type": "trade", "sid": 10, "seq": seq, "msg": TRADE | {"trade_id": str(seq)}})
            )
        await socket.wait_closed()

    events: list[Any] = []
    async with running(play) as server:
        stream = Stream(server.url, None)
        stream.subscribe("trade")
        async with streaming(stream, events.append):
            await until(lambda: stream.frames_received == 501)
            assert "open" in repr(stream)
    assert [type(e) for e in events[:2]] == [Connected, Subscribed] and events[0] == Connected(1)
    assert [t.trade_id for t in of(Trade, events)] == [str(n) for n in range(1, 501)]
    assert not of(FeedGap, events) and stream.last_frame > 0


async def test_every_handshake_has_a_new_signature() -> None:
    pem, public = generate_key("rsa")
    verifier = Verifier(public)
    async with running(confirm_and_go, confirm_and_go, stay) as server:
        stream = Stream(server.url, Signer.from_pem("key-1", pem.decode()), clock=FastClock())
        stream.subscribe("trade")
        async with streaming(stream, lambda event: None):
            await until(lambda: len(server.commands) == 3 and server.commands[2])
    assert len(server.handshakes) == 3 and set(server.paths) == {PATH}
    for headers in server.handshakes:
        assert headers["KALSHI-ACCESS-KEY"] == "key-1" and verifier.verify(headers, "GET", PATH)
    assert len({h["KALSHI-ACCESS-TIMESTAMP"] for h in server.handshakes}) == 3
    assert len({h["KALSHI-ACCESS-SIGNATURE"] for h in server.handshakes}) == 3


async def test_a_new_connection_subscribes_to_everything_again() -> None:
    async def first(server: Server, socket: ServerConnection) -> None:
        await server.confirm(socket, 4)  # channels, books, one more market, one less

    async def second(server: Server, socket: ServerConnection) -> None:
        await server.confirm(socket, 2)
        await socket.wait_closed()

    events: list[Any] = []
    async with running(first, second) as server:
        stream = Stream(server.url, None, clock=FastClock())
        stream.subscribe("trade", "fill")
        stream.subscribe("trade")
        stream.add_markets("orderbook_delta", ["A", "B"])
        async with streaming(stream, events.append):
            await until(lambda: len(of(Subscribed, events)) == 3)
            stream.add_markets("orderbook_delta", ["C", "A"])
            stream.delete_markets("orderbook_delta", ["B", "Z"])
            await until(lambda: len(server.commands) == 2 and len(server.commands[1]) == 2)
    asked = [c["params"] for c in server.commands[0]]
    assert asked[0] == {"channels": ["trade", "fill"]}
    assert asked[1] == {
        "channels": ["orderbook_delta"],
        "market_tickers": ["A", "B"],
        "skip_ticker_ack": True,
    }
    assert (asked[2]["action"], asked[2]["market_tickers"]) == ("add_markets", ["C"])
    assert (asked[3]["action"], asked[3]["market_tickers"]) == ("delete_markets", ["B"])
    again = [c["params"] for c in server.commands[1]]
    assert again == [
        {"channels": ["trade", "fill"]},
        {"channels": ["orderbook_delta"], "market_tickers": ["A", "C"], "skip_ticker_ack": True},
    ]
    assert [c["id"] for c in server.commands[1]] == [1, 2]
    assert of(Connected, events) == [Connected(1), Connected(2)]


async def test_a_channel_can_be_subscribed_while_the_stream_runs() -> None:
    async def two(server: Server, socket: ServerConnection) -> None:
        await server.confirm(socket, 2)
        await socket.wait_closed()

    events: list[Any] = []
    async with running(two) as server:
        stream = Stream(server.url, None)
        stream.subscribe("trade")
        async with streaming(stream, events.append):
            await until(lambda: of(Subscribed, events))
            stream.subscribe("ticker", "trade")
            await until(lambda: len(of(Subscribed, events)) == 2)
    assert [e.channel for e in of(Subscribed, events)] == ["trade", "ticker"]


async def test_a_gap_requests_snapshots() -> None:
    async def lossy(server: Server, socket: ServerConnection) -> None:
        await server.confirm(socket)
        await socket.send(
            json.dumps({"type": "orderbook_snapshot", "sid": 10, "seq": 1, "msg": {"market_ticker": "A"}})
        )
        await socket.send(json.dumps({"type": "ok", "sid": 10, "seq": 5}))
        await server.confirm(socket)
        await socket.wait_closed()

    events: list[Any] = []
    async with running(lossy) as server:
        stream = Stream(server.url, None)
        stream.add_markets("orderbook_delta", ["A"])
        async with streaming(stream, events.append):
            await until(lambda: len(server.commands[0]) == 2 if server.commands else False)
    assert of(FeedGap, events) == [FeedGap(10, "orderbook_delta", ("A",), 2, 5)]
    assert server.commands[0][1]["params"] == {
        "sids": [10],
        "action": "get_snapshot",
        "market_tickers": ["A"],
    }


async def test_waits_grow_until_a_subscription_is_confirmed() -> None:
    clock, events = FastClock(), list[Any]()
    async with running(go, go, go, confirm_and_go, go, confirm_and_go, stay) as server:
        stream = Stream(server.url, None, clock=clock, max_attempts=None)
        stream.subscribe("trade")
        async with streaming(stream, events.append):
            await until(lambda: len(of(Subscribed, events)) == 3)
    delays = [e.delay_s for e in of(Disconnected, events)]
    assert delays == [1, 2, 4, 1, 2, 1]
    assert [s for s in clock.slept if s != 15] == delays
    assert stream.failures == 0


async def test_the_stream_gives_up_after_max_attempts() -> None:
    clock, events = FastClock(), list[Any]()
    stream = Stream(f"ws://127.0.0.1:9{PATH}", None, clock=clock, max_attempts=9)
    stream.subscribe("trade")
    with pytest.raises(FeedLost) as caught:
        await asyncio.wait_for(stream.run(events.append), 60)
    assert clock.slept == [e.delay_s for e in events] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert caught.value.attempts == 9 and caught.value.reason and "127.0.0.1:9" in caught.value.url


async def test_a_refused_handshake_counts_as_a_failure() -> None:
    events: list[Any] = []
    async with running(stay) as server:
        server.answer = Response(401, "Unauthorized", Headers(), b"")
        stream = Stream(server.url, None, clock=FastClock(), max_attempts=3)
        with pytest.raises(FeedLost, match="401"):
            await asyncio.wait_for(stream.run(events.append), 60)
    assert len(server.handshakes) == 3 and not of(Connected, events)


async def test_a_server_that_hangs_is_disconnected() -> None:
    async def hang(server: Server, socket: ServerConnection) -> None:
        await server.confirm(socket)
        socket.transport.pause_reading()  # a half-open connection: no more pongs
        await server.done.wait()
        socket.transport.abort()

    events: list[Any] = []
    async with running(hang, stay) as server:
        stream = Stream(server.url, None, silence_s=0.2)
        stream.subscribe("trade")
        async with streaming(stream, events.append):
            await until(lambda: of(Disconnected, events))
            await until(lambda: len(of(Connected, events)) == 2)
    assert of(Disconnected, events)[0].reason


async def test_the_reason_of_a_silent_connection_is_silence() -> None:
    async def hang(server: Server, socket: ServerConnection) -> None:
        await server.confirm(socket)
        socket.transport.pause_reading()
        await server.done.wait()
        socket.transport.abort()

    events: list[Any] = []
    async with running(hang, stay) as server:
        stream = Stream(server.url, None, silence_s=0.2)
        stream.subscribe("trade")
        async with streaming(stream, events.append):
            await until(lambda: of(Disconnected, events))
    assert "silent" in of(Disconnected, events)[0].reason


async def test_a_quiet_server_that_answers_pings_stays_connected() -> None:
    events: list[Any] = []
    async with running(stay) as server:
        clock = HurriedClock()
        stream = Stream(server.url, None, silence_s=60, clock=clock)
        stream.subscribe("trade")
        async with streaming(stream, events.append):
            # The watch sleeps half the silence before each look.
            await until(lambda: len(clock.slept) >= 10)
    assert not of(Disconnected, events) and len(server.handshakes) == 1


async def test_the_watch_is_cancelled_even_if_a_pong_arrives_at_the_same_time() -> None:
    """Check that a cancellation is not lost; closing the stream would otherwise wait for ever."""
    pong = asyncio.get_running_loop().create_future()

    class Silent:
        async def ping(self) -> asyncio.Future[float]:
            asked.set()
            return pong

    asked = asyncio.Event()
    stream = Stream("ws://127.0.0.1:1", None, silence_s=60, clock=HurriedClock())
    watch = asyncio.create_task(stream._watch(Silent()))  # type: ignore[arg-type]
    await asked.wait()
    await asyncio.sleep(0)
    pong.set_result(0.001)
    watch.cancel()
    await asyncio.wait([watch], timeout=60)
    assert watch.cancelled()


async def test_repeated_invalid_frames_end_the_stream() -> None:
    async def noise(server: Server, socket: ServerConnection) -> None:
        await server.confirm(socket)
        await socket.send("nonsense")
        await socket.wait_closed()

    async with running(noise) as server:
        stream = Stream(server.url, None)
        stream.subscribe("trade")
        with pytest.raises(ProtocolError, match="nonsense"):
            await asyncio.wait_for(stream.run(lambda event: None), 60)


async def test_a_refused_command_is_reported() -> None:
    async def refuse(server: Server, socket: ServerConnection) -> None:
        command = json.loads(await socket.recv())
        await socket.send(
            json.dumps(
                {"id": command["id"], "type": "error", "msg": {"code": 8, "msg": "Unknown channel name"}}
            )
        )
        await socket.wait_closed()

    events: list[Any] = []
    async with running(refuse) as server:
        stream = Stream(server.url, None)
        stream.subscribe("nonsense")
        async with streaming(stream, events.append):
            await until(lambda: of(Rejected, events))
    assert of(Rejected, events) == [Rejected(8, "Unknown channel name", 1)]


class Bug(Exception):
    """An error of a handler."""


async def test_an_error_of_the_handler_ends_the_stream() -> None:
    def handler(event: Any) -> None:
        if isinstance(event, Subscribed):
            raise Bug

    async with running(stay) as server:
        stream = Stream(server.url, None)
        stream.subscribe("trade")
        with pytest.raises(Bug):
            await asyncio.wait_for(stream.run(handler), 60)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), TimeoutError()], ids=repr)
async def test_an_os_error_of_the_handler_is_not_a_lost_connection(error: Exception) -> None:
    def handler(event: Any) -> None:
        if isinstance(event, Subscribed):
            raise error

    async with running(stay) as server:
        stream = Stream(server.url, None, clock=FastClock(), max_attempts=3)
        stream.subscribe("trade")
        with pytest.raises(type(error)):
            await asyncio.wait_for(stream.run(handler), 60)
        assert len(server.handshakes) == 1


@pytest.mark.parametrize(
    "url",
    ["ws://evil.com/trade-api/ws/v2", "ws://demo-api.kalshi.co/trade-api/ws/v2", "wss://demo-api.kalshi.co.evil.com/", "wss://demo-api.kalshi.co:444/",
     "ws://0.0.0.0:80/", "wss://user@demo-api.kalshi.co/trade-api/ws/v2"],
)  # fmt: skip
def test_addresses_of_other_hosts_are_refused(url: str) -> None:
    with pytest.raises(HostRefused):
        Stream(url, None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    pem, _ = generate_key("ed25519")
    async with running(stay) as other, running(stay) as server:
        server.answer = Response(status, "Moved", Headers({"Location": other.url}), b"")
        stream = Stream(server.url, Signer.from_pem("k", pem.decode()), clock=FastClock(), max_attempts=2)
        async with streaming(stream, lambda event: None) as task:
            await until(lambda: task.done() or other.handshakes)
        assert [h.get("KALSHI-ACCESS-KEY") for h in other.handshakes] == []
        assert isinstance(task.exception(), FeedLost)


async def test_the_stream_reconnects_after_a_redirect() -> None:
    async with running(stay) as server:
        server.answer = Response(302, "Found", Headers({"Location": "http://127.0.0.1:1/maintenance"}), b"")
        stream = Stream(server.url, None, clock=FastClock(), max_attempts=None)
        events: list[Any] = []
        stream.subscribe("trade")
        async with streaming(stream, events.append):
            await until(lambda: len(server.handshakes) >= 3)
            server.answer = None
            await until(lambda: of(Connected, events))
        assert "redirects are not followed" in of(Disconnected, events)[0].reason


def test_the_old_keyword_silence_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="the keyword 'silence' is now 'silence_s'"):
        assert Stream("ws://127.0.0.1:1", None, silence=5)._silence_s == 5  # type: ignore[call-arg]


def test_the_old_field_delay_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="Disconnected.delay is now Disconnected.delay_s"):
        assert Disconnected("lost", 2.0).delay == 2.0
