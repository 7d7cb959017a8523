"""A conversation with the stream protocol without sockets, and the frames of a book."""

from __future__ import annotations

import json
from typing import Any

from kalshilab.kalshi.stream.protocol import StreamProtocol, Subscribed


class Talk:
    """A stream protocol with a record of the events it emitted and the commands it sent."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.protocol = StreamProtocol(self.events.append)
        self.sent: list[dict[str, Any]] = []

    def commands(self) -> list[dict[str, Any]]:
        """Return the commands sent since the last call."""
        new = [json.loads(c) for c in self.protocol.take_commands()]
        self.sent += new
        return new

    def hear(self, **frame: Any) -> list[Any]:
        """Feed a frame to the protocol and return the events it emits."""
        del self.events[:]
        self.protocol.receive(json.dumps(frame))
        return list(self.events)

    def subscribed(self, channel: str, sid: int, *tickers: str) -> Talk:
        """Subscribe to a channel and acknowledge the command."""
        self.protocol.subscribe([channel], tickers)
        (command,) = self.commands()
        assert self.hear(id=command["id"], type="subscribed", msg={"channel": channel, "sid": sid}) == [
            Subscribed(channel, sid)
        ]
        return self


def delta(
    sid: int, seq: int, ticker: str = "A", size: str = "1.00", price: str = "0.4000", side: str = "yes"
) -> dict[str, Any]:
    msg = {"market_ticker": ticker, "price_dollars": price, "delta_fp": size, "side": side, "ts_ms": 5}
    return {"type": "orderbook_delta", "sid": sid, "seq": seq, "msg": msg}


def snapshot(sid: int, seq: int, ticker: str = "A", **sides: Any) -> dict[str, Any]:
    return {"type": "orderbook_snapshot", "sid": sid, "seq": seq, "msg": {"market_ticker": ticker, **sides}}
