"""Public reads of markets: time filters, other filters, books, prints, and changes of a market."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from scripted_day import Day

from kalshilab.exchange import Exchange
from kalshilab.exchange.rest.router import RestRouter
from kalshilab.exchange.state.listings import Listing
from kalshilab.tape import sample

SECOND = 1_000_000
DAY = 86_400 * SECOND


def chosen(day: Day, **query: str) -> list[str]:
    """Return the tickers of all pages."""
    seen: list[str] = []
    cursor = ""
    while True:
        status, page = day.call("GET", "/markets", **{"limit": "13"} | query, cursor=cursor)
        assert status == 200, page
        seen += [m["ticker"] for m in page["markets"]]
        if not (cursor := page["cursor"]):
            return seen


def time_of(x: Listing, family: str) -> int | None:
    if family == "settled":
        return x.facts.settled if x.status == "finalized" else None
    return {"close": x.close_ts, "created": x.facts.created, "updated": x.updated}[family]


@pytest.mark.parametrize("family", ["created", "close", "settled", "updated"])
def test_markets_are_filtered_by_each_kind_of_time(day: Day, family: str) -> None:
    times = sorted(t for x in day.ex.listings if (t := time_of(x, family)) is not None)
    low, high = times[len(times) // 4], times[3 * len(times) // 4]
    query = {f"min_{family}_ts": str(low // SECOND), f"max_{family}_ts": str(high // SECOND)}
    least, most = low // SECOND * SECOND, high // SECOND * SECOND + SECOND - 1
    if family == "updated":
        least, most = least + 1, most - SECOND + 1
    within = [
        x.facts.ticker
        for x in day.ex.listings
        if (t := time_of(x, family)) is not None and least <= t <= most
    ]
    assert chosen(day, **query) == within and within
    for status in {"created": ("open",), "settled": ("settled",)}.get(family, ()):
        live = chosen(day, status=status)
        assert chosen(day, status=status, **query) == [t for t in within if t in live]
    if family == "updated":
        assert chosen(day, mve_filter="exclude", **query) == within
        own = [t for t in within if t.startswith("KXSAMPLEGAME-")]
        assert chosen(day, mve_filter="exclude", series_ticker="KXSAMPLEGAME", **query) == own


def test_markets_are_filtered_by_name_event_series_and_status(day: Day, by_contract: Any) -> None:
    every = [x.facts.ticker for x in day.ex.listings]
    assert chosen(day) == chosen(day, mve_filter="exclude") == every
    assert chosen(day, mve_filter="only") == []
    some = [every[40], "NOPE", every[2], every[40]]
    assert chosen(day, tickers=",".join(some)) == [every[2], every[40]]
    event = day.ex.listings.of_event(day.ex.listings.events()[1])[0].facts.event
    of_event = [x.facts.ticker for x in day.ex.listings.of_event(event)]
    assert chosen(day, event_ticker=event) == of_event
    assert chosen(day, event_ticker=event, tickers=",".join([every[-1], of_event[0]])) == of_event[:1]
    assert chosen(day, event_ticker=event, series_ticker="NOPE") == []
    by_status = [chosen(day, status=s) for s in ("unopened", "open", "paused", "closed", "settled")]
    assert sorted(t for some in by_status for t in some) == sorted(every) and all(map(len, by_status[1::2]))
    _, page = day.call("GET", "/markets", limit="0", cursor="garbage")
    assert len(page["markets"]) == 100, "limit 0 is the usual size, and an invalid cursor the start"
    by_contract.body("GET", "/markets", 200, page)


def test_a_market_has_its_price_and_volume_of_a_day_ago(day: Day, by_contract: Any) -> None:
    checked = 0
    for x in day.ex.listings:
        # The exchange counts by minutes; its prints are the reference.
        edge = (day.ex.now - DAY) // (60 * SECOND) * 60 * SECOND
        prints = day.ex.prints.between(0, 2**60, x.facts.ticker, count=10**6).prints
        _, body = day.call("GET", f"/markets/{x.facts.ticker}")
        market = body["market"]
        by_contract.body("GET", "/markets/{ticker}", 200, body)
        old = [t for t in prints if t.ts <= edge]
        if old:
            checked += 1
            assert market["previous_price_dollars"] == f"{old[0].price / 10_000:.4f}"
            recent = sum(t.size for t in prints if t.ts > edge)
            assert market["volume_24h_fp"] == f"{recent / 100:.2f}"
        else:
            assert market["volume_24h_fp"] == market["volume_fp"]
    assert checked > 3


def test_books_of_several_markets_equal_the_single_books(day: Day, by_contract: Any) -> None:
    tickers = [x.facts.ticker for x in day.ex.listings if x.status == "active"][:4]
    pairs = tuple(("tickers", t) for t in [*tickers, "NOPE", tickers[0]])
    status, body = day.send("GET", "/markets/orderbooks", pairs)
    assert status == 200
    by_contract.body("GET", "/markets/orderbooks", 200, body)
    assert [b["ticker"] for b in body["orderbooks"]] == tickers
    for book in body["orderbooks"]:
        _, alone = day.call("GET", f"/markets/{book['ticker']}/orderbook")
        assert alone["orderbook_fp"] == book["orderbook_fp"]
        for depth in (1, 100):
            _, some = day.call("GET", f"/markets/{book['ticker']}/orderbook", depth=str(depth))
            for side, levels in some["orderbook_fp"].items():
                assert levels == book["orderbook_fp"][side][-depth:], "the best levels come last"


def test_a_filter_for_block_trades_finds_nothing(day: Day, archive: Day) -> None:
    for path, d in (("/markets/trades", day), ("/historical/trades", archive)):
        assert d.call("GET", path, is_block_trade="true")[1] == {"trades": [], "cursor": ""}
        every = d.call("GET", path)[1]
        assert d.call("GET", path, is_block_trade="false")[1] == every and every["trades"]


def test_endpoint_costs_need_no_key(day: Day, by_contract: Any) -> None:
    from kalshilab.exchange.rest.params import Request

    answer = day.side.answer(Request("GET", "/trade-api/v2/account/endpoint_costs", {}, {}))
    body = json.loads(answer.body)
    assert answer.status == 200 and body["default_cost"] == 10
    by_contract.body("GET", "/account/endpoint_costs", 200, body)


def test_every_change_of_a_market_moves_its_updated_time() -> None:
    day = Day()
    day.play(2_000)
    x = next(x for x in day.ex.listings if x.status == "active")
    ticker, last = x.facts.ticker, 0

    def poll(since: int) -> list[str]:
        _, page = day.call("GET", "/markets", min_updated_ts=str(since), limit="1000")
        return [m["ticker"] for m in page["markets"]]

    for change in (
        lambda: day.ex.life.pause(ticker),
        lambda: day.ex.life.resume(ticker),
        lambda: day.ex.life.restructure(ticker, "deci_cent"),
        lambda: day.ex.life.close_early(ticker),
        lambda: day.ex.life.determine(ticker, "no"),
    ):
        day.ex.advance(day.ex.now + 2 * SECOND)
        since = day.ex.now // SECOND - 1
        assert ticker not in poll(since)
        change()
        market = day.call("GET", f"/markets/{ticker}")[1]["market"]
        assert ticker in poll(since) and x.updated == day.ex.now > last
        assert market["updated_time"] > market["created_time"]
        last = x.updated


def test_paused_and_disputed_markets_are_found_by_status() -> None:
    day = Day()
    day.play(2_000)
    paused, disputed = [x.facts.ticker for x in day.ex.listings if x.status == "active"][:2]
    day.ex.life.pause(paused)
    day.ex.life.close_early(disputed)
    day.ex.life.determine(disputed, "yes")
    day.ex.life.dispute(disputed)
    assert chosen(day, status="paused") == [paused]
    assert disputed in chosen(day, status="closed") and disputed not in chosen(day, status="settled")
    assert day.call("GET", f"/markets/{disputed}")[1]["market"]["status"] == "disputed"


def test_combinations_are_distinguished_by_the_prefix_of_their_ticker() -> None:
    tape, markets = sample()
    combination = markets["ticker"][0]
    event = markets["event"][0]
    renamed = {combination: f"KXMVE-{combination}"}
    tape = tape.with_columns(pl.col("ticker").cast(pl.String).replace(renamed).cast(tape["ticker"].dtype))
    one = pl.col("event") == event
    markets = markets.with_columns(
        pl.when(one).then("KXMVE-" + pl.col("event")).otherwise("event").alias("event"),
        pl.col("ticker").replace(renamed),
    )
    day = Day()
    day.ex = Exchange(tape, markets)
    day.side = RestRouter(day.ex, {}, lambda: 0)
    day.play(100_000)
    assert chosen(day, mve_filter="only") == [renamed[combination]]
    assert renamed[combination] in chosen(day) and renamed[combination] not in chosen(
        day, mve_filter="exclude"
    )
    _, page = day.call("GET", "/events")
    assert f"KXMVE-{event}" not in [e["event_ticker"] for e in page["events"]]
    assert day.call("GET", f"/events/KXMVE-{event}")[0] == 200
