"""Taker orders against recorded books, checked against a plain walk over a plain book."""

from __future__ import annotations

import gzip
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_fires import BEGIN, fires_of, markets_of, tape_of

import kalshilab as kl
from kalshilab.edge.entries import maker
from kalshilab.edge.entries.book_taker import QUOTES_SCHEMA, QuoteLog, asked, check_quotes, mids, tops
from kalshilab.edge.entries.rules import enter
from kalshilab.errors import BookError, EdgeError
from kalshilab.exchange import Exchange
from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot
from kalshilab.kalshi.stream.protocol import StreamProtocol
from kalshilab.market.book import Book
from kalshilab.market.fees import fill_fee
from kalshilab.units import PRICE, parse_price, parse_size

T = "A-1"
START = int(BEGIN.timestamp() * 1e6)


def orders(*wanted: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame(list(wanted), {"ticker": pl.String, "side": pl.String}, orient="row")


def test_an_order_walks_the_levels_and_pays_their_mean_price() -> None:
    log = QuoteLog()
    log.snapshot(10, T, yes=[(4200, 700), (4100, 1000)], no=[(5600, 400)])
    # The haircut leaves half of the 7 and the 10 contracts, rounded down: 3 at 58 cents, 5 at 59.
    got = asked(
        orders((T, "no"), (T, "yes"), ("B-1", "no")), np.array([10, 10, 10]), log.frame(), contracts=9
    )
    assert got.contracts.tolist() == [8, 2, 0] and got.ts.tolist() == [10, 10, 0]
    assert got.price.tolist() == pytest.approx([(3 * 5800 + 5 * 5900) / 8, 4400, 0])
    # There is no fill before the first snapshot and none above the limit; without a haircut, all levels are filled.
    assert asked(orders((T, "no")), np.array([9]), log.frame()).contracts.tolist() == [0]
    assert asked(orders((T, "no")), np.array([11]), log.frame(), limit=5800).contracts.tolist() == [3]
    assert asked(orders((T, "no")), np.array([11]), log.frame(), haircut=0).contracts.tolist() == [10]


def test_contracts_we_took_stay_consumed_until_their_level_shrinks() -> None:
    log = QuoteLog()
    log.snapshot(0, T, yes=[(4200, 2000)], no=[])
    log.change(20, T, "yes", 4200, -1900)
    log.change(30, T, "yes", 4200, 1900)
    both = asked(orders((T, "no"), (T, "no")), np.array([10, 15]), log.frame(), contracts=10)
    assert both.contracts.tolist() == [10, 5]
    # The 1 contract left counts as ours: no fill.  Of the 20 shown later, 19 are new, and half of them can be taken.
    again = asked(orders(*[(T, "no")] * 3), np.array([10, 25, 35]), log.frame(), contracts=10)
    assert again.contracts.tolist() == [10, 0, 9]
    # The order of the rows does not matter; time decides.
    swapped = asked(orders((T, "no"), (T, "no")), np.array([15, 10]), log.frame(), contracts=10)
    assert swapped.contracts.tolist() == [5, 10]


level = st.tuples(st.integers(1, 9), st.integers(0, 40))
changes = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["A-1", "B-1"]), st.sampled_from(["yes", "no"]), level),
    min_size=1, max_size=40,
)  # fmt: skip
wanted = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(["A-1", "B-1", "C-1"]), st.sampled_from(["yes", "no"]), st.integers(1, 10)),
    min_size=1, max_size=8,
)  # fmt: skip


def frame_of(rows: list[tuple[int, str, str, tuple[int, int]]]) -> pl.DataFrame:
    at = np.cumsum([gap for gap, *_ in rows])
    return pl.DataFrame(
        {
            "ts": at, "ticker": [t for _, t, _, _ in rows], "side": [s for _, _, s, _ in rows],
            "price": [p * 1000 for *_, (p, _) in rows], "size": [q * 100 for *_, (_, q) in rows],
        }
    ).select(pl.col(n).cast(d) for n, d in QUOTES_SCHEMA.items())  # fmt: skip


@settings(max_examples=200)
@given(changes, wanted, st.integers(1, 30), st.sampled_from([0.0, 0.5, 0.8]))
def test_fills_equal_those_of_a_plain_walk(
    rows: list[Any], fires: list[Any], contracts: int, haircut: float
) -> None:
    frame = frame_of(rows)
    start = np.array([f[0] for f in fires])
    limits = np.array([f[3] * 1000 for f in fires])
    got = asked(orders(*((t, s) for _, t, s, _ in fires)), start, frame, contracts=contracts, haircut=haircut, limit=limits)  # fmt: skip
    ours: dict[tuple[str, str, int], int] = {}
    done = 0
    shown: dict[tuple[str, str, int], int] = {}
    plain = [(int(r["ts"].timestamp() * 1e6), r) for r in frame.iter_rows(named=True)]
    for i in sorted(range(len(fires)), key=lambda i: (fires[i][0], i)):
        ts, ticker, side, _ = fires[i]
        while done < len(plain) and plain[done][0] <= ts:
            row = plain[done][1]
            at = (row["ticker"], row["side"], row["price"])
            shown[at] = row["size"]
            ours[at] = min(ours.get(at, 0), row["size"])
            done += 1
        across = "no" if side == "yes" else "yes"
        filled, cash = 0, 0
        for price in range(9000, 0, -1000):
            at = (ticker, across, price)
            if PRICE - price <= limits[i]:
                available = int((shown.get(at, 0) - ours.get(at, 0)) * (1 - haircut)) // 100
                take = min(available, contracts - filled)
                filled, cash = filled + take, cash + take * (PRICE - price)
                ours[at] = ours.get(at, 0) + take * 100
        assert got.contracts[i] == filled
        assert got.price[i] == pytest.approx(cash / filled if filled else 0)


@settings(max_examples=100)
@given(changes)
@example([(0, "A-1", "yes", (1, 0)), (0, "A-1", "yes", (1, 0))])
def test_best_quotes_equal_those_of_a_plain_book(rows: list[Any]) -> None:
    frame = frame_of(rows)
    best = tops(frame)
    books: dict[str, dict[str, dict[int, int]]] = {}
    plain = list(frame.iter_rows(named=True))
    for i, row in enumerate(plain):
        side = books.setdefault(row["ticker"], {"yes": {}, "no": {}})[row["side"]]
        side[row["price"]] = row["size"]
        if any(later["ts"] == row["ts"] and later["ticker"] == row["ticker"] for later in plain[i + 1 :]):
            continue
        bid, ask = (
            max((p for p, q in books[row["ticker"]][s].items() if q), default=None) for s in ("yes", "no")
        )
        last = best.filter(pl.col("ticker") == row["ticker"], pl.col("ts") <= row["ts"]).tail(1)
        assert last.select("yes_bid", "yes_ask").row(0) == (bid, None if ask is None else PRICE - ask)
        middle = mids(best, pl.Series([row["ticker"]]), np.array([int(row["ts"].timestamp() * 1e6)]))[0]
        assert np.isnan(middle) if bid is None or ask is None else middle == (bid + PRICE - ask) / 2
    moved = best.group_by("ticker", maintain_order=True).agg(
        (pl.struct("yes_bid", "yes_ask") != pl.struct("yes_bid", "yes_ask").shift(1)).slice(1).all()
    )
    assert moved["yes_bid"].all()


def test_rule_book_pays_the_levels_shown_after_the_latency() -> None:
    tape = tape_of([(0, T, 60, "yes"), (0, "B-1", 60, "yes")])
    log = QuoteLog()
    log.snapshot(START - 5, T, yes=[(5800, 4000)], no=[(4000, 4000)])
    log.change(START + 2_000_000, T, "yes", 5900, 1000)
    log.change(START + 2_000_001, T, "yes", 5900, -1000)
    markets = markets_of({T: "no", "B-1": "no"})
    fires = fires_of(tape, [(0, "no"), (1, "no")])
    found = enter(fires, tape, markets, rule="book", books=log.frame(), contracts=10)
    # Two seconds after the fire: five at 41 cents, five at 42.  The YES mid at the fire was 59.  B has no book.
    entry, other = found.row(0, named=True), found.row(1, named=True)
    assert entry["filled"] and entry["entry_ts"] == BEGIN + timedelta(seconds=2)
    fee = fill_fee(4150, 1000) / 1e7
    assert [entry[k] for k in ("mid", "price", "fee", "pnl")] == pytest.approx(
        [0.41, 0.415, fee, 0.585 - fee]
    )
    assert not other["filled"] and other["pnl"] == 0
    # Contracts that the book does not offer are not filled; the fee is that of the smaller order.
    large = enter(fires, tape, markets, rule="book", books=log.frame(), contracts=100).row(0, named=True)
    assert large["price"] == pytest.approx((5 * 0.41 + 20 * 0.42) / 25)
    assert large["fee"] == pytest.approx(fill_fee(round(large["price"] * PRICE), 2500) / 25e6)
    # NO costs 40 cents at the firing print.  A limit of 1 cent above it buys half; a limit of 0 buys nothing.
    near = [enter(fires, tape, markets, rule="book", books=log.frame(), limit_cents=c) for c in (0.0, 1.0)]
    assert [n["filled"][0] for n in near] == [False, True] and near[1]["price"][0] == pytest.approx(0.41)


def test_a_log_records_the_levels_that_each_message_changes() -> None:
    log = QuoteLog()
    log.snapshot(5, T, yes=[(4100, 100)], no=[(5000, 300)])
    log.snapshot(6, T, yes=[(4100, 100), (4200, 200)], no=[])
    log.change(3, T, "yes", 4100, 50)  # a late message takes the time of the previous one
    log.lost(9, T)
    log.lost(10, T)
    rows = log.frame().select(pl.col("ts").dt.epoch("us"), "side", "price", "size").rows()
    assert rows == [
        (5, "yes", 4100, 100), (5, "no", 5000, 300), (6, "yes", 4200, 200), (6, "no", 5000, 0),
        (6, "yes", 4100, 150), (9, "yes", 4200, 0), (9, "yes", 4100, 0),
    ]  # fmt: skip
    assert check_quotes(log.frame()).schema == QUOTES_SCHEMA and "7 changes" in repr(log)
    with pytest.raises(EdgeError, match="must follow a snapshot"):
        log.change(11, T, "yes", 4100, 50)
    log.snapshot(12, T, yes=[(4100, 100)], no=[])
    with pytest.raises(BookError):
        log.change(13, T, "yes", 4100, -200)


@pytest.mark.parametrize("name", ["orderbook_frames_verbatim.jsonl", "btc15m_frames.jsonl.gz"])
def test_a_log_of_recorded_frames_rebuilds_their_books(shared: Path, name: str) -> None:
    path = shared / "data" / "ws" / name
    data = gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
    log, books, now = QuoteLog(), dict[str, Book](), 0
    for line in data.splitlines()[:15_000]:
        record = json.loads(line)
        now, kind, msg = record["received_ms"] * 1000, record["frame"]["type"], record["frame"]["msg"]
        if kind == "orderbook_snapshot":
            yes, no = (
                [(parse_price(p), parse_size(q)) for p, q in msg.get(f"{side}_dollars_fp", [])]
                for side in ("yes", "no")
            )
            log.snapshot(now, msg["market_ticker"], yes, no)
            books.setdefault(msg["market_ticker"], Book()).load(yes, no)
        elif kind == "orderbook_delta":
            delta = round(float(msg["delta_fp"]) * 100)
            change = (msg["side"], parse_price(msg["price_dollars"]), delta)
            log.change(now, msg["market_ticker"], *change)
            books[msg["market_ticker"]].apply(*change)
    best = tops(log.frame())
    assert len(books) > 0 and best.height > len(books)
    for ticker, book in books.items():
        last = best.filter(pl.col("ticker") == ticker).tail(1).row(0, named=True)
        assert (last["yes_bid"], last["yes_ask"]) == (book.best_yes_bid, book.yes_ask)
    # An order at the end pays the best price of the last book.
    ends = orders(*((t, "yes") for t in books))
    got = asked(ends, np.full(len(books), now), log.frame(), contracts=1, haircut=0)
    for ticker, price in zip(books, got.price, strict=True):
        no = books[ticker].levels("no")
        first = next((PRICE - p for p, size in no if size >= 100), 0)
        assert price == first


@pytest.fixture(scope="module")
def replayed() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Replay the sample on the simulated exchange and return tape, markets and the quotes of a subscriber."""
    tape, markets = kl.sample()
    ex, log, known, now = Exchange(tape, markets), QuoteLog(), set[str](), 0
    connection = ex.hub.connect()

    def log_quotes(event: Any) -> None:
        if isinstance(event, BookSnapshot):
            log.snapshot(now, event.ticker, event.yes, event.no)
        elif isinstance(event, BookDelta):
            log.change(event.ts, event.ticker, event.side, event.price, event.delta)

    reader = StreamProtocol(log_quotes)
    while (due := ex.next_ts()) is not None:
        now = due
        ex.step()
        new = [x.facts.ticker for x in ex.listings if x.facts.ticker not in known]
        if new:
            known.update(new)
            params = {"channels": ["orderbook_delta"], "market_tickers": new}
            connection.receive(json.dumps({"id": len(known), "cmd": "subscribe", "params": params}))
        for frame in connection.take():
            reader.receive(frame)
    return tape, markets, log.frame()


def test_entries_on_the_simulated_exchange_fill_above_the_mid_after_the_latency(
    replayed: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame],
) -> None:
    tape, markets, quotes = replayed
    fires = kl.signals.rlm(tape, min_trades=15, min_drop=2)
    found = enter(fires, tape, markets, rule="book", books=quotes, contracts=5)
    # Books are empty only near the close.  Nearly all orders fill, above the mid and after the latency.
    assert found.height > 20 and found["filled"].mean() > 0.8  # type: ignore[operator]
    got = found.filter("filled")
    assert (got["entry_ts"] == got["ts"] + timedelta(seconds=2)).all()
    best = mids(tops(quotes), got["ticker"], got["entry_ts"].dt.epoch("us").to_numpy()) / PRICE
    assert (got["price"].to_numpy() > 1 - best).all()
    # Each easier fill model fills at least as many contracts of the quotes that joined the bid.
    rested = maker.rest(maker.joining(fires, quotes), tape, quotes, contracts=5)
    filled = [rested.filter(pl.col("book") == b)["contracts"].sum() for b in maker.BOOKS]
    assert filled == sorted(filled) and filled[-1] > 0
    marks = maker.markouts(rested, quotes, markets, book="touch", resamples=199)
    assert set(marks["group"]) == {"filled", "unfilled"} and marks["horizon_s"].null_count() > 0


def test_rule_maker_gives_the_entries_of_the_most_pessimistic_fill_model(
    replayed: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame],
) -> None:
    tape, markets, quotes = replayed
    fires = kl.signals.rlm(tape, min_trades=15, min_drop=2)
    found = enter(
        fires, tape, markets, rule="maker", books=quotes, contracts=5, latency_s=0.5, window_s=600.0
    )
    rested = maker.rest(maker.joining(fires, quotes), tape, quotes, contracts=5, life_s=600.0, latency_s=0.5)
    expected = maker.entries(rested, markets).join(found.select("fire"), on="fire", how="semi")
    joined = found.filter("filled").join(expected, on="fire", suffix="_m")
    assert 0 < joined.height == expected["filled"].sum() < found.height
    for name in ("entry_ts", "price", "fee", "value", "pnl"):
        one, other = joined[name], joined[f"{name}_m"]
        assert (
            (one == other).all()
            if one.dtype == pl.Datetime
            else one.to_numpy() == pytest.approx(other.to_numpy())
        )
    # A maker buys at the bid, below the mid.
    assert (joined["price"] < joined["mid"]).all()
    with pytest.raises(EdgeError, match=r'rule="maker" needs books='):
        enter(fires, tape, markets, rule="maker")


def test_a_card_of_rule_maker_reports_markouts_and_adverse_selection(
    replayed: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame],
) -> None:
    tape, markets, quotes = replayed
    signal = kl.signals.Rlm(min_trades=15, min_drop=2)
    card = kl.validate(signal, tape, markets, rule="maker", books=quotes, audits=False, latency_s=0.5)
    assert card.verdict == "INSUFFICIENT" and 0 < card.numbers["filled"] < card.numbers["kept"]
    assert set(card.frames["markouts"]["group"]) <= {"filled", "unfilled"}
    assert card.figure("markouts").data
    assert np.isfinite(card.numbers["adverse_selection"]) and np.isfinite(card.numbers["net_at_touch"])
    taken = kl.validate(signal, tape, markets, rule="book", books=quotes, audits=False)
    assert "markouts" not in taken.frames and taken.numbers["filled"] > card.numbers["filled"]
    assert taken.spec["hash"] != card.spec["hash"]
    with pytest.raises(EdgeError, match="diagnosis"):
        kl.validate(signal, tape, markets, rule="mid")


def test_frames_that_are_not_quotes_and_arguments_out_of_range_are_refused() -> None:
    log = QuoteLog()
    log.snapshot(5, T, yes=[(4100, 100)], no=[(5000, 300)])
    good = log.frame()
    for bad in (
        good.drop("size"),
        good.with_columns(pl.col("price").cast(pl.Int64)),
        good.with_columns(price=pl.lit(0, pl.Int16)),
        good.with_columns(ticker=pl.lit(None, pl.String)),
        pl.concat([good, good.with_columns(pl.col("ts") - timedelta(seconds=1))]),
    ):
        with pytest.raises(EdgeError, match="quotes"):
            check_quotes(bad)
    for arguments in ({"contracts": 0}, {"haircut": 1.0}):
        with pytest.raises(EdgeError):
            asked(orders((T, "no")), np.array([5]), good, **arguments)  # type: ignore[arg-type]
    empty = asked(orders(), np.zeros(0, np.int64), good)
    assert empty.contracts.tolist() == [] and tops(good.head(0)).is_empty()
