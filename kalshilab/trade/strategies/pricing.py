"""Limit prices inside the spread of an outcome's book."""

from __future__ import annotations

from kalshilab.market.book import Book
from kalshilab.units import PRICE, TickGrid

__all__ = ["limit_price", "order_at", "spread_of"]


def spread_of(book: Book, outcome: str) -> tuple[int, int] | None:
    """Return the best bid and ask of an outcome as prices of that outcome, or `None` if a side is empty.

    Args:
        book: the market's book.
        outcome: "yes" or "no".
    """
    bid = book.best_yes_bid if outcome == "yes" else book.best_no_bid
    ask = book.yes_ask if outcome == "yes" else book.no_ask
    return None if bid is None or ask is None else (bid, ask)


def limit_price(bid: int, ask: int, *, eager: bool, tight: int, normal: int) -> int:
    """Return the limit price for an outcome, in price units, before rounding to the market's grid.

    ============================ ============ ============
    spread                       normal       eager
    ============================ ============ ============
    up to `tight`                ask − 1 cent ask
    up to `normal`               middle       ask − 1 cent
    above                        bid + 75 %   bid + 85 %
    ============================ ============ ============

    The price is never below the bid, which matters if the spread is below a cent.

    Args:
        bid: the outcome's best bid, in price units.
        ask: its best ask, in price units.
        eager: use the prices nearer to the ask.
        tight: largest tight spread, in price units.
        normal: largest normal spread, in price units.

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
        # The rule counts whole cents of the spread; on finer grids the bid keeps its fraction.
        share = 85 if eager else 75
        price = bid + (spread * share // 100) // 100 * 100
    return max(price, bid)


def order_at(outcome: str, price: int, grid: TickGrid) -> tuple[str, int]:
    """Return the side and YES price of the order that buys an outcome at `price` or less, on the market's grid.

    Args:
        outcome: the outcome to buy.
        price: the limit as a price of that outcome, in price units.
        grid: the valid prices of the market.

    >>> order_at("no", 4150, TickGrid.named("linear_cent")), order_at("yes", 4150, TickGrid.named("linear_cent"))
    (('ask', 5900), ('bid', 4100))
    """
    if outcome == "yes":
        return "bid", grid.floor(price)
    # Orders are priced in YES: rounding the NO price down means rounding the YES price up.
    return "ask", grid.ceil(PRICE - price)
