"""Selection of the markets that a session follows: admission, capacity, and the life from created to settled.

A public lifecycle message names a market but not its category, so admission needs a look-up over REST.  Prints that
arrive during the look-up are kept and replayed on admission, so a signal starts at the first print received, not at the
first print after a slow answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from kalshilab.deprecation import renamed_keywords
from kalshilab.market.model import Market, Trade

__all__ = ["Tracked", "Tracker", "category_matches"]

PENDING_LIMIT = 10_000
"""Prints kept for one market during its look-up; beyond it the market is rejected, because its history would be cut."""


class Tracked:
    """One market of a session.

    `status` runs looking → active → closed → determined → settled, or ends at rejected.  `last_price` is the YES price in
    price units.
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
    """The markets of a session, by ticker.

    Args:
        categories: categories to admit, or ("all",).
        tickers: if not empty, only these markets are admitted, of any category.
        max_markets: maximum number of active markets; beyond it new markets are rejected.
        close_min_us: markets that close, or are expected to, within this many microseconds are rejected; 0: no such
            limit.
    """

    @renamed_keywords(close_min="close_min_us")
    def __init__(
        self,
        categories: Iterable[str],
        tickers: Iterable[str] = (),
        max_markets: int = 1000,
        close_min_us: int = 0,
    ) -> None:
        self._categories = tuple(categories)
        self._only = frozenset(tickers)
        self._max = max_markets
        self.close_min_us = close_min_us
        self._markets: dict[str, Tracked] = {}
        self.active = 0
        self.rejected: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._markets)

    def get(self, ticker: str) -> Tracked | None:
        """Return a market of any status, or `None` if it is unknown."""
        return self._markets.get(ticker)

    def all(self, status: str | None = None) -> list[Tracked]:
        """Return the known markets, optionally of one status, in the order of their discovery."""
        return [t for t in self._markets.values() if status is None or t.status == status]

    def begin(self, ticker: str) -> bool:
        """Start a look-up; return False if the market is known already or excluded by `tickers`."""
        if ticker in self._markets or (self._only and ticker not in self._only):
            return False
        self._markets[ticker] = Tracked(ticker)
        return True

    def hold(self, tracked: Tracked, trade: Trade) -> None:
        """Keep a print until the look-up of its market ends."""
        if len(tracked.pending) >= PENDING_LIMIT:
            self.reject(tracked.ticker, "look-up too slow")
            return
        tracked.pending.append(trade)

    def accept(self, market: Market, now: int) -> bool:
        """Admit or reject a market after its look-up; return whether it is admitted.

        An admitted market counts towards the capacity at once, but its prints are still kept until `join`, so that they
        reach the signal in order.

        Args:
            market: the market, with its category.
            now: exchange time in microseconds.
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
        """Make an admitted market active and return its kept prints, in order."""
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
        # Many markets close days after what they are about; the exchange then closes them early, as expected.
        closes = min((ts for ts in (market.close_ts, market.expected_close_ts) if ts), default=0)
        if self.close_min_us and closes and closes - now < self.close_min_us:
            return "closes too soon"
        return "capacity" if self.active >= self._max else ""

    def reject(self, ticker: str, reason: str) -> None:
        """Reject a market permanently."""
        tracked = self._markets.setdefault(ticker, Tracked(ticker))
        if tracked.market is not None and tracked.status == "looking":
            self.active -= 1
        tracked.status, tracked.reason, tracked.pending = "rejected", reason, []
        self.rejected[reason] += 1

    def forget(self, ticker: str) -> None:
        """Drop a market whose look-up failed, so that it can be discovered again."""
        tracked = self._markets.get(ticker)
        if tracked is not None and tracked.status == "looking" and tracked.market is None:
            del self._markets[ticker]

    def update(self, market: Market) -> None:
        """Replace the facts of a tracked market."""
        tracked = self._markets.get(market.ticker)
        if tracked is not None and tracked.market is not None:
            tracked.market = market

    def advance(self, ticker: str, status: str) -> bool:
        """Change the status of a tracked market; return False if it is not tracked or has that status already."""
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
    """Return whether two category names match: all words of one are among those of the other.

    Args:
        category: the exchange's name.
        wanted: the name in the settings.

    >>> category_matches("Mentions", "media_mentions"), category_matches("Climate and Weather", "weather")
    (True, True)
    >>> category_matches("", "sports"), category_matches("Esports", "sports")
    (False, False)
    """
    have, want = (frozenset(re.findall(r"[a-z0-9]+", name.casefold())) for name in (category, wanted))
    return bool(have) and bool(want) and (have <= want or want <= have)
