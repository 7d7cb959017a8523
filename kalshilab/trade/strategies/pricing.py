"""What to bid for an outcome inside the spread of its book."""

from __future__ import annotations

from kalshilab.market.book import Book
from kalshilab.units import PRICE, TickGrid

__all__ = ["limit_price", "order_at", "spread_of"]


def spread_of(book: Book, outcome: str) -> tuple[int, int] | None:
    """Best bid and ask for an outcome, in its own price units; None where a side is empty."""
    bid = book.best_yes_bid if outcome == "yes" else book.best_no_bid
    ask = book.yes_ask if outcome == "yes" else book.no_ask
    return None if bid is None or ask is None else (bid, ask)


def limit_price(bid: int, ask: int, *, eager: bool, tight: int, normal: int) -> int:
    """The limit price for an outcome's `bid` and `ask`, in price units, before it is put on the grid.

    ============================ ============ ============
    spread                       usually      eager
    ============================ ============ ============
    up to `tight`                ask − 1 cent ask
    up to `normal`               middle       ask − 1 cent
    above                        bid + 75 %   bid + 85 %
    ============================ ============ ============

    Never below the bid, which matters where the spread is under a cent.

    >>> limit_price(4000, 4200, eager=False, tight=200, normal=400)
    4100
    >>> limit_price(4000, 4800, eager=True, tight=200, normal=400)
    4600
    """
    spread = ask - bid
    if spread <= tight:
        price = ask if eager else ask - 100
    elif spread <= normal:
        price = ask - 100 if eager else (ask + bid) // 2
    else:
        # In whole cents of the spread, as the rule is stated; finer grids keep the finer bid.
        share = 85 if eager else 75
        price = bid + (spread * share // 100) // 100 * 100
    return max(price, bid)


def order_at(outcome: str, price: int, grid: TickGrid) -> tuple[str, int]:
    """Side and YES price of the order that buys an outcome at no more than `price`, on the market's grid.

    >>> order_at("no", 4150, TickGrid.named("linear_cent")), order_at("yes", 4150, TickGrid.named("linear_cent"))
    (('ask', 5900), ('bid', 4100))
    """
    if outcome == "yes":
        return "bid", grid.floor(price)
    # The NO price is rounded down, so the YES price, on whose grid the order lives, is rounded up.
    return "ask", grid.ceil(PRICE - price)
