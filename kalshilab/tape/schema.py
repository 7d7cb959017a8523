"""The two tables everything else reads: the tape and the markets.

A **tape** is one row a public print, in the order of exchange time; rows with one time keep the order in
which the exchange gave them.

========== ================= =====================================================
column     dtype             meaning
========== ================= =====================================================
ts         Datetime[us, UTC] exchange time
ticker     String            market
market     UInt32            dense code of the ticker: 0, 1, … in order of first print
price      Int16             YES price, 1/10,000 dollar
size       UInt32            1/100 contract
taker      Enum[yes, no]     outcome the taker bought
trade_id   String            where known, else null
========== ================= =====================================================

**Markets** are one row a market.  `settlement` is what one YES contract paid (Int16, 1/10,000 dollar), null
while undetermined; `result` is "yes", "no", "scalar" or null.  `expected_close_ts` is what was announced,
`close_ts` what came to be; both may be null where the source does not say.
"""

from __future__ import annotations

from typing import Any, Final

import polars as pl

from kalshilab.errors import TapeError
from kalshilab.units import PRICE

__all__ = ["MARKETS_SCHEMA", "TAKER", "TAPE_SCHEMA", "TIME", "check_markets", "check_tape", "with_codes"]

TIME: Final = pl.Datetime("us", "UTC")
TAKER: Final = pl.Enum(["yes", "no"])

_TAPE: Final[dict[str, Any]] = {
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

_MARKETS: Final[dict[str, Any]] = {
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
    """The frame with `market`: each ticker's dense code, in order of first appearance."""
    codes = frame.select(pl.col("ticker").unique(maintain_order=True)).with_row_index("market")
    joined = frame.drop("market", strict=False).join(codes, on="ticker", how="left", maintain_order="left")
    return joined.with_columns(pl.col("market").cast(pl.UInt32))


def first_bad(frame: pl.DataFrame, bad: pl.Expr, column: str, reason: str, value: str | None = None) -> None:
    """Raise for the first row where `bad` is true; `row` in the error is its position in `frame`, or what the
    column `_row` says.
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


def _is_frame(thing: Any, what: str) -> None:
    if not isinstance(thing, pl.DataFrame):
        module = type(thing).__module__.partition(".")[0]
        raise TapeError(
            f"{module}.{type(thing).__name__} is no polars DataFrame; kalshilab.to_{what} makes one of it"
        )


def check_tape(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame itself, if it is a tape.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> check_tape(tape) is tape
    True
    >>> check_tape(tape.reverse())
    Traceback (most recent call last):
    ...
    kalshilab.errors.TapeError: column 'ts', first bad row 1 (...): goes back in time; sort by ts or use kalshilab.to_tape

    Raises:
        TapeError: not a polars frame; a column is missing or of another dtype; a null where none may be; a price
            outside 0 to 10,000; no size; times that go back; a market code that is not one ticker's own.
    """
    _is_frame(frame, "tape")
    for name, dtype in TAPE_SCHEMA.items():
        if name not in frame.columns:
            raise TapeError("is missing; kalshilab.to_tape makes a tape of other layouts", column=name)
        have = frame.schema[name]
        if have != dtype and not (name == "ticker" and isinstance(have, pl.Categorical | pl.Enum)):
            raise TapeError(f"is {have}, not {dtype}; kalshilab.to_tape converts it", column=name)
    for name in ("ts", "ticker", "market", "price", "size", "taker"):
        if frame[name].null_count():
            first_bad(frame, pl.col(name).is_null(), name, "is null")
    if frame.height:
        first_bad(frame, ~pl.col("price").is_between(0, PRICE), "price", "is outside 0 to 10,000 price units")
        first_bad(frame, pl.col("size") == 0, "size", "is zero")
        first_bad(
            frame,
            pl.col("ts") < pl.col("ts").shift(1),
            "ts",
            "goes back in time; sort by ts or use kalshilab.to_tape",
        )
        pairs = frame.select("market", pl.col("ticker").cast(pl.String)).unique()
        if pairs["market"].n_unique() != pairs.height or pairs["ticker"].n_unique() != pairs.height:
            raise TapeError(
                "does not stand for one ticker each; kalshilab.to_tape assigns codes", column="market"
            )
    return frame


def check_markets(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame itself, if it is a markets table.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> check_markets(markets) is markets
    True

    Raises:
        TapeError: not a polars frame; a column is missing or of another dtype; a ticker is null or stands twice; an
            event is null; a settlement that does not fit the result; a fee below nothing.
    """
    _is_frame(frame, "markets")
    for name, dtype in MARKETS_SCHEMA.items():
        if name not in frame.columns:
            raise TapeError("is missing; kalshilab.to_markets makes a table of other layouts", column=name)
        if frame.schema[name] != dtype:
            raise TapeError(
                f"is {frame.schema[name]}, not {dtype}; kalshilab.to_markets converts it", column=name
            )
    first_bad(frame, pl.col("ticker").is_null(), "ticker", "is null")
    first_bad(frame, pl.col("ticker").is_duplicated(), "ticker", "stands in more than one row")
    first_bad(frame, pl.col("event").is_null(), "event", "is null; pass event= to kalshilab.to_markets")
    fee = pl.col("fee_multiplier")
    first_bad(frame, ~fee.is_finite() | (fee < 0), "fee_multiplier", "is no number from 0 on")
    result, value = pl.col("result"), pl.col("settlement")
    first_bad(
        frame,
        result.is_not_null() & ~result.is_in(["yes", "no", "scalar"]),
        "result",
        "is not yes, no or scalar",
    )
    unfit = (
        ((result == "yes") & (value != PRICE))
        | ((result == "no") & (value != 0))
        | (result.is_not_null() & value.is_null())
        | (value.is_not_null() & ~value.is_between(0, PRICE))
    )
    first_bad(
        frame,
        unfit.fill_null(False),
        "settlement",
        "does not fit the result (10,000 for yes, 0 for no, what YES paid for scalar)",
    )
    return frame
