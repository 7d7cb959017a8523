"""One client of the WebSocket: its commands in, its frames out, without a socket.

Each channel that a connection subscribes to has one `sid`, whose sequence counts every frame of it, answers
included.  An answer comes before the data it is about.  Whatever is wrong with a command is answered with the
exchange's error code, and the connection lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import msgspec

from kalshilab.exchange.stream.format_2026_01 import JANUARY, UNSEQUENCED
from kalshilab.kalshi.wire import stream as wire
from kalshilab.kalshi.wire.base import UNREADABLE

__all__ = ["CHANNELS", "MOST_MARKETS", "Connection", "Desk", "Subscription", "Variant"]

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
"""Channels to which a filter by market does not apply."""
MOST_MARKETS: Final = 500_000
"""Markets that one connection may be subscribed to, over all its channels."""
Variant = tuple[str, bool]
"""How a body is told: the form, and whether NO levels of a book carry YES prices."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(wire.Command).decode


class _Numbered(msgspec.Struct):
    """What of a command that cannot be read says to whom it is to be answered."""

    id: int = 0
    cmd: Any = None


_decode_number: Final = msgspec.json.Decoder(_Numbered).decode
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


class Desk(Protocol):
    """What a connection asks of the hub."""

    frames: int

    def now_ms(self) -> int:
        """Exchange time in milliseconds."""
        ...

    def snapshot_of(self, ticker: str, variant: Variant) -> bytes | None:
        """A market's book, encoded; None for an unknown market."""
        ...

    def ticker_of(self, ticker: str, variant: Variant) -> bytes | None:
        """A market's top of book, encoded; None for an unknown market."""
        ...

    def named(self, market_id: str) -> str | None:
        """The ticker of a market's id; None if none has it."""
        ...

    def join(self, connection: Connection, subscription: Subscription) -> None:
        """The connection listens to a channel from now on."""
        ...

    def part(self, subscription: Subscription) -> None:
        """It listens to it no more."""
        ...

    def rejoin(self, connection: Connection, subscription: Subscription, tickers: set[str] | None) -> None:
        """It listens to other markets of it from now on."""
        ...


class Subscription:
    """One channel of one connection; `tickers` None means all markets."""

    __slots__ = ("channel", "quiet", "seq", "sequenced", "sid", "tickers", "variant")

    def __init__(
        self, sid: int, channel: str, tickers: set[str] | None, variant: Variant, *, quiet: bool = False
    ) -> None:
        self.sid, self.channel, self.tickers, self.variant, self.quiet = sid, channel, tickers, variant, quiet
        self.sequenced = channel in SEQUENCED and not (variant[0] == JANUARY and channel in UNSEQUENCED)
        self.seq = 0


class Connection:
    """One client.  `receive` takes its commands; its frames gather in `outbox` until `take`.

    Args:
        notify: called when frames have been added.
        form: of messages and answers; see `kalshilab.exchange.stream.format_2026_01`.
    """

    def __init__(self, hub: Desk, notify: Callable[[], None] | None = None, form: str = "") -> None:
        self._hub, self._notify, self._form = hub, notify, form
        self._by_channel: dict[str, Subscription] = {}
        self._next_sid = 1
        self.outbox: list[bytes] = []

    def take(self) -> list[bytes]:
        """The frames gathered since the last call."""
        taken, self.outbox = self.outbox, []
        return taken

    def close(self) -> None:
        """Forget the connection."""
        for subscription in self._by_channel.values():
            self._hub.part(subscription)
        self._by_channel.clear()

    # Frames out

    def send(self, frame: bytes) -> None:
        """Add one frame."""
        self.outbox.append(frame)
        self._hub.frames += 1
        if self._notify is not None:
            self._notify()

    def deliver(self, subscription: Subscription, kind: bytes, body: bytes, number: int = 0) -> None:
        """Add a message of one subscription around an encoded body.

        Args:
            number: of the command that the message answers; 0 for none.
        """
        sent = self._sent()
        if number:
            sent = b'"id":%d,%b' % (number, sent)
        if subscription.sequenced:
            subscription.seq += 1
            head = b'{"type":"%b","sid":%d,"seq":%d,%b"msg":' % (
                kind,
                subscription.sid,
                subscription.seq,
                sent,
            )
        else:
            head = b'{"type":"%b","sid":%d,%b"msg":' % (kind, subscription.sid, sent)
        self.send(head + body + b"}")

    def _sent(self) -> bytes:
        """When a message is sent, as a member of it; there was none in January."""
        return b"" if self._form == JANUARY else b'"sending_ts_ms":%d,' % self._hub.now_ms()

    def deliver_all(self, subscription: Subscription, kind: bytes, bodies: Iterable[bytes]) -> None:
        """Add messages that come together, as `deliver` would one by one."""
        if not subscription.sequenced:
            for body in bodies:
                self.deliver(subscription, kind, body)
            return
        sid, seq, outbox = subscription.sid, subscription.seq, self.outbox
        first, sent = seq, self._sent()
        for body in bodies:
            seq += 1
            outbox.append(b'{"type":"%b","sid":%d,"seq":%d,%b"msg":%b}' % (kind, sid, seq, sent, body))
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
            if subscription.sequenced or kind == "unsubscribed":
                subscription.seq += 1
                frame["seq"] = subscription.seq
        if self._form != JANUARY:
            frame["sending_ts_ms"] = self._hub.now_ms()
        elif kind == "unsubscribed":
            frame = {"type": kind, "sid": frame["sid"]}
        elif kind == "ok":
            # What it is about stood at the top level then.
            self.send(_encode(frame | (msg if isinstance(msg, dict) else {"subscriptions": msg})))
            return
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
        except UNREADABLE:
            self._unreadable(frame)
            return
        params = command.params
        if command.cmd == "list_subscriptions":
            held = [{"channel": s.channel, "sid": s.sid} for s in self._by_channel.values()]
            self._reply("ok", command.id, msg=held)
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

    def _unreadable(self, frame: bytes | str) -> None:
        """Answer what is no command: by its number where it has one, and with what is wrong about it."""
        try:
            found = _decode_number(frame)
        except UNREADABLE:
            self._error(0, 1)
            return
        if not isinstance(found.cmd, str):
            self._error(found.id, 1)
        else:
            self._error(found.id, 11 if found.cmd in COMMANDS else 5)

    def _named(self, params: wire.CommandParams) -> list[str] | None:
        """The markets a command names, by ticker or by id; None if an id is nobody's."""
        named = [*(params.market_tickers or ()), *([params.market_ticker] if params.market_ticker else ())]
        for market_id in (*(params.market_ids or ()), *([params.market_id] if params.market_id else ())):
            ticker = self._hub.named(market_id)
            if ticker is None:
                return None
            named.append(ticker)
        return named

    def _room(self, more: int) -> bool:
        held = sum(len(s.tickers) for s in self._by_channel.values() if s.tickers is not None)
        return held + more <= MOST_MARKETS

    def _subscribe(self, number: int, params: wire.CommandParams) -> None:
        channels = params.channels or []
        if not channels:
            self._error(number, 3)
            return
        if any(c not in CHANNELS for c in channels):
            self._error(number, 8)
            return
        by_id = bool(params.market_id or params.market_ids)
        tickers = self._named(params)
        if tickers is None or (
            by_id and (channels != ["ticker"] or params.market_ticker or params.market_tickers)
        ):
            self._error(number, 11)
            return
        if "orderbook_delta" in channels and not tickers:
            self._error(number, 14)
            return
        if not self._room(len(channels) * len(tickers)):
            self._error(number, 26)
            return
        for channel in channels:
            wanted = None if channel in UNFILTERED or not tickers else set(tickers)
            held = self._by_channel.get(channel)
            if held is not None:
                self._widen(number, held, wanted)
                continue
            variant = (self._form, bool(params.use_yes_price) and channel == "orderbook_delta")
            subscription = Subscription(
                self._next_sid, channel, wanted, variant, quiet=bool(params.skip_ticker_ack)
            )
            self._next_sid += 1
            self._by_channel[channel] = subscription
            self._hub.join(self, subscription)
            self._reply("subscribed", number, msg={"channel": channel, "sid": subscription.sid})
            self._open(subscription, tickers, params.send_initial_snapshot or False)

    def _acknowledge(self, number: int, subscription: Subscription) -> None:
        listed = {} if subscription.quiet else {"market_tickers": sorted(subscription.tickers or ())}
        self._reply("ok", number, subscription, listed)

    def _widen(self, number: int, held: Subscription, wanted: set[str] | None) -> None:
        """A second subscription to a channel adds its markets to the first."""
        new = set() if wanted is None or held.tickers is None else wanted - held.tickers
        if held.tickers is not None:
            self._hub.rejoin(self, held, None if wanted is None else held.tickers | wanted)
        self._acknowledge(number, held)
        self._open(held, sorted(new), False)

    def _open(self, subscription: Subscription, tickers: Iterable[str], initial: bool) -> None:
        """What comes right after the acknowledgement."""
        for ticker in tickers:
            if subscription.channel == "orderbook_delta":
                self._snapshot(subscription, ticker)
            elif subscription.channel == "ticker" and initial:
                body = self._hub.ticker_of(ticker, subscription.variant)
                if body is not None:
                    self.deliver(subscription, b"ticker", body)

    def _snapshot(self, subscription: Subscription, ticker: str, number: int = 0) -> None:
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
            self._hub.part(subscription)
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
        tickers = self._named(params)
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
            if not self._room(len(new)):
                self._error(number, 26, subscription)
                return
            self._hub.rejoin(self, subscription, subscription.tickers | set(new))
            self._acknowledge(number, subscription)
            self._open(subscription, new, params.send_initial_snapshot or False)
        else:
            self._hub.rejoin(self, subscription, subscription.tickers - set(tickers))
            self._acknowledge(number, subscription)
