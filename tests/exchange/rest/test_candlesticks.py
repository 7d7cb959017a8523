"""Candlesticks over REST, compared with the prints and books of their day."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_day import Day

from kalshilab.exchange.rest.candlesticks import MAX_PERIODS, CandleRange
from kalshilab.exchange.state.listings import Listing

SECOND = 1_000_000
LENGTHS = {1: 60, 60: 3600, 1440: 86_400}


class Watched(Day):
    """A day that records the best quotes of every market after each step."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.quotes: dict[str, list[tuple[int, int, int]]] = {}

    def play(self, steps: int) -> None:
        for _ in range(steps):
            if not self.ex.step():
                break
            self.record_quotes()

    def record_quotes(self) -> None:
        for x in self.ex.listings:
            bid, ask = x.book.best_bid(), x.book.best_ask()
            now = (self.ex.now, bid or 0, 10_000 if ask is None else ask)
            recorded = self.quotes.setdefault(x.facts.ticker, [(0, 0, 10_000)])
            if recorded[-1][1:] != now[1:]:
                recorded.append(now)


@pytest.fixture(scope="module")
def day() -> Watched:
    """Return a day and a half whose quotes move between prints, because the account places orders."""
    d = Watched()
    for n in range(40):
        d.play(60)
        live = [x for x in d.ex.listings if x.status == "active" and x.book.best_bid() and x.book.best_ask()]
        if live:
            x = live[n % len(live)]
            price = f"{(x.book.best_ask() or 0) / 10_000:.4f}"
            status, answer = d.order(x.facts.ticker, price=price, count="25.00")
            assert status == 201
            d.record_quotes()
            if n % 2 and answer["remaining_count"] != "0.00":
                assert d.call("DELETE", f"/portfolio/events/orders/{answer['order_id']}")[0] == 200
                d.record_quotes()
    return d


def busiest(day: Day) -> list[Listing]:
    return sorted(day.ex.listings, key=lambda x: -x.volume)[:6]


def ask(day: Day, x: Listing, start: int, end: int, interval: int, **more: str) -> list[dict[str, Any]]:
    path = f"/series/{x.facts.series}/markets/{x.facts.ticker}/candlesticks"
    query = {"start_ts": str(start), "end_ts": str(end), "period_interval": str(interval)}
    status, body = day.call("GET", path, **query, **more)
    assert status == 200 and body["ticker"] == x.facts.ticker, body
    return body["candlesticks"]


def dollars(price: int) -> str:
    return f"{price / 10_000:.4f}"


def expected(day: Watched, x: Listing, end: int, interval: int) -> dict[str, Any]:
    """Return the candle of the period that ends at `end`, from the prints and the recorded quotes."""
    high, low = end * SECOND, (end - LENGTHS[interval]) * SECOND
    prints = day.ex.prints.between(0, 2**60, x.facts.ticker, count=10**6).prints[::-1]
    inside = [t for t in prints if low < t.ts <= high]
    before = [t for t in prints if t.ts <= low]
    recorded = day.quotes[x.facts.ticker]
    standing = [q for q in recorded if q[0] <= low][-1:] + [q for q in recorded if low < q[0] <= high]
    candle: dict[str, Any] = {"end_period_ts": end, "price": {}}
    for name, place in (("yes_bid", 1), ("yes_ask", 2)):
        values = [q[place] for q in standing]
        ohlc = (values[0], min(values), max(values), values[-1])
        candle[name] = dict(zip(("open_dollars", "low_dollars", "high_dollars", "close_dollars"), map(dollars, ohlc), strict=True))  # fmt: skip
    if inside:
        prices = [t.price for t in inside]
        size = sum(t.size for t in inside)
        mean = sum(t.price * t.size for t in inside) / size
        candle["price"] = {
            "open_dollars": dollars(prices[0]), "low_dollars": dollars(min(prices)),
            "high_dollars": dollars(max(prices)), "close_dollars": dollars(prices[-1]),
            "mean_dollars": dollars(int(mean + 0.5)),
        }  # fmt: skip
    if before:
        candle["price"]["previous_dollars"] = dollars(before[-1].price)
    candle["volume_fp"] = f"{sum(t.size for t in inside) / 100:.2f}"
    candle["open_interest_fp"] = f"{sum(t.size for t in before + inside) // 2 / 100:.2f}"
    return candle


@pytest.mark.parametrize("interval", [1, 60, 1440])
def test_every_candle_matches_the_prints_and_quotes_of_its_period(day: Watched, interval: int) -> None:
    end = day.ex.now // SECOND
    end += LENGTHS[interval] - end % LENGTHS[interval]
    start = max(end - 4_900 * LENGTHS[interval], 0)
    quiet = 0
    for x in busiest(day):
        candles = ask(day, x, start, end, interval)
        assert candles, "an empty list proves nothing"
        assert [c["end_period_ts"] for c in candles] == sorted({c["end_period_ts"] for c in candles})
        for candle in candles:
            assert candle == expected(day, x, candle["end_period_ts"], interval)
            quiet += candle["volume_fp"] == "0.00"
        volume = sum(float(c["volume_fp"]) for c in ask(day, x, end - 8_640_000, end + 86_400, 1440))
        assert volume == pytest.approx(x.volume / 100)
    assert quiet or interval > 1, "some candle has quotes alone"


def test_the_range_is_inclusive_at_both_ends(day: Watched) -> None:
    x = busiest(day)[0]
    end = day.ex.now // SECOND
    every = ask(day, x, end - 200_000, end + 60, 1)
    first, last = every[2]["end_period_ts"], every[-3]["end_period_ts"]
    assert ask(day, x, first, last, 1) == every[2:-2]
    assert ask(day, x, first + 1, last - 1, 1) == every[3:-3]
    assert ask(day, x, first, first, 1) == [every[2]]


def test_the_latest_candle_before_the_start_precedes_the_others(day: Watched) -> None:
    x = busiest(day)[0]
    end = day.ex.now // SECOND
    every = ask(day, x, end - 200_000, end + 60, 1)
    gap = next(
        n for n, c in enumerate(every[1:], 1) if c["end_period_ts"] - every[n - 1]["end_period_ts"] > 120
    )
    before, after = every[gap - 1], every[gap]
    start = before["end_period_ts"] + 1
    latest, *others = ask(day, x, start, end + 60, 1, include_latest_before_start="true")
    assert others == every[gap:]
    assert latest["end_period_ts"] == before["end_period_ts"] + 60 < after["end_period_ts"]
    last = before["price"].get("close_dollars", before["price"].get("previous_dollars"))
    assert latest["price"] == {"previous_dollars": last}
    assert latest["volume_fp"] == "0.00" and latest["open_interest_fp"] == before["open_interest_fp"]
    for side in ("yes_bid", "yes_ask"):
        assert set(latest[side].values()) == {before[side]["close_dollars"]}
    # A period has one candle, and nothing precedes the first one.
    start = after["end_period_ts"] - 59
    assert ask(day, x, start, end + 60, 1, include_latest_before_start="true") == every[gap:]
    assert ask(day, x, 0, 200_000, 1, include_latest_before_start="true") == []
    long_ago = end - 8_640_000
    whole = ask(day, x, long_ago, end, 1440, include_latest_before_start="1")
    assert whole == ask(day, x, long_ago, end, 1440)


def test_a_range_without_activity_has_the_latest_candle_alone(day: Watched) -> None:
    x = busiest(day)[0]
    start = day.ex.now // SECOND + 10 * 86_400
    (latest,) = ask(day, x, start, start + 3600, 1, include_latest_before_start="true")
    assert start <= latest["end_period_ts"] < start + 60
    assert ask(day, x, start, start + 3600, 1) == []


def test_several_markets_have_the_candles_of_each(day: Watched, contract: Any) -> None:
    some = busiest(day)
    end = day.ex.now // SECOND
    query = {"start_ts": str(end - 50_000), "end_ts": str(end), "period_interval": "1"}
    tickers = [*(x.facts.ticker for x in some), "NOPE", some[0].facts.ticker]
    for latest in ("false", "true"):
        more = {"include_latest_before_start": latest}
        status, body = day.call(
            "GET", "/markets/candlesticks", market_tickers=",".join(tickers), **query, **more
        )
        assert status == 200
        contract.body("GET", "/markets/candlesticks", 200, body)
        assert body["markets"] == [
            {"market_ticker": x.facts.ticker, "candlesticks": ask(day, x, end - 50_000, end, 1, **more)}
            for x in some
        ]


def test_an_event_has_the_candles_of_its_markets_in_a_truncated_range(day: Watched, contract: Any) -> None:
    x = busiest(day)[0]
    event, series = x.facts.event, x.facts.series
    listed = day.ex.listings.of_event(event)
    end = day.ex.now // SECOND
    path = f"/series/{series}/events/{event}/candlesticks"
    query = {"start_ts": str(end - 90_000), "end_ts": str(end), "period_interval": "60"}
    status, body = day.call("GET", path, **query)
    assert status == 200
    contract.body("GET", "/series/{series_ticker}/events/{ticker}/candlesticks", 200, body)
    assert body["market_tickers"] == [x.facts.ticker for x in listed]
    assert body["market_candlesticks"] == [ask(day, x, end - 90_000, end, 60) for x in listed]
    assert body["adjusted_end_ts"] == end
    # A range that is too long is truncated, and its end is reported.
    start = end - 5_000_000
    _, body = day.call("GET", path, start_ts=str(start), end_ts=str(end), period_interval="1")
    assert body["adjusted_end_ts"] == start + MAX_PERIODS // len(listed) * 60
    assert day.call("GET", f"/series/OTHER/events/{event}/candlesticks", **query)[0] == 404
    assert CandleRange(0, 1, 60, False).period_s == 3600


def test_archived_candles_have_the_field_names_of_the_archive(contract: Any) -> None:
    d = Day(archive_after_us=3 * 86_400 * SECOND)
    d.play(100_000)
    x = max((x for x in d.ex.listings if d.ex.archived(x)), key=lambda x: x.volume)
    f = x.facts
    start, end = f.created // SECOND, f.settled // SECOND + 86_400
    for interval, within in ((1, start + 299_000), (60, end), (1440, end)):
        query = {"start_ts": str(start), "end_ts": str(min(end, within)), "period_interval": str(interval)}
        status, body = d.call("GET", f"/historical/markets/{f.ticker}/candlesticks", **query)
        assert status == 200 and body["candlesticks"]
        contract.body("GET", "/historical/markets/{ticker}/candlesticks", 200, body)
        for c in body["candlesticks"]:
            traded = c["volume"] != "0.00"
            assert all(
                (c["price"][k] is not None) == traded for k in ("open", "low", "high", "close", "mean")
            )
            assert c["yes_bid"]["low"] <= c["yes_bid"]["open"] <= c["yes_bid"]["high"]
        assert d.call("GET", f"/series/{f.series}/markets/{f.ticker}/candlesticks", **query)[0] == 404
        assert d.call("GET", "/markets/candlesticks", market_tickers=f.ticker, **query)[1] == {"markets": []}
    assert sum(float(c["volume"]) for c in body["candlesticks"]) == pytest.approx(x.volume / 100)
    live = next(x for x in d.ex.listings if not d.ex.archived(x)).facts.ticker
    assert d.call("GET", f"/historical/markets/{live}/candlesticks", **query)[0] == 404


def test_live_candles_match_the_contract(day: Watched, contract: Any) -> None:
    x = busiest(day)[1]
    end = day.ex.now // SECOND
    for interval in (1, 60, 1440):
        body = {
            "ticker": x.facts.ticker,
            "candlesticks": ask(day, x, end - 90_000, end + 90_000, interval),
        }
        contract.body("GET", "/series/{series_ticker}/markets/{ticker}/candlesticks", 200, body)


def test_candles_of_january_2026_have_whole_numbers_beside_todays_fields() -> None:
    today, then = Day(), Day(form="2026-01")
    for d in (today, then):
        d.play(2_000)
    x = busiest(today)[0]
    f, end = x.facts, today.ex.now // SECOND
    query = {"start_ts": str(end - 9_000), "end_ts": str(end + 60), "period_interval": "1"}
    _, new = today.call("GET", f"/series/{f.series}/markets/{f.ticker}/candlesticks", **query)
    _, old = then.call("GET", f"/series/{f.series}/markets/{f.ticker}/candlesticks", **query)
    for a, b in zip(new["candlesticks"], old["candlesticks"], strict=True):
        assert b["volume"] == int(float(a["volume_fp"]))
        assert b["yes_bid"]["open"] == int(float(a["yes_bid"]["open_dollars"]) * 100 + 1e-9)
        assert b["yes_ask"] | a["yes_ask"] == b["yes_ask"], "today's fields stay"
        traded = "close_dollars" in a["price"]
        assert b["price"]["close"] == (
            int(float(a["price"]["close_dollars"]) * 100 + 1e-9) if traded else None
        )
    _, several = then.call("GET", "/markets/candlesticks", market_tickers=f.ticker, **query)
    assert several["markets"][0]["candlesticks"] == old["candlesticks"]
    _, event = then.call("GET", f"/series/{f.series}/events/{f.event}/candlesticks", **query)
    assert event["market_candlesticks"][event["market_tickers"].index(f.ticker)] == old["candlesticks"]
