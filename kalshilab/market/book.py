"""The order book of one market, as a client keeps it.

The exchange states bids only, on both sides: YES bids at YES prices and NO bids at NO prices.  An ask is the
other side's bid seen from across: YES ask = a dollar − best NO bid.  `Book` holds the size at each price and
the best price of each side; a change at the best is found again by walking down, which in practice is a step
or two.
"""

from __future__ import annotations

from collections.abc import Iterable

from kalshilab.errors import BookError
from kalshilab.units import PRICE

__all__ = ["Book"]


class Book:
    """Sizes by price, both sides.  Prices in price units of their own side, sizes in size units.

    >>> book = Book()
    >>> book.load(yes=[(4100, 1000), (4200, 1300)], no=[(5600, 1700)])
    >>> book.best_yes_bid, book.yes_ask, book.no_ask
    (4200, 4400, 5800)
    >>> book.apply("no", 5600, -1700)
    >>> book.yes_ask is None
    True
    """

    __slots__ = ("_best", "_sizes")

    def __init__(self) -> None:
        self._sizes: dict[str, dict[int, int]] = {"yes": {}, "no": {}}
        self._best: dict[str, int] = {"yes": -1, "no": -1}

    def load(self, yes: Iterable[tuple[int, int]], no: Iterable[tuple[int, int]]) -> None:
        """Replace the whole book by a snapshot's levels, in any order; empty levels are skipped.

        Raises:
            BookError: a negative size or a price outside 0 to 10,000; the book is then left as it was.
        """
        fresh: dict[str, dict[int, int]] = {}
        for side, levels in (("yes", yes), ("no", no)):
            sizes: dict[int, int] = {}
            for price, size in levels:
                if size < 0 or not 0 <= price <= PRICE:
                    raise BookError(f"{side} level {price}: size {size} cannot be")
                if size:
                    sizes[price] = size
            fresh[side] = sizes
        self._sizes = fresh
        self._best = {side: max(sizes, default=-1) for side, sizes in fresh.items()}

    def apply(self, side: str, price: int, delta: int) -> None:
        """Change the size at one price by `delta`; a level at zero is gone.

        Raises:
            BookError: the level would fall below zero: a frame was lost, load a snapshot.
        """
        sizes = self._sizes[side]
        size = sizes.get(price, 0) + delta
        if size > 0:
            if price not in sizes and not 0 <= price <= PRICE:
                raise BookError(f"{side} level {price}: no such price")
            sizes[price] = size
            if price > self._best[side]:
                self._best[side] = price
        elif size == 0:
            sizes.pop(price, None)
            if price == self._best[side]:
                # Levels are dense near the top, so a short walk beats max() over the whole side.
                below = price - 1
                floor = price - 200
                while below > floor and below not in sizes:
                    below -= 1
                self._best[side] = below if below in sizes else max(sizes, default=-1)
        else:
            raise BookError(f"{side} level {price}: {size - delta} cannot change by {delta}")

    @property
    def best_yes_bid(self) -> int | None:
        """Highest YES bid, in YES price; None when there is none."""
        best = self._best["yes"]
        return None if best < 0 else best

    @property
    def best_no_bid(self) -> int | None:
        """Highest NO bid, in NO price; None when there is none."""
        best = self._best["no"]
        return None if best < 0 else best

    @property
    def yes_ask(self) -> int | None:
        """What YES costs now, in YES price; None when nobody bids for NO."""
        best = self._best["no"]
        return None if best < 0 else PRICE - best

    @property
    def no_ask(self) -> int | None:
        """What NO costs now, in NO price; None when nobody bids for YES."""
        best = self._best["yes"]
        return None if best < 0 else PRICE - best

    def size_at(self, side: str, price: int) -> int:
        """Size bid for `side` at its `price`; 0 where there is none."""
        return self._sizes[side].get(price, 0)

    def levels(self, side: str) -> list[tuple[int, int]]:
        """The bids of a side, (price, size), best first."""
        return sorted(self._sizes[side].items(), reverse=True)

    def __repr__(self) -> str:
        return f"Book(yes bid {self.best_yes_bid}, yes ask {self.yes_ask})"
