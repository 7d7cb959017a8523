"""A flow that plays a tape: the actions of all other participants, in exchange-time order.

A flow is a sequence of steps: markets are created, open, close, are determined and settle, and in between the
prints of the tape occur exactly as recorded.  If the markets table does not give a market's opening or
closing time, the market opens just before its first print and closes just after its last.  Its *announced*
closing time is then the end of the tape, so that its lifetime is not known in advance.

The background book of a market is inferred from past prints (`kalshilab.exchange.flows.background_quotes`) or
replayed from recorded book frames, if given (`kalshilab.exchange.flows.recorded_books`).

Any object with `next_ts`, `take`, `facts` and `prints` is a flow (`FlowSource`).  Besides this one there are
a synthetic flow (`kalshilab.exchange.flows.synthetic`) and one that mirrors a real feed
(`kalshilab.exchange.flows.mirror`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import repeat, starmap
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import ExchangeError
from kalshilab.exchange.flows.recorded_books import BookFrame, Levels, fold
from kalshilab.lazy import renamed
from kalshilab.market.fees import FEE_TYPES
from kalshilab.tape.schema import check_markets, check_tape
from kalshilab.units import TickGrid

__all__ = ["FlowSource", "FlowStep", "MarketFacts", "StepKind", "TapeFlow"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

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
"""The order of steps at one instant; a print precedes the book it leaves."""

PRINTS = ORDER["print"]
SECOND = 1_000_000
CHUNK = 50_000


class FlowStep(NamedTuple):
    """One event of a flow.

    For a print: YES price, size, taker and trade id.  For a "level" change of the book: YES price, the change
    as `size` and the side, "bid" or "ask", as `taker`.  For a "book" snapshot: `levels`.  A "blind" step
    marks a book as unknown until its next snapshot; a "time" step only advances exchange time and belongs to
    no market.
    """

    ts: int
    kind: StepKind
    market: int
    price: int = 0
    size: int = 0
    taker: str = ""
    trade_id: str = ""
    levels: Levels | None = None


class FlowSource(Protocol):
    """The interface of a flow."""

    @property
    def next_ts(self) -> int | None:
        """Exchange time of the next step in microseconds; None if there is no next step yet."""
        ...

    @property
    def facts(self) -> list[MarketFacts]:
        """The markets, in the order in which steps index them; an endless flow appends to it."""
        ...

    @property
    def prints(self) -> int:
        """Number of prints, as far as known."""
        ...

    def take(self) -> FlowStep | None:
        """Remove and return the next step; return None if there is no next step yet."""
        ...


class MarketFacts:
    """A market as a flow describes it, with times in microseconds; missing values of the source are filled in.

    `mirrored` means that its background is received level by level from the beginning and never inferred from
    prints.
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


class TapeFlow:
    """The steps of a tape, in order.

    Args:
        tape: the public trades.
        markets: the markets table.
        settle_after_us: microseconds from determination to settlement where the table gives no settlement
            time.
        frames: recorded books, in order; the books of markets without frames are inferred from prints.
            Frames of unlisted markets and frames after a market's close are skipped.

    Raises:
        TapeError: `tape` is not a tape, or `markets` is not a markets table.
        ExchangeError: the tape is empty, has a ticker that the table lacks, or a fee type has no formula.
    """

    @renamed_keywords(settle_after="settle_after_us")
    def __init__(
        self,
        tape: pl.DataFrame,
        markets: pl.DataFrame,
        *,
        settle_after_us: int = 3600 * SECOND,
        frames: Iterable[BookFrame] = (),
    ) -> None:
        self._tape = check_tape(tape)
        check_markets(markets)
        if not tape.height:
            raise ExchangeError("tape must not be empty")
        missing = tape.select(pl.col("ticker").cast(pl.String).unique()).join(
            markets, on="ticker", how="anti"
        )
        if missing.height:
            raise ExchangeError(
                f"markets must list every ticker of the tape; {missing.height} are missing, first {missing['ticker'][0]}"
            )
        unpriced = markets.filter(~pl.col("fee_type").is_in(FEE_TYPES))
        if unpriced.height:
            row = unpriced.row(0, named=True)
            raise ExchangeError(
                f"{row['ticker']}: fee_type must be one of {', '.join(FEE_TYPES)}, got {row['fee_type']!r}"
            )
        self.prints = tape.height
        recorded = list(frames)
        self.facts = _facts(tape, markets, settle_after_us, recorded)
        self._index = {f.ticker: f.index for f in self.facts}
        self._other_steps = self._lifecycle_steps()
        if recorded:
            self._other_steps = list(heapq.merge(self._other_steps, self._book_steps(recorded), key=_place))
        self._steps = self._merge()
        self._ahead: FlowStep | None = next(self._steps, None)

    @property
    def next_ts(self) -> int | None:
        """Exchange time of the next step in microseconds; None at the end."""
        return None if self._ahead is None else self._ahead.ts

    def take(self) -> FlowStep | None:
        """Remove and return the next step; return None at the end."""
        step = self._ahead
        if step is not None:
            self._ahead = next(self._steps, None)
        return step

    def _lifecycle_steps(self) -> list[FlowStep]:
        steps = []
        for f in self.facts:
            steps += [
                FlowStep(f.created, "create", f.index),
                FlowStep(f.open, "open", f.index),
                FlowStep(f.close, "close", f.index),
            ]
            if f.result:
                steps += [
                    FlowStep(f.determined, "determine", f.index),
                    FlowStep(f.settled, "settle", f.index),
                ]
        steps.sort(key=lambda s: (s.ts, ORDER[s.kind], s.market))
        return steps

    def _book_steps(self, frames: list[BookFrame]) -> list[FlowStep]:
        """Return book steps from opening to close; earlier frames are folded into the opening book."""
        before: dict[str, Levels | None] = {}
        steps: list[FlowStep] = []
        for frame in frames:
            index = self._index.get(frame.ticker)
            if index is None or frame.ts >= self.facts[index].close:
                continue
            if frame.ts < self.facts[index].open:
                before[frame.ticker] = fold(before.get(frame.ticker), frame)
            elif frame.levels is not None:
                steps.append(FlowStep(frame.ts, "book", index, levels=frame.levels))
            else:
                steps.append(FlowStep(frame.ts, "level", index, frame.price, frame.delta, frame.side))
        opened = [
            FlowStep(self.facts[self._index[ticker]].open, "book", self._index[ticker], levels=levels)
            for ticker, levels in before.items()
            if levels is not None
        ]
        # The sort is stable: frames of one instant keep their order.
        return sorted([*opened, *steps], key=lambda s: s.ts)

    def _merge(self) -> Iterator[FlowStep]:
        others = iter(self._other_steps)
        other = next(others, None)
        for step in self._prints():
            while other is not None and (other.ts, ORDER[other.kind]) < (step.ts, PRINTS):
                yield other
                other = next(others, None)
            yield step
        while other is not None:
            yield other
            other = next(others, None)

    def _prints(self) -> Iterator[FlowStep]:
        """Yield the tape as steps, converted to Python objects in chunks."""
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
            yield from starmap(FlowStep, zip(*columns, strict=False))


def _place(step: FlowStep) -> tuple[int, int]:
    return step.ts, ORDER[step.kind]


def _facts(
    tape: pl.DataFrame, markets: pl.DataFrame, settle_after_us: int, frames: list[BookFrame]
) -> list[MarketFacts]:
    spans = tape.group_by(pl.col("ticker").cast(pl.String)).agg(
        pl.col("ts").min().dt.epoch("us").alias("first"), pl.col("ts").max().dt.epoch("us").alias("last")
    )
    end = int(tape.select(pl.col("ts").max().dt.epoch("us")).item()) + 86_400 * SECOND
    times = [pl.col(c).dt.epoch("us") for c in ("open_ts", "close_ts", "expected_close_ts", "settled_ts")]
    table = markets.with_columns(times).join(spans, on="ticker", how="left", maintain_order="left")
    frame_times: dict[str, tuple[int, int]] = {}
    for frame in frames:
        frame_times[frame.ticker] = (frame_times.get(frame.ticker, (frame.ts, 0))[0], frame.ts)
    facts: list[MarketFacts] = []
    for row in table.iter_rows(named=True):
        framed = frame_times.get(row["ticker"])
        if row["first"] is None and row["open_ts"] is None and framed is None:
            # Without a print, a frame or an opening time the market cannot appear.
            continue
        f = MarketFacts()
        f.index = len(facts)
        f.ticker, f.event, f.series = row["ticker"], row["event"], row["series"] or ""
        f.category, f.title, f.structure = row["category"], row["title"], row["price_structure"]
        f.fee_multiplier, f.fee_type = row["fee_multiplier"], row["fee_type"]
        f.grid = TickGrid.named(f.structure)
        f.result = row["result"] or ""
        f.settlement = row["settlement"] or 0
        # Prints and recorded frames date a market only where the table does not.
        first, last = row["first"], row["last"]
        begins = min((t for t in (first, framed and framed[0]) if t is not None), default=None)
        ends = max((t for t in (last, framed and framed[1]) if t is not None), default=None)
        f.open = row["open_ts"] if row["open_ts"] is not None else (begins or 0) - SECOND
        f.close = row["close_ts"] if row["close_ts"] is not None else (ends or f.open + SECOND) + SECOND
        if first is not None:
            f.open, f.close = min(f.open, first - 1), max(f.close, last + 1)
        f.created = f.open - 60 * SECOND
        f.announced_close = max(row["expected_close_ts"] or row["close_ts"] or end, f.close)
        f.determined = f.close + SECOND
        f.settled = max(row["settled_ts"] or f.determined + settle_after_us, f.determined + 1)
        facts.append(f)
    return facts
