"""The trader against the real exchange core through a faulty line: its record is always the exchange's in the end.

Answers are lost before or after the request has arrived, requests arrive late, messages are lost, delayed and doubled, and
reads fail.  The exchange itself is correct, so its account is the reference.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tapes import leaning

from kalshilab.config.settings import Settings
from kalshilab.exchange.core import Exchange
from kalshilab.market.model import Fill, Order
from kalshilab.trade.backtest.simulated_venue import SimulatedVenue
from kalshilab.trade.core import messages as m
from kalshilab.trade.core.exposure import Budget
from kalshilab.trade.core.trader import Trader
from kalshilab.trade.strategies.strategies import make_strategy

SECOND = 1_000_000
TAPE, MARKETS = leaning(12)
SETTINGS = Settings(
    env={}, env_file=None, categories=("all",), close_min_minutes=0, min_trades=8, min_drop=1, attempts_per_minute=1e6,
    sync_interval_s=5,
)  # fmt: skip
WRITES = (m.Place, m.Cancel, m.Amend)


class FaultyLine:
    """A trader and an exchange with a line between them that loses, delays and doubles what passes.

    Args:
        seed: seed of all faults.
        rate: probability of a fault.
        names: the strategies.
    """

    def __init__(self, seed: int, rate: float, names: Sequence[str] = ("rlm_no",)) -> None:
        self._random, self._rate = random.Random(seed), rate
        self.exchange = Exchange(TAPE, MARKETS, echo_trades=False, archives=False, seed=seed)
        plans = [(name, make_strategy(SETTINGS.replace(strategy=name)), Budget()) for name in names]
        self.trader = Trader(SETTINGS, plans, f"run-{seed}", books="ask")
        self._venue = SimulatedVenue(self.exchange, self._publish)
        self._commands: deque[m.Command] = deque()
        self._late: list[tuple[int, m.TraderRequest | m.Event]] = []
        self._mono = 0
        self._mute = False
        self.log: list[tuple[m.Event, int, int]] = []
        self.commands: list[m.Command] = []
        self.records: list[m.JournalRecord] = []

    def _fault(self) -> bool:
        return self._random.random() < self._rate

    def _publish(self, event: m.Event) -> None:
        """Pass on what the exchange publishes, or lose, double or delay it."""
        if isinstance(event, m.RequestAnswer):
            if not self._mute:
                self.deliver(event)
        elif isinstance(event, Fill | Order | m.Lifecycle) and self._fault():
            fate = self._random.choice(["lost", "twice", "late"])
            if fate == "twice":
                self.deliver(event)
                self.deliver(event)
            elif fate == "late":
                self._late.append((self._mono + self._random.randrange(1, 10) * SECOND, event))
        else:
            self.deliver(event)

    def deliver(self, event: m.Event) -> None:
        """Let the trader handle an event, and check that it orders only while it may trade."""
        now = self.exchange.now
        self.log.append((event, now, self._mono))
        commands = self.trader.handle(event, now, self._mono)
        self.commands += commands
        for command in commands:
            assert not isinstance(command, m.Place) or self.trader.state == "ACTING", self.trader.state
        self._commands.extend(commands)

    def _carry_out(self, command: m.Command) -> None:
        if isinstance(command, m.JournalRecord):
            self.records.append(command)
        elif not isinstance(command, m.TraderRequest) or not self._fault():
            self._venue.carry_out(command)
        else:
            self._lose(command)

    def _lose(self, command: m.TraderRequest) -> None:
        """Lose the answer to a request; the request arrives now, later, or never."""
        fate = self._random.choice(["arrives", "late", "never"]) if isinstance(command, WRITES) else "never"
        if fate == "arrives":
            self._arrive(command)
        elif fate == "late":
            self._late.append((self._mono + self._random.randrange(1, 18) * SECOND, command))
        self.deliver(m.RequestAnswer(command.number, m.Lost("no answer")))

    def _arrive(self, command: m.TraderRequest) -> None:
        self._mute = True
        self._venue.carry_out(command)
        self._mute = False

    def _settle(self) -> None:
        """Carry out all commands, until the trader waits for nothing at this instant."""
        while True:
            while self._commands:
                self._carry_out(self._commands.popleft())
            self.deliver(m.Quiet())
            if not self._commands and not self.trader.busy:
                return

    def _pass_time(self, micros: int) -> None:
        self._mono += micros
        due = [item for item in self._late if item[0] <= self._mono]
        self._late = [item for item in self._late if item[0] > self._mono]
        for _, item in due:
            if isinstance(item, m.TraderRequest):
                self._arrive(item)
            else:
                self.deliver(item)
        self.deliver(m.Tick())
        self._settle()

    def run(self) -> None:
        """Play the tape, then let time pass until the trader has ended."""
        for event in (m.Tick(), m.FeedUp()):
            self.deliver(event)
            self._settle()
        while not self.trader.opened or self.trader.state != "READY":
            self._pass_time(SECOND)
        while self.exchange.step():
            self._settle()
            self._pass_time(self._random.randrange(0, 2 * SECOND))
        self.deliver(m.Ended())
        self._settle()
        ended = self._mono
        while self.trader.finished is None:
            self._pass_time(SECOND)
            assert self._mono - ended <= 30 * SECOND, "an end takes at most 30 seconds"

    def of(self, kind: str) -> list[object]:
        """Return the records of one kind, each key once."""
        seen: dict[object, object] = {}
        for number, record in enumerate(self.records):
            if record.kind == kind:
                seen.setdefault(record.key or number, record.value)
        return list(seen.values())


def check(line: FaultyLine) -> None:
    """Check that the trader's record is that of the exchange."""
    account, trader = line.exchange.account, line.trader
    ours = {ticker: holding.size for ticker, holding in trader.account.total.positions()}
    assert ours == {ticker: h.size for ticker, h in account.holdings.items() if h.size}
    assert abs(trader.account.cash - account.cash) < 10_000
    assert trader.finished is not None and trader.finished.left == ()
    assert not line.exchange.desk.resting()
    intents = [intent.client_order_id for intent in line.of("intent")]  # type: ignore[attr-defined]
    outcomes = Counter(o.client_order_id for o in line.of("outcome") if o.kind != "unknown")  # type: ignore[attr-defined]
    assert len(set(intents)) == len(intents)
    assert outcomes == Counter(intents), "each intent has one outcome"
    accepted = {o.client_order_id for o in line.of("outcome") if o.kind == "accepted"}  # type: ignore[attr-defined]
    arrived = {order.client_order_id for order in line.exchange.desk.log}
    assert accepted == arrived, "each order that arrived is known, and no other"


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), rate=st.sampled_from([0.0, 0.05, 0.2, 0.4]))
def test_the_record_is_the_exchanges_under_any_faults(seed: int, rate: float) -> None:
    line = FaultyLine(seed, rate)
    line.run()
    check(line)


def check_exits(line: FaultyLine) -> None:
    """Check that `paper_test` never held more than five contracts, and that no order met another one of the account."""
    owners = {intent.client_order_id: intent.strategy for intent in line.of("intent")}  # type: ignore[attr-defined]
    held: Counter[str] = Counter()
    sides: dict[str, set[str]] = {}
    for fill in line.exchange.account.fills:
        side = fill.order.side
        if owners[fill.order.client_order_id] == "paper_test":
            held[fill.ticker] += fill.size if side == "bid" else -fill.size
            assert abs(held[fill.ticker]) <= 500, fill
        sides.setdefault(fill.trade_id, set()).add(side)
    assert all(len(found) == 1 for found in sides.values())


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), rate=st.sampled_from([0.0, 0.05, 0.2, 0.4]))
def test_positions_are_sold_once_under_any_faults(seed: int, rate: float) -> None:
    line = FaultyLine(seed, rate, ("paper_test", "rlm_no", "whale_follower"))
    line.run()
    check(line)
    check_exits(line)
    assert rate or any(intent.closes for intent in line.of("intent"))  # type: ignore[attr-defined]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(400))
def test_many_schedules_of_faults(seed: int) -> None:
    line = FaultyLine(seed, (0.02, 0.1, 0.3, 0.5)[seed % 4])
    line.run()
    check(line)


def encoded(commands: Sequence[m.Command]) -> bytes:
    return b"\n".join(type(x).__name__.encode() + msgspec.json.encode(x) for x in commands)


def test_the_same_events_give_the_same_commands() -> None:
    line = FaultyLine(7, 0.2)
    line.run()
    again = Trader(SETTINGS, [("rlm_no", make_strategy(SETTINGS), Budget())], "run-7", books="ask")
    repeated = [command for event, now, mono in line.log for command in again.handle(event, now, mono)]
    assert encoded(repeated) == encoded(line.commands) and len(repeated) > 100


def test_faults_happen() -> None:
    line = FaultyLine(3, 0.3)
    line.run()
    losses = sum(isinstance(x, m.RequestAnswer) and isinstance(x.result, m.Lost) for x, _, _ in line.log)
    assert losses > 5 and len(line.of("intent")) > 5
    assert pl.Series([r.kind for r in line.records]).n_unique() > 5
