"""A damaged journal is rebuilt from its intact rows and from the exchange's account; nothing is invented."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trade.core.reference_exchange import SECOND, TICKERS, Bench, ReferenceExchange
from trade.core.test_trader_properties import make_trader

from kalshilab.clock import SimClock
from kalshilab.errors import JournalError
from kalshilab.market.model import Balance, Position
from kalshilab.trade.core.messages import Command, FeedUp, JournalRecord, Quiet, Tick
from kalshilab.trade.core.record.history import RunHistory
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.run_doctor import (
    ExchangeRecord,
    RunExamination,
    examine_run,
    use_rebuilt,
)


class ExchangeTime(SimClock):
    """The clock of the small exchange."""

    def __init__(self, exchange: ReferenceExchange) -> None:
        super().__init__()
        self._exchange = exchange

    def now(self) -> int:
        return self._exchange.now


class WritingBench(Bench):
    """A bench that writes the records to a journal."""

    journal: Journal

    def _take(self, command: Command) -> None:
        super()._take(command)
        if isinstance(command, JournalRecord):
            self.journal.write(command.kind, command.value, command.key)


def record_of(exchange: ReferenceExchange) -> ExchangeRecord:
    """Return the account as the exchange lists it."""
    positions = [Position(ticker=t, size=h.size, cost=h.cost) for t, h in exchange.holdings.items()]
    balance = Balance(cash=exchange.cash, portfolio_value=0)
    fills = [msgspec.structs.replace(fill, client_order_id="") for fill in exchange.fills]
    return ExchangeRecord(balance, positions, [*exchange.orders.values()], fills, [*exchange.settlements])


def play(bench: Bench) -> None:
    """Trade for a while: fills of the run and of another program, resting orders, a settlement."""
    x = bench.exchange
    for n in range(12):
        x.fill_of_new = n % 5
        bench.give(x.trade(TICKERS[n % 3], (4000, 5000, 6000)[n % 3], 100 + 200 * (n % 2)))
        bench.give(Quiet())
        bench.settle_down()
        if n % 4 == 3:
            x.foreign_fill(TICKERS[n % 3], "bid", 5000, 100)
        if n == 8:
            x.settle(TICKERS[1], "yes")
        bench.settle_down()
        bench.pass_time(SECOND)
    bench.settle_down()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExchangeRecord]:
    """Return the folder of a run that was killed, and its exchange's account."""
    folder = tmp_path_factory.mktemp("runs") / "run-1"
    exchange = ReferenceExchange()
    exchange.foreign_fill(TICKERS[0], "ask", 5000, 300)
    exchange.stream.clear()
    bench = WritingBench(make_trader(), exchange)
    with Journal.create(folder / "journal.sqlite", ExchangeTime(exchange), SimClock()) as bench.journal:
        bench.journal.note("start", run="run-1")
        bench.give(Tick())
        bench.give(FeedUp())
        bench.settle_down()
        play(bench)
    return folder, record_of(exchange)


def rows_of(folder: Path) -> list[tuple[int, str, str]]:
    with Journal.open(folder / "journal.sqlite") as journal:
        return [
            (e.seq, e.kind, e.value.get("what", "") if isinstance(e.value, dict) else "") for e in journal
        ]


def damaged(run: Path, folder: Path, rows: Iterable[int]) -> Path:
    """Return a copy of a run whose journal has lost rows."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder)
    other = sqlite3.connect(folder / "journal.sqlite")
    other.execute("DROP TRIGGER no_delete")
    other.executemany("DELETE FROM entries WHERE seq = ?", [(row,) for row in rows])
    other.commit()
    other.close()
    return folder


def account_of(examination: RunExamination) -> tuple[object, ...]:
    account = examination.history.account
    return account.cash, sorted((t, h.size, h.cost) for t, h in account.total.positions())


def test_the_run_of_these_tests_has_everything(run: tuple[Path, ExchangeRecord]) -> None:
    kinds = {kind for _, kind, _ in rows_of(run[0])}
    assert kinds >= {"fire", "intent", "outcome", "order", "fill", "settlement", "decision", "note", "market"}
    whole = examine_run(run[0])
    assert (whole.damage, whole.lost, whole.rebuilt) == ("", [], None)
    assert whole.history.account.differences(run[1].positions, run[1].balance.cash) == {}
    assert whole.history.counts["foreign_fills"] == 3 and whole.history.counts["settlements"] == 1


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(data=st.data())
def test_the_exchange_confirms_the_account_that_lost_rows_described(
    run: tuple[Path, ExchangeRecord], tmp_path: Path, data: st.DataObject
) -> None:
    rows = rows_of(run[0])
    losable = [seq for seq, _, what in rows if what not in ("account", "start")]
    lost = data.draw(st.sets(st.sampled_from(losable), min_size=1, max_size=20))
    found = examine_run(damaged(run[0], tmp_path / "run-1", lost), run[1])
    whole = examine_run(run[0])
    assert found.lost == sorted(lost) and found.damage
    assert found.differences == {}
    assert account_of(found) == account_of(whole)
    assert found.history.counts["fills"] == whole.history.counts["fills"]
    assert found.history.counts["settlements"] == whole.history.counts["settlements"]
    assert found.history.unresolved == {}
    open_orders = found.history.orders.live.keys()
    assert open_orders == whole.history.orders.live.keys()


def test_without_the_exchange_the_intact_rows_are_kept_and_nothing_is_added(
    run: tuple[Path, ExchangeRecord], tmp_path: Path
) -> None:
    outcomes = [seq for seq, kind, _ in rows_of(run[0]) if kind == "outcome"]
    folder = damaged(run[0], tmp_path / "run-1", outcomes[:2])
    before = (folder / "journal.sqlite").read_bytes()
    found = examine_run(folder)
    assert found.lost == outcomes[:2] and found.added == {} and found.differences is None
    assert len(found.history.unresolved) == 2
    assert found.rebuilt == folder / "journal.rebuilt.sqlite"
    assert (folder / "journal.sqlite").read_bytes() == before
    with Journal.open(found.rebuilt) as journal:
        assert [n["what"] for n in journal.values("note")][-1] == "rebuilt"


def test_a_lost_opening_is_not_invented(run: tuple[Path, ExchangeRecord], tmp_path: Path) -> None:
    opening = next(seq for seq, _, what in rows_of(run[0]) if what == "account")
    found = examine_run(damaged(run[0], tmp_path / "run-1", [opening]), run[1])
    assert not found.history.opened and found.added.get("fill", 0) == 0


def test_the_rebuilt_journal_takes_the_place_of_the_damaged_one(
    run: tuple[Path, ExchangeRecord], tmp_path: Path
) -> None:
    folder = damaged(run[0], tmp_path / "run-1", [5])
    with pytest.raises(JournalError, match="no such journal"):
        use_rebuilt(folder)
    examine_run(folder, run[1])
    use_rebuilt(folder)
    assert examine_run(folder).damage == ""
    with Journal.open(folder / "journal.damaged.sqlite") as kept, pytest.raises(JournalError, match="row 5"):
        list(kept)
    with Journal.create(folder / "journal.sqlite", SimClock(), SimClock()) as journal:
        journal.note("resume", run="run-1")


def test_a_trader_goes_on_from_a_rebuilt_journal(run: tuple[Path, ExchangeRecord], tmp_path: Path) -> None:
    fills = [seq for seq, kind, _ in rows_of(run[0]) if kind == "fill"]
    found = examine_run(damaged(run[0], tmp_path / "run-1", fills), run[1])
    assert found.rebuilt is not None
    trader = make_trader()
    with Journal.open(found.rebuilt) as journal:
        trader.restore(journal)
    whole = RunHistory()
    with Journal.open(run[0] / "journal.sqlite") as journal:
        whole.fold(journal)
    assert trader.account.cash == whole.account.cash and trader.orders.live.keys() == whole.orders.live.keys()
