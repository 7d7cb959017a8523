"""The account: cash, positions and profit as a fold over fills and settlements, and who they belong to.

The account has one signed position in each market, as on the exchange, where a fill on the opposite side first closes
the position at its average cost.  Beside it, each *owner* has a ledger with its fills: a strategy of this session, or
`FOREIGN`, which is everything that other programs did on the same account.  Every fill counts once, however often it is
reported.

The value of the positions is kept up to date print by print, so that reading it costs the same with a thousand open
positions as with none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from kalshilab.market.model import Fill, Position, Settlement, outcome_price
from kalshilab.market.position import Holding
from kalshilab.units import PRICE

__all__ = ["FOREIGN", "OwnerLedger", "TradingAccount"]

FOREIGN: Final = ""
"""The owner of fills of other programs on the account, and of positions that precede the session."""
MAX_FORGOTTEN: Final = 10_000
"""Forgotten markets whose fills are still known to be old ones."""


class OwnerLedger:
    """Holdings and profit of one owner; money in money units.

    Args:
        marks: YES prices by ticker, shared by all ledgers of an account.

    Attributes:
        holdings: positions by ticker; a market that was left has a holding of size 0.
        cash: the change of cash by its fills, fees and settlements.
        open: number of markets with a position.
    """

    __slots__ = (
        "_marks",
        "_worth",
        "cash",
        "cost",
        "fees",
        "fills",
        "holdings",
        "open",
        "realized",
        "settled",
        "value",
    )

    def __init__(self, marks: Mapping[str, int]) -> None:
        self._marks = marks
        self.holdings: dict[str, Holding] = {}
        self._worth: dict[str, int] = {}
        self.cash = self.realized = self.fees = self.cost = self.value = 0
        self.fills = self.settled = self.open = 0

    def fill(self, fill: Fill) -> None:
        """Add one fill."""
        holding = self.holdings.setdefault(fill.ticker, Holding())
        before = self._before(holding)
        self.cash += holding.trade(fill.side, fill.price, fill.size) - fill.fee
        holding.fees += fill.fee
        self.fees += fill.fee
        self.fills += 1
        self._after(fill.ticker, holding, before)

    def settle(self, ticker: str, value: int) -> int | None:
        """Pay out one market at `value`, the final price of YES; return the payout, or None without a position."""
        holding = self.holdings.get(ticker)
        if holding is None or not holding.size:
            return None
        before = self._before(holding)
        paid = holding.settle(value)
        self.cash += paid
        self.settled += 1
        self._after(ticker, holding, before)
        return paid

    def adopt(self, position: Position) -> None:
        """Take over a position without a change of cash."""
        holding = self.holdings[position.ticker] = Holding(size=position.size, cost=position.cost)
        self._after(position.ticker, holding, (0, 0, 0))

    def mark(self, ticker: str) -> None:
        """Value one market again after its mark has changed."""
        holding = self.holdings.get(ticker)
        if holding is not None and holding.size:
            self._revalue(ticker, holding)

    @staticmethod
    def _before(holding: Holding) -> tuple[int, int, int]:
        return holding.size, holding.cost, holding.realized

    def _after(self, ticker: str, holding: Holding, before: tuple[int, int, int]) -> None:
        size, cost, realized = before
        self.open += bool(holding.size) - bool(size)
        self.cost += holding.cost - cost
        self.realized += holding.realized - realized
        self._revalue(ticker, holding)

    def _revalue(self, ticker: str, holding: Holding) -> None:
        mark = self._marks.get(ticker)
        size = holding.size
        worth = (
            0
            if not size
            else holding.cost
            if mark is None
            else outcome_price(mark, holding.outcome) * abs(size)
        )
        self.value += worth - self._worth.get(ticker, 0)
        if size:
            self._worth[ticker] = worth
        else:
            self._worth.pop(ticker, None)

    @property
    def pnl(self) -> int:
        """Profit including open positions at their marks, after fees."""
        return self.cash + self.value

    def size(self, ticker: str) -> int:
        """Return the signed position in a market."""
        holding = self.holdings.get(ticker)
        return 0 if holding is None else holding.size

    def forget(self, ticker: str) -> None:
        """Forget a market in which nothing is held."""
        self.holdings.pop(ticker, None)
        self._worth.pop(ticker, None)

    def positions(self) -> Iterator[tuple[str, Holding]]:
        """Yield the open positions by ticker."""
        return ((ticker, holding) for ticker, holding in self.holdings.items() if holding.size)


class TradingAccount:
    """The account as the recorded events imply it.

    Attributes:
        start: cash at the start of the record, in money units.
        total: the ledger of the whole account, netted as on the exchange.
        marks: YES prices at which positions are valued: the last print, or the settlement.

    >>> account = TradingAccount(); account.open_with(100_000_000, ())
    >>> fill = Fill(trade_id="t1", order_id="o1", ticker="A-B-1", side="ask", price=6000, size=1000, fee=168_000,
    ...             is_taker=True, ts=0)
    >>> account.fill(fill, "rlm_no"), account.fill(fill, "rlm_no")      # reported twice, counted once
    (True, False)
    >>> account.cash, account.owner("rlm_no").size("A-B-1")             # 10 NO at 40 cents and the fee
    (95832000, -1000)
    >>> account.mark("A-B-1", 5000); account.equity, account.owner("rlm_no").pnl
    (100832000, 832000)
    """

    def __init__(self) -> None:
        self.start = 0
        self.marks: dict[str, int] = {}
        self.total = OwnerLedger(self.marks)
        self._owners: dict[str, OwnerLedger] = {}
        self._seen: dict[str, set[tuple[str, str]]] = {}
        """Trade and order of each fill, by market."""
        self._before: set[tuple[str, str]] = set()
        self._forgotten: dict[str, None] = {}
        self._paid: dict[tuple[str, int], tuple[int, int]] = {}
        """Payout and size that each settlement has paid, by ticker and time."""
        self._payouts: Counter[tuple[str, int]] = Counter()
        self._marked: set[str] = set()

    def open_with(self, cash: int, positions: Iterable[Position], fills: Iterable[Fill] = ()) -> None:
        """Start the record.

        Args:
            cash: cash in money units.
            positions: positions that precede the record.
            fills: fills that `cash` and `positions` include; they are not added again.
        """
        self.start = cash
        for position in positions:
            if position.size:
                self.total.adopt(position)
                self.owner(FOREIGN).adopt(position)
        self.precede((fill.trade_id, fill.order_id) for fill in fills)

    def precede(self, fills: Iterable[tuple[str, str]]) -> None:
        """Note fills that the opening includes, by (trade id, order id): they are not added again."""
        self._before.update(fills)

    def owner(self, name: str) -> OwnerLedger:
        """Return the ledger of an owner."""
        ledger = self._owners.get(name)
        if ledger is None:
            ledger = self._owners[name] = OwnerLedger(self.marks)
        return ledger

    @property
    def cash(self) -> int:
        """Cash of the account, before what resting orders bind."""
        return self.start + self.total.cash

    @property
    def equity(self) -> int:
        """Cash and the value of all positions."""
        return self.cash + self.total.value

    def knows(self, fill: Fill) -> bool:
        """Return whether a fill was added, or precedes the record."""
        key = fill.trade_id, fill.order_id
        return key in self._seen.get(fill.ticker, ()) or key in self._before or fill.ticker in self._forgotten

    def fill(self, fill: Fill, owner: str) -> bool:
        """Add one fill for its owner; return False if it is known."""
        if self.knows(fill):
            return False
        self._seen.setdefault(fill.ticker, set()).add((fill.trade_id, fill.order_id))
        self.total.fill(fill)
        self.owner(owner).fill(fill)
        return True

    def settle(self, settlement: Settlement) -> bool:
        """Pay out one market to every owner; return False if the account has no position.

        A fill that is found only after the payout is paid out by the same settlement, when it is given again.
        """
        ticker, key = settlement.ticker, (settlement.ticker, settlement.ts)
        size = abs(self.total.size(ticker))
        if not size:
            return False
        self.mark(ticker, settlement.settlement)
        paid = self.total.settle(ticker, settlement.settlement)
        assert paid is not None
        for ledger in self._owners.values():
            ledger.settle(ticker, settlement.settlement)
        paid_before, size_before = self._paid.get(key, (0, 0))
        paid, size = paid + paid_before, size + size_before
        if size == settlement.yes_size + settlement.no_size:
            self._correct(settlement.revenue - paid)
            paid = settlement.revenue
        self._paid[key] = paid, size
        self._payouts[key] += 1
        return True

    def payouts(self, settlement: Settlement) -> int:
        """Return how often a settlement was paid out: more than once if a fill was found after it."""
        return self._payouts[settlement.ticker, settlement.ts]

    def _correct(self, gap: int) -> None:
        """Book the difference between a payout and the position at the value that the exchange states.

        It states the value of a scalar result in whole cents, and pays the exact value, rounded down to whole cents.
        """
        self.total.cash += gap
        if -PRICE < gap < 0:
            self.total.fees -= gap
        else:
            self.total.realized += gap

    def owners(self) -> Iterator[tuple[str, OwnerLedger]]:
        """Yield the ledgers by owner."""
        return iter(self._owners.items())

    def mark(self, ticker: str, price: int) -> None:
        """Value a market at a YES price from now on."""
        if self.marks.get(ticker) == price:
            return
        self.marks[ticker] = price
        if ticker in self.total.holdings:
            self._marked.add(ticker)
            self.total.mark(ticker)
            for ledger in self._owners.values():
                ledger.mark(ticker)

    def take_marks(self) -> dict[str, int]:
        """Return the marks of held markets that have changed since the last call."""
        marked, self._marked = self._marked, set()
        return {t: self.marks[t] for t in sorted(marked) if self.total.size(t) and t in self.marks}

    def forget(self, ticker: str) -> None:
        """Forget the mark of a market that has ended and in which nothing is held."""
        if not self.total.size(ticker):
            self.marks.pop(ticker, None)

    def forget_market(self, ticker: str) -> None:
        """Forget the fills and the payouts of a market that was settled long ago, and in which nothing is held."""
        self.forget(ticker)
        if self._seen.pop(ticker, None) is not None:
            # A settled market has no new fills; one that is reported again is an old one.
            self._forgotten[ticker] = None
            if len(self._forgotten) > MAX_FORGOTTEN:
                del self._forgotten[next(iter(self._forgotten))]
        for key in [key for key in self._paid if key[0] == ticker]:
            del self._paid[key], self._payouts[key]
        for ledger in (self.total, *self._owners.values()):
            ledger.forget(ticker)

    def differences(self, positions: Iterable[Position], cash: int) -> dict[str, tuple[int, int]]:
        """Return what differs from the exchange: ticker, or "cash", to (recorded, reported).

        Args:
            positions: all positions that the exchange reports.
            cash: the cash that it reports, in money units, truncated to whole cents.
        """
        reported = {p.ticker: p.size for p in positions if p.size}
        recorded = {ticker: holding.size for ticker, holding in self.total.positions()}
        found = {
            ticker: (recorded.get(ticker, 0), reported.get(ticker, 0))
            for ticker in sorted(recorded.keys() | reported.keys())
            if recorded.get(ticker) != reported.get(ticker)
        }
        if abs(cash - self.cash) >= PRICE:
            found["cash"] = (self.cash, cash)
        return found
