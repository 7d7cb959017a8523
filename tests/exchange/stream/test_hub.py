"""Commands and frames: acknowledgements first, one sid per channel, sequences without gaps, errors by code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from order_bench import Bench

from kalshilab.exchange import Exchange
from kalshilab.tape import sample


@pytest.fixture
def ex() -> Exchange:
    made = Exchange(*sample())
    for _ in range(1_500):
        made.step()
    return made


def say(connection: Any, **command: Any) -> list[dict[str, Any]]:
    connection.receive(json.dumps(command))
    return [json.loads(f) for f in connection.take()]


def names(ex: Exchange, n: int = 3) -> list[str]:
    return [x.facts.ticker for x in ex.listings][:n]


def test_acknowledgements_come_before_data_and_each_channel_has_its_sid(ex: Exchange) -> None:
    connection = ex.hub.connect()
    params = {"channels": ["orderbook_delta", "trade"], "market_tickers": names(ex)}
    frames = say(connection, id=1, cmd="subscribe", params=params)
    assert [f["type"] for f in frames] == ["subscribed", *["orderbook_snapshot"] * 3, "subscribed"]
    assert [f["msg"]["sid"] for f in frames if f["type"] == "subscribed"] == [1, 2]
    assert {f["id"] for f in frames if f["type"] == "subscribed"} == {1}


def test_sequences_have_no_gap(ex: Exchange) -> None:
    connection = ex.hub.connect()
    tickers = [x.facts.ticker for x in ex.listings]
    say(connection, id=1, cmd="subscribe", params={"channels": ["trade", "market_lifecycle_v2", "ticker"]})
    frames = say(
        connection,
        id=2,
        cmd="subscribe",
        params={"channels": ["orderbook_delta"], "market_tickers": tickers[:9]},
    )
    for n, ticker in enumerate(tickers[9:]):
        frames += say(
            connection, id=3 + n, cmd="update_subscription",
            params={"sids": [4], "action": "add_markets", "market_tickers": [ticker]},
        )  # fmt: skip
        for _ in range(20):
            ex.step()
        frames += [json.loads(f) for f in connection.take()]
    by_sid: dict[int, list[int]] = {}
    for frame in frames:
        if "seq" in frame:
            by_sid.setdefault(frame["sid"], []).append(frame["seq"])
    assert {1, 2, 4} <= by_sid.keys() and 3 not in by_sid, "ticker has no sequence"
    for sid, seqs in by_sid.items():
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), sid


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("not json", 1),
        ("[" * 100_000, 1),
        ('{"params": ' + '{"a":' * 50_000, 1),
        ('{"id": "one", "cmd": "subscribe"}', 1),
        ({}, 1),
        ({"cmd": 7}, 1),
        ({"cmd": "dance", "params": []}, 5),
        ({"cmd": "subscribe", "params": []}, 11),
        ({"cmd": "subscribe", "params": {"channels": "trade"}}, 11),
        ({"cmd": "update_subscription", "params": {"sids": ["1"]}}, 11),
        ({"cmd": "subscribe"}, 2),
        ({"cmd": "subscribe", "params": {}}, 3),
        ({"cmd": "unsubscribe", "params": {}}, 4),
        ({"cmd": "dance", "params": {}}, 5),
        ({"cmd": "unsubscribe", "params": {"sids": [99]}}, 7),
        ({"cmd": "subscribe", "params": {"channels": ["unknown"]}}, 8),
        (
            {
                "cmd": "update_subscription",
                "params": {"sids": [1], "action": "add_markets", "market_tickers": ["X"]},
            },
            11,
        ),
        ({"cmd": "update_subscription", "params": {"sids": [1, 2], "action": "add_markets"}}, 12),
        (
            {
                "cmd": "update_subscription",
                "params": {"sids": [1], "action": "sing", "market_tickers": ["X"]},
            },
            13,
        ),
        ({"cmd": "subscribe", "params": {"channels": ["orderbook_delta"]}}, 14),
        ({"cmd": "update_subscription", "params": {"sids": [1], "market_tickers": ["X"]}}, 15),
    ],
)
def test_an_invalid_command_is_answered_by_code_and_the_connection_stays_open(
    ex: Exchange, command: Any, code: int
) -> None:
    connection = ex.hub.connect()
    say(connection, id=1, cmd="subscribe", params={"channels": ["trade"]})
    connection.receive(command if isinstance(command, str) else json.dumps({"id": 5, **command}))
    (frame,) = [json.loads(f) for f in connection.take()]
    assert (frame["type"], frame["msg"]["code"]) == ("error", code)
    assert frame["id"] == (0 if isinstance(command, str) else 5)
    assert say(connection, id=6, cmd="list_subscriptions")[0]["msg"] == [{"channel": "trade", "sid": 1}]


def test_a_second_subscription_to_a_channel_adds_markets(ex: Exchange) -> None:
    connection = ex.hub.connect()
    one, two, three = names(ex)
    say(connection, id=1, cmd="subscribe", params={"channels": ["orderbook_delta"], "market_tickers": [one]})
    frames = say(
        connection,
        id=2,
        cmd="subscribe",
        params={"channels": ["orderbook_delta"], "market_tickers": [one, two]},
    )
    assert [f["type"] for f in frames] == ["ok", "orderbook_snapshot"]
    assert frames[0]["msg"]["market_tickers"] == sorted([one, two])
    frames = say(
        connection, id=3, cmd="update_subscription",
        params={"sid": 1, "action": "get_snapshot", "market_tickers": [three, one]},
    )  # fmt: skip
    assert [(f["msg"]["market_ticker"], f["id"]) for f in frames] == [(three, 3), (one, 3)]
    frames = say(
        connection,
        id=4,
        cmd="update_subscription",
        params={"sid": 1, "action": "delete_markets", "market_tickers": [one]},
    )
    assert frames[0]["msg"]["market_tickers"] == [two]


def test_unsubscribing_ends_the_data(ex: Exchange) -> None:
    connection = ex.hub.connect()
    say(connection, id=1, cmd="subscribe", params={"channels": ["trade"]})
    while not connection.outbox:
        ex.step()
    frames = say(connection, id=2, cmd="unsubscribe", params={"sids": [1]})
    assert frames[-1]["type"] == "unsubscribed"
    for _ in range(500):
        ex.step()
    assert connection.take() == []
    connection.close()


def test_a_filter_excludes_other_markets(ex: Exchange) -> None:
    listing = next(x for x in ex.listings if x.status == "active")
    connection = ex.hub.connect()
    say(
        connection,
        id=1,
        cmd="subscribe",
        params={"channels": ["trade", "ticker"], "market_ticker": listing.facts.ticker},
    )
    while listing.status == "active":
        ex.step()
    frames = [json.loads(f) for f in connection.take()]
    assert frames
    assert {f["msg"]["market_ticker"] for f in frames} == {listing.facts.ticker}


def test_the_ticker_is_published_for_every_change_of_the_best_quotes_only() -> None:
    bench = Bench()
    bench.command(id=1, cmd="subscribe", params={"channels": ["ticker"]})
    bench.received("ticker")

    def new_bids() -> list[tuple[str, str]]:
        bids = [(m["yes_bid_dollars"], m["yes_bid_size_fp"]) for m in bench.received("ticker")]
        bench.frames = []
        return bids

    order_id = bench.made(price="0.4100")
    assert new_bids() == [("0.4100", "10.00")]
    bench.made(price="0.3900")
    assert new_bids() == []
    bench.amend(order_id, count="7.00")
    assert new_bids() == [("0.4100", "7.00")]
    bench.cancel(order_id)
    assert new_bids() == [("0.4000", "10.00")]
    bench.listing.book.apply("bid", 4_000, -300)
    bench.ex._quotes_changed(bench.listing)
    assert new_bids() == [("0.4000", "7.00")]
    bench.ex._quotes_changed(bench.listing)
    assert new_bids() == []


@pytest.mark.parametrize("form", ["", "2026-01"])
def test_every_message_has_its_sending_time_except_in_the_january_form(form: str) -> None:
    exchange = Exchange(*sample(), form=form)
    connection = exchange.hub.connect()
    say(connection, id=1, cmd="subscribe", params={"channels": ["trade", "ticker", "market_lifecycle_v2"]})
    while exchange.prints_played < 50:
        exchange.step()
        for frame in map(json.loads, connection.take()):
            assert frame.get("sending_ts_ms") == (None if form else exchange.now_ms())
