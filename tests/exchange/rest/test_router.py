"""REST routing: public and private paths, the four 401 bodies, errors by table, and complete pages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kalshilab.exchange import Exchange
from kalshilab.exchange.rest.params import Answer, Request
from kalshilab.exchange.rest.router import WINDOW_MS, RestRouter
from kalshilab.kalshi.auth import KeyKind, Signer, Verifier, generate_key
from kalshilab.kalshi.wire.base import REST_PATH
from kalshilab.tape import sample

NOW = 1_795_329_000_000
KEYS = {kind: generate_key(kind) for kind in ("rsa", "ed25519")}


@pytest.fixture(scope="module")
def ex() -> Exchange:
    made = Exchange(*sample())
    for _ in range(4_000):
        made.step()
    return made


def router_of(ex: Exchange) -> RestRouter:
    return RestRouter(ex, {kind: Verifier(public) for kind, (_, public) in KEYS.items()}, lambda: NOW)


def ask(
    ex: Exchange, method: str, path: str, *, kind: KeyKind = "ed25519", key_id: str | None = None, now: int = NOW,
    body: bytes = b"", headers: dict[str, str] | None = None, **query: str,
) -> tuple[int, Any]:  # fmt: skip
    if headers is None:
        headers = Signer.from_pem(key_id or kind, KEYS[kind][0].decode()).headers(
            method, REST_PATH + path, now
        )
    answer: Answer = router_of(ex).answer(Request(method, REST_PATH + path, query, headers, body))
    return answer.status, json.loads(answer.body) if answer.body else None


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_both_kinds_of_key_are_accepted(ex: Exchange, kind: KeyKind) -> None:
    assert ask(ex, "GET", "/portfolio/balance", kind=kind)[0] == 200
    assert ask(ex, "GET", "/portfolio/orders", kind=kind, limit="5", status="resting")[0] == 200


def test_an_invalid_signature_has_one_of_four_401_bodies(ex: Exchange) -> None:
    def error(**options: Any) -> dict[str, str]:
        status, body = ask(ex, "GET", "/portfolio/balance", **options)
        assert status == 401
        return body["error"]

    assert error(headers={})["code"] == "signature_is_missing_from_headers"
    for off in (WINDOW_MS + 1, -WINDOW_MS - 1):
        assert error(now=NOW + off)["code"] == "header_timestamp_expired"
    assert error(key_id="unknown")["details"] == "NOT_FOUND"
    wrong = Signer.from_pem("rsa", KEYS["ed25519"][0].decode()).headers(
        "GET", REST_PATH + "/portfolio/balance", NOW
    )
    assert error(headers=wrong)["details"] == "INCORRECT_API_KEY_SIGNATURE"
    assert ask(ex, "GET", "/portfolio/balance", now=NOW + WINDOW_MS)[0] == 200, "the window is inclusive"


def test_only_public_reads_need_no_key(ex: Exchange) -> None:
    for path in ("/exchange/status", "/series", "/events", "/markets", "/markets/trades"):
        assert ask(ex, "GET", path, headers={})[0] == 200
    for path in ("/historical/cutoff", "/historical/trades", "/historical/markets"):
        assert ask(ex, "GET", path, headers={})[0] == 200
    for path in (
        "/historical/fills",
        "/historical",
        "/portfolio/balance",
        "/account/limits",
        "/portfolio/events/orders",
        "/nonsense",
    ):
        assert ask(ex, "GET", path, headers={})[0] == 401


@pytest.mark.parametrize(
    ("method", "path", "body", "query", "status", "code"),
    [
        ("GET", "/markets/NOPE", b"", {}, 404, "not_found"),
        ("GET", "/events/NOPE", b"", {}, 404, "not_found"),
        ("GET", "/series/NOPE", b"", {}, 404, "not_found"),
        ("GET", "/portfolio/orders/NOPE", b"", {}, 404, "not_found"),
        ("DELETE", "/portfolio/events/orders/NOPE", b"", {}, 404, "not_found"),
        ("GET", "/portfolio/nothing", b"", {}, 404, "not_found"),
        ("POST", "/portfolio/orders", b"{}", {}, 410, "deprecated_v1_order_endpoint"),
        ("POST", "/portfolio/orders/batched", b"{}", {}, 410, "deprecated_v1_order_endpoint"),
        ("DELETE", "/portfolio/orders/x", b"", {}, 410, "deprecated_v1_order_endpoint"),
        ("POST", "/portfolio/events/orders", b"{", {}, 400, "bad_request"),
        ("POST", "/portfolio/events/orders", b'{"ticker": "A", "count": 5}', {}, 400, "bad_request"),
        ("GET", "/markets", b"", {"limit": "1001"}, 400, None),
        ("GET", "/markets", b"", {"limit": "ten"}, 400, None),
        ("GET", "/markets", b"", {"status": "sleeping"}, 400, None),
        ("GET", "/events", b"", {"limit": "201"}, 400, None),
        ("GET", "/portfolio/orders", b"", {"status": "open"}, 400, None),
        ("GET", "/markets/trades", b"", {"min_ts": "-1"}, 400, None),
        ("GET", "/markets/trades", b"", {"limit": "1001"}, 400, None),
        ("GET", "/historical/trades", b"", {"limit": "1001"}, 400, None),
        ("GET", "/historical/markets", b"", {"limit": "1001"}, 400, None),
        ("GET", "/historical/markets", b"", {"tickers": "A", "event_ticker": "B"}, 400, None),
        ("GET", "/historical/markets", b"", {"tickers": "A", "series_ticker": "B"}, 400, None),
        ("GET", "/historical/markets", b"", {"event_ticker": "A", "series_ticker": "B"}, 400, None),
        ("GET", "/historical/markets/NOPE", b"", {}, 404, "not_found"),
        ("GET", "/historical/nothing", b"", {}, 404, "not_found"),
    ],
)
def test_an_invalid_request_has_the_exchanges_status_and_error_shape(
    ex: Exchange, method: str, path: str, body: bytes, query: dict[str, str], status: int, code: str | None
) -> None:
    got, answer = ask(ex, method, path, body=body, **query)
    assert got == status
    if code is None:
        assert set(answer) == {"msg"}
    elif code == "bad_request":
        assert answer["code"] == code, "a flat shape, for an invalid body"
    else:
        assert answer["error"]["code"] == code


def every(ex: Exchange, path: str, field: str, **query: str) -> list[Any]:
    rows: list[Any] = []
    cursor = ""
    for _ in range(10_000):
        status, page = ask(ex, "GET", path, **query, cursor=cursor)
        assert status == 200
        assert len(page[field]) <= int(query["limit"])
        rows += page[field]
        cursor = page["cursor"]
        if not cursor:
            return rows
    raise AssertionError("endless pages")


def test_pages_contain_each_row_once(ex: Exchange) -> None:
    markets = [m["ticker"] for m in every(ex, "/markets", "markets", limit="7")]
    assert markets == [x.facts.ticker for x in ex.listings]
    trades = [t["trade_id"] for t in every(ex, "/markets/trades", "trades", limit="999")]
    assert len(trades) == len(set(trades)) == ex.prints_played
    times = [t["created_time"] for t in every(ex, "/markets/trades", "trades", limit="1000")]
    assert times == sorted(times, reverse=True), "newest first"
    assert ask(ex, "GET", "/markets", cursor="garbage")[0] == 200, "the first page, as on the exchange"


def test_markets_and_trades_are_filtered(ex: Exchange) -> None:
    for wanted, status in (("open", "active"), ("settled", "finalized"), ("unopened", "initialized")):
        rows = every(ex, "/markets", "markets", limit="50", status=wanted)
        assert {m["status"] for m in rows} <= {status}
        assert len(rows) == sum(x.status == status for x in ex.listings)
    x = next(iter(ex.listings))
    assert len(every(ex, "/markets", "markets", limit="5", event_ticker=x.facts.event)) == 1
    assert {
        m["ticker"] for m in every(ex, "/markets", "markets", limit="9", tickers=f"{x.facts.ticker},NOPE")
    } == {x.facts.ticker}
    own = every(ex, "/markets/trades", "trades", limit="1000", ticker=x.facts.ticker)
    assert own and {t["ticker"] for t in own} == {x.facts.ticker}


def test_a_book_lists_bids_in_ascending_order(ex: Exchange) -> None:
    x = next(x for x in ex.listings if x.book.best_ask() and x.book.best_bid())
    _, body = ask(ex, "GET", f"/markets/{x.facts.ticker}/orderbook")
    book = body["orderbook_fp"]
    for side in ("yes_dollars", "no_dollars"):
        prices = [float(p) for p, _ in book[side]]
        assert prices == sorted(prices) and prices
    assert float(book["yes_dollars"][-1][0]) * 10_000 == pytest.approx(x.book.best_bid())
    _, shallow = ask(ex, "GET", f"/markets/{x.facts.ticker}/orderbook", depth="1")
    assert shallow["orderbook_fp"]["yes_dollars"] == book["yes_dollars"][-1:]


DAY = 86_400_000_000


@pytest.fixture(scope="module")
def old() -> Exchange:
    """Return an exchange after the whole sample, with its first days archived."""
    made = Exchange(*sample(), archive_after_us=3 * DAY)
    while made.step():
        pass
    return made


def test_a_record_is_either_live_or_archived(old: Exchange) -> None:
    status, cutoff = ask(old, "GET", "/historical/cutoff")
    assert status == 200 and cutoff["trades_created_ts"] == cutoff["market_settled_ts"]
    assert cutoff["trades_created_ts"].endswith("T00:00:00.000000Z") and old.cutoff % DAY == 0
    assert 3 * DAY <= old.now - old.cutoff < 4 * DAY

    live = every(old, "/markets/trades", "trades", limit="999")
    archived_trades = every(old, "/historical/trades", "trades", limit="1000")
    assert archived_trades[0]["created_time"] < cutoff["trades_created_ts"] <= live[-1]["created_time"]
    assert [t["trade_id"] for t in reversed(live + archived_trades)] == sample()[0]["trade_id"].to_list()
    assert every(old, "/historical/trades", "trades", limit="9", min_ts=str(old.cutoff // 1_000_000)) == []

    present = {m["ticker"] for m in every(old, "/markets", "markets", limit="1000")}
    archived = every(old, "/historical/markets", "markets", limit="7")
    assert {m["ticker"] for m in archived} | present == {x.facts.ticker for x in old.listings}
    assert not {m["ticker"] for m in archived} & present and archived and present
    assert all(m["settlement_ts"] < cutoff["market_settled_ts"] for m in archived)
    one, event = archived[0]["ticker"], archived[0]["event_ticker"]
    assert ask(old, "GET", f"/markets/{one}")[0] == ask(old, "GET", f"/markets/{one}/orderbook")[0] == 404
    assert ask(old, "GET", f"/historical/markets/{one}")[1]["market"] == archived[0]
    assert ask(old, "GET", f"/historical/markets/{next(iter(present))}")[0] == 404
    assert ask(old, "GET", "/historical/markets", tickers=f"{one},NOPE")[1]["markets"] == archived[:1]
    assert ask(old, "GET", "/historical/markets", event_ticker=event)[1]["markets"] == archived[:1]
    for query in ({}, {"with_nested_markets": "true"}):
        status, body = ask(old, "GET", f"/events/{event}", **query)
        assert status == 200 and body["markets"] == [] and not body["event"].get("markets"), (
            "the event itself is never archived"
        )
    assert [e["event_ticker"] for e in ask(old, "GET", "/events", tickers=event)[1]["events"]] == [event]


def test_times_of_trades_are_inclusive_at_both_ends(old: Exchange) -> None:
    tape = sample()[0]
    moment = tape["ts"].dt.epoch("us")[-100]
    second = moment // 1_000_000
    rows = every(old, "/markets/trades", "trades", limit="9", min_ts=str(second), max_ts=str(second))
    wanted = [t for t, at in zip(tape["trade_id"], tape["ts"].dt.epoch("us"), strict=True) if at // 1_000_000 == second]  # fmt: skip
    assert [t["trade_id"] for t in reversed(rows)] == wanted and wanted


def test_pages_of_markets_stay_complete_while_markets_are_archived() -> None:
    ex = Exchange(*sample(), archive_after_us=DAY)
    for _ in range(6_000):
        ex.step()
    names = [x.facts.ticker for x in ex.listings if not ex.archived(x)]
    seen, cursor = [], ""
    while True:
        _, page = ask(ex, "GET", "/markets", limit="10", cursor=cursor)
        seen += [m["ticker"] for m in page["markets"]]
        cursor = page["cursor"]
        if not cursor:
            break
        for _ in range(500):
            ex.step()
    still = [x.facts.ticker for x in ex.listings if not ex.archived(x)]
    assert len(set(seen)) == len(seen) and set(still) & set(names) <= set(seen)
    assert set(names) - set(still), "some were archived"


def test_fills_of_the_account_are_listed_as_public_trades() -> None:
    ex = Exchange(*sample())
    for _ in range(3_000):
        ex.step()
    x = next(x for x in ex.listings if x.status == "active" and x.book.best_ask())
    before = len(ex.prints)
    body = {
        "ticker": x.facts.ticker, "side": "bid", "count": "1.00", "price": f"{(x.book.best_ask() or 0) / 10_000:.4f}",
        "client_order_id": "c", "time_in_force": "immediate_or_cancel", "self_trade_prevention_type": "maker",
    }  # fmt: skip
    assert ask(ex, "POST", "/portfolio/events/orders", body=json.dumps(body).encode())[0] == 201
    assert len(ex.prints) == before + 1
    newest = ask(ex, "GET", "/markets/trades", limit="1")[1]["trades"][0]
    assert (newest["ticker"], newest["count_fp"]) == (x.facts.ticker, "1.00")
    assert newest["trade_id"] == ask(ex, "GET", "/portfolio/fills")[1]["fills"][0]["trade_id"]


def test_cancel_all_removes_every_resting_order() -> None:
    ex = Exchange(*sample())
    for _ in range(3_000):
        ex.step()
    x = next(x for x in ex.listings if x.status == "active")
    for n in range(3):
        body = {
            "ticker": x.facts.ticker, "side": "bid", "count": "1.00", "price": "0.0100", "client_order_id": f"c{n}",
            "time_in_force": "good_till_canceled", "self_trade_prevention_type": "maker",
        }  # fmt: skip
        assert ask(ex, "POST", "/portfolio/events/orders", body=json.dumps(body).encode())[0] == 201
    assert ask(ex, "DELETE", "/portfolio/events/orders") == (204, None)
    assert ask(ex, "GET", "/portfolio/orders", status="resting")[1]["orders"] == []
