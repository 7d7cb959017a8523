"""WebSocket transports over raw connections: `websockets` and `picows` behave alike."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kalshilab.kalshi.stream import transport_picows, transport_websockets
from kalshilab.kalshi.stream.transport_picows import open_fast_socket
from kalshilab.kalshi.stream.transport_websockets import Opener, SocketLost, open_socket

TEXT, CLOSE, PING, CONTINUATION = 1, 8, 9, 0
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]]


@pytest.fixture(params=[open_socket, open_fast_socket], ids=["websockets", "picows"])
def opener(request: pytest.FixtureRequest) -> Opener:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
async def no_leaks() -> AsyncIterator[None]:
    """Fail if an exception was never retrieved or a connection never closed."""
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: reported.append(context["message"])
    )
    yield
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []


def message(kind: int, data: bytes, *, last: bool = True) -> bytes:
    assert len(data) < 126
    return bytes([last << 7 | kind, len(data)]) + data


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return message(CLOSE, struct.pack(">H", code) + reason)


@asynccontextmanager
async def serving(talk: Talk) -> AsyncIterator[str]:
    """Serve WebSocket connections by `talk`, which gets the answer to the handshake."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        key = next(x.partition(b": ")[2] for x in head if x.lower().startswith(b"sec-websocket-key"))
        proof = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        try:
            await talk(reader, writer, upgrade + b"Sec-WebSocket-Accept: " + proof + b"\r\n\r\n")
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def sending(*frames: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upgrade: bytes) -> None:
        writer.write(upgrade + b"".join(frames))
        await reader.read(100)

    return talk


async def all_of(opener: Opener, url: str) -> tuple[list[bytes], str]:
    """Return the frames of a connection and the reason of its end."""
    found: list[bytes] = []
    with pytest.raises(SocketLost) as lost:
        async with asyncio.timeout(60), opener(url, {}) as socket:
            await socket.read(lambda frame: found.append(frame) or False)  # type: ignore[func-returns-value]
    return found, str(lost.value)


async def test_frames_before_the_end_are_delivered(opener: Opener) -> None:
    async with serving(sending(message(TEXT, b"a"), close_frame(4001, b"go away"))) as url:
        assert await all_of(opener, url) == ([b"a"], "closed with code 4001 go away")


async def test_a_fragmented_message_is_assembled(opener: Opener) -> None:
    pieces = [message(TEXT, b"a", last=False), message(PING, b"p"), message(CONTINUATION, b"b")]
    async with serving(sending(*pieces, close_frame(1000))) as url:
        assert await all_of(opener, url) == ([b"ab"], "closed with code 1000")


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([message(3, b"a")], 1002),
        ([message(CONTINUATION, b"a")], 1002),
        ([message(TEXT, b"a", last=False), message(TEXT, b"b")], 1002),
        ([bytes([0x81, 127]) + struct.pack(">Q", 2**40)], 1009),
        ([message(TEXT, b"a" * 60, last=False), message(CONTINUATION, b"b" * 60)], 1009),
    ],
    ids=["opcode", "nothing to continue", "two at once", "too large", "too large in pieces"],
)
async def test_an_invalid_message_ends_the_connection(
    frames: list[bytes], code: int, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (transport_websockets, transport_picows):
        monkeypatch.setattr(module, "MAX_FRAME", 100)
    async with serving(sending(*frames, message(TEXT, b"after"))) as url:
        found, why = await all_of(opener, url)
    assert found == [] and why.startswith(f"closed with code {code} ")


async def test_a_close_during_the_handshake_raises_socket_lost(opener: Opener) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upgrade: bytes) -> None:
        writer.write(upgrade[:40])

    async with serving(leave) as url:
        assert (await all_of(opener, url))[0] == []


async def test_no_log_shows_the_signature_of_a_handshake(
    opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    async with serving(sending()) as url, opener(url, {"KALSHI-ACCESS-SIGNATURE": "signed"}):
        pass
    assert "signed" not in caplog.text


@pytest.mark.parametrize("open_timeout_s", [0.05, 10.0], ids=["too slow", "cancelled"])
async def test_a_failed_handshake_leaves_no_connection_open(
    open_timeout_s: float, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, asked = asyncio.Event(), asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upgrade: bytes) -> None:
        asked.set()
        assert await reader.read() == b""
        closed.set()

    for module in (transport_websockets, transport_picows):
        monkeypatch.setattr(module, "OPEN_TIMEOUT_S", open_timeout_s)
    async with serving(wait) as url:
        task = asyncio.create_task(all_of(opener, url))
        await asked.wait()
        if open_timeout_s > 1:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert (await task)[1] == transport_websockets.NO_ANSWER
        async with asyncio.timeout(60):
            await closed.wait()


async def test_a_cancelled_reader_handles_no_more_frames_and_closes_properly(opener: Opener) -> None:
    found: list[bytes] = []
    close_sent: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def chatter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upgrade: bytes) -> None:
        writer.write(upgrade + message(TEXT, b"a"))
        sent = await reader.read(100)
        writer.write(message(TEXT, b"late") + close_frame(1000))
        close_sent.set_result(sent)

    async def listen(url: str) -> None:
        async with opener(url, {}) as socket:
            await socket.read(lambda frame: found.append(frame) or False)  # type: ignore[func-returns-value]

    async with serving(chatter) as url:
        task = asyncio.create_task(listen(url))
        while not found:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        sent = await close_sent
    assert found == [b"a"]
    code = bytes(byte ^ mask for byte, mask in zip(sent[6:8], sent[2:4], strict=True))
    assert sent[0] == 0x80 | CLOSE and code == struct.pack(">H", 1000)
