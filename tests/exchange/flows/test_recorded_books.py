"""Recorded books: read, folded, and played beside a tape."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kalshilab.errors import ProtocolError
from kalshilab.exchange import Exchange
from kalshilab.exchange.flows.recorded_books import BookFrame, delta_frame, fold, read_frames, snapshot_frame
from kalshilab.tape import sample
from kalshilab.tape.schema import with_codes


def line(kind: str, seq: int, msg: dict[str, Any], received: int = 0) -> bytes:
    frame = {"type": kind, "sid": 1, "seq": seq, "msg": msg}
    return json.dumps({"received_ms": received, "frame": frame} if received else frame).encode()


def snapshot(seq: int, ticker: str = "A", received: int = 0) -> bytes:
    msg = {
        "market_ticker": ticker,
        "yes_dollars_fp": [["0.4400", "10.00"]],
        "no_dollars_fp": [["0.5500", "7.50"]],
    }
    return line("orderbook_snapshot", seq, msg, received)


def delta(seq: int, ts: int, size: str = "1.00", side: str = "no", ticker: str = "A") -> bytes:
    msg = {"market_ticker": ticker, "price_dollars": "0.5500", "delta_fp": size, "side": side, "ts_ms": ts}
    return line("orderbook_delta", seq, msg)


def test_a_recording_is_read_in_either_form() -> None:
    got = list(read_frames([snapshot(1, received=9), b"\n", delta(2, 5), delta(3, 4)]))
    assert got == [
        BookFrame(5_000, "A", levels=({4_400: 1_000}, {4_500: 750})),
        BookFrame(5_000, "A", "ask", 4_500, 100),
        BookFrame(5_000, "A", "ask", 4_500, 100),
    ], "time never goes back, and a snapshot precedes the next delta"
    assert [f.ts for f in read_frames([snapshot(1, received=9)])] == [9_000]


def test_deltas_after_a_gap_are_skipped_until_a_snapshot() -> None:
    frames = [snapshot(1), snapshot(2, "B"), delta(3, 5), delta(5, 6), delta(6, 7, ticker="B"), snapshot(7), delta(8, 8)]  # fmt: skip
    got = [(f.ticker, f.levels is not None, f.ts // 1000) for f in read_frames(frames)]
    assert got == [("A", True, 5), ("B", True, 5), ("A", False, 5), ("A", True, 8), ("A", False, 8)]


def test_other_channels_are_skipped() -> None:
    other = [
        line("ticker", 0, {"market_ticker": "A"}),
        b'{"type":"subscribed","id":1,"msg":{}}',
        b'{"type":"new"}',
    ]
    assert list(read_frames(other)) == []


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        b"[]",
        b"\xff",
        line("orderbook_delta", 1, {"market_ticker": "A"}),
        delta(1, 1, size="x"),
        delta(1, 1, side="maybe"),
        b'{"received_ms":1,"frame":7}',
    ],
)
def test_an_invalid_line_raises_protocol_error(bad: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a recorded frame"):
        list(read_frames([bad]))


def test_plain_and_gzipped_files_are_read(tmp_path: Path) -> None:
    content = snapshot(1) + b"\n" + delta(2, 5) + b"\n"
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    assert (
        list(read_frames(plain)) == list(read_frames(str(packed))) == list(read_frames(content.splitlines()))
    )
    with pytest.raises(OSError):
        list(read_frames(tmp_path / "none"))


def test_fold_applies_frames_to_a_book() -> None:
    book = fold(None, delta_frame(0, "A", "yes", 4_400, 10))
    assert book is None, "the book is unknown before a snapshot"
    book = fold(book, snapshot_frame(0, "A", [(4_400, 10), (4_300, 0)], [(5_500, 5)]))
    for frame in (delta_frame(1, "A", "yes", 4_400, -10), delta_frame(1, "A", "no", 5_600, 3)):
        book = fold(book, frame)
    assert book == ({}, {4_500: 5, 4_400: 3})


# Beside a tape


def one_market() -> tuple[pl.DataFrame, pl.DataFrame, list[int]]:
    tape, markets = sample()
    busiest = tape["ticker"].mode().sort()[0]
    part = with_codes(tape.filter(pl.col("ticker") == busiest)).select(tape.columns)
    times = part["ts"].dt.epoch("us").to_list()
    return part, markets.filter(pl.col("ticker") == busiest), times


def test_recorded_books_replace_inferred_quotes_and_yield_to_prints() -> None:
    tape, markets, times = one_market()
    ticker = tape["ticker"][0]
    start = times[5] + 1
    frames = [snapshot_frame(start, ticker, [(p, 500) for p in range(100, 5_000, 100)], [(p, 500) for p in range(100, 5_000, 100)])]  # fmt: skip
    frames += [delta_frame(t + 1, ticker, "yes", 4_900, 100) for t in times[6:]]
    frames += [delta_frame(times[-1] + 10**12, ticker, "yes", 4_900, 100)]
    frames += [delta_frame(times[0], "UNKNOWN", "yes", 4_900, 100)]
    ex = Exchange(tape, markets, frames=sorted(frames, key=lambda f: f.ts))
    row = 0
    while ex.step():
        listing = ex.listings.get(ticker)
        assert listing is not None
        book = listing.book
        bid, ask = book.best_bid(), book.best_ask()
        assert bid is None or ask is None or bid < ask
        assert book.mirrored == (ex.now >= start)
        if ex.prints_played > row and row < tape.height:
            price, taker = tape["price"][row], tape["taker"][row]
            assert bid is None or (bid < price if taker == "yes" else bid <= price)
            assert ask is None or (ask >= price if taker == "yes" else ask > price)
            row += 1
    assert row == tape.height


def test_frames_before_the_opening_form_the_opening_book() -> None:
    tape, markets, times = one_market()
    ticker, opening = tape["ticker"][0], int(markets["open_ts"].dt.epoch("us")[0])
    frames = [
        snapshot_frame(opening - 9_000_000, ticker, [(3_000, 100)], [(3_000, 100)]),
        delta_frame(opening - 8_000_000, ticker, "yes", 3_100, 70),
    ]
    ex = Exchange(tape, markets, frames=frames)
    while (ts := ex.next_ts()) is not None and ts <= opening:
        ex.step()
    listing = ex.listings.get(ticker)
    assert listing is not None and opening < times[0]
    assert (listing.book.bids, listing.book.asks) == ({3_000: 100, 3_100: 70}, {7_000: 100})


def test_frames_date_a_market_without_dates_in_the_table() -> None:
    tape, markets, _ = one_market()
    nothing = pl.lit(None, pl.Datetime("us", "UTC"))
    silent = markets.with_columns(ticker=pl.lit("Q-1-A"), event=pl.lit("Q-1"), open_ts=nothing, close_ts=nothing, expected_close_ts=nothing, settled_ts=nothing)  # fmt: skip
    first = tape["ts"][0] - timedelta(days=1)
    ts = int(first.timestamp() * 1e6)
    frames = [
        snapshot_frame(ts, "Q-1-A", [(3_000, 100)], []),
        delta_frame(ts + 500, "Q-1-A", "yes", 3_000, 5),
    ]
    ex = Exchange(tape, pl.concat([markets, silent]), frames=frames)
    facts = next(f for f in ex.flow.facts if f.ticker == "Q-1-A")
    assert facts.open < ts and facts.close > ts + 500
    while (now := ex.next_ts()) is not None and now <= ts + 500:
        ex.step()
    listing = ex.listings.get("Q-1-A")
    assert listing is not None and listing.book.bids == {3_000: 105}
