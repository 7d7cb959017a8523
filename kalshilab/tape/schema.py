"""Schemas of the two tables that everything else reads: the tape and the markets.

A **tape** has one row for each public print, ordered by exchange time; prints of the same time keep the exchange's
order.

========== ================= =====================================================
column     dtype             meaning
========== ================= =====================================================
ts         Datetime[us, UTC] exchange time
ticker     String            market
market     UInt32            dense code of the ticker: 0, 1, … in order of first print
price      Int16             YES price, 1/10,000 dollar
size       UInt32            1/100 contract
taker      Enum[yes, no]     outcome the taker bought
trade_id   String            null where unknown
========== ================= =====================================================

**Markets** has one row for each market.  `settlement` is the payout of one YES contract (Int16, 1/10,000 dollar), null
while undetermined; `result` is "yes", "no", "scalar" or null.  `expected_close_ts` is the announced close, `close_ts`
the actual one; both are null where the source does not give them.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from kalshilab.errors import TapeError
from kalshilab.units import PRICE

__all__ = [
    "DAY_US",
    "HOUR_US",
    "MARKETS_SCHEMA",
    "SECOND_US",
    "TAKER",
    "TAPE_SCHEMA",
    "TIME",
    "check_markets",
    "check_tape",
    "with_codes",
]

SECOND_US: Final = 1_000_000
HOUR_US: Final = 3600 * SECOND_US
DAY_US: Final = 24 * HOUR_US
"""Microseconds of a UTC day."""

TIME: Final = pl.Datetime("us", "UTC")
TAKER: Final = pl.Enum(["yes", "no"])

_TAPE: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "ts": TIME,
    "ticker": pl.String,
    "market": pl.UInt32,
    "price": pl.Int16,
    "size": pl.UInt32,
    "taker": TAKER,
    "trade_id": pl.String,
}
TAPE_SCHEMA: Final = pl.Schema(_TAPE)
"""Columns and dtypes of a tape."""

_MARKETS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "ticker": pl.String,
    "event": pl.String,
    "series": pl.String,
    "category": pl.String,
    "title": pl.String,
    "open_ts": TIME,
    "close_ts": TIME,
    "expected_close_ts": TIME,
    "result": pl.String,
    "settlement": pl.Int16,
    "settled_ts": TIME,
    "fee_multiplier": pl.Float64,
    "fee_type": pl.String,
    "price_structure": pl.String,
}
MARKETS_SCHEMA: Final = pl.Schema(_MARKETS)
"""Columns and dtypes of the markets table."""


def with_codes(frame: pl.DataFrame) -> pl.DataFrame:
    """Add or replace `market`: each ticker's dense code, in order of first appearance."""
    codes = frame.select(pl.col("ticker").unique(maintain_order=True)).with_row_index("market")
    joined = frame.drop("market", strict=False).join(codes, on="ticker", how="left", maintain_order="left")
    return joined.with_columns(pl.col("market").cast(pl.UInt32))


def first_bad(frame: pl.DataFrame, bad: pl.Expr, column: str, reason: str, value: str | None = None) -> None:
    """Raise `TapeError` for the first row where `bad` is true, if there is one.

    Args:
        frame: the rows; if it has a column `_row`, the error's `row` is taken from it, else from the position.
        bad: a condition.
        column: the column at fault.
        reason: the rule, as "must be ..."; the error puts column, row and value before it.
        value: the column that shows the value; by default `column`.
    """
    if "_row" not in frame.columns:
        frame = frame.with_row_index("_row")
    hit = frame.filter(bad).head(1)
    if hit.height:
        shown = value or column
        raise TapeError(
            reason,
            column=column,
            row=int(hit["_row"][0]),
            value=hit[shown][0] if shown in hit.columns else None,
        )


def _require_frame(value: object, name: str) -> None:
    if not isinstance(value, pl.DataFrame):
        module = type(value).__module__.partition(".")[0]
        raise TapeError(
            f"{name} must be a polars DataFrame, got {module}.{type(value).__name__}; kalshilab.to_{name} converts it"
        )


def check_tape(frame: pl.DataFrame) -> pl.DataFrame:
    """Validate a tape and return it unchanged.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> check_tape(tape) is tape
    True
    >>> check_tape(tape.reverse())
    Traceback (most recent call last):
    ...
    kalshilab.errors.TapeError: column 'ts', first bad row 1 (...): goes back in time; sort by ts or use kalshilab.to_tape

    Raises:
        TapeError: the argument is not a polars frame, a column is missing or of another dtype, a value is null (only
            `trade_id` may be), a price is outside 0 to 10,000, a size is zero, the times are not in order, or a market
            code does not stand for exactly one ticker.
    """
    _require_frame(frame, "tape")
    for name, dtype in TAPE_SCHEMA.items():
        if name not in frame.columns:
            raise TapeError("is missing; kalshilab.to_tape converts other layouts", column=name)
        have = frame.schema[name]
        if have != dtype and not (name == "ticker" and isinstance(have, pl.Categorical | pl.Enum)):
            raise TapeError(f"must be {dtype}, got {have}; kalshilab.to_tape converts it", column=name)
    for name in ("ts", "ticker", "market", "price", "size", "taker"):
        if frame[name].null_count():
            first_bad(frame, pl.col(name).is_null(), name, "must not be null")
    if frame.height:
        first_bad(frame, ~pl.col("price").is_between(0, PRICE), "price", "must be 0 to 10,000 price units")
        first_bad(frame, pl.col("size") == 0, "size", "must be above 0")
        first_bad(
            frame,
            pl.col("ts") < pl.col("ts").shift(1),
            "ts",
            "goes back in time; sort by ts or use kalshilab.to_tape",
        )
        pairs = frame.select("market", pl.col("ticker").cast(pl.String)).unique()
        if pairs["market"].n_unique() != pairs.height or pairs["ticker"].n_unique() != pairs.height:
            raise TapeError(
                "must have one code for each ticker; kalshilab.to_tape assigns codes", column="market"
            )
    return frame


def check_markets(frame: pl.DataFrame) -> pl.DataFrame:
    """Validate a markets table and return it unchanged.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> check_markets(markets) is markets
    True

    Raises:
        TapeError: the argument is not a polars frame, a column is missing or of another dtype, a ticker is null or
            repeated, an event is null, a settlement contradicts its result, or a fee multiplier is negative.
    """
    _require_frame(frame, "markets")
    for name, dtype in MARKETS_SCHEMA.items():
        if name not in frame.columns:
            raise TapeError("is missing; kalshilab.to_markets converts other layouts", column=name)
        if frame.schema[name] != dtype:
            raise TapeError(
                f"must be {dtype}, got {frame.schema[name]}; kalshilab.to_markets converts it", column=name
            )
    first_bad(frame, pl.col("ticker").is_null(), "ticker", "must not be null")
    first_bad(frame, pl.col("ticker").is_duplicated(), "ticker", "must be unique")
    first_bad(
        frame, pl.col("event").is_null(), "event", "must not be null; pass event= to kalshilab.to_markets"
    )
    fee = pl.col("fee_multiplier")
    first_bad(frame, ~fee.is_finite() | (fee < 0), "fee_multiplier", "must be a finite number >= 0")
    result, value = pl.col("result"), pl.col("settlement")
    first_bad(
        frame,
        result.is_not_null() & ~result.is_in(["yes", "no", "scalar"]),
        "result",
        "must be yes, no or scalar",
    )
    contradicts = (
        ((result == "yes") & (value != PRICE))
        | ((result == "no") & (value != 0))
        | (result.is_not_null() & value.is_null())
        | (value.is_not_null() & ~value.is_between(0, PRICE))
    )
    first_bad(
        frame,
        contradicts.fill_null(False),
        "settlement",
        "must match the result (10,000 for yes, 0 for no, the payout of YES for scalar)",
    )
    return frame
