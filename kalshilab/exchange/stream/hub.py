"""Who listens to what: from a message of the exchange to the frames of each connection.

A message's body is encoded once for each variant that anybody has asked for, whoever gets it, and each
subscriber's frame is put together around it.  Subscribers are kept by channel and market, so that publishing
costs what those cost who hear it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import msgspec

from kalshilab.errors import ExchangeError
from kalshilab.exchange.stream.format_2026_01 import FORMS, JANUARY, january_frame
from kalshilab.exchange.stream.subscriber import CHANNELS, Connection, Subscription, Variant
from kalshilab.kalshi.wire import stream as wire
from kalshilab.units import PRICE, format_price, parse_price

__all__ = ["CHANNELS", "Connection", "Hub", "Source"]

TODAY: Final[Variant] = ("", False)
_encode: Final = msgspec.json.Encoder().encode
Pair = tuple[Connection, Subscription]


class Source(Protocol):
    """What the hub asks of the exchange."""

    def now_ms(self) -> int:
        """Exchange time in milliseconds."""
        ...

    def snapshot(self, ticker: str) -> wire.OrderbookSnapshot | None:
        """A market's book, or None for an unknown market."""
        ...

    def ticker_body(self, ticker: str) -> wire.TickerMessage | None:
        """A market's top of book, or None for an unknown market."""
        ...

    def ticker_named(self, market_id: str) -> str | None:
        """The ticker of the market with this id, or None."""
        ...


class _Listeners:
    """The subscribers of one channel: to all its markets, and by market."""

    __slots__ = ("all", "by_ticker")

    def __init__(self) -> None:
        self.all: list[Pair] = []
        self.by_ticker: dict[str, list[Pair]] = {}

    def of(self, ticker: str) -> list[Pair]:
        """Who hears a message of this market."""
        some = self.by_ticker.get(ticker)
        if some is None:
            return self.all
        return [*self.all, *some] if self.all else some

    def add(self, pair: Pair) -> None:
        tickers = pair[1].tickers
        if tickers is None:
            self.all.append(pair)
        else:
            for ticker in tickers:
                self.by_ticker.setdefault(ticker, []).append(pair)

    def remove(self, subscription: Subscription) -> None:
        if subscription.tickers is None:
            self.all = [p for p in self.all if p[1] is not subscription]
            return
        for ticker in subscription.tickers:
            left = [p for p in self.by_ticker[ticker] if p[1] is not subscription]
            if left:
                self.by_ticker[ticker] = left
            else:
                del self.by_ticker[ticker]


class Hub:
    """All connections, by channel.

    Args:
        form: of messages, for connections that do not ask for another; see `kalshilab.exchange.stream.format_2026_01`.

    Raises:
        ExchangeError: no such form.
    """

    def __init__(self, source: Source, form: str = "") -> None:
        if form not in FORMS:
            raise ExchangeError(f"form {form!r}: one of {', '.join(f or 'today (empty)' for f in FORMS)}")
        self.source, self.form = source, form
        self.frames = 0
        """Frames handed to connections so far, all together."""
        self._listeners = {channel: _Listeners() for channel in CHANNELS}

    def connect(self, notify: Callable[[], None] | None = None, form: str | None = None) -> Connection:
        """A new connection."""
        return Connection(self, notify, self.form if form is None else form)

    # What a connection asks

    def now_ms(self) -> int:
        """Exchange time in milliseconds."""
        return self.source.now_ms()

    def named(self, market_id: str) -> str | None:
        """The ticker of a market's id; None if none has it."""
        return self.source.ticker_named(market_id)

    def snapshot_of(self, ticker: str, variant: Variant) -> bytes | None:
        """A market's book, encoded; None for an unknown market."""
        body = self.source.snapshot(ticker)
        return None if body is None else _told("orderbook_snapshot", body, variant)

    def ticker_of(self, ticker: str, variant: Variant) -> bytes | None:
        """A market's top of book, encoded; None for an unknown market."""
        body = self.source.ticker_body(ticker)
        return None if body is None else _told("ticker", body, variant)

    def join(self, connection: Connection, subscription: Subscription) -> None:
        """A connection listens to a channel from now on."""
        self._listeners[subscription.channel].add((connection, subscription))

    def part(self, subscription: Subscription) -> None:
        """A connection listens to a channel no more."""
        self._listeners[subscription.channel].remove(subscription)

    def rejoin(self, connection: Connection, subscription: Subscription, tickers: set[str] | None) -> None:
        """A connection listens to these markets of a channel from now on."""
        listeners = self._listeners[subscription.channel]
        listeners.remove(subscription)
        subscription.tickers = tickers
        listeners.add((connection, subscription))

    # What the exchange says

    def wanted(self, channel: str, ticker: str) -> bool:
        """Whether anybody listens to this channel for this market: ask before making a costly body."""
        listeners = self._listeners[channel]
        return bool(listeners.all) or ticker in listeners.by_ticker

    def publish(self, channel: str, kind: bytes, ticker: str, body: msgspec.Struct) -> None:
        """Send a message to whoever listens."""
        told: dict[Variant, bytes | None] = {}
        for connection, subscription in self._listeners[channel].of(ticker):
            variant = subscription.variant
            if variant not in told:
                told[variant] = _told(kind.decode(), body, variant)
            encoded = told[variant]
            if encoded is not None:
                connection.deliver(subscription, kind, encoded)

    def publish_all(self, channel: str, kind: bytes, ticker: str, bodies: Iterable[msgspec.Struct]) -> None:
        """Send messages that come together to whoever listens, in their order."""
        pairs = self._listeners[channel].of(ticker)
        if not pairs:
            return
        said = list(bodies)
        told: dict[Variant, list[bytes]] = {}
        for connection, subscription in pairs:
            variant = subscription.variant
            if variant not in told:
                found = (_told(kind.decode(), body, variant) for body in said)
                told[variant] = [b for b in found if b is not None]
            connection.deliver_all(subscription, kind, told[variant])


def _told(kind: str, body: msgspec.Struct, variant: Variant) -> bytes | None:
    """A message's body in a variant, encoded; None where it does not exist in that form."""
    if variant == TODAY:
        return _encode(body)
    form, yes_price = variant
    if yes_price:
        body = _in_yes_prices(body)
    if form != JANUARY:
        return _encode(body)
    made: dict[str, Any] | None = january_frame(kind, body)
    return None if made is None else _encode(made)


def _in_yes_prices(body: msgspec.Struct) -> msgspec.Struct:
    """A book, or a change of one, whose NO levels carry YES prices."""
    if isinstance(body, wire.OrderbookSnapshot):
        turned = [(format_price(PRICE - parse_price(p)), size) for p, size in body.no_dollars_fp]
        return msgspec.structs.replace(body, no_dollars_fp=turned)
    if isinstance(body, wire.OrderbookDelta) and body.side == "no":
        return msgspec.structs.replace(
            body, price_dollars=format_price(PRICE - parse_price(body.price_dollars))
        )
    return body
