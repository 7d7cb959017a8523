"""Checks that turn a frame of any kind into the frame of a tape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.errors import TapeError
from kalshilab.tape.schema import TAKER, first_bad, with_codes
from kalshilab.units import PRICE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FrameLike", "checked_columns", "checked_frame", "polars_frame"]

FrameLike: TypeAlias = "pl.DataFrame | pl.LazyFrame | pd.DataFrame"
"""A frame of trades; `kalshilab.to_tape` makes one of other layouts."""

_RANGES: Final = (
    ("price", 0, PRICE, "is outside 0 to 10,000 price units"),
    ("size", 1, 2**32 - 1, "is not a size in 1/100 contract"),
    ("market", 0, 2**32 - 1, "is not a market code"),
)
_UNITS: Final = {"price": "price units", "size": "size units", "market": "market codes"}
_SPARE_CODES: Final = 65_536
"""Unused market codes that are tolerated, beside one for each print."""


def checked_frame(data: FrameLike, columns: Sequence[str]) -> pl.DataFrame:
    """Check the columns of a tape and return them together with the frame's other columns.

    Only the checked columns of a lazy or pandas frame are returned.

    Raises:
        TapeError: as for `checked_columns`.
    """
    checked = checked_columns(data, columns)
    return data.with_columns(checked.get_columns()) if isinstance(data, pl.DataFrame) else checked


def checked_columns(data: FrameLike, columns: Sequence[str]) -> pl.DataFrame:
    """Check and return `ts`, `ticker`, `price`, `market` and the columns given.

    Only these columns of a lazy frame are computed. Market codes are assigned where they are missing.

    Raises:
        TapeError: `data` is not a frame; a column is missing, of another type, or has nulls; a price or size is out of
            range; a market's times go back; a code stands for two tickers, as in two tapes concatenated.
    """
    frame = _polars(data)
    have = frame.collect_schema()
    needed = list(dict.fromkeys(("ts", "ticker", "price", *columns)))
    for name in needed:
        if name not in have:
            raise TapeError("is missing; kalshilab.to_tape makes a tape of other layouts", column=name)
    for name, unit in _UNITS.items():
        if name in (*needed, "market") and name in have and not have[name].is_integer():
            raise TapeError(f"is {have[name]}, not {unit}; kalshilab.to_tape converts", column=name)
    if not isinstance(have["ts"], pl.Datetime):
        raise TapeError(f"is {have['ts']}, not a time; kalshilab.to_tape converts", column="ts")
    chosen = frame.select(*needed, *(["market"] if "market" in have else []))
    checked = chosen.collect() if isinstance(chosen, pl.LazyFrame) else chosen
    if "taker" in columns and checked.schema["taker"] != TAKER:
        # A tape that went through pandas comes back with its outcomes as text.
        try:
            checked = checked.with_columns(pl.col("taker").cast(pl.String).cast(TAKER))
        except pl.exceptions.InvalidOperationError:
            raise TapeError(
                "must be yes or no everywhere; kalshilab.to_tape drops the other rows", column="taker"
            ) from None
    for name in checked.columns:
        if checked[name].null_count():
            raise TapeError("has nulls; kalshilab.to_tape reports where", column=name)
    if not checked.height:
        return checked if "market" in checked.columns else with_codes(checked)
    for name, low, high, reason in _RANGES:
        if name in checked.columns and not low <= checked[name].min() <= checked[name].max() <= high:  # type: ignore[operator]
            first_bad(checked, ~pl.col(name).is_between(low, high), name, reason)
    return _in_order(_coded(checked))


def polars_frame(data: object) -> pl.DataFrame | None:
    """Return a polars, lazy or pandas frame as a polars frame; None if `data` is not a frame."""
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    if isinstance(data, pl.DataFrame):
        return data
    if type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "columns"):
        return pl.from_pandas(data)  # type: ignore[call-overload,no-any-return]
    return None


def _polars(data: FrameLike) -> pl.DataFrame | pl.LazyFrame:
    if isinstance(data, pl.LazyFrame | pl.DataFrame):
        return data
    if type(data).__module__.partition(".")[0] == "pandas":
        return pl.from_pandas(data)
    raise TapeError(
        f"tape must be a frame, a lake or a path, got {type(data).__name__}; kalshilab.to_tape makes a tape of trades"
    )


def _coded(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with dense codes that stand for one ticker each: its own codes where they do."""
    if "market" not in frame.columns:
        return with_codes(frame)
    market = frame["market"].to_numpy()
    top = int(market.max())
    if top > 2 * frame.height + _SPARE_CODES:
        # An excerpt of a lake with many markets: a state for each code would be mostly unused.
        return with_codes(frame)
    # The codes of two tapes concatenated have two meanings, and a signal would take two markets for one.
    # Hashes of tickers are compared because that costs less than comparing the tickers.
    of_code = np.zeros(top + 1, np.uint64)
    consistent = _code_check()(
        market.astype(np.uint32, copy=False), frame["ticker"].hash().to_numpy(), of_code
    )
    known = pl.Series(of_code[of_code != 0])
    if not consistent or known.n_unique() != len(known):
        raise TapeError(
            "must stand for one ticker each, which the codes of two tapes concatenated do not; leave the column out, or "
            "let kalshilab.to_tape assign codes",
            column="market",
        )
    return frame


@cache
def _code_check() -> Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], bool]:
    """Return the compiled check that each code always has the same ticker."""
    # Late: numba takes a third of a second to import, and a tape can be described without it.
    from numba import njit

    @njit(nogil=True)
    def consistent(
        market: npt.NDArray[np.uint32], hashes: npt.NDArray[np.uint64], of_code: npt.NDArray[np.uint64]
    ) -> bool:
        for i in range(len(market)):
            own = hashes[i] | np.uint64(1)
            noted = of_code[market[i]]
            if noted == 0:
                of_code[market[i]] = own
            elif noted != own:
                return False
        return True

    return consistent


def _in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame if no market's times go back: a signal would see later prints first."""
    ts = frame["ts"].to_physical()
    if ts.is_sorted():
        return frame
    times, market = ts.to_numpy(), frame["market"].to_numpy()
    order = np.argsort(market, kind="stable")
    back = (np.diff(times[order]) < 0) & (np.diff(market[order].astype(np.int64)) == 0)
    if back.any():
        row = int(order[1:][back].min())
        raise TapeError(
            "goes back in time within a market; sort by ts or use kalshilab.to_tape",
            column="ts",
            row=row,
            value=frame["ts"][row],
        )
    return frame
