"""Messages of the trader: events in, commands out, all of them values.

**Events** are everything that can happen to it: public prints, books and lifecycle messages (`Trade`, `BookSnapshot`,
`BookDelta`, `FeedGap`, `Lifecycle`), the `Fill` and `Order` messages of the account, and the events defined here: the
state of the feed, the answers to its requests or their loss, the passing of time, and the wishes of the operator.  A driver
delivers them one at a time, each with the exchange's time and a monotonic time (`Trader.handle`), and never interprets them.

**Commands** are everything that it asks of its driver, which carries them out in their order.  A `TraderRequest` has exactly
one answer, a `RequestAnswer` event with its number; the other commands have no answer.  A `JournalRecord` must be durable
before the commands after it are carried out: an order's intent is on disk before the order is on the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot, FeedGap, Lifecycle
from kalshilab.market.model import Balance, Fill, Market, Order, Position, Settlement, Trade
from kalshilab.trade.events import Intent

__all__ = [
    "AccountRead",
    "Amend",
    "Cancel",
    "CloseGroup",
    "Command",
    "Declined",
    "Ended",
    "Event",
    "FeedDown",
    "FeedUp",
    "FillsRead",
    "Finish",
    "GroupOpened",
    "JournalRecord",
    "ListMarkets",
    "LookUpMarket",
    "LookUpOrder",
    "Lost",
    "MarketFound",
    "MarketsListed",
    "OpenGroup",
    "Operate",
    "OrderFound",
    "Outbox",
    "Place",
    "Placed",
    "PrintsRead",
    "Quiet",
    "ReadAccount",
    "ReadFills",
    "ReadPrints",
    "ReadSettlements",
    "RequestAnswer",
    "Result",
    "Say",
    "SettlementsRead",
    "Succeeded",
    "Tick",
    "TraderRequest",
    "Unwatch",
    "Watch",
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


# Commands


class TraderRequest(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of the commands that have an answer; `number` is unique within a run's life."""

    number: int


class Place(TraderRequest, frozen=True, kw_only=True, tag=True):
    """Place an order: answered by `Placed`, `Declined` or `Lost`.  `expires` is in microseconds; None: never."""

    intent: Intent
    expires: int | None = None
    group: str = ""


class Cancel(TraderRequest, frozen=True, kw_only=True, tag=True):
    """Cancel the rest of an order: `Succeeded`, `Declined` (404: it does not rest) or `Lost`."""

    order_id: str
    ticker: str


class Amend(TraderRequest, frozen=True, kw_only=True, tag=True):
    """Give an order another expiration, which keeps its place in the queue: `Succeeded`, `Declined` or `Lost`.

    `price` and `count` (filled and remaining size) repeat the order's own, as the exchange demands.
    """

    order_id: str
    ticker: str
    side: str
    price: int
    count: int
    expires: int


class LookUpOrder(TraderRequest, frozen=True, kw_only=True, tag=True):
    """Find an order by its id, or by its client order id among its market's orders: `OrderFound` or `Lost`."""

    client_order_id: str
    ticker: str
    order_id: str = ""


class LookUpMarket(TraderRequest, frozen=True, kw_only=True, tag=True):
    """Read one market: `MarketFound` or `Lost`."""

    ticker: str


class ListMarkets(TraderRequest, frozen=True, kw_only=True, tag=True):
    """List the open markets that close after `min_close_ts` (microseconds; 0: all): `MarketsListed` or `Lost`."""

    min_close_ts: int = 0


class ReadAccount(TraderRequest, frozen=True, kw_only=True, tag=True):
    """Read the account: `AccountRead` or `Lost`.

    Fills since `fills_since` (microseconds, inclusive; None: the newest page), every resting order, and the state of
    each order of `order_ids`.
    """

    fills_since: int | None = None
    order_ids: tuple[str, ...] = ()


class ReadFills(TraderRequest, frozen=True, kw_only=True, tag=True):
    """Read all fills of one market: `FillsRead` or `Lost`."""

    ticker: str


class ReadSettlements(TraderRequest, frozen=True, kw_only=True, tag=True):
    """Read the settlements of one market: `SettlementsRead` or `Lost`."""

    ticker: str


class ReadPrints(TraderRequest, frozen=True, kw_only=True, tag=True):
    """Read public prints since an instant in microseconds, inclusive: `PrintsRead` or `Lost`."""

    since: int


class OpenGroup(TraderRequest, frozen=True, kw_only=True, tag=True):
    """Create the session's order group with a limit in contracts: `GroupOpened`, `Declined` or `Lost`."""

    contracts: int


class CloseGroup(TraderRequest, frozen=True, kw_only=True, tag=True):
    """Delete the session's order group, which cancels its orders and refuses late ones: `Succeeded`, `Declined`, `Lost`."""

    group: str


class Watch(msgspec.Struct, frozen=True, tag=True):
    """Subscribe to the books of these markets."""

    tickers: tuple[str, ...]


class Unwatch(msgspec.Struct, frozen=True, tag=True):
    """End the subscription to the books of these markets."""

    tickers: tuple[str, ...]


class JournalRecord(msgspec.Struct, frozen=True, tag=True):
    """Append one value to the journal; `key` makes it unique within its kind."""

    kind: str
    value: msgspec.Struct | dict[str, object]
    key: str | None = None


class Say(msgspec.Struct, frozen=True, tag=True):
    """Show one line to the operator."""

    text: str


class Finish(msgspec.Struct, frozen=True, tag=True):
    """The session is over: nothing is in flight, and what is left at the exchange is in `left` (order ids)."""

    reason: str
    left: tuple[str, ...] = ()


Command: TypeAlias = TraderRequest | Watch | Unwatch | JournalRecord | Say | Finish


class Outbox:
    """The commands of the event that is being handled, and the requests that have no answer yet.

    Attributes:
        now: exchange time of the event, in microseconds.
        mono: monotonic time of the event, in microseconds.
        commands: the commands so far, in order.
    """

    __slots__ = ("_awaited", "_number", "commands", "mono", "now")

    def __init__(self) -> None:
        self.now = self.mono = 0
        self.commands: list[Command] = []
        self._number = 0
        self._awaited: dict[int, Callable[[Result], None]] = {}

    def number(self) -> int:
        """Return the number of the next request."""
        self._number += 1
        return self._number

    def send(self, request: TraderRequest, then: Callable[[Result], None]) -> int:
        """Add a request; `then` is called with the result of its answer.  Return its number."""
        self._awaited[request.number] = then
        self.commands.append(request)
        return request.number

    def answered(self, answer: RequestAnswer) -> bool:
        """Pass an answer on; return False if its request is unknown or was answered before."""
        then = self._awaited.pop(answer.request, None)
        if then is None:
            return False
        then(answer.result)
        return True

    def add(self, command: Watch | Unwatch | Finish) -> None:
        """Add a command without an answer."""
        self.commands.append(command)

    def record(self, kind: str, value: msgspec.Struct, key: str | None = None) -> None:
        """Append a value to the journal."""
        self.commands.append(JournalRecord(kind, value, key))

    def note(self, what: str, **facts: object) -> None:
        """Append a note to the journal."""
        self.commands.append(JournalRecord("note", {"what": what, **facts}))

    def say(self, text: str) -> None:
        """Show one line to the operator."""
        self.commands.append(Say(text))
