"""Convert pages of trades, as the exchange lists them, to a tape, and count the trades left out.

A page lists trades newest first, as columns of texts (`created_time`, `ticker`, `yes_price_dollars`, `count_fp`,
`taker_outcome_side`, `trade_id`).  `Pages` collects the pages of a time interval, from one listing or from several that
overlap, and converts them to one tape in time order, with each trade id once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final

import msgspec
import polars as pl

from kalshilab.tape.normalise import rfc3339, to_tape
from kalshilab.tape.schema import TIME

__all__ = ["Gathered", "Pages"]

COLUMNS: Final = (
    "created_time",
    "ticker",
    "yes_price_dollars",
    "count_fp",
    "taker_outcome_side",
    "trade_id",
)
"""Columns of a page."""
BATCH: Final = 16
"""Pages kept as Python lists before they are converted to a frame, which takes a third of the memory."""


class Gathered(msgspec.Struct, frozen=True):
    """A tape, and counts of the trades that were left out.

    Attributes:
        tape: the trades.
        unknown_taker: trades left out because their taker side is unknown.
        duplicates: trades left out because their trade id is repeated.
    """

    tape: pl.DataFrame
    unknown_taker: int
    duplicates: int


class Pages:
    """A collection of pages, added newest first: each page is older than the page before or overlaps with it.

    >>> pages = Pages()
    >>> pages.add({"created_time": ["2026-01-05T12:00:01Z", "2026-01-05T12:00:00.5Z"], "ticker": ["A", "A"],
    ...     "yes_price_dollars": ["0.4400", "0.4300"], "count_fp": ["2.00", "1.50"],
    ...     "taker_outcome_side": ["yes", None], "trade_id": ["t2", "t1"]})
    >>> done = pages.gather()
    >>> done.tape.select("price", "size").rows(), done.unknown_taker
    ([(4400, 200)], 1)
    """

    def __init__(self) -> None:
        self._lists: list[Mapping[str, Sequence[str | None]]] = []
        self._frames: list[pl.DataFrame] = []
        self.rows = 0
        """Trades added, including those that `gather` leaves out."""

    def add(self, page: Mapping[str, Sequence[str | None]]) -> None:
        """Add a page."""
        if page["ticker"]:
            self._lists.append(page)
            self.rows += len(page["ticker"])
            if len(self._lists) >= BATCH:
                self._pack()

    def _pack(self) -> None:
        if self._lists:
            self._frames.append(
                pl.DataFrame(
                    {
                        name: pl.Series(
                            list(chain.from_iterable(reversed(page[name]) for page in reversed(self._lists))),
                            dtype=pl.String,
                        )
                        for name in COLUMNS
                    }
                )
            )
            self._lists = []

    def gather(self, since: int | None = None, until: int | None = None) -> Gathered:
        """Convert the collected trades to a tape; trades of one instant are in the order in which they happened.

        Args:
            since: leave out earlier trades; microseconds.
            until: leave out trades at this instant and later; microseconds.

        Raises:
            TapeError: a price, size or time cannot be read.
        """
        self._pack()
        if not self._frames:
            return Gathered(to_tape(_empty()), 0, 0)
        frame = pl.concat(reversed(self._frames))
        frame = frame.with_columns(_instants(frame["created_time"]).alias("ts"))
        if since is not None or until is not None:
            at = pl.col("ts").dt.epoch("us")
            low, high = since if since is not None else -(2**62), until if until is not None else 2**62
            # Keep times that cannot be read: `to_tape` raises and names the row.
            frame = frame.filter((at >= low) & (at < high) | at.is_null())
        side = pl.col("taker_outcome_side")
        frame = frame.with_columns(pl.col("trade_id").replace("", None))
        repeated = pl.col("trade_id").is_not_null() & ~pl.col("trade_id").is_first_distinct()
        before = frame.height
        frame = frame.filter(~repeated)
        duplicates = before - frame.height
        before = frame.height
        frame = frame.filter(side.is_in(["yes", "no"]))
        if not frame["ts"].is_sorted():
            frame = frame.sort("ts", maintain_order=True, nulls_last=True)
        return Gathered(to_tape(frame.drop("created_time")), before - frame.height, duplicates)


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema={**dict.fromkeys(COLUMNS, pl.String), "ts": TIME})


def _instants(texts: pl.Series) -> pl.Series:
    """Parse RFC 3339 texts; null where a text is malformed."""
    frame, text = texts.to_frame("text"), pl.col("text")
    # The exchange writes UTC as Z and omits trailing zeros.  Parsing seconds and fraction apart is six times faster.
    whole = text.str.slice(0, 19).str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="us", strict=False)
    part = text.str.slice(20).str.strip_suffix("Z").str.pad_end(6, "0")
    part = part.cast(pl.Int64, strict=False)
    usual = text.str.ends_with("Z") & (part >= 0) & (part < 1_000_000)
    quick = (whole + pl.duration(microseconds=part)).dt.replace_time_zone("UTC")
    instants = frame.select(pl.when(usual).then(quick)).to_series()
    if instants.null_count():
        instants = instants.fill_null(frame.select(rfc3339(text)).to_series())
    return instants
