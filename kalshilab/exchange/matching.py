"""The YES book of one market: our orders among background quotes.

*Background* is liquidity that belongs to the tape's other participants: a few price levels each side, kept in
line with the prints by the flow.  *Orders* are the account's own.  Priority is price, then time: an order
that joins a level stands behind the background that is there (`ahead`), and background that comes later
stands behind the order.  Taker pays the resting price.

What fills an order of ours that rests:

* a print *through* its price: all of it, up to the print's size;
* a print *at* its price: what the print's size leaves after the background ahead of it;
* a background quote that moves onto or through its price: it is the aggressor, and trades with us.

Nothing here knows the next print: an order meets what stands when it arrives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from kalshilab.market.fees import FeeAccumulator

__all__ = ["MarketBook", "Match", "RestingOrder", "Result"]


@dataclass(slots=True, eq=False)
class RestingOrder:
    """One of the account's orders, live or done.  Prices are YES prices; money in money units."""

    order_id: str
    client_order_id: str
    ticker: str
    side: str
    price: int
    initial: int
    remaining: int
    created: int
    time_in_force: str = "good_till_canceled"
    stp: str = "taker_at_cross"
    expires: int = 0
    cancel_on_pause: bool = False
    filled: int = 0
    ahead: int = 0
    fee_bound: int = 0
    status: str = "resting"
    updated: int = 0
    reason: str = ""
    taker_cost: int = 0
    maker_cost: int = 0
    taker_fees: int = 0
    maker_fees: int = 0
    fees: FeeAccumulator = field(default_factory=FeeAccumulator)


class Match(NamedTuple):
    """A piece of a trade: against one of our resting orders, or against background (`maker` None)."""

    price: int
    size: int
    maker: RestingOrder | None


class Result(NamedTuple):
    """What an incoming order met: its matches in order, and own resting orders cancelled to avoid a self-trade;
    `stopped` when a self-trade ended it."""

    matches: list[Match]
    cancelled: list[RestingOrder]
    stopped: bool


Side = Literal["bid", "ask"]


class MarketBook:
    """One market's book.  `bids` and `asks` hold the background's size by YES price."""

    __slots__ = ("asks", "bids", "own")

    def __init__(self) -> None:
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self.own: list[RestingOrder] = []

    # Reading

    def best_bid(self) -> int | None:
        """Highest YES bid, ours included."""
        prices = [*self.bids, *(o.price for o in self.own if o.side == "bid")]
        return max(prices) if prices else None

    def best_ask(self) -> int | None:
        """Lowest YES ask, ours included."""
        prices = [*self.asks, *(o.price for o in self.own if o.side == "ask")]
        return min(prices) if prices else None

    def levels(self, side: str) -> dict[int, int]:
        """Displayed size by YES price, ours included."""
        shown = dict(self.bids if side == "bid" else self.asks)
        for order in self.own:
            if order.side == side:
                shown[order.price] = shown.get(order.price, 0) + order.remaining
        return shown

    def size_at(self, side: str, price: int) -> int:
        """Displayed size at one price."""
        background = (self.bids if side == "bid" else self.asks).get(price, 0)
        return background + sum(o.remaining for o in self.own if o.side == side and o.price == price)

    def crosses(self, side: str, price: int) -> bool:
        """Whether an order would trade at once."""
        best = self.best_ask() if side == "bid" else self.best_bid()
        return best is not None and (best <= price if side == "bid" else best >= price)

    # Incoming orders

    def available(self, side: str, price: int) -> int:
        """Size an order could take now, its own orders' sizes left out."""
        opposite = self.asks if side == "bid" else self.bids
        return sum(s for p, s in opposite.items() if (p <= price if side == "bid" else p >= price))

    def take(self, order: RestingOrder) -> Result:
        """Match an incoming order as far as it goes; background taken is gone, ours is reported, not changed."""
        buying = order.side == "bid"
        background = self.asks if buying else self.bids
        matches: list[Match] = []
        cancelled: list[RestingOrder] = []
        left = order.remaining
        opposite = [o for o in self.own if o.side != order.side]
        prices = {*background, *(o.price for o in opposite)}
        for price in sorted(prices, reverse=not buying):
            if left <= 0 or (price > order.price if buying else price < order.price):
                break
            queue = [o for o in opposite if o.price == price]
            standing = background.get(price, 0)
            gone = 0
            for own in queue:
                # Background that came before our order trades before it, and once for all of ours behind it.
                first = min(left, standing, max(own.ahead - gone, 0))
                if first:
                    matches.append(Match(price, first, None))
                    left -= first
                    standing -= first
                    gone += first
                own.ahead = max(own.ahead - gone, 0)
                if left <= 0:
                    continue
                if order.stp == "taker_at_cross":
                    self._leave(background, price, standing)
                    return Result(matches, cancelled, True)
                cancelled.append(own)
            rest = max(min(left, standing), 0)
            if rest:
                matches.append(Match(price, rest, None))
                left -= rest
                standing -= rest
            self._leave(background, price, standing)
        return Result(matches, cancelled, False)

    @staticmethod
    def _leave(background: dict[int, int], price: int, size: int) -> None:
        if size > 0:
            background[price] = size
        else:
            background.pop(price, None)

    def rest(self, order: RestingOrder) -> None:
        """Put what is left of an order on the book, behind what stands at its price."""
        order.ahead = (self.bids if order.side == "bid" else self.asks).get(order.price, 0)
        self.own.append(order)

    def remove(self, order: RestingOrder) -> None:
        """Take an order off the book."""
        self.own.remove(order)

    # The tape's side

    def printed(self, price: int, size: int, taker: str) -> list[tuple[RestingOrder, int]]:
        """Our resting orders that a print fills, and by how much, best price first; the book is not changed."""
        maker_side = "ask" if taker == "yes" else "bid"
        queue = [
            o
            for o in self.own
            if o.side == maker_side and (o.price <= price if maker_side == "ask" else o.price >= price)
        ]
        if not queue:
            return []
        # Sorting is stable, so orders at one price keep their time order.
        queue.sort(key=lambda o: o.price if maker_side == "ask" else -o.price)
        fills = []
        left, gone = size, 0
        for order in queue:
            if order.price == price:
                # Background ahead of one of our orders is ahead of the later ones too: it trades once.
                passed = min(max(order.ahead - gone, 0), left)
                gone += passed
                left -= passed
                order.ahead = max(order.ahead - gone, 0)
            take = min(order.remaining, left)
            if take > 0:
                fills.append((order, take))
                left -= take
        return fills

    def requote(self, bids: dict[int, int], asks: dict[int, int]) -> list[tuple[RestingOrder, int]]:
        """Replace the background; our orders that the new quotes meet trade with them, at our price.

        Returns:
            Our orders and by how much each is filled; the quotes are reduced by it.
        """
        fills: list[tuple[RestingOrder, int]] = []
        self.bids, self.asks = bids, asks
        # The best price meets the quotes first; sorting is stable, so time decides within a price.
        for order in sorted(self.own, key=lambda o: -o.price if o.side == "bid" else o.price):
            quotes = asks if order.side == "bid" else bids
            taken = 0
            for price in sorted(quotes, reverse=order.side == "ask"):
                if taken == order.remaining or (
                    price > order.price if order.side == "bid" else price < order.price
                ):
                    break
                piece = min(order.remaining - taken, quotes[price])
                taken += piece
                self._leave(quotes, price, quotes[price] - piece)
            if taken:
                fills.append((order, taken))
            standing = (bids if order.side == "bid" else asks).get(order.price, 0)
            order.ahead = min(order.ahead, standing)
        return fills
