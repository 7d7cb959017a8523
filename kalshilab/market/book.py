"""Order book of one market, as a client keeps it.

The exchange publishes only bids, on both sides: YES bids at YES prices and NO bids at NO prices.  An ask is the
mirror image of the other side's bid: YES ask = a dollar − best NO bid.  `Book` holds the size at each price and the
best price of each side.  When the best level is emptied, the next one is found by walking down, usually by a step or
two.
"""

from __future__ import annotations

from collections.abc import Iterable

from kalshilab.errors import BookError
from kalshilab.units import PRICE

__all__ = ["Book"]


class Book:
    """Size at each price of both sides, in size units; each side is in its own prices, in price units.

    >>> book = Book()
    >>> book.load(yes=[(4100, 1000), (4200, 1300)], no=[(5600, 1700)])
    >>> book.best_yes_bid, book.yes_ask, book.no_ask
    (4200, 4400, 5800)
    >>> book.apply("no", 5600, -1700)
    >>> book.yes_ask, book.levels("no")
    (None, [])
    """

    __slots__ = ("_best", "_sizes")

    def __init__(self) -> None:
        self._sizes: dict[str, dict[int, int]] = {"yes": {}, "no": {}}
        self._best: dict[str, int] = {"yes": -1, "no": -1}

    def load(self, yes: Iterable[tuple[int, int]], no: Iterable[tuple[int, int]]) -> None:
        """Replace the book by the levels of a snapshot, in any order; empty levels are skipped.

        Args:
            yes: YES bids as (price, size), in YES prices.
            no: NO bids as (price, size), in NO prices.

        Raises:
            BookError: a size is negative or a price is outside 0 to 10,000; the book is left unchanged.
        """
        loaded: dict[str, dict[int, int]] = {}
        for side, levels in (("yes", yes), ("no", no)):
            sizes: dict[int, int] = {}
            for price, size in levels:
                if size < 0:
                    raise BookError(f"invalid size {size} at {side} level {price}")
                if not 0 <= price <= PRICE:
                    raise BookError(f"{side} price must be from 0 to {PRICE:,}, got {price}")
                if size:
                    sizes[price] = size
            loaded[side] = sizes
        self._sizes = loaded
        self._best = {side: max(sizes, default=-1) for side, sizes in loaded.items()}

    def apply(self, side: str, price: int, delta: int) -> None:
        """Change the size at one price by `delta`; a level whose size becomes zero is removed.

        Args:
            side: "yes" or "no".
            price: the price of that side, in price units.
            delta: the change of the size, in size units.

        Raises:
            BookError: the price is outside 0 to 10,000, or the level would fall below zero.  In the second case a
                frame was lost: load a snapshot.
        """
        sizes = self._sizes[side]
        size = sizes.get(price, 0) + delta
        if size > 0:
            if price not in sizes and not 0 <= price <= PRICE:
                raise BookError(f"{side} price must be from 0 to {PRICE:,}, got {price}")
            sizes[price] = size
            if price > self._best[side]:
                self._best[side] = price
        elif size == 0:
            sizes.pop(price, None)
            if price == self._best[side]:
                # Levels are dense near the best price, so a short walk is faster than max() over the side.
                below = price - 1
                floor = price - 200
                while below > floor and below not in sizes:
                    below -= 1
                self._best[side] = below if below in sizes else max(sizes, default=-1)
        else:
            raise BookError(
                f"{side} level {price} has size {size - delta} and cannot change by {delta}; load a snapshot"
            )

    @property
    def best_yes_bid(self) -> int | None:
        """Highest YES bid, in YES price; None if there is no YES bid."""
        best = self._best["yes"]
        return None if best < 0 else best

    @property
    def best_no_bid(self) -> int | None:
        """Highest NO bid, in NO price; None if there is no NO bid."""
        best = self._best["no"]
        return None if best < 0 else best

    @property
    def yes_ask(self) -> int | None:
        """Lowest price at which YES is offered, in YES price; None if there is no NO bid."""
        best = self._best["no"]
        return None if best < 0 else PRICE - best

    @property
    def no_ask(self) -> int | None:
        """Lowest price at which NO is offered, in NO price; None if there is no YES bid."""
        best = self._best["yes"]
        return None if best < 0 else PRICE - best

    def size_at(self, side: str, price: int) -> int:
        """Return the size bid for `side` at its `price`, or 0."""
        return self._sizes[side].get(price, 0)

    def levels(self, side: str) -> list[tuple[int, int]]:
        """Return the bids of a side as (price, size), best first."""
        return sorted(self._sizes[side].items(), reverse=True)

    def __repr__(self) -> str:
        return f"Book(yes bid {self.best_yes_bid}, yes ask {self.yes_ask})"
