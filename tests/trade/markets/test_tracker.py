"""Selection of markets, without losing a print during a look-up."""

from __future__ import annotations

from typing import Any

import pytest

from kalshilab.market.model import Market, Trade
from kalshilab.trade.markets.tracker import PENDING_LIMIT, Tracker, category_matches


def market(ticker: str = "A-B-1", **facts: Any) -> Market:
    return Market(**{"ticker": ticker, "event": "A-B", "category": "Sports", "close_ts": 10**12} | facts)


def trade(n: int = 0) -> Trade:
    return Trade(n, "A-B-1", 5_000, 100, "yes")


@pytest.mark.parametrize(
    ("category", "wanted", "matches"),
    [
        ("Sports", "sports", True), ("Mentions", "media_mentions", True), ("Climate and Weather", "weather", True),
        ("Media Mentions", "media_mentions", True), ("", "sports", False), ("Sports", "", False),
        ("Esports", "sports", False), ("Crypto", "crypt", False),
    ],
)  # fmt: skip
def test_categories_match_by_whole_words(category: str, wanted: str, matches: bool) -> None:
    assert category_matches(category, wanted) is matches


def test_prints_during_the_look_up_are_replayed_in_order() -> None:
    tracker = Tracker(["sports"])
    assert tracker.begin("A-B-1")
    assert not tracker.begin("A-B-1"), "one look-up per market"
    tracked = tracker.get("A-B-1")
    assert tracked is not None
    for n in range(3):
        tracker.hold(tracked, trade(n))
    assert tracker.accept(market(), now=0)
    tracker.hold(tracked, trade(3))
    assert tracked.status == "looking", "admitted, but still collecting prints until it joins"
    assert [t.ts for t in tracker.join("A-B-1")] == [0, 1, 2, 3]
    assert (tracked.status, tracker.active) == ("active", 1)
    assert tracker.join("A-B-1") == []


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"category": ""}, "no category"),
        ({"category": "Politics"}, "category"),
        ({"status": "closed"}, "status closed"),
        ({"close_ts": 599_999_999}, "closes too soon"),
        ({"close_ts": 10**12, "expected_close_ts": 599_999_999}, "closes too soon"),
        ({"close_ts": 599_999_999, "expected_close_ts": 10**12}, "closes too soon"),
    ],
)
def test_a_market_is_rejected_with_a_reason(facts: dict[str, Any], reason: str) -> None:
    tracker = Tracker(["sports"], close_min_us=600_000_000)
    tracker.begin("A-B-1")
    assert not tracker.accept(market(**facts), now=0)
    assert tracker.rejected == {reason: 1}
    assert tracker.get("A-B-1").status == "rejected"
    assert tracker.active == 0


def test_the_former_name_of_the_closing_limit_warns() -> None:
    with pytest.warns(DeprecationWarning, match="'close_min' is now 'close_min_us'"):
        tracker = Tracker(["all"], close_min=600_000_000)  # type: ignore[call-arg]
    assert tracker.close_min_us == 600_000_000


def test_the_closing_limit_is_inclusive_and_ignores_unknown_times() -> None:
    tracker = Tracker(["all"], close_min_us=600_000_000)
    for n, close in enumerate((600_000_000, 0)):
        tracker.begin(f"A-B-{n}")
        assert tracker.accept(market(f"A-B-{n}", close_ts=close), now=0)


def test_capacity_counts_active_markets_and_evicts_no_market() -> None:
    tracker = Tracker(["all"], max_markets=2)
    for n in range(3):
        tracker.begin(f"A-B-{n}")
        assert tracker.accept(market(f"A-B-{n}"), now=0) == (n < 2)
        tracker.join(f"A-B-{n}")
    assert tracker.rejected == {"capacity": 1}
    assert tracker.advance("A-B-0", "determined")
    tracker.begin("A-B-9")
    assert tracker.accept(market("A-B-9"), now=0)


def test_listed_tickers_are_admitted_in_any_category() -> None:
    tracker = Tracker(["sports"], tickers=["A-B-1"])
    assert not tracker.begin("A-B-2")
    assert tracker.begin("A-B-1")
    assert tracker.accept(market(category=""), now=0)


def test_a_status_change_counts_once() -> None:
    tracker = Tracker(["all"])
    tracker.begin("A-B-1")
    tracker.accept(market(), now=0)
    tracker.join("A-B-1")
    assert tracker.advance("A-B-1", "determined")
    assert not tracker.advance("A-B-1", "determined")
    assert tracker.active == 0
    assert tracker.advance("A-B-1", "settled")
    assert tracker.active == 0
    assert not tracker.advance("X", "settled")


def test_a_failed_look_up_can_be_repeated() -> None:
    tracker = Tracker(["all"])
    tracker.begin("A-B-1")
    tracker.forget("A-B-1")
    assert tracker.begin("A-B-1")


def test_too_many_waiting_prints_reject_the_market() -> None:
    tracker = Tracker(["all"])
    tracker.begin("A-B-1")
    tracked = tracker.get("A-B-1")
    assert tracked is not None
    for n in range(PENDING_LIMIT + 1):
        tracker.hold(tracked, trade(n))
    assert (tracked.status, tracked.reason) == ("rejected", "look-up too slow")
