"""Both HTTP transports: a connection that answered out of turn is used for no further request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from kalshilab.kalshi.rest.transport import Http
from kalshilab.kalshi.rest.transport_aiohttp import FastHttp
from kalshilab.kalshi.rest.transport_httpx import HttpxHttp


def by_httpx() -> Http:
    return HttpxHttp(None, None, max_connections=4, connect_timeout_s=30, read_timeout_s=30)


def by_aiohttp() -> Http:
    return FastHttp(None, max_connections=4, connect_timeout_s=30, read_timeout_s=30)


class NumberedServer:
    """Answers each request with the number of its connection; `/held` waits until `release` is set."""

    def __init__(self) -> None:
        self.connections = 0
        self.served: list[asyncio.Event] = []
        self.held, self.release = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.served.append(asyncio.Event())
        done = self.served[-1]
        body = str(self.connections).encode()
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b"/held" in head:
                    self.held.set()
                    await self.release.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()
            done.set()


@pytest.mark.parametrize("make", [by_httpx, by_aiohttp])
async def test_discarded_connections_are_not_used_again_and_held_requests_are_answered(
    make: Callable[[], Http],
) -> None:
    numbered, http = NumberedServer(), make()
    server = await asyncio.start_server(numbered.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def get(path: str) -> bytes:
        return (await http.request("GET", url + path, {}, None)).content

    async with server:
        assert [await get("/"), await get("/")] == [b"1", b"1"]
        held = asyncio.create_task(get("/held"))
        await numbered.held.wait()
        await http.discard_connections()
        assert [await get("/"), await get("/")] == [b"2", b"2"]
        numbered.release.set()
        assert await held == b"1"
        assert await get("/") == b"2"
        await http.aclose()
        for done in numbered.served:
            await done.wait()


@pytest.mark.parametrize("make", [by_httpx, by_aiohttp])
async def test_a_surplus_answer_is_not_read_as_the_answer_to_the_next_request(make: Callable[[], Http]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ")[1]
                writer.write(2 * (b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path)))
        except (asyncio.IncompleteReadError, ConnectionError):
            # The client has closed a connection with a surplus answer.
            pass
        writer.close()

    http = make()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        for path in ("/a", "/b", "/c", "/d"):
            assert (await http.request("POST", url + path, {}, b"")).content == path.encode()
        both = await asyncio.gather(*(http.request("GET", f"{url}/{n}", {}, None) for n in range(8)))
        assert [reply.content for reply in both] == [b"/%d" % n for n in range(8)]
        await http.aclose()
        await asyncio.sleep(0)
