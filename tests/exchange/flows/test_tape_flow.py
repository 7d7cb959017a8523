"""The tape flow: prints as recorded, a book that fits each print, and no use of future data."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from kalshilab.errors import ExchangeError, TapeError
from kalshilab.exchange import Exchange
from kalshilab.exchange.flows.synthetic import Synthetic
from kalshilab.exchange.orders.order_desk import Refused
from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot
from kalshilab.kalshi.stream.protocol import StreamProtocol
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.book import Book
from kalshilab.market.model import Trade
from kalshilab.tape import sample, to_tape
from kalshilab.tape.schema import with_codes
from kalshilab.units import format_price


def listen(ex: Exchange, *channels: str) -> Any:
    connection = ex.hub.connect()
    connection.receive(json.dumps({"id": 1, "cmd": "subscribe", "params": {"channels": list(channels)}}))
    return connection


def events(frames: list[bytes]) -> list[Any]:
    got: list[Any] = []
    protocol = StreamProtocol(got.append)
    for frame in frames:
        protocol.receive(frame)
    return got


def place_order(ex: Exchange, n: int) -> None:
    """Take and rest orders in the first market with a book."""
    for listing in ex.listings:
        price = listing.book.best_ask() if n % 2 else listing.book.best_bid()
        if listing.status == "active" and price is not None and listing.facts.grid.valid(price):
            body = wire.CreateOrder(
                ticker=listing.facts.ticker, side="bid", count="5.00", price=format_price(price),
                time_in_force="good_till_canceled", self_trade_prevention_type="maker",
            )  # fmt: skip
            try:
                ex.desk.create(body)
            except Refused as refused:
                assert refused.code == "insufficient_balance"
            return


@pytest.mark.parametrize("with_orders", [False, True])
def test_public_trades_equal_the_recorded_tape(with_orders: bool) -> None:
    tape, markets = sample()
    ex = Exchange(tape, markets, echo_trades=False)
    connection = listen(ex, "trade")
    n = 0
    while ex.step():
        n += 1
        if with_orders and n % 50 == 0:
            place_order(ex, n)
    assert not with_orders or len(ex.account.fills) > 50
    received = [e for e in events(connection.take()) if isinstance(e, Trade)]
    rows = tape.select(
        pl.col("ts").dt.epoch("us"), "ticker", "price", "size", pl.col("taker").cast(pl.String), "trade_id"
    )
    assert [(t.ts, t.ticker, t.price, t.size, t.taker, t.trade_id) for t in received] == rows.rows()
    assert ex.prints_played == tape.height
    assert ex.next_ts() is None and not ex.step()


def test_own_fills_are_public_trades_when_echoed() -> None:
    ex = Exchange(*sample(), echo_trades=True)
    connection = listen(ex, "trade")
    n = 0
    while ex.step():
        n += 1
        if n % 50 == 0:
            place_order(ex, n)
    ids = {t.trade_id for t in events(connection.take()) if isinstance(t, Trade)}
    assert len(ex.account.fills) > 50
    assert {f.trade_id for f in ex.account.fills} <= ids


def test_the_book_fits_every_print() -> None:
    tape, markets = sample()
    ex = Exchange(tape, markets)
    row = 0
    while ex.step():
        if ex.prints_played == row:
            continue
        ticker, price, taker = tape.row(row)[1], tape["price"][row], tape["taker"][row]
        book = ex.listings.get(ticker).book
        hit = book.best_ask() if taker == "yes" else book.best_bid()
        other = book.best_bid() if taker == "yes" else book.best_ask()
        assert hit == price
        assert other is None or (other < price if taker == "yes" else other > price)
        row += 1
    assert row == tape.height


def test_frames_do_not_depend_on_the_future() -> None:
    """Play two tapes that agree up to a cut: every frame up to the cut must be the same."""
    tape, markets = sample()
    cut = tape.height // 2
    when = tape["ts"][cut]
    later = tape.slice(cut).with_columns(
        price=(10_000 - pl.col("price")).cast(pl.Int16),
        size=(pl.col("size") * 7).cast(pl.UInt32),
        taker=pl.when(pl.col("taker") == "yes")
        .then(pl.lit("no"))
        .otherwise(pl.lit("yes"))
        .cast(tape.schema["taker"]),
    )
    other = pl.concat([tape.head(cut), later])
    flipped = {"yes": "no", "no": "yes"}
    unknown = markets.with_columns(
        result=pl.when(pl.col("close_ts") >= when).then(pl.col("result").replace(flipped)).otherwise("result"),
    ).with_columns(
        settlement=pl.when(pl.col("result") == "yes").then(10_000).when(pl.col("result") == "no").then(0)
        .otherwise("settlement").cast(pl.Int16)
    )  # fmt: skip
    seen = []
    for prints, table in ((tape, markets), (other, unknown)):
        ex = Exchange(prints, table, seed=5)
        connection = listen(ex, "trade", "ticker", "market_lifecycle_v2", "fill")
        n = 0
        while (ts := ex.next_ts()) is not None and ts < int(when.timestamp() * 1e6):
            ex.step()
            n += 1
            if n % 40 == 0:
                place_order(ex, n)
        books = {
            x.facts.ticker: (x.book.levels("bid"), x.book.levels("ask"), x.status, x.close_ts)
            for x in ex.listings
        }
        seen.append((connection.take(), books))
    assert seen[0] == seen[1]
    assert len(seen[0][0]) > 1_000


def test_same_tape_seed_and_calls_give_the_same_bytes() -> None:
    runs = []
    for seed in (1, 1, 2):
        ex = Exchange(*sample(), seed=seed)
        connection = listen(ex, "trade", "fill", "user_orders", "market_positions", "market_lifecycle_v2")
        for n in range(6_000):
            ex.step()
            if n % 25 == 0:
                place_order(ex, n)
        runs.append(connection.take())
    assert runs[0] == runs[1] != runs[2]


def test_the_book_of_a_subscriber_is_never_crossed() -> None:
    """Apply every message: the book is never crossed, even between two messages of one change.

    At regular checks the book rebuilt from messages equals the exchange's.
    """
    ex = Exchange(*sample(), echo_trades=False)
    connection = ex.hub.connect()
    books: dict[str, Book] = {}

    def received(event: Any) -> None:
        if isinstance(event, BookSnapshot):
            books.setdefault(event.ticker, Book()).load(event.yes, event.no)
        elif isinstance(event, BookDelta):
            book = books[event.ticker]
            book.apply(event.side, event.price, event.delta)
            bid, ask = book.best_yes_bid, book.yes_ask
            assert bid is None or ask is None or bid < ask

    reader = StreamProtocol(received)
    known: set[str] = set()
    n = 0
    while ex.step():
        n += 1
        new = [x.facts.ticker for x in ex.listings if x.facts.ticker not in known] if n % 20 == 0 else []
        if new:
            known.update(new)
            command = {
                "id": n,
                "cmd": "subscribe",
                "params": {"channels": ["orderbook_delta"], "market_tickers": new},
            }
            connection.receive(json.dumps(command))
        if n % 50 == 0:
            place_order(ex, n)
        for frame in connection.take():
            reader.receive(frame)
        if n % 500 == 0:
            for ticker, book in books.items():
                listing = ex.listings.get(ticker)
                assert listing is not None
                assert dict(book.levels("yes")) == listing.book.levels("bid")
                assert {10_000 - p: s for p, s in book.levels("no")} == listing.book.levels("ask")
    assert len(books) > 10 and len(ex.account.fills) > 50


def small(**columns: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    tape, markets = sample()
    ticker = tape["ticker"][0]
    part = with_codes(tape.filter(pl.col("ticker") == ticker)).select(tape.columns)
    return part, markets.filter(pl.col("ticker") == ticker).with_columns(**columns)


def kinds(ex: Exchange) -> list[tuple[str, int]]:
    connection = listen(ex, "market_lifecycle_v2")
    while ex.step():
        pass
    frames = [json.loads(f) for f in connection.take()]
    return [
        (f["msg"]["event_type"], f["msg"].get("close_ts", 0))
        for f in frames
        if f["type"] == "market_lifecycle_v2"
    ]


def test_missing_times_are_filled_in_without_revealing_the_end() -> None:
    nothing = pl.lit(None, pl.Datetime("us", "UTC"))
    tape, markets = small(open_ts=nothing, close_ts=nothing, expected_close_ts=nothing, settled_ts=nothing)
    ex = Exchange(tape, markets)
    sent = kinds(ex)
    assert [k for k, _ in sent] == ["created", "close_date_updated", "determined", "settled"]
    last = int(tape["ts"].max().timestamp())
    assert sent[0][1] >= last + 86_000, "the announced close is after the end of the tape"
    assert sent[1][1] - last <= 2


def test_an_early_close_is_announced_only_when_it_happens() -> None:
    tape, markets = small()
    close = markets["close_ts"][0]
    sent = kinds(Exchange(tape, markets.with_columns(expected_close_ts=pl.lit(close + timedelta(hours=5)))))
    assert sent[0][1] - sent[1][1] == 5 * 3600
    sent = kinds(Exchange(tape, markets.with_columns(expected_close_ts=pl.lit(close))))
    assert [k for k, _ in sent] == ["created", "determined", "settled"]


def test_a_market_without_a_result_is_not_determined() -> None:
    tape, markets = small(result=pl.lit(None, pl.String), settlement=pl.lit(None, pl.Int16))
    ex = Exchange(tape, markets)
    assert "determined" not in [k for k, _ in kinds(ex)]
    assert next(iter(ex.listings)).status == "closed"


def test_invalid_inputs_are_refused() -> None:
    tape, markets = sample()
    for prints, table, error, message in (
        (tape, markets.head(3), ExchangeError, "markets must list every ticker of the tape"),
        (tape.head(0), markets, ExchangeError, "tape must not be empty"),
        (tape, markets.with_columns(fee_type=pl.lit("flat")), ExchangeError, "fee_type must be one of"),
        (tape.reverse(), markets, TapeError, "goes back in time"),
        (tape.drop("taker"), markets, TapeError, "is missing"),
    ):
        with pytest.raises(error, match=message):
            Exchange(prints, table)
    with pytest.raises(ExchangeError, match="spread_price_units must be >= 1, got 0"):
        Exchange(tape, markets, spread_price_units=0)
    with pytest.raises(ExchangeError, match="tape and markets must be given together"):
        Exchange(tape)
    with pytest.raises(ExchangeError, match="tape and flow exclude each other"):
        Exchange(tape, markets, flow=Synthetic())


def test_real_prints_are_played(shared: Any) -> None:
    from kalshilab.tape import to_markets

    tape = to_tape(pl.read_parquet(shared / "data" / "trades_macro.parquet"))
    raw = pl.read_parquet(shared / "data" / "markets_macro.parquet")
    ex = Exchange(tape, to_markets(raw, result_column="result_released"))
    while ex.step():
        pass
    statuses = [x.status for x in ex.listings]
    assert (statuses.count("finalized"), statuses.count("closed")) == (766, 62)
