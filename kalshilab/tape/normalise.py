"""Trades and markets from the layouts they come in, exactly.

Known layouts of trades, told apart by their columns:

* **today's REST and WebSocket form**: `yes_price_dollars` "0.4300", `count_fp` "7.50", `taker_outcome_side`
  (or `taker_side`), `created_time` RFC 3339 (or `ts_ms`, `ts`);
* **the January 2026 form and the public archives**: `yes_price` in cents (integer or float), `count`,
  `taker_side`, `created_time` as text, datetime or epoch;
* **a tape already**: `ts`, `price`, `size`, `taker`.

What is done with bad rows:

===================================== ===========================================================
a missing column                      TapeError naming it
null ticker, time, price or size      TapeError with the first bad row
price outside 0 to 1 dollar           TapeError with the first bad row
YES and NO price not a dollar         TapeError with the first bad row (a cent off is rounding, and allowed)
price or size finer than our unit     TapeError with the first bad row: nothing is rounded
size zero or below                    TapeError with the first bad row
taker side neither yes nor no         dropped, counted
a trade_id seen before                dropped, counted; "" is no trade id
times out of order                    sorted, keeping the order within one time; counted
each market newest first              turned round before: so the exchange lists them
===================================== ===========================================================

Whatever is dropped or moved is said in a `DroppedRows` warning and in the `Report`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, overload

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

__all__ = ["DroppedRows", "Report", "to_markets", "to_tape"]


class DroppedRows(UserWarning):
    """Rows were dropped or moved while trades were read; the text says how many of which kind."""


class Report(msgspec.Struct, frozen=True):
    """What `to_tape` did: rows in and out, and why some went."""

    rows: int
    kept: int
    unknown_taker: int
    duplicates: int
    out_of_order: int

    def __str__(self) -> str:
        return (
            f"{self.kept:,} of {self.rows:,} rows kept: {self.unknown_taker:,} without a taker side and "
            f"{self.duplicates:,} with a trade id seen before dropped, {self.out_of_order:,} moved into time order"
        )


_TIME_NAMES: Final = ("ts", "created_time", "ts_ms", "time", "timestamp")
_TICKER_NAMES: Final = ("ticker", "market_ticker")
_TAKER_NAMES: Final = ("taker", "taker_outcome_side", "taker_side")
_ID_NAMES: Final = ("trade_id", "id")


def to_polars(data: Any) -> pl.DataFrame:
    """Rows in whatever holds them, as an eager polars frame.

    Raises:
        TapeError: none of polars, pandas, a list of mappings or of the exchange's REST objects.
    """
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if type(data).__module__.partition(".")[0] == "pandas":
        try:
            frame = pl.from_pandas(data)
        except (ValueError, TypeError) as error:
            # pyarrow's errors are among these: a column of objects of several kinds, a name that stands twice.
            raise TapeError(f"cannot read the pandas frame: {error}") from None
        if isinstance(frame, pl.DataFrame):
            return frame
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        rows = [msgspec.to_builtins(r) if isinstance(r, msgspec.Struct) else r for r in data]
        if all(isinstance(r, Mapping) for r in rows):
            return pl.DataFrame(rows, infer_schema_length=None)
    raise TapeError(
        f"cannot read {type(data).__name__}: give a polars or pandas frame, or a list of REST objects"
    )


def _pick(frame: pl.DataFrame, names: Iterable[str], meaning: str) -> str:
    for name in names:
        if name in frame.columns:
            return name
    names = tuple(names)
    raise TapeError(f"is missing ({meaning}; looked for {', '.join(names)})", column=names[0])


def _no_nulls(frame: pl.DataFrame, name: str) -> None:
    if frame[name].null_count():
        first_bad(frame, pl.col(name).is_null(), name, "is null")


def _instants(frame: pl.DataFrame, name: str) -> pl.Expr:
    """An expression for the instants of a column, microseconds UTC."""
    dtype, column = frame.schema[name], pl.col(name)
    if isinstance(dtype, pl.Datetime):
        # A naive time in a table of exchange times is UTC: the exchange writes nothing else.
        return column.dt.replace_time_zone("UTC").cast(TIME) if dtype.time_zone is None else column.cast(TIME)
    if dtype.is_numeric():
        # Seconds, milliseconds, microseconds or nanoseconds since 1970, by their size: ranges do not overlap
        # between 1971 and 2500.
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
        text = column.str.replace(r"Z$", "+00:00").str.replace(" ", "T", literal=True)
        aware = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", time_unit="us", time_zone="UTC", strict=False)
        naive = text.str.to_datetime(
            "%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False
        ).dt.replace_time_zone("UTC")
        return pl.coalesce(aware, naive)
    raise TapeError(f"is {dtype}, not a time", column=name)


def _scaled(frame: pl.DataFrame, name: str, scale: int, finest: str) -> pl.DataFrame:
    """Add `_value`: the column times `scale` as an integer, or fail at the first row that is not whole."""
    dtype, column = frame.schema[name], pl.col(name)
    if dtype == pl.String:
        number = column.str.strip_chars().cast(pl.Decimal(38, 10), strict=False)
    elif dtype.is_integer():
        return frame.with_columns((column.cast(pl.Int64) * scale).alias("_value"))
    elif dtype.is_decimal():
        number = column.cast(pl.Decimal(38, 10), strict=False)
    elif dtype.is_float():
        # A float stands for the decimal nearest to it; beyond twelve digits it stands for nothing.
        exact = column * scale
        frame = frame.with_columns(
            exact.round().alias("_value"), ((exact - exact.round()).abs() > 1e-6).alias("_fine")
        )
        first_bad(frame, column.is_nan() | column.is_infinite(), name, "is not a number")
        first_bad(frame, pl.col("_fine"), name, f"is finer than {finest}")
        return frame.with_columns(pl.col("_value").cast(pl.Int64)).drop("_fine")
    else:
        raise TapeError(f"is {dtype}, not a number", column=name)
    frame = frame.with_columns((number * scale).alias("_value"))
    first_bad(frame, pl.col("_value").is_null(), name, "is not a decimal number")
    whole = pl.col("_value").cast(pl.Int64)
    first_bad(frame, pl.col("_value") != whole.cast(pl.Decimal(38, 10)), name, f"is finer than {finest}")
    return frame.with_columns(whole)


@overload
def to_tape(data: Any, *, price_unit: Literal["cents", "dollars"] | None = None) -> pl.DataFrame: ...
@overload
def to_tape(
    data: Any, *, price_unit: Literal["cents", "dollars"] | None = None, report: Literal[True]
) -> tuple[pl.DataFrame, Report]: ...


def to_tape(
    data: Any, *, price_unit: Literal["cents", "dollars"] | None = None, report: bool = False
) -> pl.DataFrame | tuple[pl.DataFrame, Report]:
    """A tape from trades in any layout of this module's docstring.

    Args:
        data: a polars or pandas frame, a lazy frame, or a list of REST objects (dicts or structs).
        price_unit: what a `yes_price` or `price` column of plain numbers is in.  By default cents, except
            that a column of fractions between 0 and 1 is refused until you say what it is.
        report: give a `Report` beside the tape.

    >>> to_tape([{"ticker": "A-B-1", "yes_price": 43, "count": 2, "taker_side": "yes",
    ...           "created_time": "2026-01-05T12:00:00Z"}]).select("price", "size").rows()
    [(4300, 200)]

    Raises:
        TapeError: see the table in the module's docstring; `column` and `row` say where.
    """
    if price_unit not in (None, "cents", "dollars"):
        raise TapeError(f"price_unit is 'cents' or 'dollars', not {price_unit!r}")
    frame = to_polars(data)
    if frame.schema == TAPE_SCHEMA:
        frame = frame.drop("market")
    rows = frame.height
    frame = frame.with_row_index("_row")
    ticker = _pick(frame, _TICKER_NAMES, "the market")
    time = _pick(frame, _TIME_NAMES, "the time of the print")
    taker = _pick(frame, _TAKER_NAMES, "what the taker bought")
    for name in (ticker, time):
        _no_nulls(frame, name)
    frame = _prices(frame, price_unit)
    frame = _sizes(frame)
    frame = frame.with_columns(_instants(frame, time).alias("_ts"))
    first_bad(frame, pl.col("_ts").is_null(), time, "is not a time")
    known = [name for name in _ID_NAMES if name in frame.columns]
    trade_id = pl.col(known[0]).cast(pl.String).replace("", None) if known else pl.lit(None, pl.String)
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
    if known:
        repeated = pl.col("trade_id").is_not_null() & ~pl.col("trade_id").is_first_distinct()
        tape = tape.filter(~repeated)
    moved = int((tape["ts"].diff().dt.total_microseconds() < 0).sum()) if tape.height else 0
    if moved:
        tape = (tape.reverse() if _newest_first(tape) else tape).sort("ts", maintain_order=True)
    done = Report(rows, tape.height, unknown, before - tape.height, moved)
    tape = with_codes(tape).select(TAPE_SCHEMA.names())
    if done.kept < rows or moved:
        warnings.warn(str(done), DroppedRows, stacklevel=2)
    return (tape, done) if report else tape


def _newest_first(tape: pl.DataFrame) -> bool:
    """Whether no market's times go up from row to row, and some go down: then the later of one time stands first too,
    and a sweep's last piece would be taken for its first.
    """
    step = pl.col("ts").diff().over("ticker").dt.total_microseconds()
    down, up = tape.select((step < 0).any().alias("down"), (step > 0).any().alias("up")).row(0)
    return bool(down and not up)


def _prices(frame: pl.DataFrame, unit: str | None) -> pl.DataFrame:
    """Add `_price`, YES price in price units."""
    outside = "is outside 0 to 1 dollar"
    if "yes_price_dollars" in frame.columns:
        name, scale = "yes_price_dollars", PRICE
    elif _in_tape_units(frame):
        name, scale = "price", 1
    else:
        name = _pick(frame, ("yes_price", "price"), "the YES price")
        _no_nulls(frame, name)
        if unit is None and frame.height and not frame.schema[name].is_integer():
            # Texts and decimals too: "0.43" in a column without "dollars" in its name is no more certain than 0.43.
            number = pl.col(name).cast(pl.Float64, strict=False)
            low, high = frame.select(number.min().alias("low"), number.max().alias("high")).row(0)
            if high is not None and high <= 1 and low < 1:
                raise TapeError(
                    "may be dollars or cents: all values are at most 1; pass price_unit='dollars' or 'cents' (--price-unit)",
                    column=name,
                )
        scale = PRICE if unit == "dollars" else PRICE // 100
        if name == "price" and unit is None:
            outside += " when taken as cents (a tape in its own units has price as Int16 and size as UInt32)"
    _no_nulls(frame, name)
    frame = _scaled(frame, name, scale, "1/10,000 dollar")
    first_bad(frame, ~pl.col("_value").is_between(0, PRICE), name, outside)
    frame = frame.rename({"_value": "_price"})
    other = name.replace("yes_", "no_")
    if other != name and other in frame.columns and frame.schema[other] != pl.Null:
        both = _scaled(frame.filter(pl.col(other).is_not_null()), other, scale, "1/10,000 dollar")
        apart = (pl.col("_price") + pl.col("_value") - PRICE).abs() > PRICE // 100
        first_bad(both, apart, other, f"does not make a dollar with {name}")
    return frame


def _in_tape_units(frame: pl.DataFrame) -> bool:
    """Whether price and size are those of a tape: both or neither, for one of the two dtypes may be anybody's."""
    return frame.schema.get("price") == pl.Int16 and frame.schema.get("size") == pl.UInt32


def _sizes(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `_size` in size units."""
    if _in_tape_units(frame):
        name, scale = "size", 1
    else:
        name, scale = _pick(frame, ("count_fp", "count", "size"), "the number of contracts"), 100
    _no_nulls(frame, name)
    frame = _scaled(frame, name, scale, "1/100 contract")
    first_bad(frame, pl.col("_value") <= 0, name, "is not above zero")
    first_bad(frame, pl.col("_value") >= 2**32, name, "is more contracts than a print can have")
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
    data: Any, *, result_column: str | None = None, event: str | pl.Expr | None = None
) -> pl.DataFrame:
    """A markets table from market objects or tables in the exchange's or the archives' names.

    Args:
        data: as for `to_tape`.
        result_column: take the result from this column instead of `result`.
        event: the column, or an expression, that gives each market's event where the data name none.

    A result of "" is null; "void" and the like are errors, because a payout is not known.  `settlement` is
    10,000 for "yes" and 0 for "no"; a "scalar" result needs its settlement value.

    >>> to_markets([{"ticker": "A-B-1", "event_ticker": "A-B", "result": "yes"}]).select(
    ...     "event", "series", "settlement").rows()
    [('A-B', 'A', 10000)]

    Raises:
        TapeError: a market without an event, a ticker twice, a result that is not one.
    """
    frame = to_polars(data)
    if event is not None:
        frame = frame.with_columns((pl.col(event) if isinstance(event, str) else event).alias("event"))
    if result_column is not None:
        if result_column not in frame.columns:
            raise TapeError(
                f"is missing (result_column; there are {', '.join(frame.columns)})", column=result_column
            )
        frame = frame.with_columns(pl.col(result_column).alias("result"))
    frame = frame.with_row_index("_row")
    source = {
        name: next((n for n in names if n in frame.columns), None) for name, names in _MARKET_NAMES.items()
    }
    if source["ticker"] is None:
        raise TapeError("is missing (the market)", column="ticker")
    if source["event"] is None:
        raise TapeError(
            "is missing: outcomes of one event depend on each other, so every market needs its event; pass event= "
            'a column or an expression, such as pl.col("ticker").str.replace(r"-[^-]*$", "")',
            column="event",
        )
    columns = [_market_column(frame, name, found) for name, found in source.items()]
    table = frame.select("_row", *columns)
    table = table.with_columns(
        pl.col("result").replace({"": None}).str.to_lowercase(),
        # A series' ticker is what its events' tickers begin with, up to the first dash.
        pl.coalesce("series", pl.col("event").str.extract(r"^([^-]+)", 1)),
        pl.col("category").fill_null(""),
        pl.col("title").fill_null(""),
        pl.col("fee_multiplier").fill_null(1.0),
        pl.col("fee_type").fill_null("quadratic"),
        pl.col("price_structure").fill_null("linear_cent"),
        # Of a market that is open its close is the announced one; of one that is over, when it closed in the end,
        # which nobody knew while it traded.
        pl.coalesce(
            "expected_close_ts", pl.when(pl.col("result").fill_null("") == "").then("close_ts")
        ).alias("expected_close_ts"),
    )
    known = pl.col("result").is_null() | pl.col("result").is_in(["yes", "no", "scalar"])
    first_bad(table, ~known, "result", "is not yes, no, scalar or empty")
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


def _market_column(frame: pl.DataFrame, name: str, found: str | None) -> pl.Expr | pl.Series:
    dtype = MARKETS_SCHEMA[name]
    if found is None or frame.schema[found] == pl.Null:
        return pl.lit(None, dtype).alias(name)
    if dtype == TIME:
        times = frame.select(
            "_row", pl.col(found).replace("", None) if frame.schema[found] == pl.String else found
        )
        times = times.with_columns(_instants(times, found).alias("_ts"))
        first_bad(times, pl.col(found).is_not_null() & pl.col("_ts").is_null(), found, "is not a time")
        return times["_ts"].rename(name)
    if name == "settlement":
        return _settlements(frame, found).rename(name)
    return pl.col(found).cast(dtype).alias(name)


def _settlements(frame: pl.DataFrame, found: str) -> pl.Series:
    """What YES paid, in price units.

    Texts and columns with "dollars" in their name are dollars, `settlement` of a markets table is in price units
    whatever dtype it came back in, and other numbers are cents.
    """
    dtype = frame.schema[found]
    if dtype == pl.Int16 and found == "settlement":
        return frame[found]
    filled = frame.with_columns(pl.col(found).fill_null("0" if dtype == pl.String else 0))
    if dtype == pl.String or found.endswith("_dollars"):
        scale = PRICE
    else:
        highest = float(filled.select(pl.col(found).cast(pl.Float64, strict=False).max()).item() or 0)
        ours = set(MARKETS_SCHEMA.names()) <= set(frame.columns) or highest > 100
        scale = 1 if found == "settlement" and ours else PRICE // 100
        if scale != 1 and highest <= 1:
            first_bad(
                filled,
                pl.col(found).is_between(0, 1, closed="none"),
                found,
                "may be dollars or cents: all values are at most 1; call the column settlement_value_dollars if dollars",
            )
    filled = _scaled(filled, found, scale, "1/10,000 dollar")
    first_bad(filled, ~pl.col("_value").is_between(0, PRICE), found, "is outside 0 to 1 dollar")
    return filled["_value"].cast(pl.Int16)
