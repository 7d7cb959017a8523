"""Queue position: simulate our order in a recorded book, in one compiled pass over prints and book changes.

The recorded book does not contain our order; the size it shows at our price belongs to others. The size ahead of us falls
with every print at our price. Other decreases of the level that prints have not explained are cancellations: none of them
is ahead of us in the book "queue"; in "pro_rata" a share is, equal to the share of the displayed size that is ahead of us.
A book that becomes empty altogether was lost by the recorder, not cancelled.

If an offer rests at our price or below, no other bid was left to take it: our order would have matched it, and is filled
in all books.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.signals.engine.kernel import compiled
from kalshilab.tape.schema import TAPE_SCHEMA
from kalshilab.tape.tape import Tape
from kalshilab.units import PRICE

__all__ = ["events_of", "rested_in"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

READS: Final = ("ts", "price", "size", "taker")
QUEUE, PRO_RATA, TOUCH = 1, 2, 3
"""Columns of the books; "through" is column 0."""
END: Final = 2**63 - 1
"""A time after every event."""


def events_of(tape: Tape, quotes: pl.DataFrame, groups: pl.DataFrame) -> pl.DataFrame:
    """Merge the prints (kind 0) and book changes (kind 1) of the orders' markets, by market and time.

    `side` 0 is that of YES bids. A print is on the side of the bids it hit, at their own price.
    """
    names = tape.tickers.cast(pl.String)
    wanted = names.is_in(groups["ticker"].implode())
    parts = [
        batch.frame.with_columns(ticker=names.gather(batch.frame["market"]))
        .filter(wanted.gather(batch.frame["market"]))
        .select("ticker", *READS)
        for batch in tape.batches(("market", *READS))
    ]
    prints = pl.concat(parts or [pl.DataFrame(schema=TAPE_SCHEMA).select("ticker", *READS)])
    by_no = pl.col("taker").cast(pl.String) == "no"
    price = pl.col("price").cast(pl.Int64)
    hits = prints.select(
        "ticker",
        "ts",
        pl.lit(0).alias("kind"),
        pl.when(by_no).then(0).otherwise(1).cast(pl.Int64).alias("side"),
        pl.when(by_no).then(price).otherwise(PRICE - price).alias("price"),
        pl.col("size").cast(pl.Int64),
    )
    changes = quotes.select(
        "ticker",
        "ts",
        pl.lit(1).alias("kind"),
        pl.col("side").to_physical().cast(pl.Int64),
        pl.col("price").cast(pl.Int64),
        pl.col("size").cast(pl.Int64),
    )
    both = pl.concat([hits, changes]).join(groups, on="ticker", how="inner", maintain_order="left")
    return both.with_columns(pl.col("ts").dt.epoch("us")).sort("group", "ts", "kind", maintain_order=True)


@compiled
def rested_in(
    edges: Ints, ts: Ints, kind: Ints, side: Ints, price: Ints, size: Ints, lines: Ints, order: Ints, live: Ints, stop: Ints,
    own_side: Ints, own_price: Ints, want: int, posted: Flags, ahead: Floats, filled: Ints, first: Ints,
) -> None:  # fmt: skip
    """Process the markets' events one by one, with at most one order of ours per side."""
    shown, unseen = np.zeros((2, PRICE + 1), np.int64), np.zeros((2, PRICE + 1), np.int64)
    for g in range(len(edges) - 1):
        shown[:], unseen[:] = 0, 0
        best, resting = np.zeros(2, np.int64), np.full(2, -1, np.int64)
        # Size ahead of our order: in "queue", in "pro_rata" as of the last instant, and within this one.
        queue, share, trial = np.zeros(2), np.zeros(2), np.zeros(2)
        following, i = lines[g], edges[g]
        while True:
            now = ts[i] if i < edges[g + 1] else END
            while following < lines[g + 1] and live[order[following]] < now:
                o = order[following]
                s, p = own_side[o], own_price[o]
                free = resting[s] < 0 or stop[resting[s]] < live[o]
                if free and best[0] + best[1] > 0 and p < PRICE - best[1 - s]:
                    posted[o], resting[s] = True, o
                    ahead[o] = queue[s] = share[s] = shown[s, p]
                following += 1
            if i == edges[g + 1]:
                break
            trial[:] = share
            while i < edges[g + 1] and ts[i] == now:
                s, p, z = side[i], price[i], size[i]
                o = resting[s]
                open_ = o >= 0 and now <= stop[o]
                if kind[i] == 0:
                    unseen[s, p] += z
                    if open_ and p <= own_price[o]:
                        beyond = p < own_price[o]
                        for k in range(4):
                            some = want if beyond or k == TOUCH else 0
                            if not beyond and k in (QUEUE, PRO_RATA):
                                some = max(z - np.int64(queue[s] if k == QUEUE else np.ceil(trial[s])), 0)
                            _fill(filled, first, o, k, some, want, now)
                        if not beyond:
                            queue[s], trial[s] = max(queue[s] - z, 0.0), max(trial[s] - z, 0.0)
                            share[s] = trial[s]
                else:
                    less = shown[s, p] - z
                    if less > 0:
                        traded = min(less, unseen[s, p])
                        unseen[s, p] -= traded
                        if open_ and p == own_price[o] and shown[s, p] > traded:
                            trial[s] -= trial[s] * (less - traded) / (shown[s, p] - traded)
                    shown[s, p] = z
                    if z == 0:
                        unseen[s, p] = 0
                    else:
                        best[s] = max(best[s], p)
                    while best[s] > 0 and shown[s, best[s]] == 0:
                        best[s] -= 1
                i += 1
            # An empty book was lost by the recorder, not cancelled.
            if best[0] + best[1] > 0:
                share[:] = trial
            for s in range(2):
                o = resting[s]
                ask = PRICE - best[1 - s]
                # An offer at our price would have matched our order first.
                if o >= 0 and now <= stop[o] and best[s] < ask <= own_price[o]:
                    for k in range(4):
                        _fill(filled, first, o, k, want, want, now)


@compiled
def _fill(filled: Ints, first: Ints, o: int, k: int, some: int, want: int, now: int) -> None:
    """Add contracts to the fill of an order in one book."""
    more = min(some, want - filled[o, k])
    if more > 0:
        if filled[o, k] == 0:
            first[o, k] = now
        filled[o, k] += more
