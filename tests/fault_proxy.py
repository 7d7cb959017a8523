"""A TCP proxy on loopback between a session and a served exchange, which injects the faults of a schedule.

The proxy reads just enough of HTTP/1.1 to know requests and answers, and just enough of WebSocket to know the type of a
message from the exchange.  Each request goes to the exchange on a separate connection, so that a request can arrive
after its client has gone.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self

from fault_schedule import AFTER, INSTANTS, ONCE, Fault
from wire_bytes import Request, frame_type, page, read_answer, read_frame, read_request, unreadable

__all__ = ["FaultProxy"]

POLL_S: Final = 0.05
"""Seconds between two checks whether a client that waits for an answer is still there."""
FRESH_S: Final = 1.0
"""Seconds for which an answer may precede the window in which it is repeated."""


class WatchedReader(asyncio.StreamReader):
    """A reader that knows the end of its connection although bytes before it are unread."""

    ended = False

    def feed_eof(self) -> None:
        self.ended = True
        super().feed_eof()

    def set_exception(self, error: BaseException) -> None:
        self.ended = True
        super().set_exception(error)


class Client:
    """One connection of the session."""

    def __init__(self, reader: WatchedReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.idle = True
        self.cut_next = False
        self.is_feed = False

    @property
    def gone(self) -> bool:
        """Whether the session has closed the connection, or the proxy has."""
        return self.reader.ended or self.writer.transport.is_closing()

    def abort(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()

    async def send(self, data: bytes, *, bytewise_s: float = 0.0) -> None:
        """Send bytes: one by one for `bytewise_s` seconds, then the rest at once."""
        loop = asyncio.get_running_loop()
        until, at = loop.time() + bytewise_s, 0
        while at < len(data) and loop.time() < until:
            self.writer.write(data[at : at + 1])
            at += 1
            await self.writer.drain()
            await asyncio.sleep(0)
        self.writer.write(data[at:])
        await self.writer.drain()


Handler = Callable[[Fault, Request, Client], Awaitable[bool]]


class FaultProxy:
    """A proxy between one session and one exchange.

        async with FaultProxy(served.rest, faults) as proxy:
            settings = Settings(rest_url=proxy.rest, ws_url=proxy.ws, …)

    Args:
        rest: the REST address of the exchange, on loopback.
        faults: the schedule; its times count from the start of the proxy.
        ws_path: the path of the WebSocket.
        lose_refusals: whether faults may lose the refusal of an order, after which the order counts as unknown for as
            long as its signature is valid.

    Attributes:
        struck: (seconds after the start, text) of each effect on a connection, in the order of time.
        kinds: the kinds of faults that had an effect.
    """

    def __init__(
        self,
        rest: str,
        faults: Sequence[Fault],
        *,
        ws_path: str = "/trade-api/ws/v2",
        lose_refusals: bool = True,
    ) -> None:
        authority, _, path = rest.removeprefix("http://").partition("/")
        self._host, port = authority.rsplit(":", 1)
        self._port = int(port)
        self._path, self._ws_path = f"/{path}", ws_path
        self._lose_refusals = lose_refusals
        self._armed = sorted(fault for fault in faults if fault.kind in ONCE)
        self._others = sorted(fault for fault in faults if fault.kind not in ONCE)
        self._end_s = max((fault.until_s for fault in faults), default=0.0)
        self._clients: set[Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._known: dict[Request, bytes] = {}
        self._answers: dict[str, tuple[float, bytes]] = {}
        self._errors: list[BaseException] = []
        self.struck: list[tuple[float, str]] = []
        self.kinds: set[str] = set()
        self._handlers: dict[str, Handler] = {
            kind: getattr(self, f"_on_{kind.partition('_')[0] if kind.startswith('page') else kind}")
            for kind in ONCE
        }

    # Life

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        # A second socket keeps the port while no socket listens.
        self._keeper = _bound(0)
        self._own_port = self._keeper.getsockname()[1]
        self.rest = f"http://127.0.0.1:{self._own_port}{self._path}"
        self.ws = f"ws://127.0.0.1:{self._own_port}{self._ws_path}"
        self._server: asyncio.Server | None = None
        self._started = self._loop.time()
        await self._listen()
        self._spawn(self._play())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop_listening()
        tasks = [*self._tasks, *self._late]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in tuple(self._clients):
            client.abort()
        self._keeper.close()
        await asyncio.sleep(0)
        if self._errors:
            raise self._errors[0]

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(
            self._protocol, sock=_bound(self._own_port), backlog=256
        )

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        reader = WatchedReader()
        return asyncio.StreamReaderProtocol(
            reader, lambda _, writer: self._spawn(self._serve(Client(reader, writer)))
        )

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _spawn(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]] | None = None) -> None:
        group = self._tasks if among is None else among
        task = asyncio.get_running_loop().create_task(work)
        group.add(task)
        task.add_done_callback(partial(self._on_done, group))

    def _on_done(self, group: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        group.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self._started

    @property
    def open_connections(self) -> int:
        """The number of connections that the session has not closed."""
        return sum(not client.gone for client in self._clients)

    async def heal(self) -> None:
        """Wait until the last fault has ended and every late request has arrived, and pass everything on from then."""
        await self._until(self._end_s)
        self._armed = []
        if self._late:
            await asyncio.wait(self._late)
        # Requests that waited for the end of a stall arrive now.
        await asyncio.sleep(2 * POLL_S)

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(at_s - self.now_s, 0))

    # The schedule

    def _note(self, fault: Fault, text: str) -> None:
        self.kinds.add(fault.kind)
        self.struck.append((self.now_s, f"{fault.kind}: {text}"))

    def _window(self, kinds: Sequence[str], text: str) -> Fault | None:
        """Return the fault of one of these kinds that lasts now and matches."""
        now_s = self.now_s
        for fault in self._others:
            if fault.kind in kinds and fault.at_s <= now_s < fault.until_s and re.search(fault.target, text):
                return fault
        return None

    def _strike(self, line: str) -> Fault | None:
        """Return the fault that strikes this request, which strikes no other."""
        for at, fault in enumerate(self._armed):
            if fault.at_s > self.now_s:
                return None
            if re.search(fault.target, line):
                return self._armed.pop(at)
        return None

    async def _play(self) -> None:
        """Carry out the faults that do not wait for a request."""
        for fault in self._others:
            await self._until(fault.at_s)
            if fault.kind == "unreachable":
                self._spawn(self._refuse(fault))
            elif fault.kind == "feed_away":
                self._cut(fault, lambda client: client.is_feed)
            elif fault.kind == "rest_away" and not fault.target:
                self._cut(fault, lambda client: not client.is_feed)
            elif fault.kind in INSTANTS:
                self._happen(fault)

    def _happen(self, fault: Fault) -> None:
        if fault.kind == "feed_truncated":
            for client in self._clients:
                client.cut_next = client.is_feed
        elif fault.kind == "feed_reset":
            self._cut(fault, lambda client: client.is_feed)
        else:
            self._cut(fault, lambda client: client.idle and not client.is_feed)

    def _cut(self, fault: Fault, choose: Callable[[Client], bool]) -> None:
        for client in tuple(self._clients):
            if choose(client) and not client.gone:
                self._note(fault, "feed reset" if client.is_feed else "connection reset")
                client.abort()

    async def _refuse(self, fault: Fault) -> None:
        if self._server is None:
            # An earlier fault refuses connections, and lasts until this one has ended too.
            return
        self._note(fault, "connections are refused")
        self._stop_listening()
        self._cut(fault, lambda client: True)
        while (last := self._window(("unreachable",), "")) is not None:
            await self._until(last.until_s)
        await self._listen()

    # Requests

    async def _serve(self, client: Client) -> None:
        self._clients.add(client)
        try:
            while (request := await read_request(client.reader)) is not None:
                client.idle = False
                keep = await (self._feed if request.upgrades else self._answer)(request, client)
                if not keep:
                    break
                client.idle = True
        except (OSError, asyncio.IncompleteReadError):
            # The session or the exchange has gone.
            client.abort()
        finally:
            client.writer.close()
            self._clients.discard(client)

    async def _answer(self, request: Request, client: Client) -> bool:
        """Handle one request; return whether the connection goes on."""
        line = request.line
        while (stall := self._window(("stall",), line)) is not None:
            self._note(stall, f"{line} waits")
            await self._until(stall.until_s)
        away = self._window(("rest_away", "maintenance", "redirects"), line)
        if away is not None:
            return await self._turn_away(away, line, client)
        fault = self._strike(line)
        if fault is not None and not self._lose_refusals and fault.kind in AFTER and request.method == "POST":
            answer = await self._forward(request)
            if int(answer.split(b" ", 2)[1]) >= 400:
                await client.send(answer)
                return True
            self._known[request] = answer
        if fault is not None:
            self._note(fault, line)
            return await self._handlers[fault.kind](fault, request, client)
        await client.send(await self._forward(request))
        return True

    async def _turn_away(self, fault: Fault, line: str, client: Client) -> bool:
        self._note(fault, line)
        if fault.kind in ("rest_away", "feed_away"):
            client.abort()
            return False
        await client.send(self._page(503 if fault.kind == "maintenance" else 302))
        return True

    def _page(self, status: int) -> bytes:
        return page(status, f"http://127.0.0.1:{self._own_port}/maintenance" if status == 302 else "")

    async def _forward(self, request: Request) -> bytes:
        """Send a request to the exchange and return the answer, or an older one where listings lag."""
        if request in self._known:
            return self._known.pop(request)
        key, now_s = request.line, self.now_s
        lag = self._window(("lagging",), key)
        if lag is not None and key in self._answers and self._answers[key][0] >= lag.at_s - FRESH_S:
            self._note(lag, f"{key} is {now_s - self._answers[key][0]:.2f} s old")
            return self._answers[key][1]
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(request.raw)
            answer = await read_answer(reader, request.method)
        finally:
            writer.close()
        if request.method == "GET":
            self._answers[key] = (now_s, answer)
        return answer

    async def _arrive(self, request: Request) -> None:
        """Let a request arrive whose answer nobody reads."""
        try:
            await self._forward(request)
            self.struck.append((self.now_s, f"{request.line} has arrived"))
        except (OSError, asyncio.IncompleteReadError) as error:
            self.struck.append((self.now_s, f"{request.line} has not arrived: {error!r}"))

    async def _pause(self, seconds: float, client: Client) -> bool:
        """Wait; return False as soon as the client has gone."""
        until_s = self.now_s + seconds
        while not client.gone:
            left_s = until_s - self.now_s
            if left_s <= 0:
                return True
            await asyncio.sleep(min(POLL_S, left_s))
        return False

    # Faults of one request; each returns whether the connection goes on

    async def _on_delay(self, fault: Fault, request: Request, client: Client) -> bool:
        answer = await self._forward(request)
        if not await self._pause(fault.length_s, client):
            return False
        await client.send(answer)
        return True

    async def _on_held(self, fault: Fault, request: Request, client: Client) -> bool:
        self._spawn(self._arrive_later(fault.length_s, request, client), self._late)
        return await self._pause(fault.length_s + 60, client)

    async def _arrive_later(self, seconds: float, request: Request, client: Client | None = None) -> None:
        await asyncio.sleep(seconds)
        if client is None or client.gone:
            await self._arrive(request)
        else:
            # The connection ends with the answer, because its handler waits for this end.
            answer = await self._forward(request)
            with suppress(OSError):
                await client.send(answer)
            client.writer.close()

    async def _on_late(self, fault: Fault, request: Request, client: Client) -> bool:
        self._spawn(self._arrive_later(fault.length_s, request), self._late)
        client.abort()
        return False

    async def _on_lost(self, fault: Fault, request: Request, client: Client) -> bool:
        client.abort()
        return False

    async def _on_answer_lost(self, fault: Fault, request: Request, client: Client) -> bool:
        await self._forward(request)
        client.abort()
        return False

    async def _on_truncated(self, fault: Fault, request: Request, client: Client) -> bool:
        answer = await self._forward(request)
        await client.send(answer[: len(answer) * 2 // 3])
        return False

    async def _on_half_close(self, fault: Fault, request: Request, client: Client) -> bool:
        await self._forward(request)
        client.writer.write_eof()
        await self._pause(fault.length_s, client)
        return False

    async def _on_bytewise(self, fault: Fault, request: Request, client: Client) -> bool:
        await client.send(await self._forward(request), bytewise_s=fault.length_s)
        return True

    async def _on_doubled(self, fault: Fault, request: Request, client: Client) -> bool:
        await client.send(2 * await self._forward(request))
        return True

    async def _on_page(self, fault: Fault, request: Request, client: Client) -> bool:
        if fault.kind.endswith("_after"):
            await self._forward(request)
        await client.send(self._page(int(fault.kind.split("_")[1])))
        return True

    async def _on_unreadable(self, fault: Fault, request: Request, client: Client) -> bool:
        await client.send(unreadable(await self._forward(request)))
        return True

    # The feed

    async def _feed(self, request: Request, client: Client) -> bool:
        """Connect the feed and pass its bytes on until it ends."""
        away = self._window(("feed_away", "maintenance", "redirects"), request.line)
        if away is not None:
            return await self._turn_away(away, f"handshake {request.line}", client)
        reader, writer = await asyncio.open_connection(self._host, self._port)
        client.is_feed = True
        writer.write(request.raw)
        ways = (
            asyncio.create_task(self._down(reader, client)),
            asyncio.create_task(self._up(client, writer)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.transport.abort()
        return False

    async def _up(self, client: Client, writer: asyncio.StreamWriter) -> None:
        while data := await client.reader.read(65_536):
            await self._until_loud()
            writer.write(data)
            await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, client: Client) -> None:
        await client.send(await reader.readuntil(b"\r\n\r\n"))
        while True:
            frame = await read_frame(reader)
            await self._until_loud()
            if client.cut_next:
                self.struck.append((self.now_s, f"feed_truncated: {frame_type(frame)}"))
                self.kinds.add("feed_truncated")
                await client.send(frame[: len(frame) // 2])
                return
            await self._pass_on(frame, client)

    async def _until_loud(self) -> None:
        while (silence := self._window(("feed_stall",), "")) is not None:
            self._note(silence, "the feed waits")
            await self._until(silence.until_s)

    async def _pass_on(self, frame: bytes, client: Client) -> None:
        kind = frame_type(frame)
        fault = self._window(("frames_lost", "frames_late", "frames_doubled"), kind) if kind else None
        if fault is not None:
            self._note(fault, frame[2:300].decode("utf-8", "replace"))
        if fault is not None and fault.kind == "frames_lost":
            return
        if fault is not None and fault.kind == "frames_late":
            self._loop.call_later(fault.until_s - self.now_s, _write, client, frame)
            return
        bytewise = self._window(("feed_bytewise",), "")
        bytewise_s = 0.0
        if bytewise is not None:
            self.kinds.add("feed_bytewise")
            bytewise_s = bytewise.until_s - self.now_s
        await client.send(frame * (2 if fault is not None else 1), bytewise_s=bytewise_s)


def _write(client: Client, frame: bytes) -> None:
    """Write a late message, unless its connection has ended."""
    if not client.gone:
        client.writer.write(frame)


def _bound(port: int) -> socket.socket:
    """Return a socket bound to a loopback port, which another bound socket may share."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound
