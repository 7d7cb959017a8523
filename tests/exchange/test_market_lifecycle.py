"""The market lifecycle: transitions, their messages, timers, pauses, and the interplay with the flow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_day import Day

from kalshilab.errors import ExchangeError
from kalshilab.market.lifecycle import FOLLOWS

HOUR = 3_600_000_000


@pytest.fixture
def day() -> Day:
    d = Day()
    d.command(id=1, cmd="subscribe", params={"channels": ["market_lifecycle_v2"]})
    d.play(3_000)
    d.frames.clear()
    return d


def busy(day: Day) -> str:
    """Return a quoted market that stays open for hours."""
    end = day.ex.now + 6 * HOUR
    return next(
        x.facts.ticker
        for x in day.ex.listings
        if x.status == "active" and x.facts.close > end and x.book.best_ask() and x.book.best_bid()
    )


def messages(day: Day, ticker: str) -> list[dict[str, Any]]:
    day.frames += day.connection.take()
    received = [json.loads(f)["msg"] for f in day.frames]
    day.frames.clear()
    return [
        {k: v for k, v in m.items() if k != "market_ticker"}
        for m in received
        if m.get("market_ticker") == ticker
    ]


def status(day: Day, ticker: str) -> str:
    code, body = day.call("GET", f"/markets/{ticker}")
    assert code == 200
    return str(body["market"]["status"])


def test_each_transition_sets_the_status_and_sends_its_messages(day: Day) -> None:
    ticker, life = busy(day), day.ex.life
    life.pause(ticker)
    assert status(day, ticker) == "inactive"
    assert messages(day, ticker) == [{"event_type": "deactivated", "is_deactivated": True}]
    life.resume(ticker)
    assert messages(day, ticker) == [{"event_type": "activated", "is_deactivated": False}]
    life.close_early(ticker)
    now = day.ex.now // 1_000_000
    assert status(day, ticker) == "closed"
    assert messages(day, ticker) == [{"event_type": "close_date_updated", "close_ts": now}]
    life.reopen(ticker, day.ex.now + HOUR)
    assert status(day, ticker) == "active"
    assert messages(day, ticker) == [
        {"event_type": "close_date_updated", "close_ts": now + 3600},
        {"event_type": "activated", "is_deactivated": False},
    ]
    day.ex.advance(day.ex.now + HOUR)
    assert status(day, ticker) == "closed"
    assert messages(day, ticker) == [], "a close on time sends no message"
    life.determine(ticker, "yes")
    assert status(day, ticker) == "determined"
    (received,) = messages(day, ticker)
    assert received == {
        "event_type": "determined", "result": "yes", "determination_ts": day.ex.now // 1_000_000,
        "settlement_value": "1.0000",
    }  # fmt: skip
    life.dispute(ticker)
    day.ex.advance(day.ex.now + 5 * HOUR)
    assert status(day, ticker) == "disputed", "a dispute stops the timer"
    life.amend(ticker, "scalar", 2_500)
    assert status(day, ticker) == "amended"
    assert messages(day, ticker) == []
    day.ex.advance(day.ex.now + HOUR)
    assert status(day, ticker) == "finalized"
    assert messages(day, ticker) == [{"event_type": "settled", "settled_ts": day.ex.now // 1_000_000}]
    body = day.call("GET", f"/markets/{ticker}")[1]["market"]
    assert (body["result"], body["settlement_value_dollars"]) == ("scalar", "0.2500")


def test_restructure_changes_the_accepted_prices(day: Day) -> None:
    ticker = busy(day)
    day.ex.life.restructure(ticker, "deci_cent")
    (received,) = messages(day, ticker)
    assert received["event_type"] == "price_level_structure_updated"
    assert received["price_ranges"][0]["step"] == "0.0010"
    assert day.order(ticker, price="0.0110")[0] == 201
    with pytest.raises(ExchangeError, match="must be one of"):
        day.ex.life.restructure(ticker, "nonsense")


def test_describe_changes_the_subtitle_and_announces_it(day: Day, contract: Any) -> None:
    ticker = busy(day)
    day.ex.life.describe(ticker, "54° or above")
    frame = json.loads(day.connection.take()[-1])
    contract.frame("marketMetadataUpdatedPayload", frame)
    assert frame["msg"] == {
        "market_ticker": ticker,
        "event_type": "metadata_updated",
        "yes_sub_title": "54° or above",
    }
    assert day.call("GET", f"/markets/{ticker}")[1]["market"]["yes_sub_title"] == "54° or above"
    with pytest.raises(ExchangeError, match="yes_sub_title must not be blank"):
        day.ex.life.describe(ticker, " ")


ACTIONS = {
    "pause": lambda life, t, now: life.pause(t),
    "resume": lambda life, t, now: life.resume(t),
    "close": lambda life, t, now: life.close_early(t),
    "reopen": lambda life, t, now: life.reopen(t, now + HOUR),
    "move": lambda life, t, now: life.move_close(t, now + 2 * HOUR),
    "determine": lambda life, t, now: life.determine(t, "no"),
    "dispute": lambda life, t, now: life.dispute(t),
    "uphold": lambda life, t, now: life.uphold(t),
    "amend": lambda life, t, now: life.amend(t, "yes"),
    "hour": None,
    "minute": None,
    "order": None,
    "step": None,
}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(sorted(ACTIONS)), max_size=25))
def test_only_transitions_of_the_table_happen(actions: list[str]) -> None:
    """Apply any operator actions, in any order, beside the flow.

    Each change of status is in the table, a refused action changes nothing, and no order rests in a market that is
    not open.
    """
    day = Day()
    day.play(3_000)
    ex = day.ex
    ticker = busy(day)
    listing = ex.listings.get(ticker)
    assert listing is not None
    cash = ex.account.cash
    for name in actions:
        before = listing.status
        act = ACTIONS[name]
        if act is not None:
            try:
                act(ex.life, ticker, ex.now)
            except ExchangeError:
                assert listing.status == before
        elif name == "order":
            code, _ = day.order(ticker, price="0.0100", cancel_order_on_pause=bool(len(actions) % 2))
            assert (code == 201) == (listing.status == "active"), "orders are for open markets"
        elif name == "step":
            ex.step()
        else:
            ex.advance(ex.now + (HOUR if name == "hour" else HOUR // 60))
            # Several transitions may have followed one another.
            reached, new = {before}, {before}
            while new:
                new = {s for r in new for s in FOLLOWS[r]} - reached
                reached |= new
            assert listing.status in reached
            continue
        assert listing.status == before or listing.status in FOLLOWS[before]
        if listing.status not in ("active", "inactive"):
            assert not [o for o in ex.desk.resting() if o.ticker == ticker]
    day.play(200_000)
    assert all(x.status == "finalized" for x in ex.listings if x.facts.result and x is not listing)
    assert ex.account.cash <= cash or ex.account.settlements


def test_reactivation_and_close_cancel_resting_orders(day: Day) -> None:
    ticker, life = busy(day), day.ex.life
    _, stays = day.order(ticker, price="0.0100")
    _, goes = day.order(ticker, price="0.0100", cancel_order_on_pause=True)
    life.pause(ticker)

    def resting() -> list[str]:
        return [o["order_id"] for o in day.call("GET", "/portfolio/orders", status="resting")[1]["orders"]]

    assert resting() == [stays["order_id"]]
    assert day.order(ticker)[0] in (400, 409)
    assert day.call("DELETE", f"/portfolio/events/orders/{goes['order_id']}")[0] == 404
    life.resume(ticker)
    assert resting() == []
    _, again = day.order(ticker, price="0.0100")
    life.close_early(ticker)
    assert resting() == []
    order = day.ex.desk.orders[again["order_id"]]
    assert (order.status, order.reason) == ("canceled", "CloseCancel")


def test_nothing_trades_during_a_pause(day: Day) -> None:
    ticker, life = busy(day), day.ex.life
    _, stays = day.order(ticker, price="0.0100")
    life.pause_trading()
    assert day.call("GET", "/exchange/status")[1]["trading_active"] is False
    code, body = day.order(ticker)
    assert (code, body["error"]["code"]) == (409, "trading_is_paused")
    played = day.ex.prints_played
    day.play(500)
    assert day.ex.prints_played == played
    assert day.call("DELETE", f"/portfolio/events/orders/{stays['order_id']}")[0] == 200
    life.resume_trading()
    day.play(500)
    assert day.ex.prints_played > played
    life.pause_exchange()
    status_body = day.call("GET", "/exchange/status")[1]
    assert (status_body["exchange_active"], status_body["trading_active"]) == (False, False)
    life.resume_exchange()
    assert day.call("GET", "/exchange/status")[1]["trading_active"] is True


def test_a_market_reopened_beyond_the_flows_result_is_determined_after_its_close(day: Day) -> None:
    ticker = busy(day)
    listing = day.ex.listings.get(ticker)
    assert listing is not None and listing.facts.result
    day.ex.life.close_early(ticker)
    day.ex.life.reopen(ticker, listing.facts.settled + HOUR)
    day.ex.advance(listing.facts.settled + HOUR - 1)
    assert listing.status == "active", "the operator's closing time holds"
    day.ex.advance(day.ex.now + 1 + 2 * HOUR)
    assert listing.status == "finalized"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda life, t, now: life.resume(t), "cannot become"),
        (lambda life, t, now: life.reopen(t, now + 1), "cannot become"),
        (lambda life, t, now: life.determine(t, "yes"), "cannot become"),
        (lambda life, t, now: life.dispute(t), "cannot become"),
        (lambda life, t, now: life.uphold(t), "cannot become"),
        (lambda life, t, now: life.amend(t, "yes"), "cannot become"),
        (lambda life, t, now: life.move_close(t, now), "close_ts must be >"),
        (lambda life, t, now: life.pause("NO-SUCH"), "not listed"),
    ],
)
def test_a_forbidden_action_raises_and_changes_nothing(day: Day, act: Any, message: str) -> None:
    ticker = busy(day)
    with pytest.raises(ExchangeError, match=message):
        act(day.ex.life, ticker, day.ex.now)
    assert status(day, ticker) == "active"


def test_invalid_results_and_times_are_refused(day: Day) -> None:
    ticker = busy(day)
    day.ex.life.close_early(ticker)
    for result, settlement in (("maybe", None), ("yes", 5), ("scalar", None), ("scalar", 10_001)):
        with pytest.raises(ExchangeError, match="must be"):
            day.ex.life.determine(ticker, result, settlement)
    with pytest.raises(ExchangeError, match="ts must be >="):
        day.ex.advance(day.ex.now - 1)
