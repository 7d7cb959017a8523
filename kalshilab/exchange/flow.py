"""The flow: what the rest of the world does, read off a tape.

A flow is a sequence of steps in exchange time: markets are created, open, close, are determined and settle,
and between that the prints of the tape happen, each exactly as recorded.  Where the tape's source does not
say when a market opened or closed, it opens just before its first print and closes just after its last; its
*announced* closing time is then the end of the tape, so that nothing about its life is known beforehand.

**The background book.**  Just before a print by a YES taker at `p` the best ask is `p` and the best bid a
spread below (mirrored for a NO taker), with a second level a step behind; sizes follow the market's *past*
prints.  The quotes stay until the next print moves them.  So a print never crosses the book, and what stands
between two prints was known at the first of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Literal, NamedTuple

import polars as pl

from kalshilab.errors import ExchangeError
from kalshilab.market.fees import FEE_TYPES
from kalshilab.tape.schema import check_markets, check_tape
from kalshilab.units import TickGrid

__all__ = ["Flow", "MarketFacts", "Quotes", "Step", "StepKind"]

StepKind = Literal["create", "open", "print", "close", "determine", "settle"]
_ORDER = {"create": 0, "open": 1, "print": 2, "close": 3, "determine": 4, "settle": 5}

SECOND = 1_000_000
CHUNK = 50_000


class Step(NamedTuple):
    """One thing that happens.  For a print: YES price, size, taker and trade id; else those are empty."""

    ts: int
    kind: StepKind
    market: int
    price: int = 0
    size: int = 0
    taker: str = ""
    trade_id: str = ""


class MarketFacts:
    """A market as the tape's table describes it, times in microseconds, filled in where the table is silent."""

    __slots__ = (
        "announced_close", "category", "close", "created", "determined", "event", "fee_multiplier", "fee_type",
        "grid", "index", "open", "result", "series", "settled", "settlement", "structure", "ticker", "title",
    )  # fmt: skip

    index: int
    ticker: str
    event: str
    series: str
    category: str
    title: str
    created: int
    open: int
    close: int
    announced_close: int
    result: str
    settlement: int
    determined: int
    settled: int
    fee_multiplier: float
    fee_type: str
    structure: str
    grid: TickGrid


class Quotes:
    """Makes one market's background book from its past prints.

    Args:
        spread: price units between best bid and best ask.
        depth: levels each side.
    """

    __slots__ = ("_depth", "_grid", "_mean", "_spread", "_step")

    def __init__(self, grid: TickGrid, spread: int, depth: int) -> None:
        self._grid, self._spread, self._depth = grid, spread, depth
        self._step = max(100, grid.lowest)
        self._mean = 5_000.0

    def around(self, price: int, taker: str) -> tuple[dict[int, int], dict[int, int]]:
        """Bids and asks, size by YES price, such that a print by `taker` at `price` hits the best of them."""
        if taker == "yes":
            ask, bid = price, price - self._spread
        else:
            bid, ask = price, price + self._spread
        size = self._size()
        bids: dict[int, int] = {}
        asks: dict[int, int] = {}
        grid = self._grid
        for level in range(self._depth):
            b, a = bid - level * self._step, ask + level * self._step
            # The print's own price is kept even if it is off the grid: the tape is right.
            if b >= grid.lowest:
                bids[b if level == 0 and taker == "no" else grid.floor(b)] = size * (level + 1)
            if a <= grid.highest:
                asks[a if level == 0 and taker == "yes" else grid.ceil(a)] = size * (level + 1)
        return bids, asks

    def _size(self) -> int:
        # Powers of two of ten contracts: the display changes rarely, as real displays do in quiet markets.
        size = 1000
        while size * 2 <= self._mean and size < 1_000_000:
            size *= 2
        return size

    def learn(self, size: int) -> None:
        """Take a print's size into account from now on."""
        self._mean += 0.1 * (size - self._mean)


class Flow:
    """The steps of a tape, in order.

    Args:
        settle_after: microseconds from determination to settlement where the table gives no settlement time.

    Raises:
        TapeError: not a tape, or not its markets.
        ExchangeError: a print of a market that the table does not list, or nothing to play.
    """

    def __init__(
        self, tape: pl.DataFrame, markets: pl.DataFrame, *, settle_after: int = 3600 * SECOND
    ) -> None:
        self._tape = check_tape(tape)
        check_markets(markets)
        if not tape.height:
            raise ExchangeError("the tape has no prints to play")
        missing = tape.select(pl.col("ticker").cast(pl.String).unique()).join(
            markets, on="ticker", how="anti"
        )
        if missing.height:
            raise ExchangeError(
                f"{missing.height} tickers of the tape are not in the markets table, first {missing['ticker'][0]}"
            )
        tabled = markets.filter(~pl.col("fee_type").is_in(FEE_TYPES))
        if tabled.height:
            row = tabled.row(0, named=True)
            raise ExchangeError(
                f"{row['ticker']}: fee type {row['fee_type']!r} has no formula; use one of {FEE_TYPES}"
            )
        self.prints = tape.height
        self.facts = _facts(tape, markets, settle_after)
        self._index = {f.ticker: f.index for f in self.facts}
        self._life = self._life_steps()
        self._steps = self._merge()
        self._ahead: Step | None = next(self._steps, None)

    @property
    def next_ts(self) -> int | None:
        """When the next step happens, or None at the end."""
        return None if self._ahead is None else self._ahead.ts

    def take(self) -> Step | None:
        """The next step, taken; None at the end."""
        step = self._ahead
        if step is not None:
            self._ahead = next(self._steps, None)
        return step

    def _life_steps(self) -> list[Step]:
        steps = []
        for f in self.facts:
            steps += [
                Step(f.created, "create", f.index),
                Step(f.open, "open", f.index),
                Step(f.close, "close", f.index),
            ]
            if f.result:
                steps += [Step(f.determined, "determine", f.index), Step(f.settled, "settle", f.index)]
        steps.sort(key=lambda s: (s.ts, _ORDER[s.kind], s.market))
        return steps

    def _merge(self) -> Iterator[Step]:
        return heapq.merge(self._life, self._prints(), key=lambda s: (s.ts, _ORDER[s.kind]))

    def _prints(self) -> Iterator[Step]:
        """The tape as steps, a chunk of it in Python objects at a time."""
        index = self._index
        for start in range(0, self.prints, CHUNK):
            part = self._tape.slice(start, CHUNK)
            columns = (
                part["ts"].dt.epoch("us").to_list(),
                part["ticker"].cast(pl.String).to_list(),
                part["price"].to_list(),
                part["size"].to_list(),
                part["taker"].cast(pl.String).to_list(),
                part["trade_id"].fill_null("").to_list(),
            )
            for ts, ticker, price, size, taker, trade_id in zip(*columns, strict=True):
                yield Step(ts, "print", index[ticker], price, size, taker, trade_id)


def _facts(tape: pl.DataFrame, markets: pl.DataFrame, settle_after: int) -> list[MarketFacts]:
    spans = tape.group_by(pl.col("ticker").cast(pl.String)).agg(
        pl.col("ts").min().dt.epoch("us").alias("first"), pl.col("ts").max().dt.epoch("us").alias("last")
    )
    end = int(tape.select(pl.col("ts").max().dt.epoch("us")).item()) + 86_400 * SECOND
    times = [pl.col(c).dt.epoch("us") for c in ("open_ts", "close_ts", "expected_close_ts", "settled_ts")]
    table = markets.with_columns(times).join(spans, on="ticker", how="left", maintain_order="left")
    facts: list[MarketFacts] = []
    for row in table.iter_rows(named=True):
        if row["first"] is None and row["open_ts"] is None:
            # Neither printed nor dated: there is no moment at which it could appear.
            continue
        f = MarketFacts()
        f.index = len(facts)
        f.ticker, f.event, f.series = row["ticker"], row["event"], row["series"] or ""
        f.category, f.title, f.structure = row["category"], row["title"], row["price_structure"]
        f.fee_multiplier, f.fee_type = row["fee_multiplier"], row["fee_type"]
        f.grid = TickGrid.named(f.structure)
        f.result = row["result"] or ""
        f.settlement = row["settlement"] or 0
        first = row["first"] if row["first"] is not None else row["open_ts"] + SECOND
        last = row["last"] if row["last"] is not None else first
        f.open = min(row["open_ts"] if row["open_ts"] is not None else first - SECOND, first - 1)
        f.created = f.open - 60 * SECOND
        f.close = max(row["close_ts"] if row["close_ts"] is not None else last + SECOND, last + 1)
        f.announced_close = max(row["expected_close_ts"] or row["close_ts"] or end, f.close)
        f.determined = f.close + SECOND
        f.settled = max(row["settled_ts"] or f.determined + settle_after, f.determined + 1)
        facts.append(f)
    return facts
