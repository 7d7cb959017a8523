"""Events of the trader: everything that can happen to it, as values.

The trader sees public prints, books and lifecycle messages (`Trade`, `BookSnapshot`, `BookDelta`, `FeedGap`,
`Lifecycle`), the account's own `Fill` and `Order` messages, and the events defined here: the state of the feed, the
answers to its own requests or their loss, the passing of time, and the wishes of the operator.

A driver delivers events one at a time, each with the exchange's time and a monotonic time (`Trader.handle`).  It never
interprets them: what an event means is decided in this package alone.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot, FeedGap, Lifecycle
from kalshilab.market.model import Balance, Fill, Market, Order, Position, Settlement, Trade

__all__ = [
    "AccountRead",
    "Declined",
    "Ended",
    "Event",
    "FeedDown",
    "FeedUp",
    "FillsRead",
    "GroupOpened",
    "Lost",
    "MarketFound",
    "MarketsListed",
    "Operate",
    "OrderFound",
    "Placed",
    "PrintsRead",
    "Quiet",
    "RequestAnswer",
    "Result",
    "SettlementsRead",
    "Succeeded",
    "Tick",
]


class FeedUp(msgspec.Struct, frozen=True, tag=True):
    """Every channel of the feed is confirmed; prints are complete from here on."""


class FeedDown(msgspec.Struct, frozen=True, tag=True):
    """The feed is lost; prints and account messages are missing from here on."""

    reason: str = ""


class Quiet(msgspec.Struct, frozen=True, tag=True):
    """The driver has delivered everything that belongs to one instant; the trader decides about its fires now.

    A print and the book that it leaves arrive in several messages.  A decision between them would see half of them.
    """


class Tick(msgspec.Struct, frozen=True, tag=True):
    """Time has passed; time limits, retries and expirations are checked."""


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The venue has nothing more to play."""

    reason: str = "tape ended"


class Operate(msgspec.Struct, frozen=True, tag=True):
    """A wish of the operator.

    * pause: place no orders; resting orders stay.
    * resume: end a pause.
    * flatten: pause, and cancel every resting order.
    * stop: end the session cleanly.
    * kill: as stop, and place nothing even if the session could not end.

    `strategy` limits pause and resume to one strategy; "" means all.
    """

    action: Literal["pause", "resume", "flatten", "stop", "kill"]
    reason: str = ""
    strategy: str = ""


# Results of requests


class Placed(msgspec.Struct, frozen=True, tag=True):
    """The exchange accepted an order; sizes in size units."""

    order_id: str
    filled: int
    remaining: int


class Succeeded(msgspec.Struct, frozen=True, tag=True):
    """The exchange did what was asked."""


class Declined(msgspec.Struct, frozen=True, tag=True):
    """The request certainly had no effect: the exchange refused it, or it was never sent (`status` 0)."""

    status: int
    code: str


class Lost(msgspec.Struct, frozen=True, tag=True):
    """No readable answer came: the request may or may not have had its effect."""

    reason: str


class OrderFound(msgspec.Struct, frozen=True, tag=True):
    """The answer to a look-up; None: the exchange knows no such order."""

    order: Order | None


class MarketFound(msgspec.Struct, frozen=True, tag=True):
    """The answer to a look-up of a market, with its category; None: the exchange knows no such market."""

    market: Market | None


class MarketsListed(msgspec.Struct, frozen=True, tag=True):
    """Open markets, with their categories."""

    markets: tuple[Market, ...]


class AccountRead(msgspec.Struct, frozen=True, tag=True):
    """The account over REST, read so that nothing changed in between.

    `fills` and `settlements` are the recent ones that were asked for; `orders` holds every resting order and the
    recently ended ones that were asked for.
    """

    balance: Balance
    positions: tuple[Position, ...]
    orders: tuple[Order, ...]
    fills: tuple[Fill, ...]
    settlements: tuple[Settlement, ...]


class FillsRead(msgspec.Struct, frozen=True, tag=True):
    """All fills of the account in one market."""

    fills: tuple[Fill, ...]


class SettlementsRead(msgspec.Struct, frozen=True, tag=True):
    """All settlements of the account in one market."""

    settlements: tuple[Settlement, ...]


class PrintsRead(msgspec.Struct, frozen=True, tag=True):
    """Public prints since an instant, oldest first; `complete` is False if some could not be had."""

    prints: tuple[Trade, ...]
    complete: bool = True


class GroupOpened(msgspec.Struct, frozen=True, tag=True):
    """The exchange-side order group of the session exists."""

    group_id: str


Result: TypeAlias = (
    Placed
    | Succeeded
    | Declined
    | Lost
    | OrderFound
    | MarketFound
    | MarketsListed
    | AccountRead
    | FillsRead
    | SettlementsRead
    | PrintsRead
    | GroupOpened
)


class RequestAnswer(msgspec.Struct, frozen=True, tag=True):
    """The answer to the request with this number; each request has exactly one."""

    request: int
    result: Result


Event: TypeAlias = (
    Trade
    | BookSnapshot
    | BookDelta
    | FeedGap
    | Lifecycle
    | Fill
    | Order
    | FeedUp
    | FeedDown
    | Quiet
    | Tick
    | Ended
    | Operate
    | RequestAnswer
)
