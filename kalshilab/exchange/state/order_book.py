"""The YES book of one market: our orders among background quotes.

*Background* is liquidity of the rest of the world: its levels each side come from the flow, whether worked out
from prints, recorded or mirrored.  *Orders* are the account's own.  Priority is price, then time: an order
that joins a level stands behind the background that is there (`ahead`), and background that comes later
stands behind the order.  Taker pays the resting price.

What an order of ours takes from the background is **gone**: at each price the world's size is what is shown
plus what is gone, and a level that the world keeps does not grow back because we look again.  Once the world
shows less than what is gone, no more than that is; and where a book is worked out from prints, every print at
a level is liquidity that has come after ours.

What fills an order of ours that rests is the fill model's to say (`kalshilab.exchange.state.fill_model`): by default

* a print *through* its price: all of it, up to the print's size;
* a print *at* its price: what the print's size leaves after the background ahead of it;
* a background quote that moves onto or through its price: it is the aggressor, and trades with us.

Nothing here knows the next print: an order meets what stands when it arrives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, TypeVar

from kalshilab.errors import BookError
from kalshilab.exchange.state.fill_model import TOLD_TWICE, FillModel, met, printed
from kalshilab.exchange.state.shadow_fills import Ghost, ShadowFills, Shadows
from kalshilab.market.fees import FeeAccumulator
from kalshilab.units import PRICE

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
    post_only: bool = False
    group: str = ""
    number: int = 0
    filled: int = 0
    ahead: int = 0
    cut: int = 0
    """What a change of its level took off `ahead` at `cut_ts`."""
    cut_ts: int = 0
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
K = TypeVar("K", int, tuple[str, int])
PLAIN: Final = FillModel()


class MarketBook:
    """One market's book.  `bids` and `asks` hold the background's shown size by YES price.

    Args:
        model: how orders are filled.
        shadows: where the other models' fills are kept; None: nowhere.
        mirrored: whether the background is the world's own book, told level by level, and not worked out from
            prints.
    """

    __slots__ = (
        "_gone_asks", "_gone_bids", "_model", "_shadows", "_sold", "_spent", "asks", "bids", "mirrored", "now", "own",
    )  # fmt: skip

    def __init__(
        self, model: FillModel = PLAIN, shadows: ShadowFills | None = None, *, mirrored: bool = False
    ) -> None:
        self._model = model
        self._shadows = None if shadows is None else Shadows(shadows)
        self.mirrored = mirrored
        self.now = 0
        """Exchange time of what is being done, where the caller says it."""
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self._gone_bids: dict[int, int] = {}
        self._gone_asks: dict[int, int] = {}
        # Taken of a level that still stands, so that the haircut is not taken again of what it left.
        self._spent: dict[tuple[str, int], int] = {}
        # Printed at a level of a mirrored book, and when last: the level is yet to shrink by it.
        self._sold: dict[tuple[str, int], tuple[int, int]] = {}
        self.own: list[RestingOrder] = []

    # Reading

    @property
    def waiting(self) -> bool:
        """Whether there is anything that a print or a quote could fill."""
        return bool(self.own) or (self._shadows is not None and bool(self._shadows.waiting))

    @property
    def touched(self) -> bool:
        """Whether anything of the world's book is gone."""
        return bool(self._gone_bids or self._gone_asks)

    @property
    def quoted(self) -> bool:
        """Whether there is any background."""
        return bool(self.bids or self.asks)

    def best_bid(self) -> int | None:
        """Highest YES bid, ours included."""
        best = max(self.bids, default=None)
        for order in self.own:
            if order.side == "bid" and (best is None or order.price > best):
                best = order.price
        return best

    def best_ask(self) -> int | None:
        """Lowest YES ask, ours included."""
        best = min(self.asks, default=None)
        for order in self.own:
            if order.side == "ask" and (best is None or order.price < best):
                best = order.price
        return best

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
        if not self.own:
            return background
        return background + sum(o.remaining for o in self.own if o.side == side and o.price == price)

    def gone(self, side: str) -> dict[int, int]:
        """What the world's book holds and this one does not show, by YES price: taken by us, or fled from us."""
        return dict(self._gone_bids if side == "bid" else self._gone_asks)

    def crosses(self, side: str, price: int) -> bool:
        """Whether an order would trade at once."""
        best = self.best_ask() if side == "bid" else self.best_bid()
        return best is not None and (best <= price if side == "bid" else best >= price)

    # Incoming orders

    def available(self, side: str, price: int) -> int:
        """Size an order could take now, its own orders' sizes left out."""
        other, opposite = ("ask", self.asks) if side == "bid" else ("bid", self.bids)
        return sum(
            self._reach(other, p, s)
            for p, s in opposite.items()
            if (p <= price if side == "bid" else p >= price)
        )

    def _reach(self, side: str, price: int, shown: int) -> int:
        """What of a level a taker may still have: the haircut is of the level that stood, not of what we left."""
        if not self._model.haircut:
            return shown
        spent = self._spent.get((side, price), 0)
        return max(self._model.reach(shown + spent) - spent, 0)

    def take(self, order: RestingOrder) -> Result:
        """Match an incoming order as far as it goes; background taken is gone, ours is reported, not changed."""
        buying = order.side == "bid"
        side: Side = "ask" if buying else "bid"
        background, gone = self._sides(side)
        matches: list[Match] = []
        cancelled: list[RestingOrder] = []
        left = order.remaining
        opposite = [o for o in self.own if o.side != order.side]
        prices = {*(p for p in background if (p <= order.price if buying else p >= order.price))}
        prices.update(
            o.price for o in opposite if (o.price <= order.price if buying else o.price >= order.price)
        )
        for price in sorted(prices, reverse=not buying):
            if left <= 0:
                break
            queue = [o for o in opposite if o.price == price]
            shown = background.get(price, 0)
            standing = self._reach(side, price, shown)
            taken = passed = 0
            stopped = False
            for own in queue:
                # Background that came before our order trades before it, and once for all of ours behind it.
                first = min(left, standing, max(own.ahead - passed, 0))
                if first:
                    matches.append(Match(price, first, None))
                    left -= first
                    standing -= first
                    taken += first
                    passed += first
                own.ahead = max(own.ahead - passed, 0)
                if left <= 0:
                    continue
                if order.stp == "taker_at_cross":
                    stopped = True
                    break
                cancelled.append(own)
            rest = 0 if stopped else max(min(left, standing), 0)
            if rest:
                matches.append(Match(price, rest, None))
                left -= rest
                taken += rest
            # Who wants more than the haircut leaves sees the rest of the level go.
            fled = 0 if stopped or left <= 0 else shown - taken
            if taken or fled:
                self._ghosts_move_up(side, price, taken + fled)
                gone[price] = gone.get(price, 0) + taken + fled
                self._leave(background, price, shown - taken - fled)
                if self._model.haircut:
                    self._leave(
                        self._spent, (side, price), 0 if fled else self._spent.get((side, price), 0) + taken
                    )
            if stopped:
                return Result(matches, cancelled, True)
        return Result(matches, cancelled, False)

    def rehearse(self, order: RestingOrder) -> Result:
        """What `take` would come to; nothing is changed, and the orders named are stand-ins for ours."""
        stage = MarketBook(self._model, mirrored=self.mirrored)
        stage.bids, stage.asks, stage._spent = dict(self.bids), dict(self.asks), dict(self._spent)
        stage.own = [replace(o) for o in self.own]
        return stage.take(replace(order))

    def _ghosts_move_up(self, side: str, price: int, size: int) -> None:
        if size and self._shadows is not None:
            for ghost in self._shadows.ghosts():
                if ghost.side == side and ghost.price == price:
                    ghost.ahead = max(ghost.ahead - size, 0)

    @staticmethod
    def _leave(levels: dict[K, int], price: K, size: int) -> None:
        if size > 0:
            levels[price] = size
        else:
            levels.pop(price, None)

    def _sides(self, side: str) -> tuple[dict[int, int], dict[int, int]]:
        """What is shown and what is gone on a side."""
        return (self.bids, self._gone_bids) if side == "bid" else (self.asks, self._gone_asks)

    def rest(self, order: RestingOrder) -> None:
        """Put what is left of an order on the book, behind what stands at its price."""
        order.ahead = (self.bids if order.side == "bid" else self.asks).get(order.price, 0)
        self.own.append(order)
        if self._shadows is not None:
            self._shadows.rest(order, order.ahead, max(self.now, order.updated))

    def remove(self, order: RestingOrder) -> None:
        """Take an order off the book."""
        self.own.remove(order)
        if self._shadows is not None:
            self._shadows.leave(order)

    def clear(self) -> None:
        """Take all background off; what other models would still have filled is settled."""
        self.bids, self.asks = {}, {}
        self._gone_bids, self._gone_asks, self._spent, self._sold = {}, {}, {}, {}
        if self._shadows is not None:
            self._shadows.end()

    def blind(self) -> None:
        """Take all background off until it is told anew; what waits keeps what it knew to be ahead of it."""
        self.bids, self.asks = {}, {}

    # The world's side

    def printed(self, price: int, size: int, taker: str) -> list[tuple[RestingOrder, int]]:
        """Our resting orders that a print fills, and by how much, best price first; the book is not changed.

        Args:
            price: YES price.
            taker: the outcome the aggressor bought, "yes" or "no".
        """
        gone = self._gone_asks if taker == "yes" else self._gone_bids
        if price in gone and not self.mirrored:
            # The level stands as it did although `size` of it was sold: so much of it is new.
            self._leave(gone, price, gone[price] - size)
        if self._shadows is not None and self._shadows.waiting:
            self._shadows.printed(price, size, taker, self.now)
        if not self.own:
            return []
        if self.mirrored and self._model.cancels == "pro_rata":
            at = ("ask" if taker == "yes" else "bid", price)
            before, when = self._sold.get(at, (0, 0))
            self._sold[at] = (size + (before if self.now - when <= TOLD_TWICE else 0), self.now)
        return printed(self._model.mode, self.own, price, size, taker, self.now)

    def requote(self, bids: dict[int, int], asks: dict[int, int]) -> list[tuple[RestingOrder, int]]:
        """Replace the world's book; our orders that the new quotes meet trade with them, at our price.

        Args:
            bids, asks: the world's size by YES price; they become the book's own and are changed by it.

        Returns:
            Our orders and by how much each is filled; the quotes are reduced by it.
        """
        if self._gone_bids:
            self._gone_bids = self._without(bids, self._gone_bids)
        if self._gone_asks:
            self._gone_asks = self._without(asks, self._gone_asks)
        if self._spent:
            self._spent = {k: n for k, n in self._spent.items() if k[1] in (bids if k[0] == "bid" else asks)}
        self.bids, self.asks = bids, asks
        if not self.waiting:
            return []
        fills = self._meet(bids, asks)
        for order in self._all_waiting():
            order.ahead = min(order.ahead, (bids if order.side == "bid" else asks).get(order.price, 0))
        return fills

    def apply(self, side: str, price: int, delta: int) -> list[tuple[RestingOrder, int]]:
        """Change the world's size at one price; fills as `requote`.

        Args:
            side: "bid" or "ask"; `price` is the YES price of either.

        Raises:
            BookError: the level would fall below zero: something was lost, load a snapshot.
        """
        shown, gone = self._sides(side)
        away = gone.get(price, 0)
        world = shown.get(price, 0) + away + delta
        if world < 0:
            raise BookError(f"{side} level {price}: {world - delta} cannot change by {delta}")
        if away > world:
            away = world
            self._leave(gone, price, away)
        size = world - away
        self._leave(shown, price, size)
        if not world:
            self._spent.pop((side, price), None)
        if not self.waiting:
            return []
        if delta < 0:
            self._fall(side, price, size, size - delta)
            return []
        level = {price: size} if size else {}
        fills = self._meet(level, {}) if side == "bid" else self._meet({}, level)
        self._leave(shown, price, level.get(price, 0))
        return fills

    def make_way(self, price: int, taker: str) -> bool:
        """Take off the background what a print says is not there any more; whether there was any.

        A recorded book may lag behind its prints: whoever took YES at `price` left no cheaper ask, and no bid
        that high.
        """
        yes = taker == "yes"
        asks = [p for p in self.asks if (p < price if yes else p <= price)]
        bids = [p for p in self.bids if (p >= price if yes else p > price)]
        for levels, (shown, gone) in ((asks, self._sides("ask")), (bids, self._sides("bid"))):
            for p in levels:
                gone[p] = gone.get(p, 0) + shown.pop(p)
        return bool(asks or bids)

    def _all_waiting(self) -> Iterator[RestingOrder | Ghost]:
        yield from self.own
        if self._shadows is not None:
            yield from self._shadows.ghosts()

    def _meet(self, bids: dict[int, int], asks: dict[int, int]) -> list[tuple[RestingOrder, int]]:
        """Quotes that have come against the orders that wait; what they take is gone from the quotes."""
        own_bid = max((o.price for o in self.own if o.side == "bid"), default=-1)
        own_ask = min((o.price for o in self.own if o.side == "ask"), default=PRICE + 1)
        if self._shadows is not None and self._shadows.waiting:
            self._shadows.met(bids, asks, self.now)
        crossing_bids = {p: n for p, n in bids.items() if p >= own_ask}
        crossing_asks = {p: n for p, n in asks.items() if p <= own_bid}
        if not crossing_bids and not crossing_asks:
            return []
        fills = met(self._model.mode, self.own, bids, asks)
        for crossing, quotes, gone in (
            (crossing_bids, bids, self._gone_bids),
            (crossing_asks, asks, self._gone_asks),
        ):
            for price, size in crossing.items():
                if self._model.mode == "pessimistic":
                    # It would have traded with us, and this model does not have it: so it has gone elsewhere.
                    quotes.pop(price)
                lost = size - quotes.get(price, 0)
                if lost:
                    gone[price] = gone.get(price, 0) + lost
        return fills

    def _fall(self, side: str, price: int, size: int, before: int) -> None:
        """A level shows less: at most that is ahead of those who wait there, and pro rata less where asked."""
        left = 0
        if self._model.cancels == "pro_rata":
            sold, when = self._sold.pop((side, price), (0, 0))
            if self.now - when > TOLD_TWICE:
                sold = 0
            left = max(before - size - sold, 0)
            if sold > before - size:
                self._sold[side, price] = (sold - (before - size), when)
        for order in self._all_waiting():
            if order.side != side or order.price != price:
                continue
            ahead = min(order.ahead - order.ahead * left // before, size)
            if ahead < order.ahead:
                if self.now - order.cut_ts > TOLD_TWICE:
                    order.cut = 0
                order.cut += order.ahead - ahead
                order.cut_ts = self.now
                order.ahead = ahead

    @staticmethod
    def _without(levels: dict[int, int], gone: dict[int, int]) -> dict[int, int]:
        """Take off a side's new levels what is gone of them; what is gone still."""
        kept: dict[int, int] = {}
        for price, size in gone.items():
            there = levels.get(price, 0)
            if there > size:
                levels[price] = there - size
                kept[price] = size
            elif there:
                del levels[price]
                kept[price] = there
        return kept
