"""Which markets a session follows: admission, capacity, and the way from created to settled.

A public lifecycle message names a market but not its category, so admission needs a look-up over REST.
Prints that arrive while it is under way are kept and handed over on admission, so that the anchor of a signal
is the first print seen, not the first after a slow answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from kalshilab.market.model import Market, Trade

__all__ = ["Tracked", "Tracker", "category_matches"]

PENDING_LIMIT = 10_000
"""Prints kept for one market under look-up; beyond it the market is refused rather than its past cut."""


class Tracked:
    """One market as the session follows it.  `status` runs looking → active → closed → determined → settled,
    or ends at rejected.
    """

    __slots__ = ("last_price", "market", "pending", "prints", "reason", "status", "ticker")

    def __init__(self, ticker: str) -> None:
        self.ticker = ticker
        self.status = "looking"
        self.reason = ""
        self.market: Market | None = None
        self.pending: list[Trade] = []
        self.last_price = 0
        self.prints = 0

    def __repr__(self) -> str:
        return f"Tracked({self.ticker}, {self.status})"


class Tracker:
    """The one owner of what is tracked.

    Args:
        categories: names to admit, or ("all",).
        tickers: if not empty, only these are admitted, whatever their category.
        max_markets: active markets at once; one more is rejected, none is thrown out.
        close_min: a market that closes within so many microseconds is not admitted; 0 turns this off.
    """

    def __init__(
        self,
        categories: Iterable[str],
        tickers: Iterable[str] = (),
        max_markets: int = 1000,
        close_min: int = 0,
    ) -> None:
        self._categories = tuple(categories)
        self._only = frozenset(tickers)
        self._max = max_markets
        self.close_min = close_min
        self._markets: dict[str, Tracked] = {}
        self.active = 0
        self.rejected: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._markets)

    def get(self, ticker: str) -> Tracked | None:
        """The market if it is known in any status."""
        return self._markets.get(ticker)

    def all(self, status: str | None = None) -> list[Tracked]:
        """The markets known, of one status if given, in the order they were found."""
        return [t for t in self._markets.values() if status is None or t.status == status]

    def begin(self, ticker: str) -> bool:
        """Note that a look-up starts.  False if the market is known already or not wanted at all."""
        if ticker in self._markets or (self._only and ticker not in self._only):
            return False
        self._markets[ticker] = Tracked(ticker)
        return True

    def hold(self, tracked: Tracked, trade: Trade) -> None:
        """Keep a print of a market under look-up."""
        if len(tracked.pending) >= PENDING_LIMIT:
            self.reject(tracked.ticker, "look-up too slow")
            return
        tracked.pending.append(trade)

    def accept(self, market: Market, now: int) -> bool:
        """Decide on a market that was looked up.  Accepted, it takes its place at once, but its prints are
        still kept until `join`, so that they reach the signal in order.
        """
        tracked = self._markets.setdefault(market.ticker, Tracked(market.ticker))
        if tracked.status != "looking" or tracked.market is not None:
            return False
        reason = self._refusal(market, now)
        if reason:
            self.reject(market.ticker, reason)
            return False
        tracked.market, tracked.last_price = market, market.last_price
        self.active += 1
        return True

    def join(self, ticker: str) -> list[Trade]:
        """Make an accepted market active; the prints kept for it, in order, for the signal."""
        tracked = self._markets[ticker]
        if tracked.status != "looking" or tracked.market is None:
            return []
        tracked.status = "active"
        pending, tracked.pending = tracked.pending, []
        return pending

    def _refusal(self, market: Market, now: int) -> str:
        if not self._only and "all" not in self._categories:
            if not market.category:
                return "no category"
            if not any(category_matches(market.category, wanted) for wanted in self._categories):
                return "category"
        if market.status not in ("active", "initialized", ""):
            return f"status {market.status}"
        if self.close_min and market.close_ts and market.close_ts - now < self.close_min:
            return "closes too soon"
        return "capacity" if self.active >= self._max else ""

    def reject(self, ticker: str, reason: str) -> None:
        """Refuse a market for good."""
        tracked = self._markets.setdefault(ticker, Tracked(ticker))
        if tracked.market is not None and tracked.status == "looking":
            self.active -= 1
        tracked.status, tracked.reason, tracked.pending = "rejected", reason, []
        self.rejected[reason] += 1

    def forget(self, ticker: str) -> None:
        """Drop a market whose look-up failed, so that it can be found again."""
        tracked = self._markets.get(ticker)
        if tracked is not None and tracked.status == "looking" and tracked.market is None:
            del self._markets[ticker]

    def update(self, market: Market) -> None:
        """Take newer facts of a tracked market."""
        tracked = self._markets.get(market.ticker)
        if tracked is not None and tracked.market is not None:
            tracked.market = market

    def advance(self, ticker: str, status: str) -> bool:
        """Move a tracked market to closed, determined or settled.  False if it is not tracked or is there."""
        tracked = self._markets.get(ticker)
        if tracked is None or tracked.market is None or tracked.status in ("rejected", status):
            return False
        if tracked.status in ("looking", "active"):
            self.active -= 1
        elif status == "active":
            self.active += 1
        tracked.status = status
        return True


def category_matches(category: str, wanted: str) -> bool:
    """Whether a category of the exchange is the one wanted: all words of one are among those of the other.

    >>> category_matches("Mentions", "media_mentions"), category_matches("Climate and Weather", "weather")
    (True, True)
    >>> category_matches("", "sports"), category_matches("Esports", "sports")
    (False, False)
    """
    have, want = (frozenset(re.findall(r"[a-z0-9]+", name.casefold())) for name in (category, wanted))
    return bool(have) and bool(want) and (have <= want or want <= have)
