"""Paper trades as entries: the trades of sessions, in the form in which an edge is judged.

A validated edge is a statement about fires, and so is this frame.  It has a row for each fire that a session saw, with
the price its order paid.  A fire whose order was not sent or not filled earns 0, as it does in the validation, and so does one whose order left
a position: an entry counts as held to settlement.
`kalshilab.edge.monitor` and `Card.with_live` compare these entries with the validation, and `kalshilab.edge.replay_gap`
compares them with the same signal replayed on a recording of the same days.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from kalshilab.edge import ENTRIES_SCHEMA
from kalshilab.errors import SessionError
from kalshilab.market.model import outcome_price
from kalshilab.tape import MARKETS_SCHEMA, to_markets
from kalshilab.trade.events import Fired
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.report_tables import Dtype
from kalshilab.units import PRICE

__all__ = ["paper_entries"]


def paper_entries(
    runs: Report | str | Path | Iterable[Report | str | Path],
    markets: object = None,
    *,
    per_market: int | None = 1,
    exclusive: bool = False,
) -> pl.DataFrame:
    """Return the fires of sessions as entries, with the price that was paid for each on paper.

    Args:
        runs: reports, or the folders of finished runs; in any order.
        markets: the markets as they are known today (`kl.to_markets`, or a lake's `markets`), from which markets that
            were open at the end of a run take their settlement.  Markets that it does not list are taken from the runs.
        per_market: the number of fires that count for each market, from the first, as in a validation; None: all,
            re-entries included.
        exclusive: whether at most one market of each event settles YES.

    Returns:
        A frame of `kalshilab.edge.ENTRIES_SCHEMA` and a column `signal`, in time order.  All prices are **dollars a contract** (0 to 1, the
        input of the statistics; a `Report` shows cents):

        ============================== =========================================================================
        column                         unit
        ============================== =========================================================================
        `fire`                         number of the entry, from 0
        `ts`, `entry_ts`, `settled_ts` exchange time (UTC); `entry_ts` is the first fill, null if unfilled
        `side`                         outcome bought, "yes" or "no"
        `fired_at`                     dollars: price of that outcome at the print that fired
        `price`                        dollars a contract, mean over the fills, before the fee; null if unfilled
        `fee`                          dollars a contract
        `cost`                         dollars a contract: `price` plus `fee`
        `value`                        dollars a contract: final value of the outcome; null while it is open
        `pnl`                          dollars a contract: `value` less `cost`; 0 if unfilled
        `mid`                          null, because a session does not record it
        `signal`                       what fired: name, parameters and code; null for runs of older versions
        ============================== =========================================================================

        A market whose result is known but whose settlement is not counts as open.

    >>> import asyncio, tempfile
    >>> import kalshilab as kl
    >>> settings = kl.Settings(env={}, env_file=None, min_trades=15, out=tempfile.mkdtemp())
    >>> async def trade():
    ...     async with kl.PaperSession(settings) as session:
    ...         return await session.run()
    >>> entries = paper_entries(asyncio.run(trade()))
    >>> bool(entries["filled"].any()), entries["pnl"].null_count()  # one is open at the end
    (True, 1)

    Raises:
        SessionError: no run is given, or a folder holds no finished run.
        TapeError: `markets` is not a table of markets.
    """
    if isinstance(runs, Report | str | Path):
        runs = [runs]
    reports = [run if isinstance(run, Report) else Report.load(run) for run in runs]
    if not reports:
        raise SessionError("runs must be reports or folders of finished runs, got no run")
    facts = _settlement_facts(reports, None if markets is None else to_markets(markets))
    rows = [row for report in reports for row in _rows(report)]
    frame = pl.DataFrame(rows, _ROW, orient="row").sort("ts", maintain_order=True)
    if per_market is not None:
        frame = frame.filter(pl.int_range(pl.len()).over("ticker") < per_market)
    no = pl.col("side") == "no"
    settled = pl.col("settlement").is_not_null() & pl.col("settled_ts").is_not_null()
    dollars = pl.when(settled).then(pl.col("settlement").cast(pl.Float64) / PRICE)
    cost = pl.col("price") + pl.col("fee")
    value = pl.when(no).then(1 - dollars).otherwise(dollars)
    entries = (
        frame.with_row_index("fire")
        .join(facts, on="ticker", how="left", maintain_order="left")
        .with_columns(cost=cost, value=value, filled=pl.col("price").is_not_null())
        .with_columns(
            pl.when("filled").then(pl.col("value") - pl.col("cost")).otherwise(0.0).alias("pnl"),
            pl.when(settled).then("settled_ts").alias("settled_ts"),
            pl.col("series").fill_null(""),
            pl.col("category").fill_null(""),
            pl.lit(None).alias("mid"),
            pl.lit(exclusive).alias("exclusive"),
        )
    )
    return entries.select(*(pl.col(name).cast(dtype) for name, dtype in ENTRIES_SCHEMA.items()), "signal")


_ROW: Final[dict[str, Dtype]] = {
    "signal": pl.String,
    "ts": pl.Datetime("us", "UTC"),
    "ticker": pl.String,
    "side": pl.String,
    "fired_at": pl.Float64,
    "entry_ts": pl.Datetime("us", "UTC"),
    "price": pl.Float64,
    "fee": pl.Float64,
}


class _Purchase(NamedTuple):
    """The fills of one order: time of the first, dollars a contract and fee a contract; all None without a fill."""

    ts: datetime | None = None
    price: float | None = None
    fee: float | None = None


def _settlement_facts(reports: list[Report], markets: pl.DataFrame | None) -> pl.DataFrame:
    """Return the newest facts about each market: those of today's table first, then those of the latest run."""
    tables = [] if markets is None else [markets.select(MARKETS_SCHEMA.names())]
    latest = sorted(reports, key=lambda r: r.run_id, reverse=True)
    whole = pl.concat([*tables, *(report.raw("markets") for report in latest)])
    return whole.unique("ticker", keep="first", maintain_order=True).select(
        "ticker", "event", "series", "category", "settlement", "settled_ts"
    )


def _rows(report: Report) -> list[tuple[object, ...]]:
    """Return a run's fires as rows of `_ROW`."""
    with Journal.open(report.journal) as journal:
        fires: list[Fired] = journal.values("fire")
        notes: list[dict[str, object]] = journal.values("note")
        ids = {
            (i.fire.ticker, i.fire.ts, i.fire.n_trades): i.client_order_id
            for i in journal.values("intent")
            if not i.closes
        }
    signal = next((note.get("signal") for note in notes if note["what"] == "start"), None)
    orders = report.raw("orders").select("order_id", "client_order_id")
    purchases = {
        client_id: _Purchase(ts, price, fee)
        for client_id, ts, price, fee in report.raw("fills")
        .join(orders, on="order_id")
        .group_by("client_order_id")
        .agg(
            pl.col("ts").min(),
            (pl.col("cost").sum() / pl.col("size").sum()).alias("price"),
            (pl.col("fee").sum() / pl.col("size").sum()).alias("fee"),
        )
        .iter_rows()
    }
    rows: list[tuple[object, ...]] = []
    for fire in fires:
        purchase = purchases.get(ids.get((fire.ticker, fire.ts, fire.n_trades), ""), _Purchase())
        fired_at = outcome_price(fire.price, fire.side) / PRICE
        rows.append((signal, fire.ts, fire.ticker, fire.side, fired_at, *purchase))
    return rows
