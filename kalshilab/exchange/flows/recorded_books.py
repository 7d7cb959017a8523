"""Recorded books: the messages of the order book channel, as steps that a flow can play beside the prints.

A recording has one JSON object a line: a frame as the exchange sent it, or `{"received_ms": …, "frame": {…}}`
around one.  Frames of other channels are skipped.  After a gap in the sequence numbers, the books of that
subscription are unknown until their next snapshot, and deltas until then are skipped.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from kalshilab.errors import ProtocolError, UnitError
from kalshilab.kalshi.wire import stream as wire
from kalshilab.units import PRICE, parse_price, parse_size

__all__ = ["BookFrame", "delta_frame", "fold", "read_frames", "snapshot_frame"]

Levels = tuple[dict[int, int], dict[int, int]]
"""Bids and asks: size by YES price."""


class BookFrame(NamedTuple):
    """A snapshot of a market's book (`levels`), or one level changed by `delta`; YES prices on both sides."""

    ts: int
    ticker: str
    side: str = ""
    price: int = 0
    delta: int = 0
    levels: Levels | None = None


def snapshot_frame(
    ts: int, ticker: str, yes: Iterable[tuple[int, int]], no: Iterable[tuple[int, int]]
) -> BookFrame:
    """Return a book snapshot built from the bids of both sides.

    Args:
        ts: exchange time in microseconds.
        ticker: the market.
        yes: YES bids as (price, size), in YES prices.
        no: NO bids as (price, size), in NO prices.
    """
    return BookFrame(ts, ticker, levels=({p: s for p, s in yes if s}, {PRICE - p: s for p, s in no if s}))


def delta_frame(ts: int, ticker: str, side: str, price: int, delta: int) -> BookFrame:
    """Return a change of one level of `side`, "yes" or "no", at that side's price.

    >>> delta_frame(7, "A", "no", 5_600, 100)
    BookFrame(ts=7, ticker='A', side='ask', price=4400, delta=100, levels=None)
    """
    if side == "yes":
        return BookFrame(ts, ticker, "bid", price, delta)
    return BookFrame(ts, ticker, "ask", PRICE - price, delta)


class _RecordedLine(msgspec.Struct, gc=False):
    """One line of a recording: a frame, or a frame with its receive time."""

    frame: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    received_ms: int = 0
    type: str = ""


class _Head(msgspec.Struct, gc=False):
    """A frame with its message undecoded."""

    type: str = ""
    sid: int = 0
    seq: int = 0
    msg: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


_line: Final = msgspec.json.Decoder(_RecordedLine).decode
_head: Final = msgspec.json.Decoder(_Head).decode
_snapshot: Final = msgspec.json.Decoder(wire.OrderbookSnapshot).decode
_delta: Final = msgspec.json.Decoder(wire.OrderbookDelta).decode


def read_frames(source: str | Path | Iterable[bytes]) -> Iterator[BookFrame]:
    """Yield the book frames of a recording, in order.

    A delta carries an exchange time.  A snapshot carries none and takes the earlier of its receive time and
    the time of the next delta of any market.  Time never goes back.

    Args:
        source: a file, gzipped if its name ends in .gz, or its lines.

    Raises:
        ProtocolError: a line is not a recorded frame.
        OSError: the file cannot be read.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from _frames(file)
    else:
        yield from _frames(source)


def _frames(lines: Iterable[bytes]) -> Iterator[BookFrame]:
    expected: dict[int, int] = {}
    known: dict[int, set[str]] = {}
    undated: list[BookFrame] = []
    now = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            outer = _line(line)
            head = _head(line if outer.type else outer.frame)
            frame = _frame(head, outer.received_ms * 1000)
        except (msgspec.DecodeError, UnicodeDecodeError, UnitError) as error:
            raise ProtocolError(f"not a recorded frame ({error})", line) from None
        books = known.setdefault(head.sid, set())
        if head.seq:
            if head.seq != expected.get(head.sid, head.seq):
                books.clear()
            expected[head.sid] = head.seq + 1
        if frame is None:
            continue
        if frame.levels is not None:
            books.add(frame.ticker)
            undated.append(frame)
        elif frame.ticker in books:
            now = max(now, frame.ts)
            yield from (snapshot._replace(ts=now) for snapshot in undated)
            undated.clear()
            yield frame._replace(ts=now)
    for snapshot in undated:
        now = max(now, snapshot.ts)
        yield snapshot._replace(ts=now)


def _frame(head: _Head, received_us: int) -> BookFrame | None:
    """Return a frame's book snapshot or change; None for a frame of another channel."""
    if head.type == "orderbook_delta":
        d = _delta(head.msg)
        if d.side not in ("yes", "no"):
            raise UnitError("side", d.side, "yes or no")
        ts = d.ts_ms * 1000 or received_us
        return delta_frame(ts, d.market_ticker, d.side, parse_price(d.price_dollars), parse_size(d.delta_fp))
    if head.type == "orderbook_snapshot":
        m = _snapshot(head.msg)
        yes = [(parse_price(p), parse_size(n)) for p, n in m.yes_dollars_fp]
        no = [(parse_price(p), parse_size(n)) for p, n in m.no_dollars_fp]
        return snapshot_frame(received_us, m.market_ticker, yes, no)
    return None


def fold(book: Levels | None, frame: BookFrame) -> Levels | None:
    """Return a book after a frame; None before the first snapshot.

    >>> fold(({4_400: 10}, {}), BookFrame(0, "A", "bid", 4_400, -10))
    ({}, {})
    """
    if frame.levels is not None:
        return dict(frame.levels[0]), dict(frame.levels[1])
    if book is not None:
        levels = book[0] if frame.side == "bid" else book[1]
        size = levels.get(frame.price, 0) + frame.delta
        if size > 0:
            levels[frame.price] = size
        else:
            levels.pop(frame.price, None)
    return book
