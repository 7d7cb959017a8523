"""The flow: what the rest of the world does, read off a tape.

A flow is a sequence of steps in exchange time: markets are created, open, close, are determined and settle,
and between that the prints of the tape happen, each exactly as recorded.  Where the tape's source does not
say when a market opened or closed, it opens just before its first print and closes just after its last; its
*announced* closing time is then the end of the tape, so that nothing about its life is known beforehand.

The background book of a market is worked out from its past prints (`kalshilab.exchange.flows.background_quotes`) or, where
recorded book frames are given (`kalshilab.exchange.flows.recorded_books`), is what was recorded.

Whatever has `next_ts`, `take`, `facts` and `prints` is a flow (`Source`): beside the tape's there are one that
makes itself (`kalshilab.exchange.flows.synthetic`) and one that follows a real feed (`kalshilab.exchange.flows.mirror`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import repeat, starmap
from typing import Literal, NamedTuple, Protocol

import polars as pl

from kalshilab.errors import ExchangeError
from kalshilab.exchange.flows.background_quotes import Quotes
from kalshilab.exchange.flows.recorded_books import BookFrame, Levels, fold
from kalshilab.market.fees import FEE_TYPES
from kalshilab.tape.schema import check_markets, check_tape
from kalshilab.units import TickGrid

__all__ = ["Flow", "MarketFacts", "Quotes", "Source", "Step", "StepKind"]

StepKind = Literal[
    "create",
    "open",
    "print",
    "book",
    "level",
    "blind",
    "close",
    "determine",
    "settle",
    "pause",
    "resume",
    "retire",
    "time",
]
ORDER = {
    "create": 0, "open": 1, "resume": 1, "print": 2, "book": 3, "level": 3, "blind": 3, "pause": 4, "close": 5,
    "determine": 6, "settle": 7, "retire": 8, "time": 9,
}  # fmt: skip
"""What comes first at one instant.  A print comes before what it left of the book."""

PRINTS = ORDER["print"]
SECOND = 1_000_000
CHUNK = 50_000


class Step(NamedTuple):
    """One thing that happens.

    For a print: YES price, size, taker and trade id.  For a level of the book that changes: YES price, the
    change as `size` and the side, "bid" or "ask", as `taker`.  For a book anew: `levels`.  A book that is not
    known for the moment is "blind"; "time" is nothing but that it passes, in no market.
    """

    ts: int
    kind: StepKind
    market: int
    price: int = 0
    size: int = 0
    taker: str = ""
    trade_id: str = ""
    levels: Levels | None = None


class Source(Protocol):
    """Any flow."""

    @property
    def next_ts(self) -> int | None:
        """When the next step happens, in microseconds; None while there is none."""
        ...

    @property
    def facts(self) -> list[MarketFacts]:
        """The markets that steps name by their index here; grows in a flow that does not end."""
        ...

    @property
    def prints(self) -> int:
        """Prints in it, as far as is known."""
        ...

    def take(self) -> Step | None:
        """The next step, taken; None while there is none."""
        ...


class MarketFacts:
    """A market as a flow describes it, times in microseconds, filled in where the source is silent.

    `mirrored`: its background is told level by level from the beginning, and never worked out from prints.
    """

    __slots__ = (
        "announced_close", "category", "close", "created", "determined", "event", "fee_multiplier", "fee_type",
        "grid", "index", "mirrored", "open", "result", "series", "settled", "settlement", "structure", "ticker", "title",
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

    def __init__(self, *, mirrored: bool = False) -> None:
        self.mirrored = mirrored

    def __repr__(self) -> str:
        return f"MarketFacts({self.ticker})"


class Flow:
    """The steps of a tape, in order.

    Args:
        settle_after: microseconds from determination to settlement where the table gives no settlement time.
        frames: recorded books, in order; markets without any have theirs worked out from prints.  Frames of
            markets that the table does not list are passed over, and so are those after a market's close.

    Raises:
        TapeError: not a tape, or not its markets.
        ExchangeError: a print of a market that the table does not list, or nothing to play.
    """

    def __init__(
        self,
        tape: pl.DataFrame,
        markets: pl.DataFrame,
        *,
        settle_after: int = 3600 * SECOND,
        frames: Iterable[BookFrame] = (),
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
        recorded = list(frames)
        self.facts = _facts(tape, markets, settle_after, recorded)
        self._index = {f.ticker: f.index for f in self.facts}
        self._quiet = self._life_steps()
        if recorded:
            self._quiet = list(heapq.merge(self._quiet, self._book_steps(recorded), key=_place))
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
        steps.sort(key=lambda s: (s.ts, ORDER[s.kind], s.market))
        return steps

    def _book_steps(self, frames: list[BookFrame]) -> list[Step]:
        """Books from the opening to the close; what came before the opening is the book it opens with."""
        before: dict[str, Levels | None] = {}
        steps: list[Step] = []
        for frame in frames:
            index = self._index.get(frame.ticker)
            if index is None or frame.ts >= self.facts[index].close:
                continue
            if frame.ts < self.facts[index].open:
                before[frame.ticker] = fold(before.get(frame.ticker), frame)
            elif frame.levels is not None:
                steps.append(Step(frame.ts, "book", index, levels=frame.levels))
            else:
                steps.append(Step(frame.ts, "level", index, frame.price, frame.delta, frame.side))
        opened = [
            Step(self.facts[self._index[ticker]].open, "book", self._index[ticker], levels=levels)
            for ticker, levels in before.items()
            if levels is not None
        ]
        # Stable: what was told at one instant stays in the order in which it was told.
        return sorted([*opened, *steps], key=lambda s: s.ts)

    def _merge(self) -> Iterator[Step]:
        quiet = iter(self._quiet)
        life = next(quiet, None)
        for step in self._prints():
            while life is not None and (life.ts, ORDER[life.kind]) < (step.ts, PRINTS):
                yield life
                life = next(quiet, None)
            yield step
        while life is not None:
            yield life
            life = next(quiet, None)

    def _prints(self) -> Iterator[Step]:
        """The tape as steps, a chunk of it in Python objects at a time."""
        for start in range(0, self.prints, CHUNK):
            part = self._tape.slice(start, CHUNK)
            columns = (
                part["ts"].dt.epoch("us").to_list(),
                repeat("print"),
                map(self._index.__getitem__, part["ticker"].cast(pl.String).to_list()),
                part["price"].to_list(),
                part["size"].to_list(),
                part["taker"].cast(pl.String).to_list(),
                part["trade_id"].fill_null("").to_list(),
            )
            yield from starmap(Step, zip(*columns, strict=False))


def _place(step: Step) -> tuple[int, int]:
    return step.ts, ORDER[step.kind]


def _facts(
    tape: pl.DataFrame, markets: pl.DataFrame, settle_after: int, frames: list[BookFrame]
) -> list[MarketFacts]:
    spans = tape.group_by(pl.col("ticker").cast(pl.String)).agg(
        pl.col("ts").min().dt.epoch("us").alias("first"), pl.col("ts").max().dt.epoch("us").alias("last")
    )
    end = int(tape.select(pl.col("ts").max().dt.epoch("us")).item()) + 86_400 * SECOND
    times = [pl.col(c).dt.epoch("us") for c in ("open_ts", "close_ts", "expected_close_ts", "settled_ts")]
    table = markets.with_columns(times).join(spans, on="ticker", how="left", maintain_order="left")
    told: dict[str, tuple[int, int]] = {}
    for frame in frames:
        told[frame.ticker] = (told.get(frame.ticker, (frame.ts, 0))[0], frame.ts)
    facts: list[MarketFacts] = []
    for row in table.iter_rows(named=True):
        seen = told.get(row["ticker"])
        if row["first"] is None and row["open_ts"] is None and seen is None:
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
        # Seen: prints and recorded frames.  They date a market only where the table does not.
        first, last = row["first"], row["last"]
        begins = min((t for t in (first, seen and seen[0]) if t is not None), default=None)
        ends = max((t for t in (last, seen and seen[1]) if t is not None), default=None)
        f.open = row["open_ts"] if row["open_ts"] is not None else (begins or 0) - SECOND
        f.close = row["close_ts"] if row["close_ts"] is not None else (ends or f.open + SECOND) + SECOND
        if first is not None:
            f.open, f.close = min(f.open, first - 1), max(f.close, last + 1)
        f.created = f.open - 60 * SECOND
        f.announced_close = max(row["expected_close_ts"] or row["close_ts"] or end, f.close)
        f.determined = f.close + SECOND
        f.settled = max(row["settled_ts"] or f.determined + settle_after, f.determined + 1)
        facts.append(f)
    return facts
