"""Requests over real sockets: httpx and aiohttp report the same failures, and send a write once."""

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
    """A body with one number."""

    n: int


@pytest.fixture(params=[False, True], ids=["httpx", "aiohttp"])
def fast(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Server:
    """A server that reads whole requests and answers them from a list; None closes the connection."""

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


async def test_requests_are_encoded_and_answers_decoded(fast: bool) -> None:
    async with serving(OK + b'{"n":4}') as server, client(server.base, fast) as rest:
        for _ in range(2):
            assert (await rest.get("/markets", Body, {"cursor": "a b&c", "open": True})).n == 4
        assert (await rest.post("/orders", Body, Body(5))).n == 4
    assert server.connections == 1
    first, second, third = server.requests
    assert first.startswith(b"GET /trade-api/v2/markets?cursor=a+b%26c&open=true HTTP/1.1\r\n")
    assert b"cookie" not in second.lower(), "cookies are not stored"
    assert third.startswith(b"POST /trade-api/v2/orders HTTP/1.1\r\n") and third.endswith(b'\r\n\r\n{"n":5}')


async def test_an_unreachable_host_raises_connection_failed(fast: bool) -> None:
    async with client("http://127.0.0.1:9/trade-api/v2", fast) as rest:
        with pytest.raises(ConnectionFailed):
            await rest.post("/orders", Body, Body(1))


async def test_a_write_without_an_answer_is_sent_once(fast: bool) -> None:
    async with serving(None) as server, client(server.base, fast) as rest:
        with pytest.raises(OutcomeUnknown):
            await rest.post("/orders", Body, Body(1))
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["post", "delete"])
async def test_a_write_on_a_reused_connection_that_closes_is_sent_once(method: str, fast: bool) -> None:
    async with serving(OK + b'{"n":4}', None) as server, client(server.base, fast) as rest:
        await rest.get("/markets", Body)
        with pytest.raises(OutcomeUnknown):
            await (rest.post("/orders", Body, Body(1)) if method == "post" else rest.delete("/orders", Body))
    assert len(server.requests) == 2


async def test_unsolicited_data_are_not_taken_for_an_answer(fast: bool) -> None:
    async with serving(OK + b'{"n":4}') as server, client(server.base, fast) as rest:
        await rest.get("/markets", Body)
        server.writers[0].write(b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n")
        # The data are in the socket buffer; the event loop needs to read them.
        await asyncio.sleep(0.2)
        assert (await rest.post("/orders", Body, Body(1))).n == 4
    assert server.connections == 2


async def test_closing_with_requests_in_flight_ends_each_with_a_known_error(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MAX_CONNECTIONS": 2, "CONNECT_TIMEOUT_S": 0.2, "READ_TIMEOUT_S": 0.2}.items():
        monkeypatch.setattr(module, name, value)
    async with serving(b"") as server, client(server.base, fast) as rest:
        writes = [asyncio.create_task(rest.post("/orders", Body, Body(n))) for n in range(4)]
        while len(server.requests) < 2:
            await asyncio.sleep(0)
        await rest.aclose()
        ended = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(e) for e in ended} <= {OutcomeUnknown, ConnectionFailed}
    assert len(server.requests) == sum(type(e) is OutcomeUnknown for e in ended)


async def test_a_closed_client_does_not_send(fast: bool) -> None:
    async with serving(OK + b'{"n":4}') as server:
        async with client(server.base, fast) as rest:
            pass
        with pytest.raises(RuntimeError, match="closed"):
            await rest.post("/orders", Body, Body(1))
    assert not server.requests


async def test_a_write_with_an_endless_answer_has_an_unknown_outcome(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.1)
    async with serving(OK) as server, client(server.base, fast) as rest:
        with pytest.raises(OutcomeUnknown, match="not complete"):
            await rest.post("/orders", Body, Body(1))
    assert len(server.requests) == 1


async def test_a_read_without_an_answer_is_retried(fast: bool) -> None:
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
    ids=["truncated", "not HTTP", "no body", "invalid redirect"],
)
async def test_a_write_with_an_invalid_answer_is_sent_once(
    answer: bytes, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT_S", 0.1)
    async with serving(answer) as server, client(server.base, fast) as rest:
        with pytest.raises((OutcomeUnknown, HostRefused)):
            await rest.post("/orders", Body, Body(1))
    assert len(server.requests) == 1


async def test_redirects_are_refused_and_error_bodies_read(fast: bool) -> None:
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


async def test_requests_beyond_the_connection_limit_wait(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 4)
    async with serving(OK + b'{"n":4}') as server, client(server.base, fast) as rest:
        found = await asyncio.gather(*(rest.post("/orders", Body, Body(n)) for n in range(40)))
    assert [f.n for f in found] == [4] * 40
    assert server.connections <= 4 and len(server.requests) == 40


async def test_a_write_of_a_data_client_is_refused_before_it_is_sent(fast: bool) -> None:
    async with serving(OK + b'{"n":4}') as server:
        async with Rest(server.base, fast=fast) as rest:
            with pytest.raises(HostRefused):
                await rest.post("/orders", Body, Body(1))
        assert not server.requests
