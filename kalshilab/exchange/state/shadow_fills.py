"""What every fill model makes of each order that rested: the three side by side, at any moment.

The active model's fills are the order's own.  The others belong to **ghosts** of it, one a model: a ghost
stands at the order's price behind the same size, meets the same prints and quotes, and is cancelled or moved
with the order.  When the order is filled before a ghost of it, the ghost waits on, until its order would have
expired or its market closes.

Invariant: pessimistic ≤ queue ≤ optimistic, for every order at every moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import polars as pl

from kalshilab.errors import ExchangeError
from kalshilab.exchange.state.fill_model import MODES, Mode, Waiting, met, printed

__all__ = ["Ghost", "Shadow", "ShadowFills", "Shadows"]

SHADOWS_KEPT: Final = 20_000
"""Orders whose shadows are remembered, those still waiting apart."""


class Placed(Waiting, Protocol):
    """What a shadow reads of the order itself."""

    order_id: str
    client_order_id: str
    ticker: str
    expires: int
    filled: int


class Ghost:
    """An order as another model sees it: the same price and place, fills of its own."""

    __slots__ = ("_shadow", "ahead", "cut", "cut_ts", "filled")

    def __init__(self, shadow: Shadow) -> None:
        self._shadow, self.ahead, self.filled = shadow, 0, 0
        self.cut = self.cut_ts = 0

    @property
    def side(self) -> str:
        """The order's side."""
        return self._shadow.order.side

    @property
    def price(self) -> int:
        """The order's price."""
        return self._shadow.order.price

    @property
    def remaining(self) -> int:
        """What this model has not filled yet."""
        return max(self._shadow.size - self.filled, 0)


class Shadow:
    """One order that rested, under every model.

    Attributes:
        order: the order itself.
        since: exchange time at which it came to rest, microseconds.
        waits: whether its ghosts may still be filled.
    """

    __slots__ = ("_left", "_taken", "_total", "ghosts", "order", "since", "waits")

    def __init__(self, order: Placed, since: int, modes: Iterable[Mode]) -> None:
        self.order, self.since, self.waits = order, since, True
        self._taken = order.filled
        self._total: int | None = None
        self._left = 0
        self.ghosts: dict[Mode, Ghost] = {mode: Ghost(self) for mode in modes}

    @property
    def made(self) -> int:
        """What the active mode has filled of it as a maker, in size units."""
        return (self._total if self._total is not None else self.order.filled) - self._taken

    @property
    def size(self) -> int:
        """What rested: filled as a maker, or open still or when it was cancelled."""
        return self.made + (self.order.remaining if self._total is None else self._left)

    def leave(self) -> None:
        """The order has left the book unfilled: cancelled, or to be moved."""
        self._total, self._left, self.waits = self.order.filled, self.order.remaining, False

    def join(self) -> None:
        """The order is back at another place; what it took in between was not made."""
        if self._total is not None:
            self._taken += self.order.filled - self._total
        self._total, self.waits = None, True


class ShadowFills:
    """All orders that rested, with what each model has filled of them by now.

    Args:
        mode: the active one.
        kept: finished orders remembered at most.

    Raises:
        ExchangeError: `kept` below 1.
    """

    def __init__(self, mode: Mode = "queue", kept: int = SHADOWS_KEPT) -> None:
        if kept < 1:
            raise ExchangeError(f"{kept} shadows kept: at least 1")
        self.mode: Final = mode
        self.others: Final[tuple[Mode, ...]] = tuple(m for m in MODES if m != mode)
        self._kept, self._limit = kept, 2 * kept
        self._by_order: dict[str, Shadow] = {}

    def __len__(self) -> int:
        return len(self._by_order)

    def rested(self, order: Placed, now: int) -> Shadow:
        """The shadow of an order that has come to rest now, or again."""
        shadow = self._by_order.get(order.order_id)
        if shadow is None:
            shadow = self._by_order[order.order_id] = Shadow(order, now, self.others)
            if len(self._by_order) > self._limit:
                self._forget()
        else:
            shadow.join()
        return shadow

    def _forget(self) -> None:
        done = [k for k, s in self._by_order.items() if not s.waits]
        for order_id in done[: max(len(done) - self._kept, 0)]:
            del self._by_order[order_id]
        # Those that wait stay, however many: then look again only when they have doubled.
        self._limit = max(2 * self._kept, 2 * len(self._by_order))

    def shadow(self, order_id: str) -> Shadow | None:
        """One order's shadow, if it ever rested."""
        return self._by_order.get(order_id)

    def filled(self, shadow: Shadow, mode: Mode) -> int:
        """What a model has filled of an order by now, in size units."""
        return shadow.made if mode == self.mode else shadow.ghosts[mode].filled

    def frame(self) -> pl.DataFrame:
        """A row an order, in the order in which they came to rest; sizes in 1/100 contract.

        ============ ====================================================================
        size         what rested, less what an amendment took off
        filled       what the active mode has filled of it
        pessimistic, queue, optimistic: what each model has
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


_SCHEMA: Final[dict[str, Any]] = {
    "order_id": pl.String, "client_order_id": pl.String, "ticker": pl.String, "side": pl.String,
    "price": pl.Int32, "since": pl.Int64, "size": pl.Int64, "filled": pl.Int64,
    **dict.fromkeys(MODES, pl.Int64), "waits": pl.Boolean,
}  # fmt: skip


class Shadows:
    """The ghosts that wait in one market."""

    __slots__ = ("_ledger", "waiting")

    def __init__(self, ledger: ShadowFills) -> None:
        self._ledger = ledger
        self.waiting: dict[str, Shadow] = {}

    def rest(self, order: Placed, ahead: int, now: int) -> None:
        """An order has come to rest behind `ahead`."""
        shadow = self._ledger.rested(order, now)
        for ghost in shadow.ghosts.values():
            ghost.ahead, ghost.cut = ahead, 0
        # Whoever moves goes to the end of the queue.
        self.waiting.pop(order.order_id, None)
        self.waiting[order.order_id] = shadow

    def leave(self, order: Placed) -> None:
        """An order has left the book; one that is filled leaves its ghosts waiting."""
        if order.remaining == 0:
            self._clear()
            return
        shadow = self.waiting.pop(order.order_id, None)
        if shadow is not None:
            shadow.leave()

    def printed(self, price: int, size: int, taker: str, now: int) -> None:
        """A print, as it is given to the orders."""
        for mode, ghosts in self._due(now):
            for ghost, piece in printed(mode, ghosts, price, size, taker, now):
                ghost.filled += piece
        self._clear()

    def met(self, bids: dict[int, int], asks: dict[int, int], now: int) -> None:
        """Quotes as they come; they are not changed."""
        for mode, ghosts in self._due(now):
            for ghost, piece in met(mode, ghosts, dict(bids), dict(asks)):
                ghost.filled += piece
        self._clear()

    def ghosts(self) -> Iterable[Ghost]:
        """All that wait."""
        return (g for s in self.waiting.values() for g in s.ghosts.values())

    def _due(self, now: int) -> list[tuple[Mode, Sequence[Ghost]]]:
        for shadow in [s for s in self.waiting.values() if 0 < s.order.expires <= now]:
            shadow.waits = False
            del self.waiting[shadow.order.order_id]
        return [(m, [s.ghosts[m] for s in self.waiting.values()]) for m in self._ledger.others]

    def _clear(self) -> None:
        for shadow in [s for s in self.waiting.values() if s.order.remaining == 0]:
            # The order is done; its ghosts go on until none has anything left.
            if not any(g.remaining for g in shadow.ghosts.values()):
                shadow.waits = False
                del self.waiting[shadow.order.order_id]

    def end(self) -> None:
        """Nothing more will happen here."""
        for shadow in self.waiting.values():
            shadow.waits = False
        self.waiting.clear()
