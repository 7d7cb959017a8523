"""The tables of a report: as a run folder stores them, and in the units in which people read them.

A stored table holds prices as YES prices and keeps a signal's own integer units; its layout is a file format and does
not change.  `readable` converts a stored table to the convention of `Report`: prices in cents of the outcome bought,
money in dollars, sizes in contracts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import polars as pl

from kalshilab.market.model import Fill, Market, Order, Settlement
from kalshilab.tape.schema import MARKETS_SCHEMA, TAKER
from kalshilab.trade.events import Decision, Fired, Transition
from kalshilab.trade.status import PositionRow
from kalshilab.units import MONEY, PRICE, SIZE

__all__ = ["FRAMES", "Dtype", "readable", "stored_tables"]

Dtype: TypeAlias = "pl.DataType | type[pl.DataType]"
Row: TypeAlias = Mapping[str, object]

_TS: Final = pl.Datetime("us", "UTC")
CENT: Final = PRICE // 100
"""Price units in a cent."""

FRAMES = (
    "signals", "decisions", "orders", "fills", "settlements", "positions", "transitions", "equity", "markets",
)  # fmt: skip
"""The frames of a report, each a property and a Parquet file of the run's folder."""

_SCHEMAS: Final[Mapping[str, Mapping[str, Dtype]]] = {
    "signals": {
        "row": pl.UInt64,
        "ts": _TS,
        "ticker": pl.String,
        "side": TAKER,
        "price": pl.Int16,
        "n_trades": pl.UInt32,
    },
    "decisions": {
        "ts": _TS,
        "ticker": pl.String,
        "action": pl.String,
        "reason": pl.String,
        "side": pl.String,
        "price": pl.Float64,
        "size": pl.Float64,
        "yes_ratio": pl.Float64,
        "drop": pl.Float64,
        "client_order_id": pl.String,
        "order_id": pl.String,
        "strategy": pl.String,
    },
    "orders": {
        "created": _TS,
        "updated": _TS,
        "ticker": pl.String,
        "side": pl.String,
        "outcome": pl.String,
        "price": pl.Float64,
        "status": pl.String,
        "initial": pl.Float64,
        "filled": pl.Float64,
        "remaining": pl.Float64,
        "fees": pl.Float64,
        "reason": pl.String,
        "client_order_id": pl.String,
        "order_id": pl.String,
    },
    "fills": {
        "ts": _TS,
        "ticker": pl.String,
        "outcome": pl.String,
        "price": pl.Float64,
        "size": pl.Float64,
        "cost": pl.Float64,
        "fee": pl.Float64,
        "is_taker": pl.Boolean,
        "order_id": pl.String,
        "trade_id": pl.String,
    },
    "settlements": {
        "ts": _TS,
        "ticker": pl.String,
        "event": pl.String,
        "result": pl.String,
        "settlement": pl.Float64,
        "yes_size": pl.Float64,
        "no_size": pl.Float64,
        "cost": pl.Float64,
        "revenue": pl.Float64,
        "fees": pl.Float64,
        "pnl": pl.Float64,
    },
    "positions": {
        "ticker": pl.String,
        "outcome": pl.String,
        "size": pl.Float64,
        "cost": pl.Float64,
        "value": pl.Float64,
        "pnl": pl.Float64,
        "close": _TS,
    },
    "transitions": {
        "ts": _TS,
        "wall": _TS,
        "source": pl.String,
        "target": pl.String,
        "reason": pl.String,
    },
    "equity": {"ts": _TS, "cash": pl.Float64, "portfolio_value": pl.Float64, "equity": pl.Float64},
    "markets": MARKETS_SCHEMA,
}

_SIGNAL_DTYPES: Final[Mapping[str, Dtype]] = {
    "yes_ratio": pl.Float64,
    "drop": pl.Int16,
    "first_price": pl.Int16,
}
"""Types of a signal's own fields where the signal does not declare them."""


class StoredValues(Protocol):
    """The part of a journal from which tables are made."""

    def values(self, kind: str) -> list[Any]:
        """Return the values of one kind, in the order of writing."""
        ...


def stored_tables(
    journal: StoredValues,
    *,
    positions: Sequence[PositionRow],
    equity: Sequence[tuple[int, int, int]],
    markets: Iterable[Market],
    columns: Mapping[str, Dtype],
) -> dict[str, pl.DataFrame]:
    """Return the tables of a finished run, as its folder stores them.

    Args:
        journal: the run's journal.
        positions: the open positions at the end.
        equity: samples `(ts, cash, value)`, in microseconds and money units.
        markets: the markets that the session followed.
        columns: the types of the signal's own columns; the others are inferred from the values.
    """
    latest: dict[str, Order] = {o.order_id: o for o in journal.values("order")}
    # A settlement that pays for a fill that was found late has one entry for each payout.
    paid: dict[object, Settlement] = {(s.ticker, s.ts): s for s in journal.values("settlement")}
    rows: dict[str, Iterable[Row]] = {
        "signals": map(_signal, journal.values("fire")),
        "decisions": map(_decision, journal.values("decision")),
        "orders": map(_order, latest.values()),
        "fills": map(_fill, journal.values("fill")),
        "settlements": map(_settlement, paid.values()),
        "positions": map(_position, positions),
        "transitions": map(_transition, journal.values("transition")),
        "equity": (
            {"ts": ts, "cash": cash / MONEY, "portfolio_value": v / MONEY, "equity": (cash + v) / MONEY}
            for ts, cash, v in equity
        ),
        "markets": map(_market, markets),
    }
    return {name: _table(name, list(rows[name]), columns) for name in FRAMES}


def _table(name: str, rows: Sequence[Row], columns: Mapping[str, Dtype]) -> pl.DataFrame:
    schema = dict(_SCHEMAS[name])
    if name == "signals":
        # A signal's own fields follow the common columns, even if it never fired.
        schema |= columns
        undeclared = dict.fromkeys(k for row in rows for k in row if k not in schema)
        inferred = pl.DataFrame(
            [{k: row.get(k) for k in undeclared} for row in rows], infer_schema_length=None
        )
        schema |= {k: _SIGNAL_DTYPES.get(k, inferred.schema[k]) for k in undeclared}
    return pl.DataFrame(list(rows), schema=schema)


def _signal(f: Fired) -> Row:
    values = msgspec.structs.asdict(f)
    own: dict[str, object] = values.pop("own")
    # A session with one strategy does not name it, so that its fires equal those of research.
    strategy = values.pop("strategy")
    return values | own | ({"strategy": strategy} if strategy else {})


def _decision(d: Decision) -> Row:
    return msgspec.structs.asdict(d) | {
        "price": d.price / CENT,
        "size": d.size / SIZE,
        "drop": None if d.drop is None else d.drop / CENT,
    }


def _order(o: Order) -> Row:
    return {
        "created": o.created_ts,
        "updated": o.updated_ts,
        "ticker": o.ticker,
        "side": o.side,
        "outcome": o.outcome,
        "price": o.price / CENT,
        "status": o.status,
        "initial": o.initial / SIZE,
        "filled": o.filled / SIZE,
        "remaining": o.remaining / SIZE,
        "fees": o.fees / MONEY,
        "reason": o.reason,
        "client_order_id": o.client_order_id,
        "order_id": o.order_id,
    }


def _fill(f: Fill) -> Row:
    paid = f.price if f.side == "bid" else PRICE - f.price
    return {
        "ts": f.ts,
        "ticker": f.ticker,
        "outcome": f.outcome,
        "price": f.price / CENT,
        "size": f.size / SIZE,
        "cost": paid * f.size / MONEY,
        "fee": f.fee / MONEY,
        "is_taker": f.is_taker,
        "order_id": f.order_id,
        "trade_id": f.trade_id,
    }


def _settlement(s: Settlement) -> Row:
    return {
        "ts": s.ts,
        "ticker": s.ticker,
        "event": s.event,
        "result": s.result,
        "settlement": s.settlement / CENT,
        "yes_size": s.yes_size / SIZE,
        "no_size": s.no_size / SIZE,
        "cost": (s.yes_cost + s.no_cost) / MONEY,
        "revenue": s.revenue / MONEY,
        "fees": s.fees / MONEY,
        "pnl": s.pnl / MONEY,
    }


def _position(p: PositionRow) -> Row:
    return {
        "ticker": p.ticker,
        "outcome": p.outcome,
        "size": p.size / SIZE,
        "cost": p.cost / MONEY,
        "value": p.value / MONEY,
        "pnl": p.pnl / MONEY,
        "close": p.close_ts or None,
    }


def _market(m: Market) -> Row:
    # A Market holds 0 or "" for an unknown value; a table holds null.
    row = {name: getattr(m, name, None) for name in MARKETS_SCHEMA}
    optional = ("open_ts", "close_ts", "expected_close_ts", "settled_ts", "result", "price_structure")
    return row | {name: row[name] or None for name in optional}


def _transition(t: Transition) -> Row:
    return msgspec.structs.asdict(t)


# In the units of readers

_DIFFERENCES: Final = ("drop", "move")
"""Columns of the built-in signals that hold a difference of YES prices, in price units."""


def readable(name: str, stored: pl.DataFrame) -> pl.DataFrame:
    """Return a stored table in the units of `Report`.

    Args:
        name: one of `FRAMES`.
        stored: the table as a run folder holds it.

    >>> fills = pl.DataFrame({"outcome": ["no", "yes"], "price": [60.0, 60.0]})
    >>> readable("fills", fills)["price"].to_list()
    [40.0, 60.0]
    """
    match name:
        case "signals":
            return _readable_signals(stored)
        case "decisions":
            return _readable_decisions(stored)
        case "orders" | "fills":
            return stored.with_columns(_of_outcome("price", "outcome", 100))
        case "settlements":
            return _readable_settlements(stored)
        case _:
            return stored


def _of_outcome(price: str, outcome: str, dollar: int) -> pl.Expr:
    """Return a YES price column as the price of the outcome that another column names; null where it is null.

    Args:
        price: the column of YES prices.
        outcome: the column of outcomes, "yes" or "no".
        dollar: a dollar in the unit of `price`: 100 for cents, 10,000 for price units.
    """
    bought = pl.col(outcome).cast(pl.String)
    yes_price = pl.col(price).cast(pl.Float64)
    return pl.when(bought == "yes").then(yes_price).when(bought == "no").then(dollar - yes_price).alias(price)


def _readable_signals(stored: pl.DataFrame) -> pl.DataFrame:
    """Return signals in cents and dollars; a signal's own columns of other names or types are unchanged."""
    schema = stored.schema
    prices = [c for c in ("price", "first_price") if c in schema and schema[c].is_integer()]
    differences = [c for c in _DIFFERENCES if c in schema and schema[c].is_integer()]
    money = [c for c in ("value",) if c in schema and schema[c].is_integer()]
    return stored.with_columns(
        *(_of_outcome(c, "side", PRICE) / CENT for c in prices),
        *(pl.col(c) / CENT for c in differences),
        *(pl.col(c) / MONEY for c in money),
    )


def _readable_decisions(stored: pl.DataFrame) -> pl.DataFrame:
    """Return decisions with the outcome of the order; without an order, outcome, price and size are null."""
    outcome = (
        pl.when(pl.col("side") == "bid").then(pl.lit("yes")).when(pl.col("side") == "ask").then(pl.lit("no"))
    )
    named = stored.with_columns(outcome.alias("outcome"))
    return named.select(
        "ts", "ticker", "action", "reason", "side", "outcome", _of_outcome("price", "outcome", 100),
        pl.when(pl.col("outcome").is_not_null()).then("size").alias("size"),
        pl.exclude("ts", "ticker", "action", "reason", "side", "outcome", "price", "size"),
    )  # fmt: skip


def _readable_settlements(stored: pl.DataFrame) -> pl.DataFrame:
    """Return settlements with the outcome held; the exchange nets positions, so only one side has contracts."""
    outcome = (
        pl.when(pl.col("yes_size") > pl.col("no_size"))
        .then(pl.lit("yes"))
        .when(pl.col("no_size") > 0)
        .then(pl.lit("no"))
    )
    named = stored.with_columns(outcome.alias("outcome"))
    return named.select(
        "ts", "ticker", "event", "result", "outcome", _of_outcome("settlement", "outcome", 100),
        pl.exclude("ts", "ticker", "event", "result", "outcome", "settlement"),
    )  # fmt: skip
