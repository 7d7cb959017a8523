"""The YES book of one market: our orders among background quotes.

*Background* is the liquidity of all other participants; its levels come from the flow: inferred from prints,
recorded or mirrored.  *Orders* are the account's.  Priority is price, then time: an order that joins a level
stands behind the background already there (`ahead`) and in front of background that arrives later.  The taker
pays the resting price.

Background that our orders take is **consumed**: at each price the size in the real book is the displayed size
plus the consumed size.  A level that the real book keeps does not grow back when it is read again.  If the real
book shows less than was consumed, the consumed size shrinks to that.  Where a book is inferred from prints, every
print at a level counts as liquidity that arrived after ours.

The fill model decides which events fill a resting order (`kalshilab.exchange.state.fill_model`); by default

* a print *through* its price: all of it, up to the print's size;
* a print *at* its price: the print's size less the background ahead of it;
* a background quote at or through its price: the quote is the aggressor and trades with the order.

The book does not know the next print: an order meets the quotes that stand when it arrives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

from kalshilab.errors import BookError
from kalshilab.exchange.state.fill_model import DUPLICATE_WINDOW_US, FillModel, print_fills, quote_fills
from kalshilab.exchange.state.shadow_fills import MarketShadows, ShadowFills, ShadowOrder
from kalshilab.lazy import renamed
from kalshilab.market.fees import FeeAccumulator
from kalshilab.units import PRICE

__all__ = ["MarketBook", "Match", "MatchResult", "RestingOrder"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)


@dataclass(slots=True, eq=False)
class RestingOrder:
    """One of the account's orders, live or done, with YES prices and money in money units."""

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
    """Reduction of `ahead` by the level decrease at `cut_ts`."""
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
    """One piece of a trade: against one of our resting orders, or, without a `maker`, against background."""

    price: int
    size: int
    maker: RestingOrder | None


class MatchResult(NamedTuple):
    """The result of matching an incoming order.

    Attributes:
        matches: the matches in order.
        cancelled: our resting orders to cancel because they would self-trade.
        stopped: whether a self-trade ended the matching.
    """

    matches: list[Match]
    cancelled: list[RestingOrder]
    stopped: bool


Side = Literal["bid", "ask"]
K = TypeVar("K", int, tuple[str, int])
PLAIN: Final = FillModel()


class MarketBook:
    """One market's book; `bids` and `asks` hold the background's displayed size by YES price.

    Args:
        model: the fill model.
        shadows: ledger of the other models' fills; None tracks none.
        mirrored: whether the background is the real book, received level by level, rather than inferred from
            prints.
    """

    __slots__ = (
        "_consumed_asks", "_consumed_bids", "_model", "_printed_sizes", "_shadows", "_taken", "asks", "bids",
        "mirrored", "now", "own",
    )  # fmt: skip

    def __init__(
        self, model: FillModel = PLAIN, shadows: ShadowFills | None = None, *, mirrored: bool = False
    ) -> None:
        self._model = model
        self._shadows = None if shadows is None else MarketShadows(shadows)
        self.mirrored = mirrored
        self.now = 0
        """Exchange time of the current event, if the caller sets it."""
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self._consumed_bids: dict[int, int] = {}
        self._consumed_asks: dict[int, int] = {}
        # Size taken of a level that still stands, so that the haircut is not applied twice.
        self._taken: dict[tuple[str, int], int] = {}
        # Size printed at a level of a mirrored book, and the last time: the level has yet to shrink by it.
        self._printed_sizes: dict[tuple[str, int], tuple[int, int]] = {}
        self.own: list[RestingOrder] = []

    # Reading

    @property
    def fillable(self) -> bool:
        """Whether there is an order that a print or a quote could fill."""
        return bool(self.own) or (self._shadows is not None and bool(self._shadows.waiting))

    @property
    def has_consumed(self) -> bool:
        """Whether any background is consumed."""
        return bool(self._consumed_bids or self._consumed_asks)

    @property
    def has_background(self) -> bool:
        """Whether any background is displayed."""
        return bool(self.bids or self.asks)

    def best_bid(self) -> int | None:
        """Return the highest YES bid, our orders included; None on an empty side."""
        best = max(self.bids, default=None)
        for order in self.own:
            if order.side == "bid" and (best is None or order.price > best):
                best = order.price
        return best

    def best_ask(self) -> int | None:
        """Return the lowest YES ask, our orders included; None on an empty side."""
        best = min(self.asks, default=None)
        for order in self.own:
            if order.side == "ask" and (best is None or order.price < best):
                best = order.price
        return best

    def levels(self, side: str) -> dict[int, int]:
        """Return the displayed size by YES price, our orders included."""
        shown = dict(self.bids if side == "bid" else self.asks)
        for order in self.own:
            if order.side == side:
                shown[order.price] = shown.get(order.price, 0) + order.remaining
        return shown

    def size_at(self, side: str, price: int) -> int:
        """Return the displayed size at one price, our orders included."""
        background = (self.bids if side == "bid" else self.asks).get(price, 0)
        if not self.own:
            return background
        return background + sum(o.remaining for o in self.own if o.side == side and o.price == price)

    def consumed(self, side: str) -> dict[int, int]:
        """Return the size by YES price that the real book holds and this one hides: taken by us, or withdrawn."""
        return dict(self._consumed_bids if side == "bid" else self._consumed_asks)

    def crosses(self, side: str, price: int) -> bool:
        """Return whether an order would trade at once."""
        best = self.best_ask() if side == "bid" else self.best_bid()
        return best is not None and (best <= price if side == "bid" else best >= price)

    # Incoming orders

    def available(self, side: str, price: int) -> int:
        """Return the background size that an order could take now."""
        other, opposite = ("ask", self.asks) if side == "bid" else ("bid", self.bids)
        return sum(
            self._reach(other, p, s)
            for p, s in opposite.items()
            if (p <= price if side == "bid" else p >= price)
        )

    def _reach(self, side: str, price: int, shown: int) -> int:
        """Return the size of a level that a taker may still have; the haircut applies to the original level."""
        if not self._model.haircut:
            return shown
        taken = self._taken.get((side, price), 0)
        return max(self._model.reach(shown + taken) - taken, 0)

    def take(self, order: RestingOrder) -> MatchResult:
        """Match an incoming order: taken background becomes consumed; our orders are reported, not changed."""
        buying = order.side == "bid"
        side: Side = "ask" if buying else "bid"
        background, consumed = self._sides(side)
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
                # Background ahead of our order trades before it, and only once for all our orders behind it.
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
            # If the order wants more than the haircut leaves, the rest of the level is withdrawn.
            withdrawn = 0 if stopped or left <= 0 else shown - taken
            if taken or withdrawn:
                self._advance_shadows(side, price, taken + withdrawn)
                consumed[price] = consumed.get(price, 0) + taken + withdrawn
                self._set_level(background, price, shown - taken - withdrawn)
                if self._model.haircut:
                    already = self._taken.get((side, price), 0)
                    self._set_level(self._taken, (side, price), 0 if withdrawn else already + taken)
            if stopped:
                return MatchResult(matches, cancelled, True)
        return MatchResult(matches, cancelled, False)

    def preview(self, order: RestingOrder) -> MatchResult:
        """Return the result of `take` on a copy of the book; the orders in it are copies as well."""
        copy = MarketBook(self._model, mirrored=self.mirrored)
        copy.bids, copy.asks, copy._taken = dict(self.bids), dict(self.asks), dict(self._taken)
        copy.own = [replace(o) for o in self.own]
        return copy.take(replace(order))

    def _advance_shadows(self, side: str, price: int, size: int) -> None:
        if size and self._shadows is not None:
            for shadow in self._shadows.orders():
                if shadow.side == side and shadow.price == price:
                    shadow.ahead = max(shadow.ahead - size, 0)

    @staticmethod
    def _set_level(levels: dict[K, int], price: K, size: int) -> None:
        if size > 0:
            levels[price] = size
        else:
            levels.pop(price, None)

    def _sides(self, side: str) -> tuple[dict[int, int], dict[int, int]]:
        """Return the displayed and the consumed size on a side."""
        return (self.bids, self._consumed_bids) if side == "bid" else (self.asks, self._consumed_asks)

    def rest(self, order: RestingOrder) -> None:
        """Rest the remaining size of an order behind the size that stands at its price."""
        order.ahead = (self.bids if order.side == "bid" else self.asks).get(order.price, 0)
        self.own.append(order)
        if self._shadows is not None:
            self._shadows.rest(order, order.ahead, max(self.now, order.updated))

    def remove(self, order: RestingOrder) -> None:
        """Remove an order from the book."""
        self.own.remove(order)
        if self._shadows is not None:
            self._shadows.leave(order)

    def clear(self) -> None:
        """Remove all background for good; shadow orders of filled orders stop waiting."""
        self.bids, self.asks = {}, {}
        self._consumed_bids, self._consumed_asks, self._taken, self._printed_sizes = {}, {}, {}, {}
        if self._shadows is not None:
            self._shadows.end()

    def blind(self) -> None:
        """Remove all background until the next snapshot; resting orders keep their size ahead."""
        self.bids, self.asks = {}, {}

    # Events of the flow

    def printed(self, price: int, size: int, taker: str) -> list[tuple[RestingOrder, int]]:
        """Return our resting orders that a print fills and their sizes, best price first; the orders do not change.

        Args:
            price: YES price.
            size: size of the print.
            taker: the outcome that the aggressor bought, "yes" or "no".
        """
        consumed = self._consumed_asks if taker == "yes" else self._consumed_bids
        if price in consumed and not self.mirrored:
            # The level still stands although `size` of it traded, so that much of it is new.
            self._set_level(consumed, price, consumed[price] - size)
        if self._shadows is not None and self._shadows.waiting:
            self._shadows.printed(price, size, taker, self.now)
        if not self.own:
            return []
        if self.mirrored and self._model.cancels == "pro_rata":
            at = ("ask" if taker == "yes" else "bid", price)
            before, when = self._printed_sizes.get(at, (0, 0))
            self._printed_sizes[at] = (
                size + (before if self.now - when <= DUPLICATE_WINDOW_US else 0),
                self.now,
            )
        return print_fills(self._model.mode, self.own, price, size, taker, self.now)

    def requote(self, bids: dict[int, int], asks: dict[int, int]) -> list[tuple[RestingOrder, int]]:
        """Replace the background; our orders that the new quotes cross trade with them, at our price.

        Args:
            bids: the real book's size by YES price; the book takes ownership and changes it.
            asks: the same for asks.

        Returns:
            Our orders and the size each fills; the quotes are reduced by it.
        """
        if self._consumed_bids:
            self._consumed_bids = self._subtract_consumed(bids, self._consumed_bids)
        if self._consumed_asks:
            self._consumed_asks = self._subtract_consumed(asks, self._consumed_asks)
        if self._taken:
            self._taken = {k: n for k, n in self._taken.items() if k[1] in (bids if k[0] == "bid" else asks)}
        self.bids, self.asks = bids, asks
        if not self.fillable:
            return []
        fills = self._match_quotes(bids, asks)
        for order in self._all_waiting():
            order.ahead = min(order.ahead, (bids if order.side == "bid" else asks).get(order.price, 0))
        return fills

    def apply(self, side: str, price: int, delta: int) -> list[tuple[RestingOrder, int]]:
        """Change the background size at one price; fills are returned as by `requote`.

        Args:
            side: "bid" or "ask".
            price: YES price, on either side.
            delta: change of the size.

        Raises:
            BookError: the level would fall below zero: messages were lost, load a snapshot.
        """
        shown, consumed = self._sides(side)
        hidden = consumed.get(price, 0)
        total = shown.get(price, 0) + hidden + delta
        if total < 0:
            raise BookError(f"{side} level {price}: size {total - delta} cannot change by {delta}")
        if hidden > total:
            hidden = total
            self._set_level(consumed, price, hidden)
        size = total - hidden
        self._set_level(shown, price, size)
        if not total:
            self._taken.pop((side, price), None)
        if not self.fillable:
            return []
        if delta < 0:
            self._shrink_level(side, price, size, size - delta)
            return []
        level = {price: size} if size else {}
        fills = self._match_quotes(level, {}) if side == "bid" else self._match_quotes({}, level)
        self._set_level(shown, price, level.get(price, 0))
        return fills

    def drop_crossed(self, price: int, taker: str) -> bool:
        """Remove background that a print proves stale; return whether there was any.

        A recorded book may lag behind its prints: a taker of YES at `price` left no cheaper ask, and no bid
        that high.
        """
        yes = taker == "yes"
        asks = [p for p in self.asks if (p < price if yes else p <= price)]
        bids = [p for p in self.bids if (p >= price if yes else p > price)]
        for levels, (shown, consumed) in ((asks, self._sides("ask")), (bids, self._sides("bid"))):
            for p in levels:
                consumed[p] = consumed.get(p, 0) + shown.pop(p)
        return bool(asks or bids)

    def _all_waiting(self) -> Iterator[RestingOrder | ShadowOrder]:
        yield from self.own
        if self._shadows is not None:
            yield from self._shadows.orders()

    def _match_quotes(self, bids: dict[int, int], asks: dict[int, int]) -> list[tuple[RestingOrder, int]]:
        """Match new quotes with resting orders; the size they take is removed from the quotes."""
        own_bid = max((o.price for o in self.own if o.side == "bid"), default=-1)
        own_ask = min((o.price for o in self.own if o.side == "ask"), default=PRICE + 1)
        if self._shadows is not None and self._shadows.waiting:
            self._shadows.quoted(bids, asks, self.now)
        crossing_bids = {p: n for p, n in bids.items() if p >= own_ask}
        crossing_asks = {p: n for p, n in asks.items() if p <= own_bid}
        if not crossing_bids and not crossing_asks:
            return []
        fills = quote_fills(self._model.mode, self.own, bids, asks)
        for crossing, quotes, consumed in (
            (crossing_bids, bids, self._consumed_bids),
            (crossing_asks, asks, self._consumed_asks),
        ):
            for price, size in crossing.items():
                if self._model.mode == "pessimistic":
                    # The quote crosses our order, which this model does not fill: it traded elsewhere.
                    quotes.pop(price)
                lost = size - quotes.get(price, 0)
                if lost:
                    consumed[price] = consumed.get(price, 0) + lost
        return fills

    def _shrink_level(self, side: str, price: int, size: int, before: int) -> None:
        """Reduce `ahead` after a level decrease: to the new size at most, or pro rata."""
        cancelled = 0
        if self._model.cancels == "pro_rata":
            traded, when = self._printed_sizes.pop((side, price), (0, 0))
            if self.now - when > DUPLICATE_WINDOW_US:
                traded = 0
            cancelled = max(before - size - traded, 0)
            if traded > before - size:
                self._printed_sizes[side, price] = (traded - (before - size), when)
        for order in self._all_waiting():
            if order.side != side or order.price != price:
                continue
            ahead = min(order.ahead - order.ahead * cancelled // before, size)
            if ahead < order.ahead:
                if self.now - order.cut_ts > DUPLICATE_WINDOW_US:
                    order.cut = 0
                order.cut += order.ahead - ahead
                order.cut_ts = self.now
                order.ahead = ahead

    @staticmethod
    def _subtract_consumed(levels: dict[int, int], consumed: dict[int, int]) -> dict[int, int]:
        """Subtract the consumed size from a side's new levels; return the size still consumed."""
        kept: dict[int, int] = {}
        for price, size in consumed.items():
            total = levels.get(price, 0)
            if total > size:
                levels[price] = total - size
                kept[price] = size
            elif total:
                del levels[price]
                kept[price] = total
        return kept
