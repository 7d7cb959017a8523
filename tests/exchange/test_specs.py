"""Every body and frame of a whole scripted day validates against the contract."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import jsonschema
import pytest
from scripted_day import Day

PAYLOADS = {
    "orderbook_snapshot": "orderbookSnapshotPayload",
    "orderbook_delta": "orderbookDeltaPayload",
    "trade": "tradePayload",
    "ticker": "tickerPayload",
    "fill": "fillPayload",
    "user_order": "userOrderPayload",
    "market_position": "marketPositionPayload",
    "market_lifecycle_v2": "marketLifecycleV2Payload",
    "event_lifecycle": "eventLifecyclePayload",
    "subscribed": "subscribedResponsePayload",
    "unsubscribed": "unsubscribedResponsePayload",
    "ok": "okResponsePayload",
    "error": "errorResponsePayload",
}


@pytest.fixture(scope="module")
def day() -> Day:
    """Return a day with orders of every kind, fills, cancels, settlements and mistakes."""
    d = Day()
    channels = ["trade", "ticker", "fill", "user_orders", "market_positions", "market_lifecycle_v2"]
    d.command(id=1, cmd="subscribe", params={"channels": channels})
    d.play(3_000)
    tickers = [x.facts.ticker for x in d.ex.listings if x.status == "active" and x.book.best_ask()]
    d.command(id=2, cmd="subscribe", params={"channels": ["orderbook_delta"], "market_tickers": tickers[:5]})
    d.command(
        id=3,
        cmd="update_subscription",
        params={"sids": [7], "action": "add_markets", "market_tickers": tickers[5:]},
    )
    d.command(
        id=4,
        cmd="update_subscription",
        params={"sid": 7, "action": "get_snapshot", "market_tickers": tickers[:1]},
    )
    d.command(
        id=5,
        cmd="update_subscription",
        params={"sid": 7, "action": "delete_markets", "market_tickers": tickers[:1]},
    )
    d.command(id=6, cmd="list_subscriptions")
    d.command(id=7, cmd="subscribe", params={"channels": ["trade"]})
    d.command(id=8, cmd="nonsense")
    d.command(id=9, cmd="subscribe")
    d.connection.receive("not json")
    for ticker in tickers:
        listing = d.ex.listings.get(ticker)
        assert listing is not None
        ask, bid = listing.book.best_ask(), listing.book.best_bid()
        if ask is not None:
            assert d.order(ticker, price=f"{ask / 10_000:.4f}")[0] == 201
            assert (
                d.order(
                    ticker, price=f"{ask / 10_000:.4f}", time_in_force="immediate_or_cancel", count="0.01"
                )[0]
                == 201
            )
        if bid is not None:
            d.order(ticker, side="ask", price=f"{bid / 10_000:.4f}", count="3.50")
            status, answer = d.order(ticker, price=f"{bid / 10_000:.4f}", post_only=True)
            if status == 201 and d.orders % 3:
                assert d.call("DELETE", f"/portfolio/events/orders/{answer['order_id']}")[0] == 200
    d.positions = d.call("GET", "/portfolio/positions")[1]
    d.play(100_000)
    d.command(id=10, cmd="unsubscribe", params={"sids": [1, 7]})
    d.frames += d.connection.take()
    return d


def test_every_frame_matches_the_contract(day: Day, contract: Any) -> None:
    seen: Counter[str] = Counter()
    for raw in day.frames:
        frame = json.loads(raw)
        kind = frame["type"]
        name = PAYLOADS[kind]
        if kind == "ok" and isinstance(frame.get("msg"), list):
            name = "listSubscriptionsResponsePayload"
        seen[name] += 1
        # Validate the first forty of each kind and one in fifty after that.
        if seen[name] <= 40 or seen[name] % 50 == 0:
            if name == "tradePayload":
                assert frame["msg"].pop("ts_us") // 1000 == frame["msg"]["ts_ms"]
            contract.frame(name, frame)
    assert set(PAYLOADS.values()) | {"listSubscriptionsResponsePayload"} == set(seen), (
        "a kind of frame is missing"
    )


GETS = [
    ("/exchange/status", {}, "/exchange/status"),
    ("/series", {}, "/series"),
    ("/series/KXSAMPLEGAME", {}, "/series/{series_ticker}"),
    ("/events", {"limit": "50"}, "/events"),
    ("/events", {"limit": "20", "with_nested_markets": "true"}, "/events"),
    ("/markets", {"limit": "1000"}, "/markets"),
    ("/markets", {"status": "settled"}, "/markets"),
    ("/markets/trades", {"limit": "1000"}, "/markets/trades"),
    ("/account/limits", {}, "/account/limits"),
    ("/portfolio/balance", {}, "/portfolio/balance"),
    ("/portfolio/fills", {"limit": "1000"}, "/portfolio/fills"),
    ("/portfolio/settlements", {}, "/portfolio/settlements"),
    ("/portfolio/orders", {"limit": "1000"}, "/portfolio/orders"),
]


@pytest.mark.parametrize(("path", "query", "template"), GETS)
def test_reads_match_the_contract(
    day: Day, contract: Any, path: str, query: dict[str, str], template: str
) -> None:
    status, body = day.call("GET", path, **query)
    assert status == 200
    contract.body("GET", template, 200, body)
    if path != "/account/limits":
        listed = next((v for v in body.values() if isinstance(v, list)), [1])
        assert listed, "an empty list proves nothing"


@pytest.fixture(scope="module")
def archive() -> Day:
    """Return a week of which half is archived."""
    d = Day(archive_after_us=3 * 86_400_000_000)
    d.play(100_000)
    return d


HISTORICAL = [
    ("/historical/cutoff", {}, "/historical/cutoff"),
    ("/historical/trades", {"limit": "1000"}, "/historical/trades"),
    ("/historical/markets", {"limit": "1000"}, "/historical/markets"),
    ("/historical/markets", {"series_ticker": "KXSAMPLERATE"}, "/historical/markets"),
    ("/markets/trades", {"limit": "1000"}, "/markets/trades"),
    ("/markets", {"limit": "1000"}, "/markets"),
    ("/events", {"limit": "200", "with_nested_markets": "true"}, "/events"),
]


@pytest.mark.parametrize(("path", "query", "template"), HISTORICAL)
def test_historical_reads_match_the_contract(
    archive: Day, contract: Any, path: str, query: dict[str, str], template: str
) -> None:
    status, body = archive.call("GET", path, **query)
    assert status == 200
    contract.body("GET", template, 200, body)
    assert next((v for v in body.values() if isinstance(v, list)), [1])


def test_an_archived_market_matches_the_contract(archive: Day, contract: Any) -> None:
    ticker = archive.call("GET", "/historical/markets", limit="1")[1]["markets"][0]["ticker"]
    status, body = archive.call("GET", f"/historical/markets/{ticker}")
    assert status == 200 and body["market"]["ticker"] == ticker
    contract.body("GET", "/historical/markets/{ticker}", 200, body)


def test_open_positions_match_the_contract(day: Day, contract: Any) -> None:
    assert len(day.positions["market_positions"]) > 5
    contract.body("GET", "/portfolio/positions", 200, day.positions)
    contract.body("GET", "/portfolio/positions", 200, day.call("GET", "/portfolio/positions")[1])


def test_single_objects_match_the_contract(day: Day, contract: Any) -> None:
    _, body = day.call("GET", "/portfolio/orders", limit="1")
    order_id, ticker = body["orders"][0]["order_id"], body["orders"][0]["ticker"]
    event = ticker.rpartition("-")[0]
    for path, template in (
        (f"/portfolio/orders/{order_id}", "/portfolio/orders/{order_id}"),
        (f"/markets/{ticker}", "/markets/{ticker}"),
        (f"/markets/{ticker}/orderbook", "/markets/{ticker}/orderbook"),
        (f"/events/{event}", "/events/{event_ticker}"),
    ):
        status, body = day.call("GET", path)
        assert status == 200, path
        contract.body("GET", template, 200, body)


def test_order_writes_match_the_contract(contract: Any) -> None:
    d = Day()
    d.play(3_000)
    x = next(x for x in d.ex.listings if x.status == "active" and x.book.best_ask() and x.book.best_bid())
    assert x.book.best_ask() is not None
    for price in (x.book.best_ask(), x.book.best_bid()):
        status, body = d.order(x.facts.ticker, price=f"{price / 10_000:.4f}")
        assert status == 201
        contract.body("POST", "/portfolio/events/orders", 201, body)
    status, answer = d.call("DELETE", f"/portfolio/events/orders/{body['order_id']}")
    assert status == 200
    contract.body("DELETE", "/portfolio/events/orders/{order_id}", 200, answer)


def test_a_body_off_the_contract_is_caught(day: Day, contract: Any) -> None:
    """Check the check: a missing required field or another type must fail."""
    _, body = day.call("GET", "/portfolio/balance")
    for broken in ({k: v for k, v in body.items() if k != "balance"}, body | {"balance": "1"}):
        with pytest.raises(jsonschema.ValidationError):
            contract.body("GET", "/portfolio/balance", 200, broken)
    frame = next(f for f in map(json.loads, day.frames) if f["type"] == "trade")
    del frame["msg"]["yes_price_dollars"]
    with pytest.raises(jsonschema.ValidationError):
        contract.frame("tradePayload", frame)
