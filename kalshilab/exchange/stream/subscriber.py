"""One WebSocket client, without a socket: commands in, frames out.

A connection has one `sid` per subscribed channel, and the sequence of a `sid` counts all its frames, answers
included. An answer precedes the data it announces. An invalid command is answered with the exchange's error code,
and the connection stays open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec

from kalshilab.exchange.stream.format_2026_01 import JANUARY, UNSEQUENCED
from kalshilab.kalshi.wire import stream as wire
from kalshilab.kalshi.wire.base import UNREADABLE

__all__ = ["CHANNELS", "MAX_MARKETS", "ChannelSubscription", "StreamConnection", "StreamHost", "Variant"]

CHANNELS: Final = (
    "orderbook_delta", "trade", "ticker", "fill", "user_orders", "market_positions", "market_lifecycle_v2",
    "multivariate_market_lifecycle", "order_group_updates",
)  # fmt: skip
SEQUENCED: Final = frozenset(
    {
        "orderbook_delta",
        "trade",
        "market_lifecycle_v2",
        "multivariate_market_lifecycle",
        "order_group_updates",
    }
)
UNFILTERED: Final = frozenset({"market_lifecycle_v2", "multivariate_market_lifecycle", "order_group_updates"})
"""Channels that ignore a filter by market."""
MAX_MARKETS: Final = 500_000
"""Maximum number of markets that one connection may subscribe to, summed over its channels."""
Variant = tuple[str, bool]
"""Encoding of a body: the message form, and whether NO levels of a book carry YES prices."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(wire.Command).decode


class _CommandHead(msgspec.Struct):
    """The fields of an invalid command that its error answer needs."""

    id: int = 0
    cmd: object = None


_decode_head: Final = msgspec.json.Decoder(_CommandHead).decode
COMMANDS: Final = ("subscribe", "unsubscribe", "update_subscription", "list_subscriptions")
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
    26: "Market limit of the subscription exceeded",
}


class StreamHost(Protocol):
    """Operations of the hub that a connection calls.

    Attributes:
        frames: number of frames handed to all connections so far.
    """

    frames: int

    def now_ms(self) -> int:
        """Return exchange time in milliseconds."""
        ...

    def snapshot_of(self, ticker: str, variant: Variant) -> bytes | None:
        """Return a market's encoded book; None for an unknown market."""
        ...

    def ticker_of(self, ticker: str, variant: Variant) -> bytes | None:
        """Return a market's encoded top of book; None for an unknown market."""
        ...

    def ticker_named(self, market_id: str) -> str | None:
        """Return the ticker of the market with this id; None for an unknown id."""
        ...

    def subscribe(self, connection: StreamConnection, subscription: ChannelSubscription) -> None:
        """Start sending a channel's messages to a connection."""
        ...

    def unsubscribe(self, subscription: ChannelSubscription) -> None:
        """Stop sending a channel's messages to a connection."""
        ...

    def change_tickers(
        self, connection: StreamConnection, subscription: ChannelSubscription, tickers: set[str] | None
    ) -> None:
        """Replace the markets of a subscription; None means all markets."""
        ...

    def add_tickers(
        self, connection: StreamConnection, subscription: ChannelSubscription, tickers: Iterable[str]
    ) -> None:
        """Add markets to a subscription that names its markets."""
        ...

    def remove_tickers(self, subscription: ChannelSubscription, tickers: Iterable[str]) -> None:
        """Remove markets from a subscription that names its markets."""
        ...


class ChannelSubscription:
    """One channel of one connection.

    Args:
        sid: subscription id, unique within the connection.
        channel: one of `CHANNELS`.
        tickers: markets of the subscription; None means all markets.
        variant: encoding of its message bodies.
        quiet: whether acknowledgements omit the list of markets.

    Attributes:
        sequenced: whether frames carry a sequence number.
        seq: sequence number of the latest frame.
    """

    __slots__ = ("channel", "quiet", "seq", "sequenced", "sid", "tickers", "variant")

    def __init__(
        self, sid: int, channel: str, tickers: set[str] | None, variant: Variant, *, quiet: bool = False
    ) -> None:
        self.sid, self.channel, self.tickers, self.variant, self.quiet = sid, channel, tickers, variant, quiet
        self.sequenced = channel in SEQUENCED and not (variant[0] == JANUARY and channel in UNSEQUENCED)
        self.seq = 0


class StreamConnection:
    """One client: `receive` executes its commands, and its frames collect in `outbox` until `take`.

    Args:
        hub: the hub that publishes messages to the connection.
        notify: called when frames have been added; None calls nothing.
        form: form of messages and answers; see `kalshilab.exchange.stream.format_2026_01`.
    """

    def __init__(self, hub: StreamHost, notify: Callable[[], None] | None = None, form: str = "") -> None:
        self._hub, self._notify, self._form = hub, notify, form
        self._by_channel: dict[str, ChannelSubscription] = {}
        self._next_sid = 1
        self.outbox: list[bytes] = []

    def take(self) -> list[bytes]:
        """Return the frames collected since the last call."""
        taken, self.outbox = self.outbox, []
        return taken

    def close(self) -> None:
        """End all subscriptions of the connection."""
        for subscription in self._by_channel.values():
            self._hub.unsubscribe(subscription)
        self._by_channel.clear()

    # Frames out

    def send(self, frame: bytes) -> None:
        """Add one frame to the outbox."""
        self.outbox.append(frame)
        self._hub.frames += 1
        if self._notify is not None:
            self._notify()

    def deliver(self, subscription: ChannelSubscription, kind: bytes, body: bytes, number: int = 0) -> None:
        """Add a message of one subscription to the outbox.

        Args:
            subscription: the subscription that the message belongs to.
            kind: the `type` of the frame.
            body: the encoded `msg` of the frame.
            number: id of the command that the message answers; 0 if it answers no command.
        """
        extra = self._sending_time()
        if number:
            extra = b'"id":%d,%b' % (number, extra)
        if subscription.sequenced:
            subscription.seq += 1
            head = b'{"type":"%b","sid":%d,"seq":%d,%b"msg":' % (
                kind,
                subscription.sid,
                subscription.seq,
                extra,
            )
        else:
            head = b'{"type":"%b","sid":%d,%b"msg":' % (kind, subscription.sid, extra)
        self.send(head + body + b"}")

    def _sending_time(self) -> bytes:
        """Return the sending time as a JSON member; the January form has no such member."""
        return b"" if self._form == JANUARY else b'"sending_ts_ms":%d,' % self._hub.now_ms()

    def deliver_all(self, subscription: ChannelSubscription, kind: bytes, bodies: Iterable[bytes]) -> None:
        """Add several messages of one subscription, as repeated calls of `deliver` would."""
        if not subscription.sequenced:
            for body in bodies:
                self.deliver(subscription, kind, body)
            return
        sid, seq, outbox = subscription.sid, subscription.seq, self.outbox
        first, sending_time = seq, self._sending_time()
        for body in bodies:
            seq += 1
            outbox.append(
                b'{"type":"%b","sid":%d,"seq":%d,%b"msg":%b}' % (kind, sid, seq, sending_time, body)
            )
        subscription.seq = seq
        self._hub.frames += seq - first
        if self._notify is not None:
            self._notify()

    def _reply(
        self, kind: str, number: int, subscription: ChannelSubscription | None = None, msg: object = None
    ) -> None:
        frame: dict[str, object] = {"id": number, "type": kind}
        if subscription is not None:
            frame["sid"] = subscription.sid
            if subscription.sequenced or kind == "unsubscribed":
                subscription.seq += 1
                frame["seq"] = subscription.seq
        if self._form != JANUARY:
            frame["sending_ts_ms"] = self._hub.now_ms()
        elif kind == "unsubscribed":
            frame = {"type": kind, "sid": frame["sid"]}
        elif kind == "ok":
            # In January the content stood at the top level.
            self.send(_encode(frame | (msg if isinstance(msg, dict) else {"subscriptions": msg})))
            return
        if msg is not None:
            frame["msg"] = msg
        self.send(_encode(frame))

    def _error(self, number: int, code: int, subscription: ChannelSubscription | None = None) -> None:
        self._reply("error", number, subscription, {"code": code, "msg": _ERRORS[code]})

    # Commands in

    def receive(self, frame: bytes | str) -> None:
        """Execute one command; an invalid one is answered with an error frame and never raises."""
        try:
            command = _decode(frame)
        except UNREADABLE:
            self._reject_invalid(frame)
            return
        params = command.params
        if command.cmd == "list_subscriptions":
            listed = [{"channel": s.channel, "sid": s.sid} for s in self._by_channel.values()]
            self._reply("ok", command.id, msg=listed)
        elif command.cmd not in COMMANDS:
            self._error(command.id, 5)
        elif params is None:
            self._error(command.id, 2)
        elif command.cmd == "subscribe":
            self._subscribe(command.id, params)
        elif command.cmd == "unsubscribe":
            self._unsubscribe(command.id, params)
        else:
            self._update(command.id, params)

    def _reject_invalid(self, frame: bytes | str) -> None:
        """Answer a frame that is not a valid command, under its id where it has one."""
        try:
            head = _decode_head(frame)
        except UNREADABLE:
            self._error(0, 1)
            return
        if not isinstance(head.cmd, str):
            self._error(head.id, 1)
        else:
            self._error(head.id, 11 if head.cmd in COMMANDS else 5)

    def _tickers(self, params: wire.CommandParams) -> list[str] | None:
        """Return the markets that a command names by ticker or id; None if an id is unknown."""
        tickers = [*(params.market_tickers or ()), *([params.market_ticker] if params.market_ticker else ())]
        for market_id in (*(params.market_ids or ()), *([params.market_id] if params.market_id else ())):
            ticker = self._hub.ticker_named(market_id)
            if ticker is None:
                return None
            tickers.append(ticker)
        return tickers

    def _has_room(self, more: int) -> bool:
        subscribed = sum(len(s.tickers) for s in self._by_channel.values() if s.tickers is not None)
        return subscribed + more <= MAX_MARKETS

    def _subscribe(self, number: int, params: wire.CommandParams) -> None:
        channels = params.channels or []
        if not channels:
            self._error(number, 3)
            return
        if any(c not in CHANNELS for c in channels):
            self._error(number, 8)
            return
        by_id = bool(params.market_id or params.market_ids)
        tickers = self._tickers(params)
        if tickers is None or (
            by_id and (channels != ["ticker"] or params.market_ticker or params.market_tickers)
        ):
            self._error(number, 11)
            return
        if "orderbook_delta" in channels and not tickers:
            self._error(number, 14)
            return
        if not self._has_room(len(channels) * len(tickers)):
            self._error(number, 26)
            return
        for channel in channels:
            wanted = None if channel in UNFILTERED or not tickers else set(tickers)
            existing = self._by_channel.get(channel)
            if existing is not None:
                self._add_markets(number, existing, wanted)
                continue
            variant = (self._form, bool(params.use_yes_price) and channel == "orderbook_delta")
            subscription = ChannelSubscription(
                self._next_sid, channel, wanted, variant, quiet=bool(params.skip_ticker_ack)
            )
            self._next_sid += 1
            self._by_channel[channel] = subscription
            self._hub.subscribe(self, subscription)
            self._reply("subscribed", number, msg={"channel": channel, "sid": subscription.sid})
            self._send_initial(subscription, tickers, params.send_initial_snapshot or False)

    def _acknowledge(self, number: int, subscription: ChannelSubscription) -> None:
        listed = {} if subscription.quiet else {"market_tickers": sorted(subscription.tickers or ())}
        self._reply("ok", number, subscription, listed)

    def _add_markets(self, number: int, subscription: ChannelSubscription, wanted: set[str] | None) -> None:
        """Add markets to an existing subscription, as a second `subscribe` to its channel does."""
        existing = subscription.tickers
        new = set() if wanted is None or existing is None else wanted - existing
        if wanted is None and existing is not None:
            self._hub.change_tickers(self, subscription, None)
        elif existing is not None:
            self._hub.add_tickers(self, subscription, sorted(new))
        self._acknowledge(number, subscription)
        self._send_initial(subscription, sorted(new), False)

    def _send_initial(
        self, subscription: ChannelSubscription, tickers: Iterable[str], ticker_snapshot: bool
    ) -> None:
        """Send the data that follow an acknowledgement: books, and tickers if `ticker_snapshot`."""
        for ticker in tickers:
            if subscription.channel == "orderbook_delta":
                self._snapshot(subscription, ticker)
            elif subscription.channel == "ticker" and ticker_snapshot:
                body = self._hub.ticker_of(ticker, subscription.variant)
                if body is not None:
                    self.deliver(subscription, b"ticker", body)

    def _snapshot(self, subscription: ChannelSubscription, ticker: str, number: int = 0) -> None:
        body = self._hub.snapshot_of(ticker, subscription.variant)
        if body is not None:
            self.deliver(subscription, b"orderbook_snapshot", body, number)

    def _unsubscribe(self, number: int, params: wire.CommandParams) -> None:
        sids = params.sids or ([params.sid] if params.sid else [])
        if not sids:
            self._error(number, 4)
            return
        by_sid = {s.sid: s for s in self._by_channel.values()}
        for sid in sids:
            subscription = by_sid.pop(sid, None)
            if subscription is None:
                self._error(number, 7)
                continue
            del self._by_channel[subscription.channel]
            self._hub.unsubscribe(subscription)
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
        elif tickers is None:
            self._error(number, 11, subscription)
        elif not tickers:
            self._error(number, 14, subscription)
        elif params.action == "get_snapshot":
            if subscription.channel != "orderbook_delta":
                self._error(number, 13, subscription)
                return
            for ticker in tickers:
                self._snapshot(subscription, ticker, number)
        elif subscription.tickers is None:
            self._error(number, 11, subscription)
        elif params.action == "add_markets":
            new = [t for t in dict.fromkeys(tickers) if t not in subscription.tickers]
            if not self._has_room(len(new)):
                self._error(number, 26, subscription)
                return
            self._hub.add_tickers(self, subscription, new)
            self._acknowledge(number, subscription)
            self._send_initial(subscription, new, params.send_initial_snapshot or False)
        else:
            self._hub.remove_tickers(subscription, dict.fromkeys(tickers))
            self._acknowledge(number, subscription)
