"""Events of the WebSocket stream, in our units.

`Trade`, `Fill` and `Order` of `kalshilab.market.model` are events too; the stream shares them with REST.  Instants are
exchange time in microseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from kalshilab.lazy import renamed
from kalshilab.market.model import Fill, Order, Trade

__all__ = [
    "BookDelta",
    "BookSnapshot",
    "EventLifecycle",
    "FeedGap",
    "Lifecycle",
    "PositionUpdate",
    "ProtocolEvent",
    "Rejected",
    "Subscribed",
    "Ticker",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)


class FeedEvent(msgspec.Struct, frozen=True, gc=False):
    """Base of the events that are defined here."""


class BookSnapshot(FeedEvent, frozen=True):
    """All bids of a market as (price, size); each side is in its own prices."""

    ticker: str
    yes: list[tuple[int, int]]
    no: list[tuple[int, int]]


class BookDelta(FeedEvent, frozen=True):
    """Change of one level; `price` is in the side's own prices, `client_order_id` is set if an order of the account caused it."""

    ticker: str
    side: str
    price: int
    delta: int
    ts: int
    client_order_id: str


class Ticker(FeedEvent, frozen=True):
    """Top of the book and totals of a market, in YES prices."""

    ticker: str
    price: int
    yes_bid: int
    yes_ask: int
    volume: int
    open_interest: int
    ts: int


class PositionUpdate(FeedEvent, frozen=True):
    """The account's position in one market; `size` is signed (+ YES, − NO)."""

    ticker: str
    size: int
    cost: int
    realized: int
    fees: int


class Lifecycle(FeedEvent, frozen=True):
    """A step in a market's lifecycle; `settlement` is the value of YES in price units once determined, else None."""

    kind: str
    ticker: str
    ts: int
    event: str
    open_ts: int
    close_ts: int
    result: str
    settlement: int | None


class EventLifecycle(FeedEvent, frozen=True):
    """A new event of the exchange, which groups markets."""

    event: str
    series: str
    title: str


class Subscribed(FeedEvent, frozen=True):
    """The exchange confirmed a subscription."""

    channel: str
    sid: int


class Rejected(FeedEvent, frozen=True):
    """The exchange refused the command with this `id`."""

    code: int
    message: str
    id: int


class FeedGap(FeedEvent, frozen=True):
    """Frames of a subscription were lost: sequence number `got` arrived instead of `expected`."""

    sid: int
    channel: str
    tickers: tuple[str, ...]
    expected: int
    got: int


ProtocolEvent: TypeAlias = FeedEvent | Trade | Fill | Order
"""Every event of the stream."""
