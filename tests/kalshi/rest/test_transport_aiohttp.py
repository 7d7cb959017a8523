"""Requests over real sockets: httpx and aiohttp tell the same kinds of trouble apart, and send a write once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from kalshilab.errors import ApiError, ConnectionFailed, HostRefused, OutcomeUnknown
from kalshilab.kalshi.rest import client as module
from kalshilab.kalshi.rest.client import Rest

from .test_client import NoWait

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: a=b\r\nContent-Length: 7\r\n\r\n"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Body(msgspec.Struct):
    n: int


@pytest.fixture(params=[False, True], ids=["httpx", "aiohttp"])
def fast(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Server:
    """A server that reads whole requests and answers each as it is told."""

    def __init__(self, *answers: bytes | None) -> None:
        self._answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.base = ""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0
                )
                self.requests.append(head + await reader.readexactly(length))
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*answers: bytes | None) -> AsyncIterator[Server]:
    server = Server(*answers)
    listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    server.base = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/trade-api/v2"
    async with listening:
        yield server


def client(base: str, fast: bool) -> Rest:
    return Rest(base, purpose="orders", clock=NoWait(), fast=fast)  # type: ignore[arg-type]


async def test_what_is_sent_and_read(fast: bool) -> None:
    async with serving(OK + b'{"n":4}') as server, client(server.base, fast) as rest:
        for _ in range(2):
            assert (await rest.get("/markets", Body, {"cursor": "a b&c", "open": True})).n == 4
        assert (await rest.post("/orders", Body, Body(5))).n == 4
    assert server.connections == 1
    first, second, third = server.requests
    assert first.startswith(b"GET /trade-api/v2/markets?cursor=a+b%26c&open=true HTTP/1.1\r\n")
    assert b"cookie" not in second.lower(), "a cookie is not kept"
    assert third.startswith(b"POST /trade-api/v2/orders HTTP/1.1\r\n") and third.endswith(b'\r\n\r\n{"n":5}')


async def test_nobody_there(fast: bool) -> None:
    async with client("http://127.0.0.1:9/trade-api/v2", fast) as rest:
        with pytest.raises(ConnectionFailed):
            await rest.post("/orders", Body, Body(1))


async def test_a_write_without_an_answer_goes_out_once(fast: bool) -> None:
    async with serving(None) as server, client(server.base, fast) as rest:
        with pytest.raises(OutcomeUnknown):
            await rest.post("/orders", Body, Body(1))
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["post", "delete"])
async def test_nor_twice_over_a_kept_connection_that_is_closed_under_it(method: str, fast: bool) -> None:
    async with serving(OK + b'{"n":4}', None) as server, client(server.base, fast) as rest:
        await rest.get("/markets", Body)
        with pytest.raises(OutcomeUnknown):
            await (rest.post("/orders", Body, Body(1)) if method == "post" else rest.delete("/orders", Body))
    assert len(server.requests) == 2


async def test_what_came_unasked_answers_nothing(fast: bool) -> None:
    async with serving(OK + b'{"n":4}') as server, client(server.base, fast) as rest:
        await rest.get("/markets", Body)
        server.writers[0].write(b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(0.02)
        assert (await rest.post("/orders", Body, Body(1))).n == 4
    assert server.connections == 2


async def test_closing_while_requests_are_in_flight(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CONNECTIONS": 2, "CONNECTING": 0.2, "ANSWERING": 0.2}.items():
        monkeypatch.setattr(module, name, value)
    async with serving(b"") as server, client(server.base, fast) as rest:
        writes = [asyncio.create_task(rest.post("/orders", Body, Body(n))) for n in range(4)]
        while len(server.requests) < 2:
            await asyncio.sleep(0)
        await rest.aclose()
        ended = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(e) for e in ended} <= {OutcomeUnknown, ConnectionFailed}
    assert len(server.requests) == sum(type(e) is OutcomeUnknown for e in ended)


async def test_a_closed_client_sends_nothing(fast: bool) -> None:
    async with serving(OK + b'{"n":4}') as server:
        async with client(server.base, fast) as rest:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            await rest.post("/orders", Body, Body(1))
    assert not server.requests


async def test_an_answer_that_never_ends(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE", 0.1)
    async with serving(OK) as server, client(server.base, fast) as rest:
        with pytest.raises(OutcomeUnknown, match="not whole"):
            await rest.post("/orders", Body, Body(1))
    assert len(server.requests) == 1


async def test_a_read_without_an_answer_is_tried_again(fast: bool) -> None:
    async with serving(None, None, OK + b'{"n":4}') as server, client(server.base, fast) as rest:
        assert (await rest.get("/markets", Body)).n == 4


@pytest.mark.parametrize(
    "answer",
    [
        OK + b'{"n"',
        b"nonsense\r\n\r\n",
        OK,
        b"HTTP/1.1 302 Moved\r\nLocation: http:a//b\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["cut off", "no answer at all", "silence", "nowhere"],
)
async def test_an_answer_that_is_none(answer: bytes, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWERING", 0.1)
    async with serving(answer) as server, client(server.base, fast) as rest:
        with pytest.raises((OutcomeUnknown, HostRefused)):
            await rest.post("/orders", Body, Body(1))
    assert len(server.requests) == 1


async def test_redirects_and_refusals(fast: bool) -> None:
    async with serving(OK + b'{"n":4}') as other:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {other.base}\r\nContent-Length: 0\r\n\r\n".encode()
        no = b'HTTP/1.1 400 Bad\r\nContent-Length: 33\r\n\r\n{"error":{"code":"invalid_order"}}'[:-1]
        async with serving(moved, moved, no) as server, client(server.base, fast) as rest:
            for send in (rest.get("/markets", Body), rest.post("/orders", Body, Body(1))):
                with pytest.raises(HostRefused):
                    await send
            with pytest.raises(ApiError) as caught:
                await rest.post("/orders", Body, Body(1))
        assert caught.value.status == 400 and not other.requests


async def test_more_in_flight_than_connections(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS", 4)
    async with serving(OK + b'{"n":4}') as server, client(server.base, fast) as rest:
        found = await asyncio.gather(*(rest.post("/orders", Body, Body(n)) for n in range(40)))
    assert [f.n for f in found] == [4] * 40
    assert server.connections <= 4 and len(server.requests) == 40


async def test_other_hosts_are_refused_before_anything_is_sent(fast: bool) -> None:
    async with serving(OK + b'{"n":4}') as server:
        async with Rest(server.base, fast=fast) as rest:
            with pytest.raises(HostRefused):
                await rest.post("/orders", Body, Body(1))
        assert not server.requests
