"""What a feed tells its handler, in our units.

Beside these there are `Trade`, `Fill` and `Order` of `kalshilab.market.model`, which the stream and REST share.
Instants are exchange time in microseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kalshilab.lazy import renamed

__all__ = [
    "BookDelta",
    "BookSnapshot",
    "EventLifecycle",
    "FeedGap",
    "Lifecycle",
    "PositionUpdate",
    "Rejected",
    "Subscribed",
    "Ticker",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)


class FeedEvent(msgspec.Struct, frozen=True, gc=False):
    """Base of what a handler gets, beside `Trade`, `Fill` and `Order` of `kalshilab.market.model`."""


class BookSnapshot(FeedEvent, frozen=True):
    """All bids of a market, (price, size), each side in its own prices."""

    ticker: str
    yes: list[tuple[int, int]]
    no: list[tuple[int, int]]


class BookDelta(FeedEvent, frozen=True):
    """One level changed; `price` is that side's own price; `client_order_id` when we caused it."""

    ticker: str
    side: str
    price: int
    delta: int
    ts: int
    client_order_id: str


class Ticker(FeedEvent, frozen=True):
    """Top of book and totals; YES prices."""

    ticker: str
    price: int
    yes_bid: int
    yes_ask: int
    volume: int
    open_interest: int
    ts: int


class PositionUpdate(FeedEvent, frozen=True):
    """Our position in one market; `size` signed."""

    ticker: str
    size: int
    cost: int
    realized: int
    fees: int


class Lifecycle(FeedEvent, frozen=True):
    """A step in a market's life.  `settlement` is YES' value in price units once determined, else None."""

    kind: str
    ticker: str
    ts: int
    event: str
    open_ts: int
    close_ts: int
    result: str
    settlement: int | None


class EventLifecycle(FeedEvent, frozen=True):
    """A new event."""

    event: str
    series: str
    title: str


class Subscribed(FeedEvent, frozen=True):
    """The exchange confirmed a subscription."""

    channel: str
    sid: int


class Rejected(FeedEvent, frozen=True):
    """The exchange refused a command; `id` is the command's."""

    code: int
    message: str
    id: int


class FeedGap(FeedEvent, frozen=True):
    """Frames of a sid were lost: `expected` did not come, `got` did."""

    sid: int
    channel: str
    tickers: tuple[str, ...]
    expected: int
    got: int
