"""The history of a run: its journal folded back to the state that the entries describe.

`Trader.restore` starts a later life of a run from it, and the report of a run that was killed is made from it.  The fold
uses the same account and the same orders as the session itself, so both count a fill in the same way.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias

from kalshilab.market.lifecycle import DETERMINED
from kalshilab.market.model import Fill, Market, Order, Position, Settlement
from kalshilab.trade.core.account import FOREIGN, TradingAccount
from kalshilab.trade.core.orders import OrderLife, Orders
from kalshilab.trade.core.record.equity import DAY_US, EquityCurve, not_implied
from kalshilab.trade.events import Decision, Fired, Intent, Outcome, Sampled, Transition
from kalshilab.trade.status import COUNTS

__all__ = ["JournalEntry", "RunHistory"]

Note: TypeAlias = Mapping[str, Any]

RECENT: Final = 10_000
"""Intents whose times are kept, for the rate limits."""
NOT_FINAL: Final = frozenset({"deferred", "unknown"})
"""Decisions that are followed by another one."""
NO_ORDER: Final = frozenset({"skipped", "refused", "expired"})
"""Decisions that count as skipped."""


class JournalEntry(Protocol):
    """One entry of a journal: `JournalRecord` and `kalshilab.trade.orders.journal.Entry` are such entries."""

    @property
    def kind(self) -> str:
        """The kind of the value."""
        ...

    @property
    def value(self) -> Any:
        """The value, or a note as a mapping."""
        ...

    @property
    def key(self) -> str | None:
        """The key that is unique within the kind, or None."""
        ...


class RunHistory:
    """The state of a run as its journal implies it, over all its lives.

    Args:
        account: a new account, which receives opening, fills and settlements.
        orders: new orders, which receive intents, outcomes and reports; those that may still trade are live afterwards.
        curve: a new curve, which receives the recorded samples.

    Attributes:
        opened: whether the account was ever read.
        entries: number of entries.
        counts: the session's counters, as a report shows them.
        counts_of: the counters of each strategy.
        bought: for each strategy, the fire of its last order in each market.
        markets: the followed markets, as last known.
        admitted: the markets that were admitted.
        ended: the markets whose result is known.
        unresolved: the intents without an outcome, by client order id.
        undecided: the fires without a final decision, by the strategy that their entry names and market.
        gone: the strategies of orders that were rejected or never arrived, by client order id.
        keys: every client order id.
        sent: (strategy, exchange time) of the latest intents.
        settlements: the latest settlements.
        paused: the reason for which no strategy places orders, or "".
        flattening: whether resting orders are to be cancelled.
        off: the strategies that are switched off.
        group: the order group at the exchange, or "".
        run_id: the name of the run, or "".
        state: the last state of the session.
        stopped: the reason for the end of the last life, or "" if it has not ended.
        error: the error that the last life recorded, or "".
        provenance: the provenance of the last life, or empty.
        newest: exchange time of the newest fill, the ones before the record included.
        oldest: exchange time before which fills precede the record.
        day: (exchange time, equity) at the start of the last UTC day, or None.

    >>> from kalshilab.trade.core.messages import JournalRecord
    >>> history = RunHistory()
    >>> history.fold([JournalRecord("note", {"what": "account", "cash": 5_000_000, "positions": [["A-B-1", 100, 400_000]]})])
    >>> history.account.cash, history.account.total.size("A-B-1"), history.opened
    (5000000, 100, True)
    """

    def __init__(
        self,
        account: TradingAccount | None = None,
        orders: Orders | None = None,
        curve: EquityCurve | None = None,
    ) -> None:
        self.account = TradingAccount() if account is None else account
        self.orders = Orders() if orders is None else orders
        self.curve = EquityCurve() if curve is None else curve
        self.opened = self.flattening = False
        self.entries = self.newest = self.oldest = 0
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self.counts_of: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.bought: defaultdict[str, dict[str, Fired]] = defaultdict(dict)
        self.markets: dict[str, Market] = {}
        self.admitted: set[str] = set()
        self.ended: set[str] = set()
        self.unresolved: dict[str, Intent] = {}
        self.undecided: defaultdict[tuple[str, str], deque[Fired]] = defaultdict(deque)
        self._ordered: dict[str, Fired] = {}
        self.gone: dict[str, str] = {}
        self.keys: set[str] = set()
        self.sent: deque[tuple[str, int]] = deque(maxlen=RECENT)
        self.settlements: deque[Settlement] = deque(maxlen=20)
        self.paused = self.group = self.stopped = self.run_id = self.error = ""
        self.state = "STARTUP"
        self.provenance: Mapping[str, Any] = {}
        self.off: set[str] = set()
        self.day: tuple[int, int] | None = None
        self._handlers: Mapping[str, Callable[[Any], None]] = {
            "decision": self._on_decision,
            "fill": self._on_fill,
            "fire": self._on_fire,
            "intent": self._on_intent,
            "note": self._on_note,
            "order": self._on_order,
            "outcome": self._on_outcome,
            "sample": self._on_sample,
            "settlement": self._on_settlement,
            "transition": self._on_transition,
        }
        self._notes: Mapping[str, Callable[[Note], None]] = {
            "account": self._on_account,
            "end": self._on_end,
            "error": self._on_error,
            "group": self._on_group,
            "operator": self._on_operator,
            "paused": self._on_paused,
            "resume": self._on_start,
            "start": self._on_start,
            "stop": self._on_stop,
        }

    def fold(self, entries: Iterable[JournalEntry]) -> None:
        """Add the entries of a journal, in the order of writing."""
        for entry in entries:
            self.entries += 1
            if entry.kind == "market":
                self._on_market(entry.value, entry.key)
                continue
            handler = self._handlers.get(entry.kind)
            if handler is not None:
                handler(entry.value)

    def _count(self, strategy: str, name: str) -> None:
        self.counts[name] += 1
        self.counts_of[strategy][name] += 1

    # Fires and decisions

    def _on_fire(self, fire: Fired) -> None:
        self._count(fire.strategy, "signals")
        self.undecided[fire.strategy, fire.ticker].append(fire)

    def _on_decision(self, decision: Decision) -> None:
        if decision.action not in NOT_FINAL:
            self._decided(decision)
        if decision.action in NO_ORDER:
            self._count(decision.strategy, "skipped")
        elif decision.action == "deferred" and decision.reason in ("rate limit", "low cash"):
            self._count(
                decision.strategy, decision.reason.replace("rate limit", "rate_limited").replace(" ", "_")
            )

    def _decided(self, decision: Decision) -> None:
        """Remove the fire that a final decision is about: that of its order, or else the oldest without an open order.

        A strategy that is alone is not named in its fires.
        """
        name = decision.strategy
        fires = self.undecided.get((name, decision.ticker)) or self.undecided.get(("", decision.ticker))
        if not fires:
            return
        own = self._ordered.pop(decision.client_order_id, None)
        at = next(
            (
                n
                for n, f in enumerate(fires)
                if _same(f, own) or (own is None and not self._has_order(f, name))
            ),
            0,
        )
        del fires[at]

    def _has_order(self, fire: Fired, strategy: str) -> bool:
        """Return whether an order of a strategy for this fire has no outcome yet."""
        return any(_same(fire, i.fire) and i.strategy == strategy for i in self.unresolved.values())

    def lost_fires(self) -> list[Fired]:
        """Return the fires that no later life can decide: those without a decision and without an open order."""
        open_orders = {i.strategy for i in self.unresolved.values()}
        return [
            fire
            for (name, _), fires in sorted(self.undecided.items())
            for fire in fires
            if not any(self._has_order(fire, s) for s in open_orders if name in ("", s))
        ]

    # Orders

    def _on_intent(self, intent: Intent) -> None:
        key = intent.client_order_id
        self.orders.add(OrderLife(intent, intent.strategy, None))
        self.unresolved[key] = intent
        self._ordered[key] = intent.fire
        self.keys.add(key)
        self.sent.append((intent.strategy, intent.ts))

    def _on_outcome(self, outcome: Outcome) -> None:
        key, orders = outcome.client_order_id, self.orders
        if outcome.kind == "unknown":
            # Written by sessions of version 1: it is not final.
            return
        life, intent = orders.get(key), self.unresolved.pop(key, None)
        if intent is None:
            return
        if outcome.kind != "accepted":
            self.gone[key] = intent.strategy
            self._count(intent.strategy, "rejected")
            if life is not None:
                orders.end(life, outcome.kind)
            return
        self._count(intent.strategy, "orders")
        if intent.reentry:
            self._count(intent.strategy, "reentries")
        if not intent.closes:
            self.bought[intent.strategy][intent.ticker] = intent.fire
        if life is not None and not life.order_id and outcome.order_id:
            orders.accept(life, outcome.order_id)

    def _on_order(self, order: Order) -> None:
        orders = self.orders
        life = orders.by_id(order.order_id) or orders.get(order.client_order_id)
        if life is None:
            orders.closes(order)
            return
        if not life.order_id:
            orders.accept(life, order.order_id)
        orders.report(life, order)

    # The account

    def _on_account(self, note: Note) -> None:
        """Start the record; only the first reading of a run does."""
        if self.opened:
            return
        self.opened = True
        self.account.open_with(
            note["cash"], (Position(ticker=t, size=size, cost=cost) for t, size, cost in note["positions"])
        )
        self.account.precede((trade_id, order_id) for trade_id, order_id in note.get("fills", ()))
        self.oldest, self.newest = note.get("oldest", 0), note.get("newest", 0)

    def _on_fill(self, fill: Fill) -> None:
        life = self.orders.of_fill(fill)
        owner = life.owner if life is not None else self.orders.owner_of(fill.order_id)
        if owner is None:
            owner = self.gone.get(fill.client_order_id, FOREIGN)
        if not self.account.fill(fill, owner):
            return
        self.newest = max(self.newest, fill.ts)
        self.counts["fills" if owner != FOREIGN or self._is_old(fill) else "foreign_fills"] += 1
        if life is not None:
            self.orders.count(life, fill)
        self._draw(fill.ts)

    def _is_old(self, fill: Fill) -> bool:
        """Return whether a fill is of an order of a session of version 1, whose strategy has no name."""
        return self.orders.owner_of(fill.order_id) == FOREIGN

    def _on_settlement(self, settlement: Settlement) -> None:
        self.account.settle(settlement)
        if self.account.payouts(settlement) <= 1:
            self.counts["settlements"] += 1
            self.settlements.append(settlement)
        self._draw(settlement.ts)

    def _draw(self, ts: int) -> None:
        """Add a point to the curve between two samples; positions have the marks of the last one."""
        if self.curve.samples:
            latest = self.curve.samples[-1][0]
            self.curve.add(max(ts, latest), self.account.cash, self.account.total.value)

    def _on_market(self, market: Market, key: str | None) -> None:
        """Note a market; the entry of an admission has a key."""
        self.markets[market.ticker] = market
        if key is not None and market.ticker not in self.admitted:
            self.admitted.add(market.ticker)
            self.counts["tracked"] += 1
        if market.status in DETERMINED:
            self.ended.add(market.ticker)
            for fires in self.bought.values():
                fires.pop(market.ticker, None)

    def place_of(self, ticker: str) -> tuple[str, str]:
        """Return event and category of a market, each "" if no entry names them."""
        market = self.markets.get(ticker)
        return ("", "") if market is None else (market.event, market.category)

    def _on_sample(self, sample: Sampled) -> None:
        for ticker, price in sample.marks.items():
            self.account.mark(ticker, price)
        self.curve.add(sample.ts, sample.cash, sample.value)
        for name, count in sample.counts.items():
            self.counts[name] = count
        if self.day is None or sample.ts // DAY_US != self.day[0] // DAY_US:
            self.day = sample.ts, sample.cash + sample.value

    def _on_transition(self, change: Transition) -> None:
        self.state = change.target

    # Notes

    def _on_note(self, note: Note) -> None:
        handler = self._notes.get(str(note.get("what", "")))
        if handler is not None:
            handler(note)

    def _on_operator(self, note: Note) -> None:
        action, strategy = note["action"], note["strategy"]
        if strategy:
            (self.off.discard if action == "resume" else self.off.add)(strategy)
        elif action == "resume":
            self.paused, self.flattening = "", False
        elif action == "flatten":
            self.flattening = True

    def _on_paused(self, note: Note) -> None:
        self.paused = note["reason"]

    def _on_group(self, note: Note) -> None:
        self.group = note["id"]

    def _on_start(self, note: Note) -> None:
        self.stopped = self.error = ""
        self.run_id = str(note.get("run", ""))
        self.provenance = note.get("provenance") or {}

    def _on_error(self, note: Note) -> None:
        self.error = f"{note['error']}: {note['text']}"

    def _on_stop(self, note: Note) -> None:
        self.stopped = note["reason"]

    def _on_end(self, note: Note) -> None:
        """Take the counters that no entry implies; a life that ends cleanly closes its order group."""
        self.stopped, self.group = note["stopped"], ""
        for name, count in not_implied(note["counts"]).items():
            self.counts[name] = count

    def __repr__(self) -> str:
        return f"RunHistory({self.entries} entries, {self.account.total.open} positions, {len(self.unresolved)} unresolved)"


def _same(fire: Fired, other: Fired | None) -> bool:
    """Return whether two entries are about one fire."""
    return other is not None and (fire.ticker, fire.ts, fire.n_trades) == (
        other.ticker,
        other.ts,
        other.n_trades,
    )
