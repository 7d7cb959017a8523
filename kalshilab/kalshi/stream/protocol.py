"""WebSocket protocol without a socket: frames in, events out; requests in, commands out.

A `StreamProtocol` serves one connection.  It numbers commands, learns which subscription id (`sid`) belongs to which
channel, checks the sequence number of each sid, and converts frames to events in our units.

A gap in a sequence means that frames of that sid were lost.  For `orderbook_delta`, every book of the sid is then
stale: the protocol emits a `FeedGap`, requests snapshots, and drops the deltas of a market until its snapshot arrives.
`ticker`, `fill`, `user_orders` and `market_positions` have no sequence number, so a loss cannot be detected here:
reconcile them with REST.

An invalid frame raises `ProtocolError`.  Message types that this version does not know are counted in `unknown` and
otherwise ignored, because the exchange adds types without notice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, get_args

import msgspec

from kalshilab.errors import ProtocolError, UnitError
from kalshilab.kalshi.stream.events import (
    BookDelta,
    BookSnapshot,
    EventLifecycle,
    FeedGap,
    Lifecycle,
    PositionUpdate,
    ProtocolEvent,
    Rejected,
    Subscribed,
    Ticker,
)
from kalshilab.kalshi.stream.messages import fill_of, lifecycle_of, order_of, price_of, size_of
from kalshilab.kalshi.wire import stream as wire
from kalshilab.kalshi.wire.base import UNREADABLE
from kalshilab.market.model import Fill, Order, Trade
from kalshilab.units import parse_money, parse_size

__all__ = ["StreamProtocol"]

TERMINAL: Final = frozenset({10, 25})
"""Error codes after which the exchange sends no more frames on the subscription."""


# One class per message type; msgspec selects it by the "type" field while decoding.
class _Frame(msgspec.Struct, tag_field="type", gc=False):
    sid: int = 0
    seq: int = 0
    id: int = 0


class _Snapshot(_Frame, tag="orderbook_snapshot"):
    msg: wire.OrderbookSnapshot = None  # type: ignore[assignment]


class _Delta(_Frame, tag="orderbook_delta"):
    msg: wire.OrderbookDelta = None  # type: ignore[assignment]


class _Trade(_Frame, tag="trade"):
    msg: wire.TradeMessage = None  # type: ignore[assignment]


class _Ticker(_Frame, tag="ticker"):
    msg: wire.TickerMessage = None  # type: ignore[assignment]


class _Fill(_Frame, tag="fill"):
    msg: wire.FillMessage = None  # type: ignore[assignment]


class _UserOrder(_Frame, tag="user_order"):
    msg: wire.UserOrder = None  # type: ignore[assignment]


class _Position(_Frame, tag="market_position"):
    msg: wire.MarketPositionMessage = None  # type: ignore[assignment]


class _Lifecycle(_Frame, tag="market_lifecycle_v2"):
    msg: wire.LifecycleMessage = None  # type: ignore[assignment]


class _EventLifecycle(_Frame, tag="event_lifecycle"):
    msg: wire.EventLifecycleMessage = None  # type: ignore[assignment]


class _Ack(msgspec.Struct):
    channel: str = ""
    sid: int = 0


class _Subscribed(_Frame, tag="subscribed"):
    msg: _Ack = msgspec.field(default_factory=_Ack)


class _Unsubscribed(_Frame, tag="unsubscribed"):
    pass


class _Ok(_Frame, tag="ok"):
    pass


class _Refusal(msgspec.Struct):
    code: int = 0
    msg: str = ""


class _Error(_Frame, tag="error"):
    msg: _Refusal = msgspec.field(default_factory=_Refusal)


class _UnknownFrame(msgspec.Struct):
    type: str = ""
    sid: int = 0
    seq: int = 0


_KnownFrame = (
    _Delta | _Trade | _Ticker | _Snapshot | _Fill | _UserOrder | _Position | _Lifecycle | _EventLifecycle
    | _Subscribed | _Unsubscribed | _Ok | _Error
)  # fmt: skip
_TAGS: Final = frozenset(t.__struct_config__.tag for t in get_args(_KnownFrame))
_decode: Final[Callable[[bytes | str], Any]] = msgspec.json.Decoder(_KnownFrame).decode
_decode_unknown: Final = msgspec.json.Decoder(_UnknownFrame).decode
_encode: Final = msgspec.json.Encoder().encode


class Subscription:
    """State of one sid: its channel, its markets and the next sequence number."""

    __slots__ = ("channel", "next_seq", "sid", "stale", "tickers")

    def __init__(self, sid: int, channel: str, tickers: Iterable[str]) -> None:
        self.sid, self.channel = sid, channel
        self.tickers: dict[str, None] = dict.fromkeys(tickers)
        self.stale: set[str] = set()
        self.next_seq = 1


class StreamProtocol:
    """Protocol state of one connection.

    Args:
        emit: called with each event from within `receive`, synchronously and in order.
        answered: called with each `Subscribed` and `Rejected`, immediately before `emit`.
        wanting: called when there is a command to send.

    >>> events = []
    >>> protocol = StreamProtocol(events.append)
    >>> protocol.subscribe(["trade"])
    >>> protocol.take_commands()
    [b'{"cmd":"subscribe","id":1,"params":{"channels":["trade"]}}']
    >>> protocol.receive('{"id":1,"type":"subscribed","msg":{"channel":"trade","sid":2}}')
    >>> events
    [Subscribed(channel='trade', sid=2)]
    """

    def __init__(
        self,
        emit: Callable[[ProtocolEvent], None],
        answered: Callable[[Subscribed | Rejected], None] = lambda _: None,
        wanting: Callable[[], None] = lambda: None,
    ) -> None:
        self._emit, self._answered, self._wanting = emit, answered, wanting
        self._next_id = 1
        self._asked: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self._waiting: dict[str, list[str]] = {}
        self._leaving: dict[str, list[str]] = {}
        self._by_sid: dict[int, Subscription] = {}
        self._by_channel: dict[str, Subscription] = {}
        self._commands: deque[bytes] = deque()
        self.unknown = 0
        """Messages of unknown types."""
        self.undirected = 0
        """Trades dropped because they name no taker."""
        self._readers: dict[type, Callable[[Any], ProtocolEvent | None]] = {
            _Delta: self._on_delta,
            _Trade: self._on_trade,
            _Ticker: self._on_ticker,
            _Snapshot: self._on_snapshot,
            _Fill: self._on_fill,
            _UserOrder: self._on_order,
            _Position: self._on_position,
            _Lifecycle: self._on_lifecycle,
            _EventLifecycle: self._on_event_lifecycle,
            _Subscribed: self._on_subscribed,
            _Unsubscribed: lambda frame: None,
            _Ok: lambda frame: None,
            _Error: self._on_error,
        }

    # Commands

    def take_commands(self) -> list[bytes]:
        """Return the commands to send now, in order; each is returned once."""
        taken = list(self._commands)
        self._commands.clear()
        return taken

    @property
    def has_commands(self) -> bool:
        """Whether commands are waiting to be sent."""
        return bool(self._commands)

    def _command(self, cmd: str, params: wire.CommandParams) -> int:
        number = self._next_id
        self._next_id += 1
        self._commands.append(_encode(wire.Command(cmd=cmd, id=number, params=params)))
        self._wanting()
        return number

    def subscribe(self, channels: Iterable[str], tickers: Iterable[str] = ()) -> None:
        """Subscribe to channels.

        Args:
            channels: the channels.
            tickers: the markets; none subscribes to all, which `orderbook_delta` does not allow.
        """
        names, markets = tuple(channels), tuple(tickers)
        # Each acknowledgement would list every market of the subscription again.
        quiet = True if markets else None
        number = self._command(
            "subscribe",
            wire.CommandParams(
                channels=list(names), market_tickers=list(markets) or None, skip_ticker_ack=quiet
            ),
        )
        self._asked[number] = (names, markets)
        for name in names:
            self._waiting.setdefault(name, [])

    def add_markets(self, channel: str, tickers: Iterable[str]) -> None:
        """Add markets to a channel, and subscribe to it if necessary."""
        markets = list(tickers)
        if not markets:
            return
        subscription = self._by_channel.get(channel)
        if subscription is not None:
            subscription.tickers.update(dict.fromkeys(markets))
            self._update(subscription, "add_markets", markets)
        elif channel in self._waiting:
            # The subscription is not confirmed yet, so its sid is unknown.
            leaving = self._leaving.get(channel, [])
            self._leaving[channel] = [t for t in leaving if t not in markets]
            self._waiting[channel] += markets
        else:
            self.subscribe([channel], markets)

    def delete_markets(self, channel: str, tickers: Iterable[str]) -> None:
        """Remove markets from a channel."""
        subscription = self._by_channel.get(channel)
        markets = list(tickers)
        if subscription is None:
            if channel in self._waiting:
                # Not confirmed yet: the markets are removed when the sid is known.
                self._waiting[channel] = [t for t in self._waiting[channel] if t not in markets]
                self._leaving.setdefault(channel, []).extend(markets)
            return
        known = [t for t in markets if t in subscription.tickers]
        for ticker in known:
            del subscription.tickers[ticker]
            subscription.stale.discard(ticker)
        if known:
            self._update(subscription, "delete_markets", known)

    def get_snapshot(self, tickers: Iterable[str]) -> None:
        """Request new snapshots of books; their deltas are dropped until then."""
        subscription = self._by_channel.get("orderbook_delta")
        if subscription is None:
            return
        markets = [t for t in tickers if t in subscription.tickers]
        if markets:
            subscription.stale.update(markets)
            self._update(subscription, "get_snapshot", markets)

    def _update(self, subscription: Subscription, action: str, markets: list[str]) -> None:
        self._command(
            "update_subscription",
            wire.CommandParams(sids=[subscription.sid], action=action, market_tickers=markets),
        )

    # Frames

    def receive(self, frame: bytes | str) -> None:
        """Decode a frame and emit its events.

        Raises:
            ProtocolError: the frame is not JSON, or a known type lacks a field.
        """
        try:
            message = _decode(frame)
        except UNREADABLE as error:
            self._receive_unknown(frame, error)
            return
        seq = message.seq
        if seq:
            # Inlined `_check_sequence`: every frame passes here.
            subscription = self._by_sid.get(message.sid)
            if subscription is not None:
                if seq != subscription.next_seq:
                    self._on_gap(subscription, seq)
                subscription.next_seq = seq + 1
        try:
            event = self._readers[message.__class__](message)
        except (UnitError, AttributeError) as error:
            raise ProtocolError(f"invalid field ({error})", frame) from None
        # Outside the try: an error of the listener must not become a ProtocolError.
        if event is not None:
            self._emit(event)

    def _check_sequence(self, sid: int, seq: int) -> None:
        """Compare a frame's sequence number with the one expected of its sid."""
        subscription = self._by_sid.get(sid)
        if subscription is not None:
            if seq != subscription.next_seq:
                self._on_gap(subscription, seq)
            subscription.next_seq = seq + 1

    def _receive_unknown(self, frame: bytes | str, error: Exception) -> None:
        """Count a message of an unknown type; raise for any other frame that failed to decode."""
        try:
            message = _decode_unknown(frame)
        except UNREADABLE:
            raise ProtocolError(f"not a message ({error})", frame) from None
        if not message.type or message.type in _TAGS:
            raise ProtocolError(str(error), frame) from None
        self.unknown += 1
        if message.seq:
            self._check_sequence(message.sid, message.seq)

    def _on_gap(self, subscription: Subscription, got: int) -> None:
        tickers = tuple(subscription.tickers)
        self._emit(FeedGap(subscription.sid, subscription.channel, tickers, subscription.next_seq, got))
        if subscription.channel == "orderbook_delta" and tickers:
            self.get_snapshot(tickers)

    def _on_delta(self, frame: _Delta) -> BookDelta | None:
        m = frame.msg
        ticker = m.market_ticker
        if m.side != "yes" and m.side != "no":
            raise UnitError("side", m.side, "yes or no")
        subscription = self._by_sid.get(frame.sid)
        if subscription is not None and ticker in subscription.stale:
            return None
        return BookDelta(
            ticker, m.side, price_of(m.price_dollars), size_of(m.delta_fp), m.ts_ms * 1000, m.client_order_id
        )

    def _on_snapshot(self, frame: _Snapshot) -> BookSnapshot:
        m = frame.msg
        subscription = self._by_sid.get(frame.sid)
        if subscription is not None:
            subscription.stale.discard(m.market_ticker)
        yes = [(price_of(p), size_of(s)) for p, s in m.yes_dollars_fp]
        no = [(price_of(p), size_of(s)) for p, s in m.no_dollars_fp]
        return BookSnapshot(m.market_ticker, yes, no)

    def _on_trade(self, frame: _Trade) -> Trade | None:
        m = frame.msg
        ts = m.ts_us or m.ts_ms * 1000 or m.ts * 1_000_000
        taker = m.taker_outcome_side or m.taker_side
        if taker != "yes" and taker != "no":
            # A trade without a taker must not count for either side.
            self.undirected += 1
            return None
        return Trade(
            ts, m.market_ticker, price_of(m.yes_price_dollars), size_of(m.count_fp), taker, m.trade_id
        )

    def _on_ticker(self, frame: _Ticker) -> Ticker:
        m = frame.msg
        return Ticker(
                m.market_ticker, price_of(m.price_dollars), price_of(m.yes_bid_dollars), price_of(m.yes_ask_dollars),
                size_of(m.volume_fp), size_of(m.open_interest_fp), m.ts_ms * 1000,
            )  # fmt: skip

    def _on_fill(self, frame: _Fill) -> Fill:
        return fill_of(frame.msg)

    def _on_order(self, frame: _UserOrder) -> Order:
        return order_of(frame.msg)

    def _on_position(self, frame: _Position) -> PositionUpdate:
        m = frame.msg
        return PositionUpdate(
                m.market_ticker, parse_size(m.position_fp), parse_money(m.position_cost_dollars),
                parse_money(m.realized_pnl_dollars), parse_money(m.fees_paid_dollars),
            )  # fmt: skip

    def _on_lifecycle(self, frame: _Lifecycle) -> Lifecycle:
        return lifecycle_of(frame.msg)

    def _on_event_lifecycle(self, frame: _EventLifecycle) -> EventLifecycle:
        m = frame.msg
        return EventLifecycle(m.event_ticker, m.series_ticker, m.title)

    def _on_subscribed(self, frame: _Subscribed) -> None:
        channel, sid = frame.msg.channel, frame.msg.sid
        _, tickers = self._asked.get(frame.id, ((), ()))
        subscription = Subscription(sid, channel, tickers)
        self._by_sid[sid] = self._by_channel[channel] = subscription
        waiting = self._waiting.pop(channel, None)
        self._answer(Subscribed(channel, sid))
        if waiting:
            self.add_markets(channel, waiting)
        self.delete_markets(channel, self._leaving.pop(channel, ()))

    def _on_error(self, frame: _Error) -> None:
        channels, _ = self._asked.pop(frame.id, ((), ()))
        for channel in channels:
            self._waiting.pop(channel, None)
            self._leaving.pop(channel, None)
        self._answer(Rejected(frame.msg.code, frame.msg.msg, frame.id))

    def _answer(self, event: Subscribed | Rejected) -> None:
        self._answered(event)
        self._emit(event)
