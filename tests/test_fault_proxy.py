"""The fault proxy: each fault has the effect that its name promises, and without faults nothing changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fault_proxy import FaultProxy
from fault_schedule import INSTANTS, KINDS, ONCE, WINDOWS, Fault, random_faults
from wire_bytes import frame_type, page, read_answer

PATH = "/trade-api/v2/portfolio/orders"
UPGRADE = b"GET /trade-api/ws/v2 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


class Backend:
    """A small exchange: it counts requests, answers each with its number, and sends the frames of a feed.

    Attributes:
        status: the status of its answers.
        arrived: the bodies of the requests that arrived.
        frames: messages to send on each feed.
    """

    def __init__(self) -> None:
        self.status = 200
        self.arrived: list[str] = []
        self.frames: list[bytes] = []
        self.more = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b"Upgrade" in head:
                    await self._feed(writer)
                    break
                length = next(
                    int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.startswith(b"content-length")
                )
                self.arrived.append((await reader.readexactly(length)).decode())
                body = f'{{"number":{len(self.arrived)}}}'.encode()
                writer.write(
                    b"HTTP/1.1 %d OK\r\ncontent-length: %d\r\n\r\n%b" % (self.status, len(body), body)
                )
        except (asyncio.IncompleteReadError, OSError):
            # The proxy has gone.
            pass
        finally:
            writer.close()

    async def _feed(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        sent = 0
        while True:
            for frame in self.frames[sent:]:
                writer.write(bytes((0x81, len(frame))) + frame)
            sent = len(self.frames)
            self.more.clear()
            await self.more.wait()

    def publish(self, kind: str, number: int) -> None:
        """Send a message on each feed."""
        self.frames.append(json.dumps({"type": kind, "n": number}, separators=(",", ":")).encode())
        self.more.set()


class Line:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, body: str = "", method: str = "POST", path: str = PATH) -> bytes:
        """Send a request and return its answer.

        Raises:
            OSError, asyncio.IncompleteReadError: the connection ended first.
        """
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body.encode())
        async with asyncio.timeout(60):
            return await read_answer(self.reader)

    async def message(self) -> dict[str, Any]:
        """Return the next message of a feed."""
        async with asyncio.timeout(60):
            head = await self.reader.readexactly(2)
            message: dict[str, Any] = json.loads(await self.reader.readexactly(head[1]))
        return message


class Bed:
    """A backend behind a proxy."""

    def __init__(self, backend: Backend, proxy: FaultProxy) -> None:
        self.backend, self.proxy = backend, proxy
        self._lines: list[Line] = []

    async def line(self) -> Line:
        port = int(self.proxy.rest.split(":")[2].split("/")[0])
        self._lines.append(Line(*await asyncio.open_connection("127.0.0.1", port)))
        return self._lines[-1]

    async def feed(self) -> Line:
        line = await self.line()
        line.writer.write(UPGRADE)
        async with asyncio.timeout(60):
            assert b" 101 " in await line.reader.readuntil(b"\r\n\r\n")
        return line

    def close(self) -> None:
        for line in self._lines:
            line.writer.transport.abort()


@asynccontextmanager
async def bed(*faults: Fault, lose_refusals: bool = True) -> AsyncIterator[Bed]:
    backend = Backend()
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with FaultProxy(
        f"http://127.0.0.1:{port}/trade-api/v2", faults, lose_refusals=lose_refusals
    ) as proxy:
        opened = Bed(backend, proxy)
        yield opened
        opened.close()
    server.close()
    await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


BROKEN = (OSError, asyncio.IncompleteReadError)


async def test_without_faults_requests_and_messages_pass_unchanged() -> None:
    async with bed() as b:
        line = await b.line()
        assert await line.ask("a") == b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"number":1}'
        assert (await line.ask("b")).endswith(b'{"number":2}')
        feed = await b.feed()
        b.backend.publish("fill", 1)
        assert await feed.message() == {"type": "fill", "n": 1}
        assert b.backend.arrived == ["a", "b"] and not b.proxy.struck
        assert b.proxy.open_connections == 2


@pytest.mark.parametrize("kind", ["answer_lost", "truncated", "half_close", "late", "lost"])
async def test_a_broken_answer_says_nothing_about_the_arrival(kind: str) -> None:
    async with bed(Fault(0, kind, 0.1, "^POST ")) as b:
        line = await b.line()
        with pytest.raises(BROKEN):
            await line.ask("a")
        again = await b.line()
        assert (await again.ask("b")).startswith(b"HTTP/1.1 200")
        await b.proxy.heal()
        assert sorted(b.backend.arrived) == (["b"] if kind == "lost" else ["a", "b"])
        assert b.proxy.kinds == {kind}


@pytest.mark.parametrize("kind", ["delay", "held", "bytewise"])
async def test_a_slow_answer_arrives(kind: str) -> None:
    async with bed(Fault(0, kind, 0.2)) as b:
        line = await b.line()
        began = b.proxy.now_s
        assert (await line.ask("a")).endswith(b'{"number":1}')
        assert kind == "bytewise" or b.proxy.now_s - began >= 0.2


async def test_a_held_request_arrives_although_its_client_has_gone() -> None:
    async with bed(Fault(0, "held", 0.3)) as b:
        line = await b.line()
        asking = asyncio.create_task(line.ask("a"))
        await until(lambda: b.proxy.struck)
        line.writer.transport.abort()
        with pytest.raises(BROKEN):
            await asking
        assert not b.backend.arrived
        await b.proxy.heal()
        assert b.backend.arrived == ["a"]


async def test_a_doubled_answer_is_read_as_the_next_one() -> None:
    async with bed(Fault(0, "doubled")) as b:
        line = await b.line()
        first = await line.ask("a")
        assert first.endswith(b'{"number":1}') and await line.ask("b") == first
        await until(lambda: b.backend.arrived == ["a", "b"])


@pytest.mark.parametrize(
    ("kind", "status", "arrives"),
    [("page_429", 429, 0), ("page_500", 500, 0), ("page_502", 502, 0), ("page_503", 503, 0), ("page_302", 302, 0),
     ("page_404", 404, 0), ("page_200", 200, 0), ("page_200_after", 200, 1),
     ("page_504_after", 504, 1)],
)  # fmt: skip
async def test_a_page_replaces_an_answer(kind: str, status: int, arrives: int) -> None:
    async with bed(Fault(0, kind)) as b:
        line = await b.line()
        answer = await line.ask("a")
        assert f"HTTP/1.1 {status} ".encode() in answer and b"<html>" in answer
        assert len(b.backend.arrived) == arrives
        assert (await line.ask("b")).startswith(b"HTTP/1.1 200")


async def test_a_refusal_can_be_spared() -> None:
    async with bed(Fault(0, "answer_lost"), lose_refusals=False) as b:
        b.backend.status = 400
        line = await b.line()
        assert b" 400 " in await line.ask("a")
    async with bed(Fault(0, "answer_lost"), lose_refusals=False) as b:
        line = await b.line()
        with pytest.raises(BROKEN):
            await line.ask("a")
        assert b.backend.arrived == ["a"]


async def test_an_answer_can_have_an_unreadable_number() -> None:
    async with bed(Fault(0, "unreadable")) as b:
        line = await b.line()
        assert (await line.ask("a")).endswith(b'{"number":1}'.replace(b"1", b"?")) and b.backend.arrived == [
            "a"
        ]


async def test_a_stall_holds_requests_until_it_ends() -> None:
    async with bed(Fault(0, "stall", 0.3)) as b:
        line = await b.line()
        await line.ask("a")
        assert b.proxy.now_s >= 0.3


async def test_rest_is_away_while_the_feed_lives_and_the_reverse() -> None:
    async with bed(Fault(0, "rest_away", 0.5), Fault(0.6, "feed_away", 0.5)) as b:
        feed = await b.feed()
        line = await b.line()
        with pytest.raises(BROKEN):
            await line.ask("a")
        b.backend.publish("fill", 1)
        assert (await feed.message())["n"] == 1
        await until(lambda: b.proxy.now_s > 0.65)
        with pytest.raises(BROKEN):
            await feed.message()
        assert (await (await b.line()).ask("b")).startswith(b"HTTP/1.1 200")
        with pytest.raises(BROKEN):
            await b.feed()
        await b.proxy.heal()
        await b.feed()


async def test_an_unreachable_exchange_refuses_connections() -> None:
    async with bed(Fault(0, "unreachable", 0.4)) as b:
        await until(lambda: b.proxy.struck)
        with pytest.raises(ConnectionRefusedError):
            await b.line()
        await b.proxy.heal()
        assert (await (await b.line()).ask("a")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("kind", "status"), [("maintenance", 503), ("redirects", 302)])
async def test_maintenance_answers_requests_and_handshakes_with_a_page(kind: str, status: int) -> None:
    async with bed(Fault(0, kind, 60)) as b:
        assert f" {status} ".encode() in await (await b.line()).ask("a")
        line = await b.line()
        line.writer.write(UPGRADE)
        assert f" {status} ".encode() in await read_answer(line.reader)
        assert not b.backend.arrived


async def test_a_lagging_listing_repeats_an_answer() -> None:
    async with bed(Fault(0, "lagging", 0.4, "^GET ")) as b:
        line = await b.line()
        first = await line.ask(method="GET")
        await line.ask("a")
        assert await line.ask(method="GET") == first
        await b.proxy.heal()
        assert await line.ask(method="GET") != first


async def test_messages_of_a_type_are_lost_doubled_and_late() -> None:
    faults = [Fault(0, "frames_lost", 60, "^fill$"), Fault(0, "frames_doubled", 60, "^user_order$"),
              Fault(0, "frames_late", 0.3, "^trade$")]  # fmt: skip
    async with bed(*faults) as b:
        feed = await b.feed()
        for n, kind in enumerate(["trade", "fill", "user_order", "ticker"]):
            b.backend.publish(kind, n)
        got = [(await feed.message())["type"] for _ in range(4)]
        assert got == ["user_order", "user_order", "ticker", "trade"] and b.proxy.now_s >= 0.3


async def test_a_silent_feed_delivers_everything_in_the_end() -> None:
    async with bed(Fault(0.1, "feed_stall", 0.3), Fault(0.5, "feed_bytewise", 60)) as b:
        feed = await b.feed()
        await until(lambda: b.proxy.now_s > 0.15)
        b.backend.publish("fill", 1)
        assert await feed.message() == {"type": "fill", "n": 1} and b.proxy.now_s >= 0.4
        await until(lambda: b.proxy.now_s > 0.5)
        b.backend.publish("fill", 2)
        assert await feed.message() == {"type": "fill", "n": 2}


@pytest.mark.parametrize("kind", ["feed_reset", "feed_truncated"])
async def test_a_feed_ends_at_an_instant(kind: str) -> None:
    async with bed(Fault(0.2, kind)) as b:
        feed = await b.feed()
        await until(lambda: b.proxy.now_s > 0.3)
        b.backend.publish("fill", 1)
        with pytest.raises(BROKEN):
            await feed.message()
        assert b.proxy.kinds == {kind}


async def test_kept_connections_are_reset_at_an_instant() -> None:
    async with bed(Fault(0.2, "idle_reset")) as b:
        line = await b.line()
        await line.ask("a")
        await until(lambda: b.proxy.struck)
        with pytest.raises(BROKEN):
            await line.ask("b")
        assert b.backend.arrived == ["a"]


def test_schedules_are_seeded_and_end_in_time() -> None:
    drawn = [random_faults(seed, over_s=50, longest_s=40) for seed in range(300)]
    assert drawn[7] == random_faults(7, over_s=50, longest_s=40) != drawn[8]
    assert {fault.kind for faults in drawn for fault in faults} == set(KINDS)
    assert all(fault.until_s <= 50.001 for faults in drawn for fault in faults)
    assert max(fault.length_s for faults in drawn for fault in faults) > 35
    assert all(faults == sorted(faults) for faults in drawn)


def test_kinds_are_known_and_distinct() -> None:
    assert len(KINDS) == len(ONCE) + len(WINDOWS) + len(INSTANTS)
    with pytest.raises(ValueError, match="kind must be one of"):
        Fault(0, "flood")


def test_the_type_of_a_frame_and_the_pages() -> None:
    assert frame_type(bytes([0x81, 15]) + b'{"type":"fill"}') == "fill"
    assert frame_type(bytes([0x89, 4]) + b"ping") == ""
    assert b"Location: http://x\r\n" in page(302, "http://x")
