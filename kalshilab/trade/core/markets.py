"""Markets of a trader: which it follows, their life from created to settled, and the pay-out of those it holds.

A public lifecycle message names a market but not its category, so admission needs a look-up.  Prints that arrive during
the look-up are kept and fed on admission: a signal starts at the first print received, not at the first print after a
slow answer.  A market in which something is held is followed to its pay-out whether or not it is admitted.

`Markets.feeding` holds the markets whose prints reach the signals, so the common print costs one look-up in a dict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from heapq import heappop, heappush
from typing import Final

import msgspec

from kalshilab.kalshi.stream.events import Lifecycle
from kalshilab.market.lifecycle import DETERMINED
from kalshilab.market.model import Market, Trade
from kalshilab.trade.core.exposure import TraderRules
from kalshilab.trade.core.messages import (
    ListMarkets,
    LookUpMarket,
    Lost,
    MarketFound,
    MarketsListed,
    Outbox,
    Result,
)
from kalshilab.trade.core.states import PartHealth
from kalshilab.trade.markets.tracker import PENDING_LIMIT, category_matches

__all__ = ["Followed", "Markets"]

RETRY_US: Final = (1_000_000, 2_000_000, 5_000_000, 15_000_000, 30_000_000)
"""Monotonic microseconds before a failed look-up is repeated; the last repeats."""
ENDS: Final = ("determined", "settled")
"""Messages after which a market that is not followed needs no memory."""


class Followed:
    """One market of a trader.

    `status` runs looking → active → determined → settled, or ends at rejected; a market that is not admitted but held has
    the status held.  `last_price` is the YES price of the last print in price units.  `broken` is the reason for which its
    signal state is not that of the tape, or "".
    """

    __slots__ = ("broken", "last_price", "market", "pending", "prints", "reason", "status", "ticker", "tries")

    def __init__(self, ticker: str, status: str = "looking") -> None:
        self.ticker, self.status = ticker, status
        self.reason = self.broken = ""
        self.market: Market | None = None
        self.pending: list[Trade] = []
        self.last_price = self.prints = self.tries = 0

    @property
    def event(self) -> str:
        """The market's event, or "" while it is not known."""
        return "" if self.market is None else self.market.event

    @property
    def category(self) -> str:
        """The market's category, or "" while it is not known."""
        return "" if self.market is None else self.market.category

    def __repr__(self) -> str:
        return f"Followed({self.ticker}, {self.status})"


class Markets:
    """The markets that a trader knows, by ticker.

    Args:
        rules: categories, tickers, capacity and closing rule.
        outbox: receives look-ups and listings.
        health: receives the part "discovery".
        counts: the session's counters.
        on_known: called with each market that is admitted, before its kept prints are fed, or held and found.
        on_print: called with each kept print of an admitted market, in order.
        on_ended: called with each market that was determined or settled.

    Attributes:
        feeding: the markets whose prints reach the signals.
        active: number of active markets, which count towards the capacity.
        rejected: number of rejected markets by reason.
        listed: whether a listing was answered or given up.
    """

    def __init__(
        self,
        rules: TraderRules,
        outbox: Outbox,
        health: PartHealth,
        counts: Counter[str],
        *,
        on_known: Callable[[Followed], None],
        on_print: Callable[[Followed, Trade], None],
        on_ended: Callable[[Followed], None],
    ) -> None:
        self._rules, self._outbox, self._health, self._counts = rules, outbox, health, counts
        self._on_known, self._on_print, self._on_ended = on_known, on_print, on_ended
        self._only = frozenset(rules.tickers)
        self._markets: dict[str, Followed] = {}
        self._retries: list[tuple[int, str]] = []
        self._listing = False
        self._next_listing = 0
        self._found_any = False
        self.feeding: dict[str, Followed] = {}
        self.active = 0
        self.rejected: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.listed = not rules.discovery

    def __len__(self) -> int:
        return len(self._markets)

    def __iter__(self) -> Iterator[Followed]:
        return iter(self._markets.values())

    def get(self, ticker: str) -> Followed | None:
        """Return a market of any status, or None if it is not known."""
        return self._markets.get(ticker)

    def place_of(self, ticker: str) -> tuple[str, str]:
        """Return event and category of a market, each "" while it is not known."""
        followed = self._markets.get(ticker)
        return ("", "") if followed is None else (followed.event, followed.category)

    # Discovery

    def discover(self) -> None:
        """Ask for the open markets, unless a listing is under way."""
        if self._listing:
            return
        self._listing = True
        # Without a closing rule the filter must not use the clock: if it is wrong, it would exclude every market.
        earliest = self._outbox.now if self._rules.close_min_us else 0
        self._outbox.send(ListMarkets(number=self._outbox.number(), min_close_ts=earliest), self._on_listing)

    def _on_listing(self, result: Result) -> None:
        self._listing, self.listed = False, True
        if not isinstance(result, MarketsListed):
            self._next_listing = self._outbox.mono + RETRY_US[2]
            self._health.degrade("discovery", _reason(result))
            return
        self._next_listing = self._outbox.mono + self._rules.discovery_us
        self._health.heal("discovery")
        admitted = sum(self._offer(market) for market in result.markets)
        self._look_up_unlisted({market.ticker for market in result.markets})
        if admitted:
            self._outbox.say(f"discovery: {admitted} markets followed")
        else:
            self.report_unmatched({market.category for market in result.markets})

    def report_unmatched(self, categories: Iterable[str]) -> None:
        """Report once that no market was followed, with the categories that were seen."""
        if self._found_any:
            return
        self._found_any = True
        seen = ", ".join(sorted({category or "(none)" for category in categories})[:12])
        name = "tickers" if self._only else "categories"
        why = ", ".join(f"{reason}: {n}" for reason, n in self.rejected.items() if n)
        unmatched = f"no market matches {name}={','.join(getattr(self._rules, name))}; seen: {seen}"
        unmatched += f" ({why})" if why else ""
        self._outbox.say(f"discovery: {unmatched if seen else 'the exchange lists no open market'}")

    def _offer(self, market: Market) -> bool:
        """Admit a listed market if it is new, or was rejected for want of capacity."""
        known = self._markets.get(market.ticker)
        if known is None:
            if self._only and market.ticker not in self._only:
                return False
            known = self._markets[market.ticker] = Followed(market.ticker)
        elif known.status == "held":
            return self._offer_held(known, market)
        elif known.status == "looking" or known.reason != "capacity":
            return False
        elif self.active < self._rules.max_markets:
            self.rejected["capacity"] -= 1
            known.status, known.reason = "looking", ""
        return known.status == "looking" and self._admit(known, market)

    def _offer_held(self, known: Followed, market: Market) -> bool:
        """Admit a listed market in which something is held already; if it is refused, it is still followed."""
        excluded = bool(self._only) and known.ticker not in self._only
        if excluded or known.reason not in ("", "capacity"):
            return False
        known.reason = self._refusal(market)
        return not known.reason and self._join(known, market)

    def _look_up_unlisted(self, listed: set[str]) -> None:
        """Look up the markets that should be open and are not listed: the message about their end may be lost."""
        now = self._outbox.now
        for ticker, followed in self.feeding.items():
            market = followed.market
            if ticker in listed or market is None or market.status == "closed":
                continue
            if market.close_ts and market.close_ts <= now:
                self._look_up(ticker)

    # Look-ups

    def created(self, ticker: str) -> None:
        """Begin to look up a market that was created."""
        if ticker in self._markets or (self._only and ticker not in self._only):
            return
        self._markets[ticker] = Followed(ticker)
        self._look_up(ticker)

    def hold(self, ticker: str) -> None:
        """Follow a market in which something is held, whether or not it is admitted."""
        followed = self._markets.get(ticker)
        if followed is None:
            self._markets[ticker] = Followed(ticker, "held")
        elif followed.status == "rejected":
            followed.status = "held"
        elif followed.market is not None:
            return
        self._look_up(ticker)

    def _look_up(self, ticker: str) -> None:
        request = LookUpMarket(number=self._outbox.number(), ticker=ticker)
        self._outbox.send(request, partial(self._on_looked_up, ticker))

    def _on_looked_up(self, ticker: str, result: Result) -> None:
        followed = self._markets.get(ticker)
        if followed is None:
            return
        if not isinstance(result, MarketFound):
            wait = RETRY_US[min(followed.tries, len(RETRY_US) - 1)]
            followed.tries += 1
            heappush(self._retries, (self._outbox.mono + wait, ticker))
            self._counts["lookup_errors"] += 1
            self._health.degrade("discovery", f"{ticker}: {_reason(result)}")
            return
        self._health.heal("discovery")
        followed.tries = 0
        if result.market is None:
            if followed.status == "looking":
                self._reject(followed, "not found")
        elif followed.status == "looking":
            self._admit(followed, result.market)
        else:
            self.found(result.market)

    def found(self, market: Market) -> None:
        """Take over the state of a market that was looked up: messages about it may be lost."""
        followed = self._markets.get(market.ticker)
        if followed is None or followed.status in ("rejected", "looking"):
            return
        if not market.category and followed.market is not None:
            market = msgspec.structs.replace(
                market, category=followed.market.category, series=followed.market.series
            )
        new, followed.market = followed.market is None, market
        if new:
            self._on_known(followed)
        if market.status == "finalized":
            self._advance(followed, "settled")
        elif market.status in DETERMINED:
            self._advance(followed, "determined")

    def tick(self) -> None:
        """Repeat failed look-ups, and list the open markets again when it is time."""
        mono = self._outbox.mono
        while self._retries and self._retries[0][0] <= mono:
            self._look_up(heappop(self._retries)[1])
        if self._rules.discovery and self.listed and mono >= self._next_listing:
            self.discover()

    # Admission

    def _admit(self, followed: Followed, market: Market) -> bool:
        reason = self._refusal(market)
        if reason:
            self._reject(followed, reason)
            return False
        return self._join(followed, market)

    def _join(self, followed: Followed, market: Market) -> bool:
        """Make a market active, and feed the prints that were kept."""
        followed.market, followed.last_price, followed.status = market, market.last_price, "active"
        self._found_any = True
        self.active += 1
        if not followed.broken:
            self.feeding[followed.ticker] = followed
        self._on_known(followed)
        kept, followed.pending = followed.pending, []
        if not followed.broken:
            for trade in kept:
                self._on_print(followed, trade)
        return True

    def _refusal(self, market: Market) -> str:
        rules = self._rules
        self.seen[market.category] += 1
        if not self._only and "all" not in rules.categories:
            if not market.category:
                return "no category"
            if not any(category_matches(market.category, wanted) for wanted in rules.categories):
                return "category"
        if market.status not in ("active", "initialized", ""):
            return f"status {market.status}"
        close = min(filter(None, (market.close_ts, market.expected_close_ts)), default=0)
        if rules.close_min_us and close and close - self._outbox.now < rules.close_min_us:
            return "closes too soon"
        return "capacity" if self.active >= rules.max_markets else ""

    def _reject(self, followed: Followed, reason: str) -> None:
        followed.status, followed.reason, followed.pending = "rejected", reason, []
        self.rejected[reason] += 1

    def keep(self, followed: Followed, trade: Trade) -> None:
        """Keep a print until the look-up of its market ends."""
        if len(followed.pending) >= PENDING_LIMIT:
            self._reject(followed, "look-up too slow")
            return
        followed.pending.append(trade)

    # Life

    def lifecycle(self, event: Lifecycle) -> None:
        """Handle a market that was created, rescheduled, paused, determined or settled."""
        if event.kind == "created":
            self.created(event.ticker)
            return
        followed = self._markets.get(event.ticker)
        if followed is not None and followed.status == "rejected" and event.kind in ENDS:
            self.forget(event.ticker)
            return
        if followed is None or followed.market is None:
            return
        change = msgspec.structs.replace
        market = followed.market
        if event.kind == "close_date_updated" and event.close_ts:
            followed.market = change(market, close_ts=event.close_ts)
        elif event.kind in ("activated", "deactivated"):
            followed.market = change(market, status="active" if event.kind == "activated" else "inactive")
        elif event.kind == "determined":
            followed.market = change(
                market, status="determined", result=event.result, settlement=event.settlement
            )
            self._advance(followed, "determined")
        elif event.kind == "settled":
            followed.market = change(market, status="finalized", settled_ts=event.ts or self._outbox.now)
            self._advance(followed, "settled")

    def _advance(self, followed: Followed, status: str) -> None:
        if followed.status in ("settled", "rejected", status):
            return
        if followed.status == "active":
            self.active -= 1
            self.feeding.pop(followed.ticker, None)
            if self.rejected["capacity"]:
                # A place is free: offer it at a listing soon, rather than at the next regular one.
                self._next_listing = min(self._next_listing, self._outbox.mono + RETRY_US[2])
        followed.status = status
        self._on_ended(followed)

    def forget(self, ticker: str) -> None:
        """Forget a market that has ended."""
        self._markets.pop(ticker, None)

    def mark_broken(self, reason: str) -> list[Followed]:
        """Feed no more prints to the signals of the markets that are active now; return the markets."""
        broken = list(self.feeding.values())
        for followed in broken:
            followed.broken = reason
        for followed in (known for known in self if known.status == "looking"):
            followed.broken, followed.pending = reason, []
        self.feeding.clear()
        return broken


def _reason(result: Result) -> str:
    return result.reason if isinstance(result, Lost) else type(result).__name__
