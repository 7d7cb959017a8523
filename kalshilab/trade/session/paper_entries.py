"""Paper trades as entries: what sessions did, in the form in which an edge is judged.

A validated edge is a statement about fires; so is this: a row for each fire the session saw, with what its order
paid, or nothing where none was sent or filled, which counts as a profit of nothing, as it did in the validation.
`kalshilab.edge.monitor` and `Card.with_live` hold them against what was validated, `kalshilab.edge.replay_gap`
against the same signal replayed on the recording of the same days.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from kalshilab.edge import ENTRIES_SCHEMA
from kalshilab.errors import SessionError
from kalshilab.market.model import outcome_price
from kalshilab.tape import MARKETS_SCHEMA, to_markets
from kalshilab.trade.events import Fired, client_order_id
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.report import Report
from kalshilab.units import PRICE

__all__ = ["paper_entries"]


def paper_entries(
    runs: Report | str | Path | Iterable[Report | str | Path],
    markets: Any = None,
    *,
    per_market: int | None = 1,
    exclusive: bool = False,
) -> pl.DataFrame:
    """The fires of sessions as entries, with what was paid for them on paper.

    Args:
        runs: reports, or the folders of finished runs; in any order.
        markets: the markets as they are known today (`kl.to_markets`, a lake's `markets`): what had not settled when
            its run ended settles by it.  What it does not list is taken from the runs.
        per_market: the first so many fires of each market, as in a validation; None: all, re-entries too.
        exclusive: whether at most one market of each event settles YES.

    Returns:
        `kalshilab.edge.ENTRIES_SCHEMA`, in the order of time.  `fire` counts them from 0; `mid` is null, because a
        session does not write it down.  A market whose result is known and whose settlement is not counts as open.

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
        SessionError: a folder without a finished run; no run at all.
        TapeError: these are no markets.
    """
    if isinstance(runs, Report | str | Path):
        runs = [runs]
    reports = [run if isinstance(run, Report) else Report.load(run) for run in runs]
    if not reports:
        raise SessionError("no run: paper_entries takes reports, or the folders of finished runs")
    facts = _facts(reports, None if markets is None else to_markets(markets))
    rows = [row for report in reports for row in _rows(report)]
    frame = pl.DataFrame(rows, _ROW, orient="row").sort("ts", maintain_order=True)
    if per_market is not None:
        frame = frame.filter(pl.int_range(pl.len()).over("ticker") < per_market)
    no = pl.col("side") == "no"
    settled = pl.col("settlement").is_not_null() & pl.col("settled_ts").is_not_null()
    dollars = pl.when(settled).then(pl.col("settlement").cast(pl.Float64) / PRICE)
    cost = pl.col("price") + pl.col("fee")
    value = pl.when(no).then(1 - dollars).otherwise(dollars)
    found = (
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
    return found.select(pl.col(name).cast(dtype) for name, dtype in ENTRIES_SCHEMA.items())


_ROW: dict[str, Any] = {
    "ts": pl.Datetime("us", "UTC"),
    "ticker": pl.String,
    "side": pl.String,
    "fired_at": pl.Float64,
    "entry_ts": pl.Datetime("us", "UTC"),
    "price": pl.Float64,
    "fee": pl.Float64,
}


def _facts(reports: list[Report], markets: pl.DataFrame | None) -> pl.DataFrame:
    """What is known of the markets: today's table first, then the latest run's."""
    tables = [] if markets is None else [markets.select(MARKETS_SCHEMA.names())]
    latest = sorted(reports, key=lambda r: r.run_id, reverse=True)
    whole = pl.concat([*tables, *(report.markets for report in latest)])
    return whole.unique("ticker", keep="first", maintain_order=True).select(
        "ticker", "event", "series", "category", "settlement", "settled_ts"
    )


def _rows(report: Report) -> list[tuple[Any, ...]]:
    """A run's fires: when, where, which side, at what price; and when, at what price and fee they were filled."""
    with Journal.open(report.journal) as journal:
        fires: list[Fired] = journal.values("fire")
    bought = {
        row["client_order_id"]: row
        for row in report.fills.join(report.orders.select("order_id", "client_order_id"), on="order_id")
        .group_by("client_order_id")
        .agg(
            pl.col("ts").min(),
            (pl.col("cost").sum() / pl.col("size").sum()).alias("price"),
            (pl.col("fee").sum() / pl.col("size").sum()).alias("fee"),
        )
        .iter_rows(named=True)
    }
    none = {"ts": None, "price": None, "fee": None}
    found = []
    for fire in fires:
        own = bought.get(client_order_id(report.run_id, fire), none)
        fired_at = outcome_price(fire.price, fire.side) / PRICE
        found.append((fire.ts, fire.ticker, fire.side, fired_at, own["ts"], own["price"], own["fee"]))
    return found
