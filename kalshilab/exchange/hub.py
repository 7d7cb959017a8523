"""Connections, subscriptions and frames: the WebSocket side without a socket.

A connection takes a client's commands and gathers frames for it.  Each channel it subscribes to has one `sid`
whose sequence counts every frame of it; a message's body is encoded once, whoever gets it, and each
subscriber's frame is put together around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import msgspec

from kalshilab.kalshi.wire import stream as wire

__all__ = ["CHANNELS", "Connection", "Hub", "Source"]

CHANNELS: Final = (
    "orderbook_delta", "trade", "ticker", "fill", "user_orders", "market_positions", "market_lifecycle_v2",
    "order_group_updates",
)  # fmt: skip
SEQUENCED: Final = frozenset({"orderbook_delta", "trade", "market_lifecycle_v2", "order_group_updates"})
UNFILTERED: Final = frozenset({"market_lifecycle_v2", "order_group_updates"})
"""Channels to which a filter by market does not apply."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(wire.Command).decode
_ERRORS: Final = {
    1: "Unable to process message",
    2: "Params required",
    3: "Channels required",
    4: "Subscription IDs required",
    5: "Unknown command",
    7: "Unknown subscription ID",
    8: "Unknown channel name",
    11: "Invalid parameter",
    12: "Exactly one subscription ID is required",
    13: "Unsupported action",
    14: "Market ticker required",
    15: "Action required",
}


class Source(Protocol):
    """What the hub asks of the exchange."""

    def now_ms(self) -> int:
        """Exchange time in milliseconds."""
        ...

    def snapshot(self, ticker: str) -> wire.OrderbookSnapshot | None:
        """A market's book, or None for an unknown market."""
        ...

    def ticker_body(self, ticker: str) -> wire.Ticker | None:
        """A market's top of book, or None for an unknown market."""
        ...


class Subscription:
    """One channel of one connection; `tickers` None means all markets."""

    __slots__ = ("channel", "seq", "sid", "tickers")

    def __init__(self, sid: int, channel: str, tickers: set[str] | None) -> None:
        self.sid, self.channel, self.tickers = sid, channel, tickers
        self.seq = 0


class Connection:
    """One client.  `receive` takes its commands; its frames gather in `outbox` until `take`.

    Args:
        notify: called when frames have been added.
    """

    def __init__(self, hub: Hub, notify: Callable[[], None] | None = None) -> None:
        self._hub, self._notify = hub, notify
        self._by_channel: dict[str, Subscription] = {}
        self._next_sid = 1
        self.outbox: list[bytes] = []

    def take(self) -> list[bytes]:
        """The frames gathered since the last call."""
        taken, self.outbox = self.outbox, []
        return taken

    def close(self) -> None:
        """Forget the connection."""
        self._hub.leave(self)

    # Frames out

    def send(self, frame: bytes) -> None:
        """Add one frame."""
        self.outbox.append(frame)
        self._hub.frames += 1
        if self._notify is not None:
            self._notify()

    def deliver(self, subscription: Subscription, kind: bytes, body: bytes) -> None:
        """Add a message of one subscription around an encoded body."""
        if subscription.channel in SEQUENCED:
            subscription.seq += 1
            head = b'{"type":"%b","sid":%d,"seq":%d,"msg":' % (kind, subscription.sid, subscription.seq)
        else:
            head = b'{"type":"%b","sid":%d,"msg":' % (kind, subscription.sid)
        self.send(head + body + b"}")

    def deliver_all(self, subscription: Subscription, kind: bytes, bodies: Iterable[bytes]) -> None:
        """Add messages that come together, as `deliver` would one by one."""
        if subscription.channel not in SEQUENCED:
            for body in bodies:
                self.deliver(subscription, kind, body)
            return
        sid, seq, outbox = subscription.sid, subscription.seq, self.outbox
        first = seq
        for body in bodies:
            seq += 1
            outbox.append(b'{"type":"%b","sid":%d,"seq":%d,"msg":%b}' % (kind, sid, seq, body))
        subscription.seq = seq
        self._hub.frames += seq - first
        if self._notify is not None:
            self._notify()

    def _reply(
        self, kind: str, number: int, subscription: Subscription | None = None, msg: Any = None
    ) -> None:
        frame: dict[str, Any] = {"id": number, "type": kind}
        if subscription is not None:
            frame["sid"] = subscription.sid
            if subscription.channel in SEQUENCED or kind == "unsubscribed":
                subscription.seq += 1
                frame["seq"] = subscription.seq
        frame["sending_ts_ms"] = self._hub.source.now_ms()
        if msg is not None:
            frame["msg"] = msg
        self.send(_encode(frame))

    def _error(self, number: int, code: int, subscription: Subscription | None = None) -> None:
        self._reply("error", number, subscription, {"code": code, "msg": _ERRORS[code]})

    # Commands in

    def receive(self, frame: bytes | str) -> None:
        """Carry out one command; whatever is wrong with it is answered, never raised."""
        try:
            command = _decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._error(0, 1)
            return
        params = command.params
        if command.cmd == "list_subscriptions":
            held = [{"channel": s.channel, "sid": s.sid} for s in self._by_channel.values()]
            self._reply("ok", command.id, msg=held)
        elif command.cmd not in ("subscribe", "unsubscribe", "update_subscription"):
            self._error(command.id, 5)
        elif params is None:
            self._error(command.id, 2)
        elif command.cmd == "subscribe":
            self._subscribe(command.id, params)
        elif command.cmd == "unsubscribe":
            self._unsubscribe(command.id, params)
        else:
            self._update(command.id, params)

    @staticmethod
    def _tickers(params: wire.CommandParams) -> list[str]:
        named = list(params.market_tickers or ())
        return [*named, params.market_ticker] if params.market_ticker else named

    def _subscribe(self, number: int, params: wire.CommandParams) -> None:
        tickers = self._tickers(params)
        channels = params.channels or []
        if not channels:
            self._error(number, 3)
            return
        if any(c not in CHANNELS for c in channels):
            self._error(number, 8)
            return
        if "orderbook_delta" in channels and not tickers:
            self._error(number, 14)
            return
        for channel in channels:
            wanted = None if channel in UNFILTERED or not tickers else set(tickers)
            held = self._by_channel.get(channel)
            if held is not None:
                self._widen(number, held, wanted)
                continue
            subscription = Subscription(self._next_sid, channel, wanted)
            self._next_sid += 1
            self._by_channel[channel] = subscription
            self._hub.join(self, subscription)
            self._reply("subscribed", number, msg={"channel": channel, "sid": subscription.sid})
            self._open(subscription, tickers, params.send_initial_snapshot or False)

    def _widen(self, number: int, held: Subscription, wanted: set[str] | None) -> None:
        """A second subscription to a channel adds its markets to the first."""
        new = set() if wanted is None or held.tickers is None else wanted - held.tickers
        if held.tickers is not None:
            held.tickers = None if wanted is None else held.tickers | wanted
        self._reply("ok", number, held, {"market_tickers": sorted(held.tickers or ())})
        self._open(held, sorted(new), False)

    def _open(self, subscription: Subscription, tickers: Iterable[str], initial: bool) -> None:
        """What comes right after the acknowledgement."""
        for ticker in tickers:
            if subscription.channel == "orderbook_delta":
                self._snapshot(subscription, ticker)
            elif subscription.channel == "ticker" and initial:
                body = self._hub.source.ticker_body(ticker)
                if body is not None:
                    self.deliver(subscription, b"ticker", _encode(body))

    def _snapshot(self, subscription: Subscription, ticker: str) -> None:
        body = self._hub.source.snapshot(ticker)
        if body is not None:
            self.deliver(subscription, b"orderbook_snapshot", _encode(body))

    def _unsubscribe(self, number: int, params: wire.CommandParams) -> None:
        sids = params.sids or ([params.sid] if params.sid else [])
        if not sids:
            self._error(number, 4)
            return
        by_sid = {s.sid: s for s in self._by_channel.values()}
        for sid in sids:
            subscription = by_sid.get(sid)
            if subscription is None:
                self._error(number, 7)
                continue
            del self._by_channel[subscription.channel]
            self._hub.part(self, subscription)
            self._reply("unsubscribed", number, subscription)

    def _update(self, number: int, params: wire.CommandParams) -> None:
        sids = params.sids or ([params.sid] if params.sid else [])
        if len(sids) != 1:
            self._error(number, 12)
            return
        subscription = next((s for s in self._by_channel.values() if s.sid == sids[0]), None)
        if subscription is None:
            self._error(number, 7)
            return
        tickers = self._tickers(params)
        if not params.action:
            self._error(number, 15, subscription)
        elif params.action not in ("add_markets", "delete_markets", "get_snapshot"):
            self._error(number, 13, subscription)
        elif not tickers:
            self._error(number, 14, subscription)
        elif params.action == "get_snapshot":
            if subscription.channel != "orderbook_delta":
                self._error(number, 13, subscription)
                return
            for ticker in tickers:
                self._snapshot(subscription, ticker)
        elif subscription.tickers is None:
            self._error(number, 11, subscription)
        elif params.action == "add_markets":
            new = [t for t in tickers if t not in subscription.tickers]
            subscription.tickers.update(new)
            self._reply("ok", number, subscription, {"market_tickers": sorted(subscription.tickers)})
            self._open(subscription, new, params.send_initial_snapshot or False)
        else:
            subscription.tickers.difference_update(tickers)
            self._reply("ok", number, subscription, {"market_tickers": sorted(subscription.tickers)})


class Hub:
    """All connections, by channel."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.frames = 0
        """Frames handed to connections so far, all together."""
        self._listeners: dict[str, list[tuple[Connection, Subscription]]] = {c: [] for c in CHANNELS}

    def connect(self, notify: Callable[[], None] | None = None) -> Connection:
        """A new connection."""
        return Connection(self, notify)

    def join(self, connection: Connection, subscription: Subscription) -> None:
        """A connection listens to a channel from now on."""
        self._listeners[subscription.channel].append((connection, subscription))

    def part(self, connection: Connection, subscription: Subscription) -> None:
        """A connection listens to a channel no more."""
        self._listeners[subscription.channel].remove((connection, subscription))

    def leave(self, connection: Connection) -> None:
        """A connection is gone."""
        for channel, pairs in self._listeners.items():
            self._listeners[channel] = [pair for pair in pairs if pair[0] is not connection]

    def wanted(self, channel: str, ticker: str) -> bool:
        """Whether anybody listens to this channel for this market: ask before making a costly body."""
        for _, subscription in self._listeners[channel]:
            if subscription.tickers is None or ticker in subscription.tickers:
                return True
        return False

    def publish(self, channel: str, kind: bytes, ticker: str, body: msgspec.Struct) -> None:
        """Send a message to whoever listens."""
        encoded: bytes | None = None
        for connection, subscription in self._listeners[channel]:
            if subscription.tickers is None or ticker in subscription.tickers:
                if encoded is None:
                    encoded = _encode(body)
                connection.deliver(subscription, kind, encoded)

    def publish_all(self, channel: str, kind: bytes, ticker: str, bodies: Iterable[msgspec.Struct]) -> None:
        """Send messages that come together to whoever listens, in their order."""
        encoded: list[bytes] | None = None
        for connection, subscription in self._listeners[channel]:
            if subscription.tickers is None or ticker in subscription.tickers:
                if encoded is None:
                    encoded = [_encode(body) for body in bodies]
                connection.deliver_all(subscription, kind, encoded)
