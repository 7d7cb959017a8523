"""Public REST: every error of a query, every filter against an independent selection, bodies by the contract."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_day import Day

SECOND = 1_000_000


LONG = {"start_ts": "0", "end_ts": "300001", "period_interval": "1"}
RANGE = {"start_ts": "1000", "end_ts": "2000", "period_interval": "1"}
CANDLES = (
    "/series/S/markets/{ticker}/candlesticks",
    "/series/{series}/events/{event}/candlesticks",
    "/markets/candlesticks",
    "/historical/markets/{ticker}/candlesticks",
)

BAD: list[tuple[str, dict[str, str], str]] = [
    # Pages
    *[
        (path, {"limit": limit}, "limit")
        for path, most, least in (
            ("/markets", 1000, 0), ("/markets/trades", 1000, 0), ("/historical/markets", 1000, 0),
            ("/historical/trades", 1000, 0), ("/events", 200, 1), ("/events/fee_changes", 1000, 1),
        )
        for limit in (str(most + 1), str(least - 1), "ten", "1.0", "1_0", "１", "9" * 40)
    ],
    # Words
    ("/markets", {"status": "active"}, "status"),
    ("/markets", {"status": "open,closed"}, "status"),
    ("/markets", {"mve_filter": "all"}, "mve_filter"),
    ("/historical/markets", {"mve_filter": "only"}, "mve_filter"),
    ("/events", {"status": "paused"}, "status"),
    # Yes and no
    ("/events", {"with_nested_markets": "yes"}, "with_nested_markets"),
    ("/events", {"with_milestones": "2"}, "with_milestones"),
    ("/events/{event}", {"with_nested_markets": "on"}, "with_nested_markets"),
    ("/events/{event}", {"exclude_markets": "on"}, "exclude_markets"),
    ("/events/{event}", {"exclude_markets": "true", "with_nested_markets": "true"}, "only one"),
    ("/series", {"include_volume": "x"}, "include_volume"),
    ("/series", {"include_product_metadata": "x"}, "include_product_metadata"),
    ("/series/{series}", {"include_volume": "x"}, "include_volume"),
    ("/series/fee_changes", {"show_historical": "x"}, "show_historical"),
    ("/markets/trades", {"is_block_trade": "x"}, "is_block_trade"),
    ("/historical/trades", {"is_block_trade": "x"}, "is_block_trade"),
    # Times
    ("/series", {"min_updated_ts": "now"}, "min_updated_ts"),
    ("/events", {"min_updated_ts": "now"}, "min_updated_ts"),
    ("/events", {"min_close_ts": "-1"}, "min_close_ts"),
    *[
        ("/markets", {f"{side}_{family}_ts": "noon"}, f"{side}_{family}_ts")
        for side in ("min", "max")
        for family in ("created", "close", "settled", "updated")
    ],
    *[(path, {name: "noon"}, name) for path in ("/markets/trades", "/historical/trades") for name in ("min_ts", "max_ts")],
    # Families of times: one at a time, and with their own statuses
    *[
        ("/markets", {f"min_{a}_ts": "1", f"max_{b}_ts": "2"}, "only one kind")
        for a in ("created", "close", "settled", "updated")
        for b in ("created", "close", "settled", "updated")
        if a != b
    ],
    *[
        ("/markets", {f"max_{family}_ts": "1", "status": status}, f"must not be combined with status {status}")
        for family, fine in (
            ("created", ("unopened", "open")), ("close", ("closed",)), ("settled", ("settled",)), ("updated", ()),
        )
        for status in ("unopened", "open", "paused", "closed", "settled")
        if status not in fine
    ],
    ("/markets", {"min_updated_ts": "1", "tickers": "A"}, "must not be combined with tickers"),
    ("/markets", {"min_updated_ts": "1", "event_ticker": "A"}, "must not be combined with event_ticker"),
    ("/markets", {"min_updated_ts": "1", "mve_filter": "only"}, "mve_filter=exclude"),
    ("/markets", {"min_updated_ts": "1", "series_ticker": "A"}, "mve_filter=exclude"),
    # Books
    ("/markets/{ticker}/orderbook", {"depth": "101"}, "depth"),
    ("/markets/{ticker}/orderbook", {"depth": "-1"}, "depth"),
    ("/markets/{ticker}/orderbook", {"depth": "all"}, "depth"),
    ("/markets/orderbooks", {}, "tickers"),
    ("/markets/orderbooks", {"tickers": ""}, "tickers"),
    # Archive
    ("/historical/markets", {"tickers": "A", "event_ticker": "B"}, "only one"),
    ("/historical/markets", {"series_ticker": "A", "event_ticker": "B"}, "only one"),
    # Candlesticks
    *[
        (path, {k: v for k, v in RANGE.items() if k != absent} | {"market_tickers": "A"}, absent)
        for path in CANDLES
        for absent in RANGE
    ],
    *[
        (path, RANGE | {"market_tickers": "A", name: value}, name)
        for path in CANDLES
        for name, value in (
            ("start_ts", "noon"), ("end_ts", "999"), ("period_interval", "5"), ("period_interval", "0"),
            ("include_latest_before_start", "x"),
        )
    ],
    ("/markets/candlesticks", RANGE, "market_tickers"),
    ("/markets/candlesticks", RANGE | {"market_tickers": ",".join(f"T{n}" for n in range(101))}, "100"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "query", "message"), BAD)
def test_an_invalid_query_is_answered_400_with_the_reason(
    day: Day, path: str, query: dict[str, str], message: str
) -> None:
    f = next(iter(day.ex.listings)).facts
    status, body = day.call("GET", path.format(ticker=f.ticker, event=f.event, series=f.series), **query)
    assert status == 400 and body.keys() == {"msg"} and message in body["msg"], body


def test_the_number_of_books_in_one_request_is_limited(day: Day) -> None:
    pairs = tuple(("tickers", f"T{n}") for n in range(101))
    assert day.send("GET", "/markets/orderbooks", pairs)[0] == 400
    assert day.send("GET", "/markets/orderbooks", pairs[1:]) == (200, {"orderbooks": []})


@pytest.mark.parametrize(
    ("path", "query", "details"),
    [
        ("/series/S/markets/T/candlesticks", LONG, "5000.016667, max candlesticks: 5000"),
        ("/historical/markets/T/candlesticks", LONG, "5000.016667, max candlesticks: 5000"),
        (
            "/markets/candlesticks",
            RANGE | {"end_ts": "7060", "market_tickers": ",".join(f"T{n}" for n in range(100))},
            "across all markets: 10100, max candlesticks: 10000",
        ),
    ],
)
def test_a_range_with_too_many_candlesticks_is_refused(
    day: Day, path: str, query: dict[str, str], details: str
) -> None:
    status, body = day.call("GET", path, **query)
    assert status == 400 and body["error"]["code"] == "bad_request"
    assert body["error"]["details"].endswith(details)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/markets/NOPE", {}),
        ("/markets/NOPE/orderbook", {}),
        ("/series/NOPE", {}),
        ("/events/NOPE", {}),
        ("/series/S/markets/NOPE/candlesticks", RANGE),
        ("/series/S/events/NOPE/candlesticks", RANGE),
        ("/historical/markets/NOPE", {}),
        ("/historical/markets/NOPE/candlesticks", RANGE),
        ("/exchange/announcements", {}),
        ("/markets/A/B/C", {}),
        ("/series/S/markets", {}),
        ("/historical", {}),
    ],
)
def test_unknown_names_and_paths_are_answered_404(day: Day, path: str, query: dict[str, str]) -> None:
    status, body = day.call("GET", path, **query)
    assert status == 404 and body["error"]["code"] == "not_found"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_public_paths_answer_only_get(day: Day, method: str) -> None:
    for path in ("/markets", "/events", "/exchange/status", "/account/endpoint_costs"):
        assert day.call(method, path)[0] == 404


# The exchange


def test_status_and_schedule_follow_the_exchange(by_contract: Any) -> None:
    day = Day()
    day.play(10)
    for exchange, trading, reported in ((True, True, True), (True, False, False), (False, True, False)):
        day.ex.exchange_active, day.ex.trading_active = exchange, trading
        status, body = day.call("GET", "/exchange/status")
        by_contract.body("GET", "/exchange/status", 200, body)
        assert (status, body["exchange_active"], body["trading_active"]) == (200, exchange, reported)
        (shard,) = body["exchange_index_statuses"]
        assert (shard["exchange_index"], shard["trading_active"]) == (0, reported)
    schedule = day.call("GET", "/exchange/schedule")[1]
    by_contract.body("GET", "/exchange/schedule", 200, schedule)
    assert schedule["schedule"]["standard_hours"][0]["thursday"]
    stamp = day.call("GET", "/exchange/user_data_timestamp")[1]
    by_contract.body("GET", "/exchange/user_data_timestamp", 200, stamp)
    before = stamp["as_of_time"]
    day.play(50)
    assert day.call("GET", "/exchange/user_data_timestamp")[1]["as_of_time"] > before


# Series and events


def test_series_are_filtered_and_have_their_volume(day: Day, by_contract: Any) -> None:
    _, every = day.call("GET", "/series")
    by_contract.body("GET", "/series", 200, every)
    assert "volume_fp" not in every["series"][0] and "product_metadata" not in every["series"][0]
    for s in every["series"]:
        own = [x for x in day.ex.listings if x.facts.series == s["ticker"]]
        _, one = day.call("GET", f"/series/{s['ticker']}", include_volume="true")
        by_contract.body("GET", "/series/{series_ticker}", 200, one)
        assert one["series"]["volume_fp"] == f"{sum(x.volume for x in own) / 100:.2f}"
        assert {k: v for k, v in one["series"].items() if k != "volume_fp"} == s
    _, full = day.call("GET", "/series", include_volume="1", include_product_metadata="true")
    by_contract.body("GET", "/series", 200, full)
    assert all(s["volume_fp"] != "0.00" and s["product_metadata"] == {} for s in full["series"])
    category = every["series"][0]["category"]
    _, some = day.call("GET", "/series", category=category)
    assert some["series"] == [s for s in every["series"] if category in s["categories"]] != []
    assert day.call("GET", "/series", category=category.swapcase())[1]["series"] == []
    assert day.call("GET", "/series", tags="Soccer,Music")[1]["series"] == []
    stamps = sorted(x.facts.created for x in day.ex.listings)
    assert day.call("GET", "/series", min_updated_ts=str(stamps[-1] // SECOND + 1))[1]["series"] == []
    assert day.call("GET", "/series", min_updated_ts=str(stamps[0] // SECOND - 1))[1] == every


def test_fee_changes_of_events_are_listed_and_those_of_series_are_empty(day: Day, by_contract: Any) -> None:
    d = Day()
    d.play(3_000)
    _, empty = d.call("GET", "/series/fee_changes", show_historical="true", series_ticker="KXSAMPLEGAME")
    assert empty == {"series_fee_change_arr": []}, "fees of a series never change"
    by_contract.body("GET", "/series/fee_changes", 200, empty)
    events = d.ex.listings.events()[:3]
    for n, event in enumerate(events):
        d.ex.desk.tariff.override(event, "quadratic_with_maker_fees", n / 2)
    d.ex.desk.tariff.override(events[0])
    pages, cursor = [], ""
    while True:
        _, page = d.call("GET", "/events/fee_changes", limit="3", cursor=cursor)
        by_contract.body("GET", "/events/fee_changes", 200, page)
        pages += page["event_fee_changes"]
        if not (cursor := page["cursor"]):
            break
    assert [p["event_ticker"] for p in pages] == [*events, events[0]]
    assert pages[1]["fee_multiplier_override"] == 0.5 and pages[3]["fee_type_override"] is None
    assert len({p["id"] for p in pages}) == 4
    _, own = d.call("GET", "/events/fee_changes", event_ticker=events[0])
    assert own["event_fee_changes"] == [pages[0], pages[3]]
    _, event = d.call("GET", f"/events/{events[1]}")
    assert event["event"]["fee_multiplier_override"] == 0.5
    assert "fee_type_override" not in d.call("GET", f"/events/{events[0]}")[1]["event"]
    by_contract.body("GET", "/events/{event_ticker}", 200, event)


def test_an_event_has_its_markets_beside_it_or_nested_or_not_at_all(day: Day, by_contract: Any) -> None:
    event = max(day.ex.listings.events(), key=lambda e: len(day.ex.listings.of_event(e)))
    tickers = [x.facts.ticker for x in day.ex.listings.of_event(event)]
    for query, beside, nested in (
        ({}, tickers, None),
        ({"with_nested_markets": "true"}, [], tickers),
        ({"exclude_markets": "true"}, [], None),
        ({"exclude_markets": "false", "with_nested_markets": "t"}, [], tickers),
    ):
        status, body = day.call("GET", f"/events/{event}", **query)
        assert status == 200
        by_contract.body("GET", "/events/{event_ticker}", 200, body)
        assert [m["ticker"] for m in body["markets"]] == beside
        inside = body["event"].get("markets")
        assert (inside and [m["ticker"] for m in inside]) == nested


@pytest.mark.parametrize(
    "query",
    [
        {}, {"status": "open"}, {"status": "closed"}, {"status": "settled"}, {"status": "unopened"},
        {"series_ticker": "KXSAMPLEGAME"}, {"with_nested_markets": "true", "limit": "7"}, {"with_milestones": "true"},
        {"min_close_ts": "{middle}"}, {"min_updated_ts": "{middle}"}, {"status": "open", "min_close_ts": "{middle}"},
        {"tickers": "{some},NOPE"},
    ],
)  # fmt: skip
def test_events_are_filtered_as_selected_independently(
    day: Day, by_contract: Any, query: dict[str, str]
) -> None:
    listings = day.ex.listings
    middle = day.ex.now // SECOND - 86_400
    some = listings.events()[3]
    query = {k: v.format(middle=middle, some=some) for k, v in query.items()}
    seen, cursor = [], ""
    while True:
        _, page = day.call("GET", "/events", **{"limit": "11"} | query, cursor=cursor)
        by_contract.body("GET", "/events", 200, page)
        assert page.get("milestones") == ([] if "with_milestones" in query else None)
        seen += [e["event_ticker"] for e in page["events"]]
        if not (cursor := page["cursor"]):
            break
    mapped = {"open": "active", "unopened": "initialized", "settled": "finalized"}

    def fits(event: str) -> bool:
        markets = listings.of_event(event)
        wanted = query.get("status")
        return (
            any(
                (wanted is None or x.status == mapped.get(wanted) or (wanted == "closed" and x.status in ("closed", "determined")))
                and x.close_ts >= int(query.get("min_close_ts", 0)) * SECOND
                for x in markets
            )
            and query.get("series_ticker", markets[0].facts.series) == markets[0].facts.series
            and max(x.facts.created for x in markets) > int(query.get("min_updated_ts", -1)) * SECOND
            and ("tickers" not in query or event == some)
        )  # fmt: skip

    assert seen == [e for e in listings.events() if fits(e)]
    if query.get("status") != "unopened":
        assert seen, "an empty list proves nothing"
