"""The fills of each resting order under every fill model, side by side, at any moment.

The active model's fills are the order's.  For each other model the order has a **shadow order**: it stands at
the order's price behind the same size, meets the same prints and quotes, and is cancelled or moved with the
order.  If the order is filled before a shadow order, the shadow order keeps waiting until its order would
have expired or its market closes.

Invariant: pessimistic ≤ queue ≤ optimistic, for every order at every moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import polars as pl

from kalshilab.errors import ExchangeError
from kalshilab.exchange.state.fill_model import MODES, Mode, QueuedOrder, print_fills, quote_fills
from kalshilab.lazy import renamed

__all__ = ["MarketShadows", "ShadowFills", "ShadowOrder", "ShadowedOrder"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

SHADOWS_KEPT: Final = 20_000
"""Finished orders whose shadow orders are remembered."""


class PlacedOrder(QueuedOrder, Protocol):
    """The fields of an order that its shadow orders read."""

    order_id: str
    client_order_id: str
    ticker: str
    expires: int
    filled: int


class ShadowOrder:
    """An order under another fill model: the same price and place, separate fills."""

    __slots__ = ("_shadowed", "ahead", "cut", "cut_ts", "filled")

    def __init__(self, shadowed: ShadowedOrder) -> None:
        self._shadowed, self.ahead, self.filled = shadowed, 0, 0
        self.cut = self.cut_ts = 0

    @property
    def side(self) -> str:
        """The order's side."""
        return self._shadowed.order.side

    @property
    def price(self) -> int:
        """The order's price."""
        return self._shadowed.order.price

    @property
    def remaining(self) -> int:
        """Size that this model has not filled yet."""
        return max(self._shadowed.size - self.filled, 0)


class ShadowedOrder:
    """One order that rested, under every model.

    Attributes:
        order: the order itself.
        since: exchange time at which it came to rest, in microseconds.
        waits: whether its shadow orders may still be filled.
        shadows: its shadow orders, by model.
    """

    __slots__ = ("_left", "_taken", "_total", "order", "shadows", "since", "waits")

    def __init__(self, order: PlacedOrder, since: int, modes: Iterable[Mode]) -> None:
        self.order, self.since, self.waits = order, since, True
        self._taken = order.filled
        self._total: int | None = None
        self._left = 0
        self.shadows: dict[Mode, ShadowOrder] = {mode: ShadowOrder(self) for mode in modes}

    @property
    def made(self) -> int:
        """Size that the active model has filled as a maker."""
        return (self._total if self._total is not None else self.order.filled) - self._taken

    @property
    def size(self) -> int:
        """Size that rested: filled as a maker, plus the size still open or open at its cancellation."""
        return self.made + (self.order.remaining if self._total is None else self._left)

    def leave(self) -> None:
        """Record that the order has left the book unfilled: cancelled, or about to move."""
        self._total, self._left, self.waits = self.order.filled, self.order.remaining, False

    def join(self) -> None:
        """Record that the order rests again at another place; fills in between were taker fills."""
        if self._total is not None:
            self._taken += self.order.filled - self._total
        self._total, self.waits = None, True


class ShadowFills:
    """All orders that rested, with the size each model has filled so far.

    Args:
        mode: the active model.
        kept: maximum number of finished orders remembered.

    Raises:
        ExchangeError: `kept` is below 1.
    """

    def __init__(self, mode: Mode = "queue", kept: int = SHADOWS_KEPT) -> None:
        if kept < 1:
            raise ExchangeError(f"kept must be >= 1, got {kept}")
        self.mode: Final = mode
        self.others: Final[tuple[Mode, ...]] = tuple(m for m in MODES if m != mode)
        self._kept, self._limit = kept, 2 * kept
        self._by_order: dict[str, ShadowedOrder] = {}

    def __len__(self) -> int:
        return len(self._by_order)

    def rested(self, order: PlacedOrder, now: int) -> ShadowedOrder:
        """Record that an order has come to rest, for the first time or again."""
        shadowed = self._by_order.get(order.order_id)
        if shadowed is None:
            shadowed = self._by_order[order.order_id] = ShadowedOrder(order, now, self.others)
            if len(self._by_order) > self._limit:
                self._forget()
        else:
            shadowed.join()
        return shadowed

    def _forget(self) -> None:
        done = [k for k, s in self._by_order.items() if not s.waits]
        for order_id in done[: max(len(done) - self._kept, 0)]:
            del self._by_order[order_id]
        # Waiting orders are never forgotten; the next check follows when their number has doubled.
        self._limit = max(2 * self._kept, 2 * len(self._by_order))

    def shadow(self, order_id: str) -> ShadowedOrder | None:
        """Return one order under every model; None if it never rested."""
        return self._by_order.get(order_id)

    def filled(self, shadowed: ShadowedOrder, mode: Mode) -> int:
        """Return the size that a model has filled of an order so far."""
        return shadowed.made if mode == self.mode else shadowed.shadows[mode].filled

    def frame(self) -> pl.DataFrame:
        """Return one row an order, in the order in which they came to rest; sizes in 1/100 contract.

        ============ ====================================================================
        size         size that rested, less reductions by an amendment
        filled       size that the active model has filled
        pessimistic, queue, optimistic: size that each model has filled
        waits        whether any model may still fill some
        ============ ====================================================================
        """
        rows = [
            (
                s.order.order_id,
                s.order.client_order_id,
                s.order.ticker,
                s.order.side,
                s.order.price,
                s.since,
                s.size,
                s.made,
                *(self.filled(s, mode) for mode in MODES),
                s.waits,
            )
            for s in self._by_order.values()
        ]
        return pl.DataFrame(rows, schema=_SCHEMA, orient="row").with_columns(
            pl.col("since").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        )

    def __repr__(self) -> str:
        return f"ShadowFills({len(self._by_order)} orders, {self.mode} active)"


_SCHEMA: Final[dict[str, type[pl.DataType]]] = {
    "order_id": pl.String, "client_order_id": pl.String, "ticker": pl.String, "side": pl.String,
    "price": pl.Int32, "since": pl.Int64, "size": pl.Int64, "filled": pl.Int64,
    **dict.fromkeys(MODES, pl.Int64), "waits": pl.Boolean,
}  # fmt: skip


class MarketShadows:
    """The shadow orders that wait in one market."""

    __slots__ = ("_ledger", "waiting")

    def __init__(self, ledger: ShadowFills) -> None:
        self._ledger = ledger
        self.waiting: dict[str, ShadowedOrder] = {}

    def rest(self, order: PlacedOrder, ahead: int, now: int) -> None:
        """Record that an order has come to rest behind the size `ahead`."""
        shadowed = self._ledger.rested(order, now)
        for shadow in shadowed.shadows.values():
            shadow.ahead, shadow.cut = ahead, 0
        # An order that moves goes to the end of the queue.
        self.waiting.pop(order.order_id, None)
        self.waiting[order.order_id] = shadowed

    def leave(self, order: PlacedOrder) -> None:
        """Record that an order has left the book; the shadow orders of a filled order keep waiting."""
        if order.remaining == 0:
            self._discard_finished()
            return
        shadowed = self.waiting.pop(order.order_id, None)
        if shadowed is not None:
            shadowed.leave()

    def printed(self, price: int, size: int, taker: str, now: int) -> None:
        """Match a print with the shadow orders."""
        for mode, shadows in self._unexpired(now):
            for shadow, piece in print_fills(mode, shadows, price, size, taker, now):
                shadow.filled += piece
        self._discard_finished()

    def quoted(self, bids: dict[int, int], asks: dict[int, int], now: int) -> None:
        """Match new quotes with the shadow orders; the quotes are not changed."""
        for mode, shadows in self._unexpired(now):
            for shadow, piece in quote_fills(mode, shadows, dict(bids), dict(asks)):
                shadow.filled += piece
        self._discard_finished()

    def orders(self) -> Iterable[ShadowOrder]:
        """Return all shadow orders that wait."""
        return (shadow for s in self.waiting.values() for shadow in s.shadows.values())

    def _unexpired(self, now: int) -> list[tuple[Mode, Sequence[ShadowOrder]]]:
        for shadowed in [s for s in self.waiting.values() if 0 < s.order.expires <= now]:
            shadowed.waits = False
            del self.waiting[shadowed.order.order_id]
        return [(m, [s.shadows[m] for s in self.waiting.values()]) for m in self._ledger.others]

    def _discard_finished(self) -> None:
        for shadowed in [s for s in self.waiting.values() if s.order.remaining == 0]:
            # The order is done; its shadow orders wait until all of them are filled.
            if not any(shadow.remaining for shadow in shadowed.shadows.values()):
                shadowed.waits = False
                del self.waiting[shadowed.order.order_id]

    def end(self) -> None:
        """End all waiting: the market trades no more."""
        for shadowed in self.waiting.values():
            shadowed.waits = False
        self.waiting.clear()
