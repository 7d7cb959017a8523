"""Variants of messages: YES prices on both sides, markets by id, and the forms of January 2026."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_day import Day

from kalshilab.errors import ExchangeError
from kalshilab.exchange import Exchange
from kalshilab.exchange.state import serialize
from kalshilab.exchange.stream.format_2026_01 import january_frame, january_rest
from kalshilab.kalshi.wire import stream as wire
from kalshilab.market.book import Book
from kalshilab.tape import sample
from kalshilab.units import PRICE, parse_price, parse_size


def say(connection: Any, **command: Any) -> list[dict[str, Any]]:
    connection.receive(json.dumps(command))
    return [json.loads(f) for f in connection.take()]


@pytest.fixture
def day() -> Day:
    made = Day()
    made.play(1_500)
    return made


def names(day: Day) -> list[str]:
    return [x.facts.ticker for x in day.ex.listings if x.status == "active"][:10]


def sides(book: Any) -> Any:
    return book.levels("yes"), book.levels("no")


def test_yes_prices_on_both_sides_describe_the_same_book(day: Day) -> None:
    tickers = names(day)
    usual, turned = day.ex.hub.connect(), day.ex.hub.connect()
    params = {"channels": ["orderbook_delta"], "market_tickers": tickers}
    for connection in (usual, turned):
        own = params | {"use_yes_price": connection is turned}
        connection.receive(json.dumps({"id": 1, "cmd": "subscribe", "params": own}))
    day.play(2_000)
    books: dict[int, dict[str, Book]] = {0: {}, 1: {}}
    frames = {n: [json.loads(f) for f in c.take()] for n, c in enumerate((usual, turned))}
    assert len(frames[0]) == len(frames[1]) > 100
    for n, own in frames.items():
        for frame in own:
            msg = frame["msg"]
            if frame["type"] == "orderbook_snapshot":
                book = books[n][msg["market_ticker"]] = Book()
                no = [(parse_price(p), parse_size(s)) for p, s in msg.get("no_dollars_fp", [])]
                book.load(
                    [(parse_price(p), parse_size(s)) for p, s in msg.get("yes_dollars_fp", [])],
                    [(PRICE - p, s) for p, s in no] if n else no,
                )
            elif frame["type"] == "orderbook_delta":
                price = parse_price(msg["price_dollars"])
                if n and msg["side"] == "no":
                    price = PRICE - price
                books[n][msg["market_ticker"]].apply(msg["side"], price, parse_size(msg["delta_fp"]))
    for ticker in tickers:
        assert sides(books[0][ticker]) == sides(books[1][ticker])


def test_a_ticker_subscription_accepts_market_ids(day: Day) -> None:
    ticker = names(day)[0]
    connection = day.ex.hub.connect()
    params = {"channels": ["ticker"], "market_id": serialize.market_id(ticker), "send_initial_snapshot": True}
    frames = say(connection, id=1, cmd="subscribe", params=params)
    assert [f["type"] for f in frames] == ["subscribed", "ticker"]
    assert frames[1]["msg"]["market_ticker"] == ticker
    for bad in (
        {"channels": ["ticker"], "market_id": "unknown"},
        {"channels": ["trade"], "market_id": serialize.market_id(ticker)},
        {"channels": ["ticker"], "market_id": serialize.market_id(ticker), "market_ticker": ticker},
    ):
        (error,) = say(connection, id=2, cmd="subscribe", params=bad)
        assert error["msg"]["code"] == 11


def test_skip_ticker_ack_omits_the_list_of_markets(day: Day) -> None:
    connection = day.ex.hub.connect()
    tickers = names(day)
    params: dict[str, Any] = {"channels": ["trade"], "market_tickers": tickers[:1], "skip_ticker_ack": True}
    say(connection, id=1, cmd="subscribe", params=params)
    (answer,) = say(
        connection, id=2, cmd="update_subscription",
        params={"sid": 1, "action": "add_markets", "market_tickers": tickers[1:3]},
    )  # fmt: skip
    assert answer["type"] == "ok" and "market_tickers" not in answer["msg"]


def test_a_connection_has_a_limit_of_markets(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kalshilab.exchange.stream.subscriber.MAX_MARKETS", 3)
    connection = day.ex.hub.connect()
    tickers = names(day)
    (error,) = say(connection, id=1, cmd="subscribe", params={"channels": ["trade"], "market_tickers": tickers[:4]})  # fmt: skip
    assert error["msg"]["code"] == 26
    say(connection, id=2, cmd="subscribe", params={"channels": ["trade"], "market_tickers": tickers[:3]})
    (error,) = say(connection, id=3, cmd="update_subscription", params={"sid": 1, "action": "add_markets", "market_tickers": tickers[3:4]})  # fmt: skip
    assert (error["msg"]["code"], error["sid"]) == (26, 1)


COMMANDS = st.fixed_dictionaries(
    {"cmd": st.sampled_from(["subscribe", "unsubscribe", "update_subscription", "list_subscriptions", "dance"])},
    optional={
        "id": st.integers(-1, 5),
        "params": st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {},
                optional={
                    "channels": st.lists(st.sampled_from(["trade", "orderbook_delta", "ticker", "fill", "nonsense"]), max_size=3),
                    "market_tickers": st.lists(st.sampled_from(["KNOWN-0", "KNOWN-1", "UNKNOWN"]), max_size=3),
                    "sids": st.lists(st.integers(0, 6), max_size=2),
                    "sid": st.integers(0, 6),
                    "action": st.sampled_from(["add_markets", "delete_markets", "get_snapshot", "sing"]),
                    "skip_ticker_ack": st.booleans(),
                    "use_yes_price": st.booleans(),
                },
            ),
        ),
    },
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(COMMANDS, max_size=12), st.sampled_from(["", "2026-01"]))
def test_random_commands_do_not_break_the_sequences(commands: list[dict[str, Any]], form: str) -> None:
    """Sequences have no gap, and the data of a sid lie between its acknowledgement and its end."""
    ex = Exchange(*sample(), form=form)
    for _ in range(400):
        ex.step()
    known = {f"KNOWN-{k}": x.facts.ticker for k, x in enumerate(ex.listings)}
    connection = ex.hub.connect()
    frames: list[dict[str, Any]] = []
    for command in commands:
        text = json.dumps(command)
        for name, ticker in known.items():
            text = text.replace(f'"{name}"', f'"{ticker}"')
        connection.receive(text)
        for _ in range(10):
            ex.step()
        frames += [json.loads(f) for f in connection.take()]
    alive: dict[int, int] = {}
    for frame in frames:
        if frame["type"] == "subscribed":
            assert frame["msg"]["sid"] not in alive
            alive[frame["msg"]["sid"]] = 0
        elif "sid" in frame:
            assert frame["sid"] in alive, "data lie between acknowledgement and end"
            if "seq" in frame:
                assert frame["seq"] == alive[frame["sid"]] + 1
                alive[frame["sid"]] += 1
            if frame["type"] == "unsubscribed":
                del alive[frame["sid"]]
        assert ("sending_ts_ms" in frame) <= (form == "")
    connection.close()
    assert not any(s.all or s.by_ticker for s in ex.hub._subscribers.values()), "closed"


# January 2026


def test_messages_of_january_2026_have_whole_numbers_and_no_sending_time(day: Day) -> None:
    old = Day(form="2026-01")
    channels = ["trade", "ticker", "market_lifecycle_v2", "fill", "market_positions", "user_orders"]
    assert old.ex.hub.form == "2026-01"
    old.command(id=1, cmd="subscribe", params={"channels": channels})
    old.play(1_500)
    tickers = names(old)
    old.command(id=2, cmd="subscribe", params={"channels": ["orderbook_delta"], "market_tickers": tickers})
    listing = next(x for x in old.ex.listings if x.status == "active" and x.book.best_ask())
    ask = listing.book.best_ask()
    assert ask is not None and old.order(listing.facts.ticker, price=f"{ask / 10_000:.4f}")[0] == 201
    old.command(id=3, cmd="unsubscribe", params={"sids": [1]})
    old.play(200)
    seen: dict[str, dict[str, Any]] = {}
    for raw in old.frames:
        frame = json.loads(raw)
        assert "sending_ts_ms" not in frame
        seen.setdefault(frame["type"], frame)
    assert {"trade", "ticker", "market_lifecycle_v2", "fill", "market_position", "orderbook_snapshot", "orderbook_delta"} <= seen.keys()  # fmt: skip
    assert "user_order" not in seen, "the channel did not exist"
    for kind, frame in seen.items():
        assert ("seq" in frame) == (kind in ("orderbook_snapshot", "orderbook_delta", "ok")), kind
    trade = seen["trade"]["msg"]
    assert isinstance(trade["yes_price"], int) and trade["yes_price"] + trade["no_price"] == 100
    assert isinstance(seen["fill"]["msg"]["count"], int)
    assert seen["unsubscribed"].keys() == {"type", "sid"}
    levels = seen["orderbook_snapshot"]["msg"]
    assert all(
        isinstance(p, int) and isinstance(n, int) for p, n in levels.get("yes", []) + levels.get("no", [])
    )


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (
            "trade",
            wire.TradeMessage(market_ticker="M", yes_price_dollars="0.4400", no_price_dollars="0.5600", count_fp="4.00", taker_side="yes", ts=1769000000, trade_id="t"),
            {"market_ticker": "M", "yes_price": 44, "yes_price_dollars": "0.440", "no_price": 56, "no_price_dollars": "0.560", "count": 4, "taker_side": "yes", "ts": 1769000000},
        ),
        (
            "orderbook_snapshot",
            wire.OrderbookSnapshot(market_ticker="M", yes_dollars_fp=[("0.4100", "10.00"), ("0.4200", "13.00")], no_dollars_fp=[("0.5500", "20.00")]),
            {"market_ticker": "M", "yes": [[41, 10], [42, 13]], "yes_dollars": [["0.410", 10], ["0.420", 13]], "no": [[55, 20]], "no_dollars": [["0.550", 20]]},
        ),
        (
            "market_position",
            wire.MarketPositionMessage(market_ticker="M", position_fp="4.00", position_cost_dollars="1.7600", realized_pnl_dollars="0.0000", fees_paid_dollars="0.0690", volume_fp="4.00", user_id="u"),
            {"user_id": "u", "market_ticker": "M", "position": 4, "position_cost": 17600, "realized_pnl": 0, "fees_paid": 690, "volume": 4},
        ),
        ("user_order", wire.OrderGroupUpdate(event_type="created", order_group_id="g"), None),
    ],
)  # fmt: skip
def test_a_message_is_converted_as_in_the_published_examples(kind: str, body: Any, expected: Any) -> None:
    assert january_frame(kind, body) == expected


def test_rest_bodies_of_january_2026_have_whole_numbers() -> None:
    old = Day(form="2026-01")
    old.play(1_500)
    ticker = names(old)[0]
    market = old.call("GET", f"/markets/{ticker}")[1]["market"]
    assert market["yes_bid"] == round(float(market["yes_bid_dollars"]) * 100)
    book = old.call("GET", f"/markets/{ticker}/orderbook")[1]
    assert book["orderbook"]["yes"] is None or isinstance(book["orderbook"]["yes"][0][0], int)
    trade = old.call("GET", "/markets/trades")[1]["trades"][0]
    assert trade["yes_price"] + trade["no_price"] == 100 and "is_block_trade" not in trade
    assert old.order(ticker, price="0.0100")[0] == 201
    order = old.call("GET", "/portfolio/orders")[1]["orders"][0]
    assert (order["yes_price"], order["no_price"], order["remaining_count"], order["queue_position"]) == (1, 99, 10, 0)  # fmt: skip
    assert january_rest(b"") == b""
    assert january_rest(b"[1]") == b"[1]"


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ExchangeError, match="form must be one of '', '2026-01', got '1999'"):
        Exchange(*sample(), form="1999")


@pytest.fixture(scope="module")
def combinations() -> list[dict[str, Any]]:
    """Return every frame of both lifecycle channels; the markets of one event are combinations."""
    import polars as pl

    tape, markets = sample()
    first = markets["event"][0]
    renamed = pl.when(pl.col("event") == first).then(pl.lit("KXMVE") + pl.col("ticker")).otherwise(pl.col("ticker"))  # fmt: skip
    combined = markets.filter(pl.col("event") == first)["ticker"]
    tape = tape.with_columns(
        pl.when(pl.col("ticker").cast(pl.String).is_in(combined.implode()))
        .then(pl.lit("KXMVE") + pl.col("ticker").cast(pl.String))
        .otherwise(pl.col("ticker").cast(pl.String))
        .cast(tape.schema["ticker"])
        .alias("ticker")
    )
    ex = Exchange(tape, markets.with_columns(renamed.alias("ticker")))
    connection = ex.hub.connect()
    say(connection, id=1, cmd="subscribe", params={"channels": ["market_lifecycle_v2", "multivariate_market_lifecycle"]})  # fmt: skip
    while ex.step():
        pass
    return [json.loads(f) for f in connection.take()]


def test_combinations_have_a_separate_lifecycle_channel(combinations: list[dict[str, Any]]) -> None:
    by_kind: dict[str, set[bool]] = {}
    for frame in combinations:
        if "market_ticker" in frame["msg"]:
            by_kind.setdefault(frame["type"], set()).add(frame["msg"]["market_ticker"].startswith("KXMVE"))
    assert by_kind == {"market_lifecycle_v2": {False}, "multivariate_market_lifecycle": {True}}


def test_lifecycle_frames_of_combinations_match_the_contract(
    combinations: list[dict[str, Any]], contract: Any
) -> None:
    kinds = set()
    for frame in combinations:
        if frame["type"] == "multivariate_market_lifecycle":
            contract.frame("multivariateMarketLifecyclePayload", frame)
            kinds.add(frame["msg"]["event_type"])
    assert kinds >= {"created", "determined", "settled"}
