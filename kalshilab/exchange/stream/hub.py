"""Message distribution: turn each message of the exchange into the frames of the connections subscribed to it.

The body of a message is encoded once per requested variant, and each subscriber's frame is assembled around the
encoded body. Subscribers are indexed by channel and market, so the cost of publishing depends only on the number of
recipients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from kalshilab.errors import ExchangeError
from kalshilab.exchange.stream.format_2026_01 import FORMS, JANUARY, january_frame
from kalshilab.exchange.stream.subscriber import CHANNELS, ChannelSubscription, StreamConnection, Variant
from kalshilab.kalshi.wire import stream as wire
from kalshilab.units import PRICE, format_price, parse_price

__all__ = ["CHANNELS", "Hub", "StreamConnection", "StreamSource"]

TODAY: Final[Variant] = ("", False)
_encode: Final = msgspec.json.Encoder().encode
Subscriber = tuple[StreamConnection, ChannelSubscription]
Listener: TypeAlias = Callable[[Any], None]
"""A function that is called with the body of a message."""


class StreamSource(Protocol):
    """State of the exchange that the hub reads."""

    def now_ms(self) -> int:
        """Return exchange time in milliseconds."""
        ...

    def snapshot(self, ticker: str) -> wire.OrderbookSnapshot | None:
        """Return a market's book; None for an unknown market."""
        ...

    def ticker_body(self, ticker: str) -> wire.TickerMessage | None:
        """Return a market's top of book; None for an unknown market."""
        ...

    def ticker_named(self, market_id: str) -> str | None:
        """Return the ticker of the market with this id; None for an unknown id."""
        ...


class _Subscribers:
    """The subscribers of one channel, for all its markets and by market."""

    __slots__ = ("all", "by_ticker")

    def __init__(self) -> None:
        self.all: list[Subscriber] = []
        self.by_ticker: dict[str, list[Subscriber]] = {}

    def of(self, ticker: str) -> list[Subscriber]:
        """Return the subscribers that receive messages of this market."""
        filtered = self.by_ticker.get(ticker)
        if filtered is None:
            return self.all
        return [*self.all, *filtered] if self.all else filtered

    def add(self, subscriber: Subscriber) -> None:
        tickers = subscriber[1].tickers
        if tickers is None:
            self.all.append(subscriber)
        else:
            self.add_to(subscriber, tickers)

    def add_to(self, subscriber: Subscriber, tickers: Iterable[str]) -> None:
        """Add a subscriber to these markets."""
        for ticker in tickers:
            self.by_ticker.setdefault(ticker, []).append(subscriber)

    def remove(self, subscription: ChannelSubscription) -> None:
        if subscription.tickers is None:
            self.all = [s for s in self.all if s[1] is not subscription]
            return
        self.remove_from(subscription, subscription.tickers)

    def remove_from(self, subscription: ChannelSubscription, tickers: Iterable[str]) -> None:
        """Remove a subscriber from these markets."""
        for ticker in tickers:
            remaining = [s for s in self.by_ticker[ticker] if s[1] is not subscription]
            if remaining:
                self.by_ticker[ticker] = remaining
            else:
                del self.by_ticker[ticker]


class Hub:
    """The subscriptions of all connections, by channel.

    Args:
        source: the exchange.
        form: message form for connections that do not choose one; see
            `kalshilab.exchange.stream.format_2026_01`.

    Attributes:
        frames: number of frames handed to all connections so far.

    Raises:
        ExchangeError: the form is unknown.
    """

    def __init__(self, source: StreamSource, form: str = "") -> None:
        if form not in FORMS:
            known = ", ".join(repr(f) for f in FORMS)
            raise ExchangeError(f"form must be one of {known}, got {form!r}; the empty form is today's")
        self.source, self.form = source, form
        self.frames = 0
        self._subscribers = {channel: _Subscribers() for channel in CHANNELS}
        self._listeners: dict[str, Listener] = {}

    def listen(self, channel: str, listener: Listener) -> None:
        """Call `listener` with the body of every message of a channel, before it is encoded.

        This is how a simulation in the same process receives messages.
        """
        self._listeners[channel] = listener

    def connect(self, notify: Callable[[], None] | None = None, form: str | None = None) -> StreamConnection:
        """Return a new connection.

        Args:
            notify: called when the connection has new frames; None calls nothing.
            form: message form of the connection; None takes the hub's.
        """
        return StreamConnection(self, notify, self.form if form is None else form)

    # The host of the connections

    def now_ms(self) -> int:
        """Return exchange time in milliseconds."""
        return self.source.now_ms()

    def ticker_named(self, market_id: str) -> str | None:
        """Return the ticker of the market with this id; None for an unknown id."""
        return self.source.ticker_named(market_id)

    def snapshot_of(self, ticker: str, variant: Variant) -> bytes | None:
        """Return a market's encoded book; None for an unknown market."""
        body = self.source.snapshot(ticker)
        return None if body is None else _encoded("orderbook_snapshot", body, variant)

    def ticker_of(self, ticker: str, variant: Variant) -> bytes | None:
        """Return a market's encoded top of book; None for an unknown market."""
        body = self.source.ticker_body(ticker)
        return None if body is None else _encoded("ticker", body, variant)

    def subscribe(self, connection: StreamConnection, subscription: ChannelSubscription) -> None:
        """Start sending a channel's messages to a connection."""
        self._subscribers[subscription.channel].add((connection, subscription))

    def unsubscribe(self, subscription: ChannelSubscription) -> None:
        """Stop sending a channel's messages to a connection."""
        self._subscribers[subscription.channel].remove(subscription)

    def change_tickers(
        self, connection: StreamConnection, subscription: ChannelSubscription, tickers: set[str] | None
    ) -> None:
        """Replace the markets of a subscription; None means all markets."""
        subscribers = self._subscribers[subscription.channel]
        subscribers.remove(subscription)
        subscription.tickers = tickers
        subscribers.add((connection, subscription))

    def add_tickers(
        self, connection: StreamConnection, subscription: ChannelSubscription, tickers: Iterable[str]
    ) -> None:
        """Add markets to a subscription that names its markets; the cost does not depend on those it has."""
        assert subscription.tickers is not None
        new = [ticker for ticker in tickers if ticker not in subscription.tickers]
        subscription.tickers.update(new)
        self._subscribers[subscription.channel].add_to((connection, subscription), new)

    def remove_tickers(self, subscription: ChannelSubscription, tickers: Iterable[str]) -> None:
        """Remove markets from a subscription that names its markets."""
        assert subscription.tickers is not None
        old = [ticker for ticker in tickers if ticker in subscription.tickers]
        subscription.tickers.difference_update(old)
        self._subscribers[subscription.channel].remove_from(subscription, old)

    # Publishing

    def wanted(self, channel: str, ticker: str) -> bool:
        """Return whether a connection is subscribed to this market; call it before building a costly body."""
        subscribers = self._subscribers[channel]
        return bool(subscribers.all) or ticker in subscribers.by_ticker or channel in self._listeners

    def publish(self, channel: str, kind: bytes, ticker: str, body: msgspec.Struct) -> None:
        """Send a message to all its subscribers.

        Args:
            channel: one of `CHANNELS`.
            kind: the `type` of the frame.
            ticker: market of the message, for the subscribers' filters.
            body: the `msg` of the frame.
        """
        if channel in self._listeners:
            self._listeners[channel](body)
        encoded: dict[Variant, bytes | None] = {}
        for connection, subscription in self._subscribers[channel].of(ticker):
            variant = subscription.variant
            if variant not in encoded:
                encoded[variant] = _encoded(kind.decode(), body, variant)
            payload = encoded[variant]
            if payload is not None:
                connection.deliver(subscription, kind, payload)

    def publish_all(self, channel: str, kind: bytes, ticker: str, bodies: Iterable[msgspec.Struct]) -> None:
        """Send several messages of one market in order; arguments as for `publish`."""
        subscribers = self._subscribers[channel].of(ticker)
        if not subscribers:
            return
        messages = list(bodies)
        encoded: dict[Variant, list[bytes]] = {}
        for connection, subscription in subscribers:
            variant = subscription.variant
            if variant not in encoded:
                payloads = (_encoded(kind.decode(), body, variant) for body in messages)
                encoded[variant] = [payload for payload in payloads if payload is not None]
            connection.deliver_all(subscription, kind, encoded[variant])


def _encoded(kind: str, body: msgspec.Struct, variant: Variant) -> bytes | None:
    """Return a message's body encoded in a variant; None if that form has no such message."""
    if variant == TODAY:
        return _encode(body)
    form, yes_price = variant
    if yes_price:
        body = _in_yes_prices(body)
    if form != JANUARY:
        return _encode(body)
    converted = january_frame(kind, body)
    return None if converted is None else _encode(converted)


def _in_yes_prices(body: msgspec.Struct) -> msgspec.Struct:
    """Return a book, or a change of a book, with YES prices on its NO levels."""
    if isinstance(body, wire.OrderbookSnapshot):
        levels = [(format_price(PRICE - parse_price(p)), size) for p, size in body.no_dollars_fp]
        return msgspec.structs.replace(body, no_dollars_fp=levels)
    if isinstance(body, wire.OrderbookDelta) and body.side == "no":
        return msgspec.structs.replace(
            body, price_dollars=format_price(PRICE - parse_price(body.price_dollars))
        )
    return body
