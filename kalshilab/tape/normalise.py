"""Convert trades and markets from every supported layout, exactly.

Layouts of trades, recognised by their columns:

* **the current REST and WebSocket format**: `yes_price_dollars` "0.4300", `count_fp` "7.50", `taker_outcome_side`
  (or `taker_side`), `created_time` RFC 3339 (or `ts_ms`, `ts`);
* **the format of January 2026 and the public archives**: `yes_price` in cents (integer or float), `count`,
  `taker_side`, `created_time` as text, datetime or epoch;
* **a tape**: `ts`, `price`, `size`, `taker`.

Treatment of bad rows:

===================================== ===========================================================
a missing column                      TapeError that names it
null ticker, time, price or size      TapeError with the first bad row
price outside 0 to 1 dollar           TapeError with the first bad row
YES and NO price not a dollar         TapeError with the first bad row (a cent of rounding is allowed)
price or size finer than the unit     TapeError with the first bad row: nothing is rounded
size zero or below                    TapeError with the first bad row
taker side neither yes nor no         dropped and counted
a repeated trade_id                   dropped and counted; "" means unknown
times out of order                    sorted, keeping the order within one time; counted
each market newest first              reversed first: the exchange lists trades in this order
===================================== ===========================================================

Dropped and moved rows are reported in a `DroppedRows` warning and in the `NormalisationReport`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, cast, overload

import msgspec
import polars as pl

from kalshilab.errors import TapeError
from kalshilab.tape.schema import (
    MARKETS_SCHEMA,
    TAKER,
    TAPE_SCHEMA,
    TIME,
    check_markets,
    first_bad,
    with_codes,
)
from kalshilab.units import PRICE

__all__ = ["TRADE_COLUMNS", "DroppedRows", "NormalisationReport", "to_markets", "to_tape"]


class DroppedRows(UserWarning):
    """A warning that rows were dropped or moved; its text counts them by kind."""


class NormalisationReport(msgspec.Struct, frozen=True):
    """Row counts of a conversion.

    Attributes:
        rows: rows given.
        kept: rows of the tape.
        unknown_taker: rows dropped because their taker side is unknown.
        duplicates: rows dropped because their trade id is repeated.
        out_of_order: rows that were earlier than the row before; all rows were sorted.
    """

    rows: int
    kept: int
    unknown_taker: int
    duplicates: int
    out_of_order: int

    def __str__(self) -> str:
        return (
            f"{self.kept:,} of {self.rows:,} rows kept: {self.unknown_taker:,} without a taker side and "
            f"{self.duplicates:,} with a repeated trade id dropped, {self.out_of_order:,} moved into time order"
        )


TRADE_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "ts": ("ts", "created_time", "ts_ms", "time", "timestamp"),
    "ticker": ("ticker", "market_ticker"),
    "price": ("yes_price_dollars", "yes_price", "price"),
    "size": ("count_fp", "count", "size"),
    "taker": ("taker", "taker_outcome_side", "taker_side"),
    "trade_id": ("trade_id", "id"),
}
"""For each column of a tape its names in the supported layouts, in order of preference."""


def to_polars(data: object) -> pl.DataFrame:
    """Convert a table to an eager polars frame.

    Args:
        data: a polars or pandas frame, a lazy frame, or a list of mappings or of the exchange's REST objects.

    Raises:
        TapeError: the argument is of another type, or pandas columns mix types.
    """
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if type(data).__module__.partition(".")[0] == "pandas":
        try:
            frame = pl.from_pandas(cast(Any, data))
        except (ValueError, TypeError) as error:
            # pyarrow raises these, for a column of mixed types or a repeated column name.
            raise TapeError(f"cannot read the pandas frame: {error}") from None
        if isinstance(frame, pl.DataFrame):
            return frame
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        rows = [msgspec.to_builtins(r) if isinstance(r, msgspec.Struct) else r for r in data]
        if all(isinstance(r, Mapping) for r in rows):
            return pl.DataFrame(rows, infer_schema_length=None)
    raise TapeError(
        f"data must be a polars or pandas frame, a lazy frame or a list of REST objects, got {type(data).__name__}"
    )


def _pick(frame: pl.DataFrame, column: str, meaning: str) -> str:
    """Return the first name of a tape's column that the frame has."""
    names = TRADE_COLUMNS[column]
    for name in names:
        if name in frame.columns:
            return name
    columns = ", ".join(name for name in frame.columns if not name.startswith("_")) or "no columns"
    raise TapeError(
        f"data must have {meaning} in a column named {', '.join(names[:-1])} or {names[-1]}, got {columns}",
        column=names[0],
    )


def _no_nulls(frame: pl.DataFrame, name: str) -> None:
    if frame[name].null_count():
        first_bad(frame, pl.col(name).is_null(), name, "must not be null")


def _instants(frame: pl.DataFrame, name: str) -> pl.Expr:
    """Return an expression for a column's times, in UTC; null where the column cannot be read as a time."""
    dtype, column = frame.schema[name], pl.col(name)
    if isinstance(dtype, pl.Datetime):
        # Naive times are UTC: the exchange uses no other time zone.
        return column.dt.replace_time_zone("UTC").cast(TIME) if dtype.time_zone is None else column.cast(TIME)
    if dtype.is_numeric():
        # Seconds, milliseconds, microseconds or nanoseconds since 1970, recognised by magnitude: the ranges do not
        # overlap between 1971 and 2500.
        if dtype.is_float():
            column = pl.when(column.is_finite()).then(column)
        scale = pl.when(column < 20_000_000_000).then(1_000_000).when(column < 20_000_000_000_000).then(1_000)
        scaled = (
            (column.cast(pl.Float64) * scale.otherwise(1)).round()
            if dtype.is_float()
            else column.cast(pl.Int64) * scale.otherwise(1)
        )
        micro = (
            pl.when(column >= 20_000_000_000_000_000).then(column.cast(pl.Int64) // 1000).otherwise(scaled)
        )
        return micro.cast(pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if dtype == pl.String:
        text = column.str.replace(" ", "T", literal=True)
        naive = text.str.to_datetime(
            "%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False
        ).dt.replace_time_zone("UTC")
        return pl.coalesce(rfc3339(text), naive)
    raise TapeError(f"must be a time, got {dtype}", column=name)


def rfc3339(text: pl.Expr) -> pl.Expr:
    """Return an expression for RFC 3339 texts as times in UTC; null where the text is malformed or has no offset."""
    return text.str.replace(r"Z$", "+00:00").str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False
    )


def _scaled(frame: pl.DataFrame, name: str, scale: int, finest: str) -> pl.DataFrame:
    """Add `_value`: the column times `scale`, as an integer.

    Args:
        frame: the rows.
        name: the column.
        scale: units of the result in one unit of the column.
        finest: the unit of the result, for errors.

    Raises:
        TapeError: a value is not a number, or is not a whole number of units.
    """
    dtype, column = frame.schema[name], pl.col(name)
    if dtype == pl.String:
        number = column.str.strip_chars().cast(pl.Decimal(38, 10), strict=False)
    elif dtype.is_integer():
        return frame.with_columns((column.cast(pl.Int64) * scale).alias("_value"))
    elif dtype.is_decimal():
        number = column.cast(pl.Decimal(38, 10), strict=False)
    elif dtype.is_float():
        # A float represents the nearest decimal, of at most twelve digits.
        exact = column * scale
        frame = frame.with_columns(
            exact.round().alias("_value"), ((exact - exact.round()).abs() > 1e-6).alias("_fine")
        )
        first_bad(frame, column.is_nan() | column.is_infinite(), name, "must be a finite number")
        first_bad(frame, pl.col("_fine"), name, f"must be a multiple of {finest}")
        return frame.with_columns(pl.col("_value").cast(pl.Int64)).drop("_fine")
    else:
        raise TapeError(f"must be a number, got {dtype}", column=name)
    frame = frame.with_columns((number * scale).alias("_value"))
    first_bad(frame, pl.col("_value").is_null(), name, "must be a decimal number")
    whole = pl.col("_value").cast(pl.Int64)
    first_bad(
        frame, pl.col("_value") != whole.cast(pl.Decimal(38, 10)), name, f"must be a multiple of {finest}"
    )
    return frame.with_columns(whole)


@overload
def to_tape(data: object, *, price_unit: Literal["cents", "dollars"] | None = None) -> pl.DataFrame: ...
@overload
def to_tape(
    data: object, *, price_unit: Literal["cents", "dollars"] | None = None, report: Literal[True]
) -> tuple[pl.DataFrame, NormalisationReport]: ...


def to_tape(
    data: object, *, price_unit: Literal["cents", "dollars"] | None = None, report: bool = False
) -> pl.DataFrame | tuple[pl.DataFrame, NormalisationReport]:
    """Convert trades in any layout of this module's docstring to a tape.

    Args:
        data: a polars or pandas frame, a lazy frame, or a list of REST objects (dicts or structs).
        price_unit: the unit of plain numbers in a `yes_price` or `price` column.  The default is cents, but a column
            of fractions between 0 and 1 is ambiguous and needs this argument.
        report: also return a `NormalisationReport`.

    >>> to_tape([{"ticker": "A-B-1", "yes_price": 43, "count": 2, "taker_side": "yes",
    ...           "created_time": "2026-01-05T12:00:00Z"}]).select("price", "size").rows()
    [(4300, 200)]

    Raises:
        TapeError: see the table in the module's docstring; `column` and `row` locate the error.
    """
    if price_unit not in (None, "cents", "dollars"):
        raise TapeError(f"price_unit must be 'cents' or 'dollars', got {price_unit!r}")
    frame = to_polars(data)
    if frame.schema == TAPE_SCHEMA:
        frame = frame.drop("market")
    rows = frame.height
    frame = frame.with_row_index("_row")
    ticker = _pick(frame, "ticker", "the market")
    time = _pick(frame, "ts", "the time of the trade")
    taker = _pick(frame, "taker", "the side that the taker bought")
    for name in (ticker, time):
        _no_nulls(frame, name)
    frame = _prices(frame, price_unit)
    frame = _sizes(frame)
    frame = frame.with_columns(_instants(frame, time).alias("_ts"))
    first_bad(frame, pl.col("_ts").is_null(), time, "must be a time")
    ids = [name for name in TRADE_COLUMNS["trade_id"] if name in frame.columns]
    trade_id = pl.col(ids[0]).cast(pl.String).replace("", None) if ids else pl.lit(None, pl.String)
    side = pl.col(taker).cast(pl.String).str.strip_chars().str.to_lowercase()
    tape = frame.select(
        pl.col("_ts").alias("ts"),
        pl.col(ticker).cast(pl.String).alias("ticker"),
        pl.col("_price").cast(pl.Int16).alias("price"),
        pl.col("_size").cast(pl.UInt32).alias("size"),
        pl.when(side.is_in(["yes", "no"])).then(side).cast(TAKER).alias("taker"),
        trade_id.alias("trade_id"),
    )
    unknown = tape["taker"].null_count()
    if unknown:
        tape = tape.filter(pl.col("taker").is_not_null())
    before = tape.height
    if ids:
        repeated = pl.col("trade_id").is_not_null() & ~pl.col("trade_id").is_first_distinct()
        tape = tape.filter(~repeated)
    moved = int((tape["ts"].diff().dt.total_microseconds() < 0).sum()) if tape.height else 0
    if moved:
        tape = (tape.reverse() if _newest_first(tape) else tape).sort("ts", maintain_order=True)
    counts = NormalisationReport(rows, tape.height, unknown, before - tape.height, moved)
    tape = with_codes(tape).select(TAPE_SCHEMA.names())
    if counts.kept < rows or moved:
        warnings.warn(str(counts), DroppedRows, stacklevel=2)
    return (tape, counts) if report else tape


def _newest_first(tape: pl.DataFrame) -> bool:
    """Return whether every market's times descend from row to row, and some do so strictly.

    Then prints of one time are in reverse order too, and a sweep's last print would be taken for its first.
    """
    step = pl.col("ts").diff().over("ticker").dt.total_microseconds()
    down, up = tape.select((step < 0).any().alias("down"), (step > 0).any().alias("up")).row(0)
    return bool(down and not up)


def _prices(frame: pl.DataFrame, unit: str | None) -> pl.DataFrame:
    """Add `_price`, the YES price in price units."""
    rule = "must be 0 to 1 dollar"
    if "yes_price_dollars" in frame.columns:
        name, scale = "yes_price_dollars", PRICE
    elif _in_tape_units(frame):
        name, scale = "price", 1
    else:
        name = _pick(frame, "price", "the YES price")
        _no_nulls(frame, name)
        if unit is None and frame.height and not frame.schema[name].is_integer():
            # Texts and decimals are as ambiguous as floats, unless "dollars" is in the name of the column.
            number = pl.col(name).cast(pl.Float64, strict=False)
            low, high = frame.select(number.min().alias("low"), number.max().alias("high")).row(0)
            if high is not None and high <= 1 and low < 1:
                raise TapeError(
                    "may be dollars or cents: all values are at most 1; pass price_unit='dollars' or 'cents' (--price-unit)",
                    column=name,
                )
        scale = PRICE if unit == "dollars" else PRICE // 100
        if name == "price" and unit is None:
            rule += ", read as cents (in a tape, price is Int16 and size UInt32)"
    _no_nulls(frame, name)
    frame = _scaled(frame, name, scale, "1/10,000 dollar")
    first_bad(frame, ~pl.col("_value").is_between(0, PRICE), name, rule)
    frame = frame.rename({"_value": "_price"})
    other = name.replace("yes_", "no_")
    if other != name and other in frame.columns and frame.schema[other] != pl.Null:
        both = _scaled(frame.filter(pl.col(other).is_not_null()), other, scale, "1/10,000 dollar")
        apart = (pl.col("_price") + pl.col("_value") - PRICE).abs() > PRICE // 100
        first_bad(both, apart, other, f"must add up to 1 dollar with {name}")
    return frame


def _in_tape_units(frame: pl.DataFrame) -> bool:
    """Return whether price and size both have a tape's dtype; one alone may be a coincidence."""
    return frame.schema.get("price") == pl.Int16 and frame.schema.get("size") == pl.UInt32


def _sizes(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `_size` in size units."""
    if _in_tape_units(frame):
        name, scale = "size", 1
    else:
        name, scale = _pick(frame, "size", "the number of contracts"), 100
    _no_nulls(frame, name)
    frame = _scaled(frame, name, scale, "1/100 contract")
    first_bad(frame, pl.col("_value") <= 0, name, "must be above 0")
    first_bad(frame, pl.col("_value") >= 2**32, name, "must be below 42,949,672.96 contracts")
    return frame.rename({"_value": "_size"})


_MARKET_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "ticker": ("ticker", "market_ticker"),
    "event": ("event", "event_ticker"),
    "series": ("series", "series_ticker"),
    "category": ("category",),
    "title": ("title",),
    "open_ts": ("open_ts", "open_time"),
    "close_ts": ("close_ts", "close_time"),
    "expected_close_ts": ("expected_close_ts", "expected_expiration_time"),
    "result": ("result", "market_result"),
    "settlement": ("settlement", "settlement_value_dollars", "settlement_value"),
    "settled_ts": ("settled_ts", "settlement_ts", "settled_time"),
    "fee_multiplier": ("fee_multiplier",),
    "fee_type": ("fee_type",),
    "price_structure": ("price_structure", "price_level_structure"),
}


def to_markets(
    data: object, *, result_column: str | None = None, event: str | pl.Expr | None = None
) -> pl.DataFrame:
    """Convert market objects, or a table with the exchange's or the archives' column names, to a markets table.

    A result of "" becomes null; "void" and others are errors, because their payout is unknown.  `settlement` is
    10,000 for "yes" and 0 for "no"; a "scalar" result needs its settlement value.

    Args:
        data: as for `to_tape`.
        result_column: take the result from this column instead of `result`.
        event: the column, or an expression, of each market's event if the data lack it.

    >>> to_markets([{"ticker": "A-B-1", "event_ticker": "A-B", "result": "yes"}]).select(
    ...     "event", "series", "settlement").rows()
    [('A-B', 'A', 10000)]

    Raises:
        TapeError: a market has no event, a ticker is repeated, or a result is unknown.
    """
    frame = to_polars(data)
    if event is not None:
        frame = frame.with_columns((pl.col(event) if isinstance(event, str) else event).alias("event"))
    if result_column is not None:
        if result_column not in frame.columns:
            raise TapeError(
                f"result_column must be a column of the markets, got {result_column!r}; there are "
                f"{', '.join(frame.columns)}",
                column=result_column,
            )
        frame = frame.with_columns(pl.col(result_column).alias("result"))
    frame = frame.with_row_index("_row")
    source = {
        name: next((n for n in names if n in frame.columns), None) for name, names in _MARKET_NAMES.items()
    }
    if source["ticker"] is None:
        raise TapeError(
            "data must have the market in a column named ticker or market_ticker", column="ticker"
        )
    if source["event"] is None:
        raise TapeError(
            "every market must have its event, because outcomes of one event depend on each other; pass event= "
            'a column or an expression, such as pl.col("ticker").str.replace(r"-[^-]*$", "")',
            column="event",
        )
    columns = [_market_column(frame, name, column) for name, column in source.items()]
    table = frame.select("_row", *columns)
    table = table.with_columns(
        pl.col("result").replace({"": None}).str.to_lowercase(),
        # The ticker of an event begins with the ticker of its series, up to the first dash.
        pl.coalesce("series", pl.col("event").str.extract(r"^([^-]+)", 1)),
        pl.col("category").fill_null(""),
        pl.col("title").fill_null(""),
        pl.col("fee_multiplier").fill_null(1.0),
        pl.col("fee_type").fill_null("quadratic"),
        pl.col("price_structure").fill_null("linear_cent"),
        # The close of an open market is the announced one.  The close of a settled market is the actual one, which
        # was unknown while it traded.
        pl.coalesce(
            "expected_close_ts", pl.when(pl.col("result").fill_null("") == "").then("close_ts")
        ).alias("expected_close_ts"),
    )
    known = pl.col("result").is_null() | pl.col("result").is_in(["yes", "no", "scalar"])
    first_bad(table, ~known, "result", "must be yes, no, scalar or empty")
    table = table.with_columns(
        pl.when(pl.col("result") == "yes")
        .then(PRICE)
        .when(pl.col("result") == "no")
        .then(0)
        .when(pl.col("result") == "scalar")
        .then("settlement")
        .cast(pl.Int16)
        .alias("settlement")
    )
    return check_markets(table.drop("_row").select(MARKETS_SCHEMA.names()))


def _market_column(frame: pl.DataFrame, name: str, column: str | None) -> pl.Expr | pl.Series:
    dtype = MARKETS_SCHEMA[name]
    if column is None or frame.schema[column] == pl.Null:
        return pl.lit(None, dtype).alias(name)
    if dtype == TIME:
        times = frame.select(
            "_row", pl.col(column).replace("", None) if frame.schema[column] == pl.String else column
        )
        times = times.with_columns(_instants(times, column).alias("_ts"))
        first_bad(times, pl.col(column).is_not_null() & pl.col("_ts").is_null(), column, "must be a time")
        return times["_ts"].rename(name)
    if name == "settlement":
        return _settlements(frame, column).rename(name)
    return pl.col(column).cast(dtype).alias(name)


def _settlements(frame: pl.DataFrame, column: str) -> pl.Series:
    """Return the payouts of YES, in price units.

    Texts and columns with "dollars" in their name are dollars.  `settlement` of a markets table is in price units, even
    if its dtype was lost.  Other numbers are cents.
    """
    dtype = frame.schema[column]
    if dtype == pl.Int16 and column == "settlement":
        return frame[column]
    filled = frame.with_columns(pl.col(column).fill_null("0" if dtype == pl.String else 0))
    if dtype == pl.String or column.endswith("_dollars"):
        scale = PRICE
    else:
        highest = float(filled.select(pl.col(column).cast(pl.Float64, strict=False).max()).item() or 0)
        in_price_units = set(MARKETS_SCHEMA.names()) <= set(frame.columns) or highest > 100
        scale = 1 if column == "settlement" and in_price_units else PRICE // 100
        if scale != 1 and highest <= 1:
            first_bad(
                filled,
                pl.col(column).is_between(0, 1, closed="none"),
                column,
                "may be dollars or cents: all values are at most 1; name the column settlement_value_dollars if dollars",
            )
    filled = _scaled(filled, column, scale, "1/10,000 dollar")
    first_bad(filled, ~pl.col("_value").is_between(0, PRICE), column, "must be 0 to 1 dollar")
    return filled["_value"].cast(pl.Int16)


# Names of version 0.1.
Report = NormalisationReport
