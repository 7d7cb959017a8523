"""Backtests: strategies over recorded trades, decided by the same core as live sessions, filled by the same exchange.

The exchange plays its next step only when the trader has decided everything that the last one caused.  The embedded venue
of a live session is in lockstep in the same way, so on one tape, seed and latency a backtest and a session give the same
orders, fills and profit, row for row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import polars as pl

from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.flows.recorded_books import BookFrame
from kalshilab.exchange.state.fill_model import FillModel
from kalshilab.trade.backtest.simulated_venue import SimulatedVenue
from kalshilab.trade.core.exposure import TraderRules
from kalshilab.trade.core.messages import Command, Ended, Event, FeedUp, JournalRecord, Quiet, Tick
from kalshilab.trade.core.trader import Trader
from kalshilab.trade.session import trader_view
from kalshilab.trade.session.plans import Plan, planned
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.report_tables import stored_tables
from kalshilab.units import dollars

__all__ = ["BacktestReport", "Plan", "backtest", "grid_table"]

RUN: str = "backtest"
NEVER: int = 1 << 62
SECOND: int = 1_000_000


class BacktestReport(Report):
    """The record of a backtest: the same frames as the `Report` of a session, in memory.

    `save(folder)` writes them as a session's run folder holds them, without a journal.

    Attributes:
        changes: the settings that a grid changed, by name.
        shard: the number of its span of history, from 0.
    """

    changes: Mapping[str, object] = MappingProxyType({})
    shard: int = 0

    def save(self, folder: str | Path | None = None) -> None:
        """Write `report.json` and a Parquet file for each frame.

        Args:
            folder: the folder; it is created.

        Raises:
            SessionError: no folder is given.
        """
        if folder is None:
            raise SessionError("folder must be given, because a backtest has no run folder")
        self.run_dir = Path(folder)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        super().save()


def backtest(
    strategies: Plan | Sequence[Plan],
    tape: pl.DataFrame,
    markets: pl.DataFrame,
    books: Iterable[BookFrame] | None = None,
    *,
    settings: Settings | None = None,
    latency_us: int = 0,
    executor: Executor | None = None,
    shards: int | None = None,
    grid: Mapping[str, Sequence[object]] | None = None,
) -> BacktestReport | list[BacktestReport]:
    """Trade strategies over recorded trades and return the record.

    Prints, lifecycle and settlements come from the tape and the markets; fills come from the simulated exchange, whose
    background book is inferred from the prints or replayed from `books`.  A decision uses only what a live session would
    know at that time.

    Args:
        strategies: a strategy, or a list of them, which trade side by side on one account.
        tape: the public trades (`kl.to_tape`).
        markets: their markets (`kl.to_markets`).
        books: recorded books of the same time; see `kalshilab.exchange.flows.recorded_books`.
        settings: limits, sizes, spreads, starting cash and seed; by default those of the environment.  Its venue, minutes
            and speed do not matter.
        latency_us: microseconds of exchange time that an order takes to arrive.
        executor: runs the shards and the cells of a grid, for example a process pool or a Dask client's executor.
        shards: split history into this many spans of equal numbers of prints, each with fresh signals and its own starting
            cash.  A market belongs to the span of its first print.
        grid: values to try for settings, by name; each combination is one backtest, the last name changing fastest.  A
            strategy that is given by name reads its parameters from the settings.

    Returns:
        The report; with `shards` or `grid`, a list of reports: for each combination, one per span in order of time.
        `grid_table` compares them.

    >>> import kalshilab as kl
    >>> settings = kl.Settings(env={}, env_file=None, min_trades=15)
    >>> report = kl.backtest("rlm_no", *kl.sample(), settings=settings)
    >>> report.counts["orders"] > 50, report.counts["account_differences"]
    (True, 0)
    >>> cells = kl.backtest("rlm_no", *kl.sample(), settings=settings, grid={"min_trades": [15, 40]})
    >>> grid_table(cells)["min_trades", "orders"].rows()[0] == (15, report.counts["orders"])
    True

    Raises:
        SessionError: no strategy is given, or two have one name.
        ConfigError: `grid` names something that is not a setting, or a value is not allowed.
        TapeError: `tape` is not a tape, or `markets` is not a markets table.
        ExchangeError: the tape cannot be played.
    """
    settings = settings or Settings()
    plans: Sequence[Plan] = strategies if isinstance(strategies, list) else [strategies]  # type: ignore[list-item]
    planned(plans, settings)
    frames = list(books or ())
    if shards is None and grid is None:
        return _run(plans, tape, markets, frames, settings, latency_us)
    if shards is not None and shards < 1:
        raise SessionError(f"shards must be >= 1, got {shards}")
    spans = [tape] if shards is None else _spans(tape, shards)
    cells = [(changes, settings.replace(**changes)) for changes in _combinations(grid or {})]
    parts = [(plans, span, markets, frames, chosen, latency_us) for _, chosen in cells for span in spans]
    if executor is None:
        reports = [_run(*part) for part in parts]
    else:
        reports = [future.result() for future in [executor.submit(_run, *part) for part in parts]]
    for number, report in enumerate(reports):
        report.changes, report.shard = cells[number // len(spans)][0], number % len(spans)
    return reports


def grid_table(reports: Iterable[BacktestReport]) -> pl.DataFrame:
    """Return one row for each report: the changed settings, the span, its numbers, and money in dollars.

    Args:
        reports: the reports of `backtest` with `grid` or `shards`.
    """
    rows = [
        {
            **report.changes,
            "shard": report.shard,
            **{name: report.counts[name] for name in ("signals", "orders", "fills", "settlements")},
            "fees": report.counts["fees_cents"] / 100,
            "pnl": report.counts["pnl_cents"] / 100,
        }
        for report in reports
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _combinations(grid: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise SessionError(f"grid must give a list of values for {name}, got {values!r}")
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def _spans(tape: pl.DataFrame, shards: int) -> list[pl.DataFrame]:
    """Return the tape in spans of time; all prints of a market are in the span of its first."""
    rows = tape.with_row_index("_row").with_columns(
        (pl.col("_row").min().over("ticker").cast(pl.Int64) * shards // max(tape.height, 1)).alias("_span")
    )
    parts = [rows.filter(pl.col("_span") == n).drop("_row", "_span") for n in range(shards)]
    return [part for part in parts if part.height]


def _run(
    plans: Sequence[Plan],
    tape: pl.DataFrame,
    markets: pl.DataFrame,
    books: list[BookFrame],
    settings: Settings,
    latency_us: int,
) -> BacktestReport:
    exchange = Exchange(
        tape,
        markets,
        frames=books,
        fills=FillModel(latency_us=latency_us),
        seed=settings.seed,
        balance_money_units=dollars(settings.balance),
        echo_trades=False,
        archives=False,
    )
    # A served exchange draws the id of its key first; orders have the same ids in both.
    exchange.new_id()
    rules = msgspec.structs.replace(
        TraderRules.of(settings, "ask", real_time=False),
        sync_us=NEVER,
        discovery_us=NEVER,
        max_outage_us=None,
    )
    trader = Trader(rules, planned(list(plans), settings), RUN)
    return _Replay(exchange, trader).run()


UNUSED: frozenset[str] = frozenset({"sample"})
"""Kinds of entry that serve later lives of a run; a backtest has one life, and its trader the same facts."""


class MemoryJournal:
    """The values of a journal in memory, by kind; a value whose key is known is not added again."""

    def __init__(self) -> None:
        self._values: dict[str, list[Any]] = {}
        self._keys: set[tuple[str, str]] = set()

    def write(self, record: JournalRecord) -> None:
        """Add one value, unless no table of a report is made from its kind."""
        if record.kind in UNUSED:
            return
        if record.key is not None:
            if (record.kind, record.key) in self._keys:
                return
            self._keys.add((record.kind, record.key))
        self._values.setdefault(record.kind, []).append(record.value)

    def values(self, kind: str) -> list[Any]:
        """Return the values of one kind, in the order of writing."""
        return self._values.get(kind, [])


class _Replay:
    """One trader on one exchange, until both have ended."""

    def __init__(self, exchange: Exchange, trader: Trader) -> None:
        self._trader, self._journal = trader, MemoryJournal()
        self._waiting: deque[Command] = deque()
        self._venue = SimulatedVenue(exchange, self._deliver)
        self._exchange = exchange
        self._late = 0

    def run(self) -> BacktestReport:
        """Play everything, and return the report."""
        deliver, settle, venue = self._deliver, self._settle, self._venue
        for event in (Tick(), FeedUp()):
            deliver(event)
            settle()
        while venue.step():
            settle()
        deliver(Ended())
        settle()
        while self._trader.finished is None:
            # Only time passes now: requests are repeated until they are answered, or the end is due.
            self._late += SECOND
            deliver(Tick())
            settle()
        return self._report()

    def _deliver(self, event: Event) -> None:
        now = self._exchange.now
        commands = self._trader.handle(event, now, now + self._late)
        if commands:
            self._waiting.extend(commands)

    def _settle(self) -> None:
        """Carry out all commands and let the trader decide, until nothing is left for this instant."""
        waiting, trader = self._waiting, self._trader
        while waiting or trader.is_due(self._exchange.now):
            while waiting:
                command = waiting.popleft()
                if isinstance(command, JournalRecord):
                    self._journal.write(command)
                else:
                    self._venue.carry_out(command)
            self._deliver(QUIET)
            if not waiting and not trader.busy:
                return

    def _report(self) -> BacktestReport:
        trader = self._trader
        frames = stored_tables(
            self._journal,
            positions=trader_view.position_rows(trader),
            equity=trader.equity,
            markets=trader_view.followed_markets(trader),
            columns=trader_view.signal_columns(trader),
        )
        return BacktestReport(
            run_id=trader.run_id,
            run_dir=Path(),
            state=trader.state,
            stopped=trader.stopped,
            counts=trader_view.final_counts(trader),
            frames=frames,
        )


QUIET = Quiet()
