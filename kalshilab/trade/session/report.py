"""The record of a run: frames for people, counts for machines, and the stored tables for code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from kalshilab.errors import KalshilabError, SessionError
from kalshilab.market.model import Market
from kalshilab.trade.core.record.history import RunHistory
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.history_view import counts_of_history, end_of_history, positions_of_history
from kalshilab.trade.session.report_tables import FRAMES, Dtype, readable, stored_tables
from kalshilab.trade.status import PositionRow
from kalshilab.units import show_dollars

__all__ = ["FRAMES", "Report"]


class Report:
    """The record of one run.

    Every frame follows one convention: **prices in cents of the outcome bought** (a NO purchase shows the NO price),
    **money in dollars, sizes in contracts, instants as UTC datetimes**.

    ============= ============================================ ==================================================
    frame         column                                       meaning
    ============= ============================================ ==================================================
    `signals`     `row`                                        prints the signal had seen before this one
    (one row      `ts`                                         exchange time of the print that fired
    a fire)       `side`                                       outcome to buy, "yes" or "no"
    ..            `price`                                      cents of that outcome, at the print
    ..            `n_trades`                                   prints of the market that were counted
    ..            `yes_ratio`, `no_ratio`, other ratios        fractions
    ..            `first_price`                                cents of that outcome, at the market's first print
    ..            `drop`, `move`                               cents by which YES has fallen; by which it has moved
    ..            `value`                                      dollars that the print's taker paid
    ..            other columns of a custom signal             the signal's own units
    `decisions`   `ts`                                         exchange time of the decision
    (one row      `action`, `reason`                           see `kalshilab.trade.events.Decision`
    a decision)   `side`                                       "bid" buys YES, "ask" buys NO, "" without an order
    ..            `outcome`                                    outcome the order buys; null without an order
    ..            `price`                                      limit in cents of `outcome`; null without an order
    ..            `size`                                       contracts; null without an order
    ..            `yes_ratio`, `drop`                          fraction; cents by which YES has fallen
    ..            `strategy`                                   the strategy that decided; "" in a session with one
    `orders`      `created`, `updated`                         exchange time
    (one row      `side`, `outcome`                            as for `decisions`
    an order)     `price`                                      limit in cents of `outcome`
    ..            `initial`, `filled`, `remaining`             contracts
    ..            `fees`                                       dollars
    ..            `status`, `reason`                           as last reported by the exchange
    `fills`       `ts`                                         exchange time
    (one row      `outcome`, `price`                           outcome bought, and its price in cents
    a match)      `size`                                       contracts
    ..            `cost`, `fee`                                dollars; the cost excludes the fee
    ..            `is_taker`                                   whether our order took liquidity
    `settlements` `ts`                                         exchange time
    (one row      `result`                                     "yes", "no" or "scalar"
    a market)     `outcome`, `settlement`                      outcome held, and its final value in cents
    ..            `yes_size`, `no_size`                        contracts held
    ..            `cost`, `revenue`, `fees`, `pnl`             dollars; `pnl` is after fees
    `positions`   `outcome`, `size`                            outcome held, and contracts of it
    (one row      `cost`, `value`, `pnl`                       dollars; `value` at the bid, `pnl` before fees
    a market)     `close`                                      time at which the market closes
    `transitions` `ts`, `wall`                                 exchange time, machine time
    ..            `source`, `target`, `reason`                 states of the session
    `equity`      `ts`                                         exchange time of the sample
    ..            `cash`, `portfolio_value`, `equity`          dollars; `equity` is the sum of the other two
    `markets`     as `kl.to_markets` returns them              a table for code: `settlement` in 1/10,000 dollar
    ============= ============================================ ==================================================

    `ticker`, `event`, `order_id`, `client_order_id` and `trade_id` are those of the exchange.  The stored tables, with
    YES prices and a signal's own integer units, are available as `report.raw(name)`.

    Attributes:
        counts: the numbers of the run, by name (`trades`, `signals`, `orders`, `fills`, `settlements`,
            `open_positions`, …); names that end in `_cents` are whole cents.
        state: the state in which the run ended.
        stopped: the reason for the end.
        run_id: the name of the run.
        run_dir: the folder of the run.
        journal: the path of its journal.
        error: the error that ended the run, or `None`; `check()` raises it.
        provenance: settings with their origin, code, data and versions of the run; empty for runs of version 0.1.
    """

    def __init__(
        self,
        *,
        run_id: str,
        run_dir: Path,
        state: str,
        stopped: str,
        counts: Mapping[str, int],
        frames: Mapping[str, pl.DataFrame],
        error: KalshilabError | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.run_id, self.run_dir, self.journal = run_id, run_dir, run_dir / "journal.sqlite"
        self.state, self.stopped, self.counts, self.error = state, stopped, dict(counts), error
        self.provenance: dict[str, Any] = dict(provenance or {})
        self._stored = dict(frames)
        self._readable: dict[str, pl.DataFrame] = {}

    @classmethod
    def build(
        cls,
        journal: Journal,
        *,
        run_id: str,
        state: str,
        stopped: str,
        counts: Mapping[str, int],
        positions: Sequence[PositionRow],
        equity: Sequence[tuple[int, int, int]],
        markets: Iterable[Market] = (),
        columns: Mapping[str, Dtype] | None = None,
        error: KalshilabError | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Report:
        """Build the report of a finished session.

        Args:
            journal: the run's journal.
            run_id: the name of the run.
            state: the state in which the run ended.
            stopped: the reason for the end.
            counts: the numbers of the run, by name.
            positions: the open positions.
            equity: samples `(ts, cash, value)`, in microseconds and money units.
            markets: the markets that the session followed.
            columns: the types of the signal's own columns; others are inferred from the values.
            error: the error that ended the run.
            provenance: the provenance of the run (`kalshilab.trade.session.provenance`).
        """
        frames = stored_tables(
            journal, positions=positions, equity=equity, markets=markets, columns=columns or {}
        )
        return cls(
            run_id=run_id,
            run_dir=journal.path.parent,
            state=state,
            stopped=stopped,
            counts=counts,
            frames=frames,
            error=error,
            provenance=provenance,
        )

    @classmethod
    def from_journal(cls, run_dir: str | Path) -> Report:
        """Make the report of a run from its journal alone, as far as the journal goes.

        It serves runs that were killed.  Positions have the prices of the last minute that was recorded, and the numbers of
        prints are those of that minute.  The journal does not hold whether the account differs from the exchange's, nor the
        types of a signal's own columns, which are inferred from the values.

        Args:
            run_dir: the folder of the run.

        Raises:
            JournalError: there is no journal, or it is damaged.
        """
        folder = Path(run_dir)
        with Journal.open(folder / "journal.sqlite") as journal:
            past = RunHistory()
            past.fold(journal)
            return cls.build(
                journal,
                run_id=past.run_id or folder.name,
                state=past.state,
                stopped=end_of_history(past, folder),
                counts=counts_of_history(past),
                positions=positions_of_history(past),
                equity=past.curve.samples,
                markets=past.markets.values(),
                provenance=past.provenance,
            )

    @classmethod
    def load(cls, run_dir: str | Path) -> Report:
        """Load the report of an earlier run from its folder; a run that was killed has that of its journal.

        Raises:
            SessionError: the folder holds no run.
            JournalError: the run was killed, and its journal is damaged.
        """
        folder = Path(run_dir)
        try:
            facts = msgspec.json.decode((folder / "report.json").read_bytes())
            frames = {name: pl.read_parquet(folder / f"{name}.parquet") for name in FRAMES}
        except FileNotFoundError as error:
            if (folder / "journal.sqlite").is_file():
                return cls.from_journal(folder)
            raise SessionError(
                f"{folder}: no finished run here ({Path(error.filename).name} is missing)"
            ) from None
        return cls(run_dir=folder, frames=frames, **facts)

    def save(self) -> None:
        """Write `report.json` and a Parquet file for each frame into the run's folder."""
        for name, table in self._stored.items():
            table.write_parquet(self.run_dir / f"{name}.parquet")
        facts: dict[str, object] = {
            "run_id": self.run_id,
            "state": self.state,
            "stopped": self.stopped,
            "counts": self.counts,
            "provenance": self.provenance,
        }
        (self.run_dir / "report.json").write_bytes(msgspec.json.encode(facts))

    def check(self) -> None:
        """Raise the error that ended the run, if any: the last line of an unattended notebook."""
        if self.error is not None:
            raise self.error

    def summary(self) -> pl.DataFrame:
        """Return the numbers of the run as text, in two columns: `metric` and `value` (amounts in dollars)."""
        counts = self.counts
        rows = [
            ("stopped", self.stopped),
            ("state", self.state),
            *(
                (name.replace("_", " "), f"{counts[name]:,}")
                for name in counts
                if not name.endswith("_cents")
            ),
            *(
                (name.removesuffix("_cents").replace("_", " "), show_dollars(counts[name] * 10_000))
                for name in counts
                if name.endswith("_cents")
            ),
        ]
        return pl.DataFrame(rows, schema={"metric": pl.String, "value": pl.String}, orient="row")

    def raw(self, name: str) -> pl.DataFrame:
        """Return a table as the run folder stores it: the input of code, and equal to research row by row.

        `raw("signals")` has the columns and units of the signal's own `run`: YES prices in 1/10,000 dollar and money in
        1/1,000,000 dollar.  In the other tables, prices are cents of YES, money is dollars and sizes are contracts; the
        journal holds the exact integers.

        Args:
            name: one of `FRAMES`.

        Raises:
            SessionError: the report has no table of this name.
        """
        if name not in self._stored:
            raise SessionError(f"name must be one of {', '.join(FRAMES)}, got {name!r}")
        return self._stored[name]

    def _frame(self, name: str) -> pl.DataFrame:
        if name not in self._readable:
            self._readable[name] = readable(name, self._stored[name])
        return self._readable[name]

    @property
    def signals(self) -> pl.DataFrame:
        """The fires, in the order in which the session saw them."""
        return self._frame("signals")

    @property
    def decisions(self) -> pl.DataFrame:
        """The decisions about each fire, with their reasons."""
        return self._frame("decisions")

    @property
    def orders(self) -> pl.DataFrame:
        """The session's orders in their last known state."""
        return self._frame("orders")

    @property
    def fills(self) -> pl.DataFrame:
        """The matches of the session's orders."""
        return self._frame("fills")

    @property
    def settlements(self) -> pl.DataFrame:
        """The payouts, market by market."""
        return self._frame("settlements")

    @property
    def positions(self) -> pl.DataFrame:
        """The positions open at the end, valued at their bid."""
        return self._frame("positions")

    @property
    def transitions(self) -> pl.DataFrame:
        """The session's changes of state."""
        return self._frame("transitions")

    @property
    def equity(self) -> pl.DataFrame:
        """Cash and the value of positions, sampled at each fill and settlement and twice a second."""
        return self._frame("equity")

    @property
    def markets(self) -> pl.DataFrame:
        """The markets that the session followed, as last known, in the form of `kl.to_markets`."""
        return self._frame("markets")

    def __repr__(self) -> str:
        c = self.counts
        return (
            f"Report({self.run_id}: {self.stopped}; {c.get('orders', 0)} orders, {c.get('fills', 0)} fills)"
        )

    def _repr_html_(self) -> str:
        return str(self.summary()._repr_html_())
