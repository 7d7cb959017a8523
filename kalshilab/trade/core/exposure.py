"""Exposure of a session: the cost that orders and positions may reach, by market, event, category and strategy, kept up to date.

The limits assume the worst case: every resting order, every order without a known outcome, and every fill that an order
reports and that has not arrived, counts as filled.  Each change of an order or a position updates a handful of sums, so
a limit costs the same to check with a thousand open positions as with none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from kalshilab.config.contradictions import check_limits
from kalshilab.config.settings import Settings
from kalshilab.market.fees import fill_fee
from kalshilab.market.model import outcome_price
from kalshilab.trade.core.account import TradingAccount
from kalshilab.trade.core.orders import OrderLife
from kalshilab.units import cents, contracts, dollars

__all__ = ["Budget", "DayLoss", "Exposure", "RiskRules", "TraderRules", "budgets_of"]

DAY_US = 86_400_000_000


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one strategy; None means unlimited.

    Attributes:
        cash: money units that its open orders and positions may cost.
        contracts: size units that its open orders and positions may hold, over all markets.
        positions: markets in which it may hold a position or an open order.
    """

    cash: int | None = None
    contracts: int | None = None
    positions: int | None = None

    @classmethod
    def of(
        cls, *, cash: float | None = None, contracts_: float | None = None, positions: int | None = None
    ) -> Budget:
        """Return a budget in dollars, contracts and markets."""
        return cls(
            cash=None if cash is None else dollars(cash),
            contracts=None if contracts_ is None else contracts(contracts_),
            positions=positions,
        )


def budgets_of(settings: Settings) -> dict[str, Budget]:
    """Return the budget of each strategy that trades; without a budget, a strategy is unlimited.

    >>> settings = Settings(env={}, env_file=None, strategies="rlm_no,hold", budgets="rlm_no:cash=500")
    >>> budgets_of(settings)["rlm_no"].cash, budgets_of(settings)["hold"].cash
    (500000000, None)
    """
    given = {
        b.strategy: Budget.of(cash=b.cash, contracts_=b.contracts, positions=b.positions)
        for b in settings.budgets
    }
    return {name: given.get(name, Budget()) for name in settings.strategy_names}


class RiskRules(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a session; where a limit may be 0, that means unlimited.

    Attributes:
        max_orders: open orders at once.
        max_position: position in a market, in size units.
        max_concurrent: markets with a position or an open order.
        min_cash: cash that must remain after an order, in money units; 0: none.
        daily_loss: loss of equity since the start of the exchange's UTC day that pauses the session, in money units; 0: none.
        max_event: cost of open orders and positions in one event, in money units; 0: no limit.
        max_category: the same for one category.
        collar: largest distance of an order's price from the market's last print, in price units; 0: no limit.
    """

    max_orders: int
    max_position: int
    max_concurrent: int
    min_cash: int
    daily_loss: int = 0
    max_event: int = 0
    max_category: int = 0
    collar: int = 0

    @classmethod
    def of(cls, settings: Settings) -> RiskRules:
        """Return the limits that the settings give."""
        return cls(
            max_orders=settings.max_orders,
            max_position=contracts(settings.max_position),
            max_concurrent=settings.max_concurrent,
            min_cash=dollars(settings.min_cash),
            daily_loss=dollars(settings.daily_loss),
            max_event=dollars(settings.max_event),
            max_category=dollars(settings.max_category),
            collar=cents(settings.collar_cents),
        )


class TraderRules(msgspec.Struct, frozen=True, kw_only=True):
    """Rules of a trader; durations in microseconds, monotonic time except where exchange time is named.

    Attributes:
        risk: the limits of the session.
        books: "stream": the driver streams the books that are watched; "ask": it answers each `Watch` with one snapshot.
        categories: categories to admit, or ("all",).
        tickers: if not empty, only these markets are admitted, of any category.
        max_markets: active markets at once.
        close_min_us: markets that close within this exchange time are not admitted; 0: no such limit.
        discovery: whether open markets are listed over REST.
        discovery_us: time between two listings.
        sync_us: time between two reconciliations of the account.
        attempts_per_minute: orders per minute of exchange time for each strategy, refilled evenly.
        cleanup: whether resting orders of an earlier life of the run are cancelled at the start.
        max_outage_us: time for which an outage of the venue is waited out; None: without limit.
        order_life_us: exchange time after which an order expires unless the session renews it; None: never.
        group_contracts: limit of the exchange-side order group in contracts; 0: no group.
        stale_feed_us: age of the feed's last event above which no order is placed; None: no limit.
        stale_book_us: age of a market's last book event above which its book is read again; None: no limit.
        book_wait_us: time after which a book that has not arrived is asked for again; None: never.
    """

    risk: RiskRules
    books: Literal["stream", "ask"] = "stream"
    categories: tuple[str, ...] = ("all",)
    tickers: tuple[str, ...] = ()
    max_markets: int = 1000
    close_min_us: int = 0
    discovery: bool = True
    discovery_us: int = 300_000_000
    sync_us: int = 30_000_000
    attempts_per_minute: float = 10.0
    cleanup: bool = True
    max_outage_us: int | None = None
    order_life_us: int | None = None
    group_contracts: int = 0
    stale_feed_us: int | None = None
    stale_book_us: int | None = None
    book_wait_us: int | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        books: Literal["stream", "ask"] = "stream",
        *,
        real_time: bool | None = None,
    ) -> TraderRules:
        """Return the rules that the settings give.

        Args:
            settings: the settings.
            books: as the attribute.
            real_time: whether exchange time passes as wall time does, and the exchange outlives the session.  Otherwise
                orders need no expiration and no group, and data has no age.  None: by the venue of the settings.

        Raises:
            ConfigError: two settings contradict each other.

        >>> rules = TraderRules.of(Settings(env={}, env_file=None, sync_interval_s=30))
        >>> rules.sync_us, rules.books
        (30000000, 'stream')
        """
        check_limits(settings)
        real = settings.real_time if real_time is None else real_time
        return cls(
            risk=RiskRules.of(settings),
            books=books,
            categories=settings.categories,
            tickers=settings.tickers,
            max_markets=settings.max_markets,
            close_min_us=round(settings.close_min_minutes * 60e6),
            discovery=settings.discovery,
            discovery_us=round(settings.discovery_interval_s * 1e6),
            sync_us=round(settings.sync_interval_s * 1e6),
            attempts_per_minute=settings.attempts_per_minute,
            cleanup=settings.cleanup_on_startup,
            max_outage_us=_us(settings.max_outage_s),
            order_life_us=_us(settings.order_life_s) if real else None,
            group_contracts=settings.group_contracts if real else 0,
            stale_feed_us=_us(settings.stale_feed_s) if real else None,
            stale_book_us=_us(settings.stale_book_s) if real else None,
            book_wait_us=_us(settings.orderbook_timeout_s) if real else None,
        )


def _us(seconds: float | None) -> int | None:
    """Return a time limit in microseconds; 0 and None: no limit."""
    return round(seconds * 1e6) if seconds else None


class _Line:
    """Open orders and position of one strategy in one market: what they may cost, and their size."""

    __slots__ = ("category", "event", "held_cost", "held_size", "open_cost", "open_size")

    def __init__(self, event: str, category: str) -> None:
        self.event, self.category = event, category
        self.held_cost = self.held_size = self.open_cost = self.open_size = 0


class Exposure:
    """The sums behind the limits.

    Attributes:
        bound: cash that open orders may still cost, fees included, in money units.
        orders: number of open orders.
        markets: markets with a position or an open order.
        by_event, by_category, by_owner: cost of positions and open orders, in money units.
        size_of_owner: their size, in size units.
        markets_of_owner: the markets of each strategy.
    """

    def __init__(self, account: TradingAccount) -> None:
        self._account = account
        self._lines: dict[tuple[str, str], _Line] = {}
        self._orders: dict[str, tuple[int, int]] = {}
        self._waiting: dict[str, list[int]] = {}
        self._owners_in: Counter[str] = Counter()
        self.bound = self.orders = self.markets = 0
        self.by_event: Counter[str] = Counter()
        self.by_category: Counter[str] = Counter()
        self.by_owner: Counter[str] = Counter()
        self.size_of_owner: Counter[str] = Counter()
        self.markets_of_owner: Counter[str] = Counter()

    def waiting(self, ticker: str, side: str) -> int:
        """Return the size that open orders on one side of a market may still fill."""
        sizes = self._waiting.get(ticker)
        return 0 if sizes is None else sizes[side == "ask"]

    def holds(self, ticker: str) -> bool:
        """Return whether a strategy has a position or an open order in a market."""
        return ticker in self._owners_in

    def order(self, life: OrderLife, event: str, category: str) -> None:
        """Update the sums after a change of an order."""
        key, ticker = life.intent.client_order_id, life.intent.ticker
        bound, size = self._orders.pop(key, (0, 0))
        remaining = life.uncounted
        now = life.bound
        if remaining:
            self._orders[key] = now, remaining
        self.bound += now - bound
        self.orders += bool(remaining) - bool(size)
        waiting = self._waiting.setdefault(ticker, [0, 0])
        waiting[life.intent.side == "ask"] += remaining - size
        if not any(waiting):
            del self._waiting[ticker]
        self._change(ticker, event, category, life.owner, now - bound, remaining - size)

    def restore(self, lives: Iterable[OrderLife], place_of: Callable[[str], tuple[str, str]]) -> None:
        """Add the orders and positions of earlier lives of a run; `place_of` returns event and category of a market."""
        for life in lives:
            self.order(life, *place_of(life.intent.ticker))
        for owner, ledger in self._account.owners():
            for ticker, _ in ledger.positions():
                self.position(ticker, *place_of(ticker), owner)

    def position(self, ticker: str, event: str, category: str, owner: str) -> None:
        """Update the sums after a change of a strategy's position."""
        self._change(ticker, event, category, owner, 0, 0)

    def place(self, ticker: str, event: str, category: str) -> None:
        """Move the sums of a market to its event and category, now that they are known."""
        for owner in [name for name, _ in self._account.owners()]:
            line = self._lines.get((owner, ticker))
            if line is None or (line.event, line.category) == (event, category):
                continue
            cost = line.held_cost + line.open_cost
            self.by_event[line.event] -= cost
            self.by_category[line.category] -= cost
            if not self.by_event[line.event]:
                del self.by_event[line.event]
            line.event, line.category = event, category
            self.by_event[event] += cost
            self.by_category[category] += cost

    def _change(self, ticker: str, event: str, category: str, owner: str, cost: int, size: int) -> None:
        key = owner, ticker
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(event, category)
        old_cost, old_size = line.held_cost + line.open_cost, line.held_size + line.open_size
        holding = self._account.owner(owner).holdings.get(ticker)
        line.held_cost, line.held_size = (0, 0) if holding is None else (holding.cost, abs(holding.size))
        line.open_cost += cost
        line.open_size += size
        new_cost, new_size = line.held_cost + line.open_cost, line.held_size + line.open_size
        self.by_event[line.event] += new_cost - old_cost
        self.by_category[line.category] += new_cost - old_cost
        self.by_owner[owner] += new_cost - old_cost
        self.size_of_owner[owner] += new_size - old_size
        opened = bool(new_size) - bool(old_size)
        if opened:
            self.markets_of_owner[owner] += opened
            before = self._owners_in[ticker]
            self._owners_in[ticker] += opened
            self.markets += bool(before + opened) - bool(before)
        if not new_size:
            del self._lines[key]
            if not self._owners_in[ticker]:
                del self._owners_in[ticker]
            if not self.by_event[line.event]:
                del self.by_event[line.event]

    # Limits

    def refusal(
        self,
        rules: RiskRules,
        budget: Budget,
        *,
        owner: str,
        ticker: str,
        event: str,
        category: str,
        side: str,
        price: int,
        size: int,
        last_price: int,
        closes: bool = False,
    ) -> str | None:
        """Return the reason for which an order must not be sent now, or None if it may be.

        Args:
            rules: the limits of the session.
            budget: the limits of the strategy.
            owner: the strategy.
            ticker: the market.
            event: its event.
            category: its category.
            side: "bid" or "ask".
            price: YES price in price units.
            size: size units.
            last_price: YES price of the market's last print; 0: none.
            closes: whether the order closes a position of the strategy, so that it costs its fee only.

        Returns:
            "low cash", "cash", "orders", "position", "concurrent", "event", "category", "collar", "budget cash",
            "budget contracts" or "budget positions".
        """  # fmt: skip
        outcome = "yes" if side == "bid" else "no"
        opened = 0 if closes else size
        cost = outcome_price(price, outcome) * opened + fill_fee(price, size)
        free = self._account.cash - self.bound - cost
        if free < 0:
            return "cash"
        if rules.min_cash and free < rules.min_cash and not closes:
            return "low cash"
        if self.orders >= rules.max_orders:
            return "orders"
        position = self._account.total.size(ticker)
        after = position + (size + self.waiting(ticker, side)) * (1 if side == "bid" else -1)
        if abs(after) > rules.max_position and abs(after) > abs(position):
            return "position"
        if self.markets >= rules.max_concurrent and not self.holds(ticker):
            return "concurrent"
        if rules.max_event and self.by_event[event] + cost > rules.max_event:
            return "event"
        if rules.max_category and self.by_category[category] + cost > rules.max_category:
            return "category"
        if rules.collar and last_price and abs(price - last_price) > rules.collar:
            return "collar"
        return self._over_budget(budget, owner, ticker, cost, opened)

    def _over_budget(self, budget: Budget, owner: str, ticker: str, cost: int, size: int) -> str | None:
        if budget.cash is not None and self.by_owner[owner] + cost > budget.cash:
            return "budget cash"
        if budget.contracts is not None and self.size_of_owner[owner] + size > budget.contracts:
            return "budget contracts"
        full = budget.positions is not None and self.markets_of_owner[owner] >= budget.positions
        return "budget positions" if full and (owner, ticker) not in self._lines else None


class DayLoss:
    """The loss since the start of the exchange's UTC day.

    Args:
        limit: the loss that is too much, in money units; 0: no limit.

    >>> day = DayLoss(100)
    >>> day.exceeded(0, 1000), day.exceeded(1, 901), day.exceeded(2, 900), day.exceeded(DAY_US, 900)
    (False, False, True, False)
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._day: int | None = None
        self._start = 0

    def exceeded(self, now: int, equity: int) -> bool:
        """Return whether the loss of the day has reached the limit.

        Args:
            now: exchange time in microseconds.
            equity: cash and the value of all positions, in money units.
        """
        if now // DAY_US != self._day:
            self._day, self._start = now // DAY_US, equity
        return bool(self._limit) and self._start - equity >= self._limit
